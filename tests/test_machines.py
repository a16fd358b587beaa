"""Training on any size of machine: several processes, too little memory, too little disk, numbers that blow up."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from functools import partialmethod
from types import SimpleNamespace

import pytest
import torch
import transformers
from conftest import ROOT

from whisper_lab import LabError
from whisper_lab.scores import hypotheses
from whisper_lab.stores import publishing, store
from whisper_lab.tuning import recipes, resuming, runs, training
from whisper_lab.whisper import batches

pytest_plugins = ["elsewhere"]


def options(features, tiny, folder, **changes) -> dict:
    settings = {"features": str(features), "model": str(tiny), "output": str(folder)}
    return settings | {"max_steps": 4, "batch_size": 8, "learning_rate": 0.01, "precision": "float32"} | changes


def make_run(features, tiny, folder, **changes) -> runs.Run:
    return runs.Run(runs.Options(**options(features, tiny, folder, **changes)), store.FeatureSet(features))


def trained(features, tiny, folder, **changes) -> list[float]:
    """The losses of a run, step by step."""
    run = make_run(features, tiny, folder, **changes)
    run.train()
    return losses(run.trainer.state.log_history)


def losses(history: list[dict]) -> list[float]:
    return [entry["loss"] for entry in history if "loss" in entry]


@pytest.fixture(scope="module")
def whole(features, tiny, tmp_path_factory):
    """Losses of a run in one process that takes each batch whole."""
    return trained(features, tiny, tmp_path_factory.mktemp("whole") / "run")


def test_two_processes_have_the_losses_of_one_with_twice_the_batch(features, tiny, whole, tmp_path, s3):
    folder = tmp_path / "two"
    place = publishing.publish(features, s3.url)
    s3.log.clear()
    flags = options(place, tiny, folder, batch_size=4)
    arguments = [part for name, value in flags.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "WHISPER_LAB_CACHE": str(tmp_path / "cache")}
    environment |= {"FSSPEC_S3_ENDPOINT_URL": s3.address}
    done = subprocess.run(
        [*launch, ROOT / "training-pipeline.py", *arguments],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert losses(json.loads((folder / "history.json").read_text())) == pytest.approx(whole, rel=1e-4)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["run"]["processes"] == 2
    assert "Next, another optimiser: torchrun --nproc-per-node 2 training-pipeline.py" in done.stdout
    assert done.stdout.count("Next, another optimiser") == 1  # one speaks for both
    for bar in ("Fetching: 0.00B", "Untuned, dev:   0%", "\nDev:   0%", "Training:   0%", "Tuned, test:   0%"):
        assert done.stderr.count(bar) == (4 if "Dev" in bar else 1), f"and draws for both: {bar}"
    got = Counter(path for method, path in s3.log if method == "GET" and path.split("?")[0].endswith(".parquet"))
    assert len(got) == 5 and set(got.values()) == {1}, "and one fetches for both"
    assert "missing keys" not in done.stderr
    untuned = json.loads((folder / "untuned.json").read_text())
    assert untuned["dev"]["ids"] == store.FeatureSet(features).split("dev").column("id")


def test_a_batch_that_memory_does_not_hold_is_taken_in_pieces(features, tiny, whole, tmp_path, monkeypatch, capsys):
    def refuse(self, model, inputs, *rest, most=2, **more):
        if len(inputs["input_features"]) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return compute(self, model, inputs, *rest, **more)

    compute = training.Trainer.compute_loss
    monkeypatch.setattr(training.Trainer, "compute_loss", refuse)
    assert trained(features, tiny, tmp_path / "small") == pytest.approx(whole, rel=1e-4)
    said = [line for line in capsys.readouterr().out.splitlines() if "Out of GPU memory" in line]
    assert 1 < len(said) < 6 and "with 8 clips" in said[0] and all("half of that at a time" in line for line in said)
    monkeypatch.setattr(training.Trainer, "compute_loss", partialmethod(refuse, most=0))
    with pytest.raises(LabError, match="one clip at a time: add --activation-checkpointing"):
        trained(features, tiny, tmp_path / "none")


def test_a_batch_at_30_s_takes_no_more_memory_than_a_short_one(features, tiny, tmp_path, monkeypatch):
    """What is kept for the way back is counted, at 8 clips a batch; loss and gradients are those of the whole."""
    monkeypatch.setattr(training, "ROWS", 4)  # or logits would be most of so narrow a model
    run, found = make_run(features, tiny, tmp_path / "run", batch_size=8), {}
    trainer, rows = run.trainer, run.splits["train"]
    compute = trainer.compute_loss
    trainer.create_optimizer()
    trainer.meter.start(0)
    for window, at_once in ((600, None), (3_000, None), (3_000, 10**6)):
        chosen = [i for i, frames in enumerate(rows.column("frames")) if frames <= 600]
        batch = trainer.data_collator([trainer.train_dataset[batches.Example((i,), window)] for i in chosen])
        trainer.at_once, kept = at_once or training.SHORT * 8, []

        def keep(tensor, kept=kept):
            kept[-1] += tensor.numel() * tensor.element_size()
            return tensor

        def counted(*rest, kept=kept, keep=keep, **more):
            kept.append(0)
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                return compute(*rest, **more)

        trainer.compute_loss = counted
        loss = trainer.training_step(trainer.model, batch, (batch["labels"] != -100).sum())
        gradients = torch.cat([w.grad.flatten() for w in trainer.model.parameters() if w.grad is not None])
        trainer.model.zero_grad()
        found[window, at_once] = max(kept), float(loss), gradients
    (short, *_), (pieces, loss, gradients), (whole, same, alike) = found.values()
    assert pieces < 1.2 * short and whole > 3 * short
    assert loss == pytest.approx(same, rel=1e-5)
    torch.testing.assert_close(gradients, alike, rtol=1e-3, atol=1e-6)


class Largest(torch.utils._python_dispatch.TorchDispatchMode):
    """Sees how many numbers the largest tensor has that is made meanwhile."""

    largest = 0

    def __torch_dispatch__(self, call, types, args=(), kwargs=None):
        out = call(*args, **kwargs or {})
        self.largest = max(self.largest, out.numel() if torch.is_tensor(out) else 0)
        return out


def test_the_logits_of_all_tokens_are_never_there_at_once(monkeypatch):
    """And the loss is that of torch, with its gradients."""
    monkeypatch.setattr(training, "ROWS", 32)
    words, generator = torch.nn.Linear(8, 500, bias=False), torch.Generator().manual_seed(0)
    states = torch.randn(6, 20, 8, generator=generator, requires_grad=True)
    labels = torch.randint(500, (6, 20), generator=generator)
    labels[:, :3] = labels[1, 7:] = -100
    for smoothing in (0.0, 0.1):
        with Largest() as seen:
            training.cross_entropy(states, words, labels, smoothing).backward()
        assert seen.largest == 32 * 500
        found = [states.grad.clone(), words.weight.grad.clone()]
        states.grad = words.weight.grad = None
        logits = words(states).flatten(0, 1)
        torch.nn.functional.cross_entropy(
            logits, labels.flatten(), label_smoothing=smoothing, reduction="sum"
        ).backward()
        for ours, theirs in zip(found, (states.grad, words.weight.grad)):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
        states.grad = words.weight.grad = None
    none = training.cross_entropy(states, words, torch.full_like(labels, -100), 0.0)
    assert float(none) == 0 and torch.isfinite(none)


def test_scoring_that_memory_does_not_hold_is_done_with_fewer_clips(features, tiny, tmp_path, monkeypatch, capsys):
    run, begin, sizes = make_run(features, tiny, tmp_path / "run"), hypotheses._begin, []

    def refuse(writer, inputs, batch):
        sizes.append(len(batch))
        if len(batch) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return begin(writer, inputs, batch)

    run.trainer.model.train()
    whole = run.trainer.transcribe("dev", [3000], "Dev")
    monkeypatch.setattr(hypotheses, "_begin", refuse)
    assert run.trainer.transcribe("dev", [3000], "Dev").texts == whole.texts
    said = capsys.readouterr().out
    assert "from now on 4 clips at a time" in said and said.count("Out of GPU memory") == 2  # from 16
    assert run.trainer.model.training
    sizes.clear()
    run.trainer.transcribe("dev", [3000], "Dev")
    assert max(sizes) <= 4  # it is remembered
    monkeypatch.setattr(hypotheses, "_begin", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("full")))
    with pytest.raises(LabError, match="one clip at a time: CUDA_VISIBLE_DEVICES="):
        run.trainer.transcribe("dev", [3000], "Dev")


@pytest.mark.parametrize("mistake", [{"freeze": ("encodr",)}, {"perturb": ("noise",), "audio": "/nowhere"}])
def test_what_is_refused_leaves_no_folder(features, tiny, tmp_path, mistake):
    with pytest.raises(LabError, match="no such part|is not a folder"):
        make_run(features, tiny, tmp_path / "run", **mistake)
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_no_number_stops_with_the_clips(features, tiny, tmp_path):
    run = make_run(features, tiny, tmp_path / "nan")
    train, taken = run.splits["train"], []

    def broken(index):
        row = read(index)
        if row["id"] == bad:
            row = row | {"features": row["features"].copy() * float("nan")}
        taken.append(row["id"])
        return row

    bad, read = train.column("id")[3], train.__getitem__
    run.trainer.train_dataset = run.trainer.train_dataset.__class__(Wrapped(train, broken))
    with pytest.raises(LabError, match="the loss is not a number at step") as error:
        run.train()
    assert bad in str(error.value) and "--learning-rate" in str(error.value) and "\n" not in str(error.value)


class Wrapped:
    def __init__(self, split, read):
        self.split, self.read = split, read

    def __len__(self):
        return len(self.split)

    def __getitem__(self, index):
        return self.read(index)


@pytest.mark.parametrize("ids, why", [([60_000], "60000"), ([1] * 500, "503 positions")])
def test_a_label_out_of_range_names_the_clip(features, tiny, tmp_path, ids, why):
    run = make_run(features, tiny, tmp_path / "label")
    row = run.splits["train"][0]
    spoilt = row | {"labels": [*row["labels"][:3], *ids]}
    with pytest.raises(LabError, match=f"the labels of {row['id']} .*{why}"):
        run.trainer.collator([spoilt])


def test_what_is_half_written_is_no_checkpoint(features, tiny, tmp_path):
    """A kill leaves some of the files, a power cut all of their names: the one before is gone on from."""
    folder = tmp_path / "run"
    run = make_run(features, tiny, folder)
    run.train()
    last = resuming.last_checkpoint(folder)
    assert last.name == "checkpoint-4"
    kept = {path.name for path in (folder / "checkpoints").iterdir()}
    assert len(kept) == 2 or run.trainer.state.best_model_checkpoint.endswith("checkpoint-4")
    for name in ("model.safetensors", "optimizer.pt"):
        content = (last / name).read_bytes()
        (last / name).write_bytes(b"")
        assert resuming.last_checkpoint(folder) != last
        (last / name).unlink()
        assert resuming.last_checkpoint(folder) != last
        (last / name).write_bytes(content)
        assert resuming.last_checkpoint(folder) == last
    (last / resuming.SEAL).unlink()
    assert resuming.last_checkpoint(folder) != last


def test_a_full_disk_ends_in_a_line_and_the_run_goes_on_afterwards(features, tiny, whole, tmp_path, monkeypatch):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small disk can be mounted as root only")
    try:
        with pytest.raises(LabError, match="has room for 0.1 GB, but this run's checkpoints"):
            resuming.check_room(disk, 10**9)
        folder = disk / "run"
        run = make_run(features, tiny, folder)
        monkeypatch.setattr(resuming, "check_room", lambda *_: None)  # another program fills the disk meanwhile

        class Fill(transformers.TrainerCallback):
            def on_step_end(self, args, state, control, **_):
                if state.global_step == 3:
                    with open(disk / "filler", "wb") as filler:
                        filler.write(b"0" * (shutil.disk_usage(disk).free - 500_000))

        run.trainer.add_callback(Fill())
        with pytest.raises(LabError, match="no room left on disk for the checkpoint at step 3; free some, then run"):
            run.train()
        assert resuming.last_checkpoint(folder).name == "checkpoint-2"
        (disk / "filler").unlink()
        again = make_run(features, tiny, folder, resume=True)
        again.train()
        assert losses(again.trainer.state.log_history) == whole
    finally:
        subprocess.run(["umount", disk], check=True)


def test_presets_fit_the_model_to_the_memory():
    small, medium, large = 242_000_000, 769_000_000, 1_543_000_000
    assert recipes.fitted("16gb", small) == {"batch_size": 16, "lora": 0, "activation_checkpointing": False}
    assert recipes.fitted("16gb", large)["lora"] and recipes.fitted("16gb", large)["activation_checkpointing"]
    assert not recipes.fitted("24gb", medium)["lora"] and not recipes.fitted("80gb", large)["lora"]
    assert all(recipes.fitted(name, small)["lora"] == 0 for name in recipes.PRESETS)


def test_a_run_measures_itself(features, tiny, tmp_path):
    run = make_run(features, tiny, tmp_path / "run", patience=1, max_steps=16, learning_rate=1e-9)
    run.train()
    history = run.trainer.state.log_history
    steps = [entry for entry in history if "loss" in entry]
    assert all(entry["clips_per_second"] > 0 and entry["grad_norm"] > 0 for entry in steps)
    seconds = [entry["seconds"] for entry in history if "seconds" in entry]
    assert seconds == sorted(seconds) and seconds[0] > 0
    hours = steps[0]["hours_per_second"] / steps[0]["clips_per_second"]
    assert 1 < hours * 3600 < 10  # seconds a clip
    scored = [entry["step"] for entry in history if "eval_wer" in entry]
    assert scored[-1] < 16  # a rate of nothing does not improve dev
    trainable = run.trained_weights
    assert run.trainer.optimizer_state_bytes == pytest.approx(8 * trainable, rel=0.01)


def test_a_gpu_is_given_as_many_clips_as_it_holds_and_the_rate_for_them(monkeypatch):
    small = SimpleNamespace(config=SimpleNamespace(d_model=768, encoder_layers=12), num_parameters=lambda: 242_000_000)

    def batch_and_rate(clips: int, processes: int = 1, **given) -> tuple[int, float]:
        recipe = recipes.resolve(recipes.Options(precision="bf16", **given), small, clips, processes)
        return recipe.batch_size, recipe.learning_rate

    assert batch_and_rate(281) == (8, 1.25e-5) and batch_and_rate(7_308) == (16, 1.25e-5)
    monkeypatch.setattr("whisper_lab.cuda.smallest_memory", lambda: 80 * 10**9)
    assert batch_and_rate(281) == (8, 1.25e-5) and batch_and_rate(7_308) == (64, 2.5e-5)
    assert batch_and_rate(30_000) == (256, 5e-5) and batch_and_rate(30_000, processes=4) == (4 * 64, 5e-5)
    assert batch_and_rate(7_308, batch_size=16) == (16, 1.25e-5) and batch_and_rate(7_308, preset="24gb")[0] == 32
    assert batch_and_rate(7_308, learning_rate=1e-5) == (64, 1e-5)
    monkeypatch.setattr("whisper_lab.cuda.smallest_memory", lambda: 16 * 10**9)
    assert batch_and_rate(30_000) == (32, pytest.approx(1.25e-5 * 2**0.5))


def test_a_run_goes_on_with_the_batches_that_another_machine_chose(features, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("whisper_lab.cuda.smallest_memory", lambda: 80 * 10**9)
    monkeypatch.setattr(recipes, "STEPS", 1)
    options = recipes.Options(features=str(features), model=str(tiny), output=str(tmp_path / "run"))
    begun = runs.Run(options, store.FeatureSet(features)).recipe
    assert begun.batch_size > 16
    monkeypatch.undo()
    assert runs.Run(options, store.FeatureSet(features)).recipe == begun
