import shutil
from dataclasses import replace

import pytest
import torch
from torch.testing._internal.two_tensor import TwoTensor

from whisper_lab import LabError
from whisper_lab.stores import store
from whisper_lab.tuning import monitoring, optimizers, recipes, resuming, runs, training
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
    for name in ("apollo_adamw", "galore_adamw"):
        with pytest.raises(LabError, match=f"--optimizer {name} wants more than is here") as error:
            make_run(features, tiny, tmp_path / "run", optimizer=name)
        assert "\n" not in str(error.value) and not (tmp_path / "run").exists()
    with pytest.raises(LabError, match="no optimiser 'adamv'.*adamw"):
        make_run(features, tiny, tmp_path / "run", optimizer="adamv")
    with pytest.raises(LabError, match="--report-to wandb wants its package: pip install wandb"):
        make_run(features, tiny, tmp_path / "run", report_to=("tensorboard", "wandb"))
    with pytest.raises(LabError, match="no tracker 'tensorbord'.*tensorboard"):
        make_run(features, tiny, tmp_path / "run", report_to=("tensorbord",))


def test_what_would_not_resume_to_the_same_losses_is_refused(features, tiny, tmp_path):
    for name in ("lomo", "grokadamw", "galore_adamw_layerwise"):
        with pytest.raises(LabError, match=f"--optimizer {name} would not give the same losses"):
            make_run(features, tiny, tmp_path / "run", optimizer=name, learning_rate=0.01)


def test_a_rate_for_each_but_plain_gradient_descent():
    assert optimizers.default_rate("paged_lion_8bit", 768) == optimizers.default_rate("lion", 768)
    for name in ("sgd", "schedule_free_sgd"):
        with pytest.raises(LabError, match=f"--optimizer {name} has no usual rate; give one with --learning-rate"):
            optimizers.default_rate(name, 768)


def test_schedule_free_ones_have_no_schedule(features, tiny, tmp_path):
    run = make_run(features, tiny, tmp_path / "run")
    for name, schedule in (("schedule_free_adamw", "constant"), ("adamw", "linear")):
        recipe = recipes.resolve(replace(run.options, optimizer=name), run.model, 10, 1)
        assert recipe.schedule == training.arguments(recipe, tmp_path).lr_scheduler_type == schedule


class OneProjector:
    """As GaLore keeps them in an optimiser's state."""

    def __init__(self):
        self.ortho_matrix = torch.ones(2)


class LowRank(torch.optim.SGD):
    pass


def test_projectors_in_the_state_are_read_back_and_put_beside_the_weights(tmp_path):
    optimizer = LowRank([weight := torch.zeros(2, device="meta")])
    optimizer.state[weight] = {"step": 1, "projector": OneProjector()}
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    with optimizers.restored(optimizer):
        optimizer.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True))
        assert optimizer.state[weight]["projector"].ortho_matrix.device.type == "cpu"
    assert optimizer.state[weight]["projector"].ortho_matrix.device == weight.device


def test_bytes_of_state_are_those_of_the_tensors_inside():
    quantised = TwoTensor(torch.zeros(8, dtype=torch.uint8), torch.zeros(8, dtype=torch.uint8))
    assert [optimizers.bytes_of(one) for one in (quantised, torch.zeros(8), 3)] == [16, 32, 0]


@pytest.mark.parametrize(
    "name, package",
    [("schedule_free_adamw", "schedulefree"), ("galore_adamw", "galore_torch"), ("apollo_adamw", "apollo_torch")],
)
def test_others_resume_to_the_same_losses(features, tiny, tmp_path, monkeypatch, name, package):
    pytest.importorskip(package, reason="not in requirements.txt")
    monkeypatch.setattr(resuming, "keep_only", lambda kept: None)
    run = make_run(features, tiny, tmp_path / "run", optimizer=name, learning_rate=0.01)
    run.train()
    assert losses(run)[-1] < losses(run)[0]
    last = tmp_path / "run" / "checkpoints" / "checkpoint-6"
    run.trainer.model.load_state_dict(checkpoint.load_model(str(last)).state_dict())
    heard = run.trainer.transcribe("dev", run.model.config.trained_windows, "Dev")
    scored = [entry["eval_loss"] for entry in run.trainer.state.log_history if "eval_loss" in entry]
    assert heard.loss == pytest.approx(scored[-1])  # the weights that were scored are those that were saved
    shutil.rmtree(last)
    again = make_run(features, tiny, tmp_path / "run", optimizer=name, learning_rate=0.01, resume=True)
    again.train()
    assert again.resumed_at == 4 and losses(again) == losses(run)


def test_wandb_without_a_login_is_said_at_once(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="not in requirements.txt")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(LabError, match="wants a login .no API key.: .wandb login., or WANDB_MODE=offline"):
        monitoring.check_trackers(["wandb"])
