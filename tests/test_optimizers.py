import shutil

import pytest
import torch

from whisper_lab import LabError
from whisper_lab.stores import store
from whisper_lab.tuning import optimizers, resuming, runs
from whisper_lab.whisper import checkpoint


def make_run(features, tiny, folder, **options) -> runs.Run:
    settings = {"features": str(features), "model": str(tiny), "output": str(folder), "max_steps": 6, "batch_size": 8}
    return runs.Run(runs.Options(**settings | options), store.FeatureSet(features))


def losses(run) -> list[float]:
    return [entry["loss"] for entry in run.trainer.state.log_history if "loss" in entry]


def test_muon_learns_and_resumes_to_the_same_losses(features, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(resuming, "keep_only", lambda kept: None)
    run = make_run(features, tiny, tmp_path / "run", optimizer="muon", learning_rate=0.01)
    run.train()
    assert losses(run)[-1] < losses(run)[0]
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "checkpoint-6")
    again = make_run(features, tiny, tmp_path / "run", optimizer="muon", learning_rate=0.01, resume=True)
    again.train()
    assert again.resumed_at == 4 and losses(again) == losses(run)


def test_muon_turns_the_layers_matrices_and_adamw_the_rest(tiny):
    model = checkpoint.load_model(str(tiny))
    optimizer = optimizers.Muon(model, 0.01, 0.0)
    matrix, table = model.model.encoder.layers[0].fc1.weight, model.model.decoder.embed_tokens.weight
    before, rows = matrix.detach().clone(), table.detach().clone()
    for weight in model.parameters():
        weight.grad = torch.randn_like(weight)
    optimizer.step()
    singular = torch.linalg.svdvals(before - matrix.detach())
    assert singular.max() / singular.min() < 3  # an orthogonal step, by five Newton-Schulz iterations
    steps = (rows - table.detach()).abs()
    assert steps.median().item() == pytest.approx(0.01, rel=0.01)  # Adam's first step has the size of the rate
    trained = {id(weight) for weight in model.parameters() if weight.requires_grad}
    groups = [weight for group in optimizer.param_groups for weight in group["params"]]
    assert {id(weight) for weight in groups} == trained and len(groups) == len(trained)


def test_what_is_not_installed_is_said_before_anything_is_made(features, tiny, tmp_path):
    for name in ("lomo", "galore_adamw"):
        with pytest.raises(LabError, match=f"--optimizer {name} wants more than is here") as error:
            make_run(features, tiny, tmp_path / "run", optimizer=name)
        assert "\n" not in str(error.value) and not (tmp_path / "run").exists()
    with pytest.raises(LabError, match="no optimiser 'adamv'.*adamw"):
        make_run(features, tiny, tmp_path / "run", optimizer="adamv")
    with pytest.raises(LabError, match="--report-to wandb wants its package: pip install wandb"):
        make_run(features, tiny, tmp_path / "run", report_to=("tensorboard", "wandb"))
    with pytest.raises(LabError, match="no tracker 'tensorbord'.*tensorboard"):
        make_run(features, tiny, tmp_path / "run", report_to=("tensorbord",))
