import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import finished
import numpy as np
import pytest
from conftest import ROOT
from transformers import TrainerCallback

from whisper_lab import LabError
from whisper_lab.sharing import registry
from whisper_lab.speech.features import FrontEnd
from whisper_lab.stores import engine, places, publishing, store, streaming, transfers
from whisper_lab.stores.streaming import Ahead, Streamed, StreamedSet
from whisper_lab.tuning import runs, study
from whisper_lab.whisper import checkpoint
from whisper_lab.whisper.batches import Collator, WindowBatches, Windowed

SENTENCES = ["Hej.", "Åsa åt sex kex.", "Det regnar på ön i dag."]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("WHISPER_LAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def make(folder: Path, processor, rows: dict[str, int], per_shard: int = 4) -> Path:
    """A feature set of noise: `rows` clips of each split, 0.8 to 2 s."""
    rng = np.random.default_rng(1)

    def extract(clip: dict) -> dict:
        frames = int(rng.integers(80, 200))
        log_mel = rng.normal(size=(80, frames)).astype("<f2")
        return clip | {"frames": frames, "seconds": frames / 100, "features": log_mel.tobytes()}

    labels = checkpoint.label_ids(processor.tokenizer, SENTENCES, "sv")
    splits = {
        split: [
            {"id": f"{split}-{i}", "sentence": SENTENCES[i % 3], "labels": labels[i % 3], "client_id": str(i // 5)}
            for i in range(count)
        ]
        for split, count in rows.items()
    }
    settings = {
        "corpus": {"name": "noise", "version": "1", "language": "sv-SE", "fingerprint": "0"},
        "language": "sv",
        "front_end": FrontEnd().settings(),
        "tokenizer": checkpoint.tokenizer_fingerprint(processor.tokenizer),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "CLIPS_PER_SHARD", per_shard)
        store.build(folder, settings, splits, extract, engine.Local(1))
    return folder


@pytest.fixture(scope="module")
def many(tmp_path_factory, processor) -> Path:
    """A feature set of 60 shards."""
    return make(tmp_path_factory.mktemp("features") / "many", processor, {"train": 238, "dev": 4})


def same(one: dict, other: dict) -> bool:
    arrays = one["features"], other["features"]
    return (arrays[0] == arrays[1]).all() and one | {"features": 0} == other | {"features": 0}


class Watched(places.FsspecPlace):
    """A folder of this machine that counts what is taken from it, and fails as told."""

    def __init__(self, folder: Path, cut: int = 0):
        super().__init__(str(folder), "file")
        self.taken, self.cut = Counter(), cut

    def get(self, name, file, got=lambda count: None):
        self.taken[name] += 1
        super().get(name, file, got)
        if self.taken[name] <= self.cut:
            file.write_bytes(file.read_bytes()[:1000])
            raise ConnectionResetError("cut")


def open_files() -> int:
    return len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0


def streamed(folder: Path, place: places.Place, **options) -> Streamed:
    return Streamed(StreamedSet(folder, place), "train", place, **options)


@pytest.mark.parametrize("protocol", ["path", "file", "memory"])
def test_streamed_rows_are_the_rows(many, tmp_path, protocol):
    here = store.FeatureSet(many)
    source = str(many)
    if protocol != "path":
        source = f"{protocol}://{tmp_path}/published"
        publishing.publish(many, source)
        assert streaming.open_features(source).fingerprint == here.fingerprint
        shutil.rmtree(tmp_path / "cache")
    features = streaming.open_features(source, stream=True)
    assert features.fingerprint == here.fingerprint
    if protocol != "path":
        assert [path.name for path in features.folder.glob("*-of-*")] == ["dev-00000-of-00001.parquet"]
    for split in ("train", "dev"):
        ours, theirs = features.split(split), here.split(split)
        assert len(ours) == len(theirs)
        for name in ("id", "sentence", "client_id", "frames", "seconds"):
            assert ours.column(name) == theirs.column(name)
        assert all(same(ours[i], theirs[i]) for i in (*range(0, len(ours), 7), -1, len(ours) - 1))
        with pytest.raises(IndexError):
            ours[len(ours)]
    features.split("train").close()


def test_a_pass_takes_every_shard_once_and_few_are_on_disk(many, cache):
    place = Watched(many)
    split, here = streamed(many, place), store.FeatureSet(many).split("train")
    sampler = WindowBatches(split.column("frames"), 4, 118, "mixed", 1, split.shard_of_clip)
    batches = Ahead(sampler, split)
    seen, on_disk = [], 0
    for batch in batches:
        assert all(same(split[i], here[i]) for example in batch for i in example.clips)
        seen.append(batch)
        names = [path.name for path in cache.glob("streams/*/*")]
        on_disk = max(on_disk, sum(name.endswith(".arrow") for name in names))
        assert len(names) <= streaming.KEPT + transfers.TRANSFERS + 1
    assert seen == list(sampler) and len(batches) == 118
    assert 8 <= on_disk <= streaming.KEPT
    assert set(place.taken) == {shard["file"] for shard in split.shards}
    assert sum(place.taken.values()) <= 2 * 60 * 1.1
    split.close()
    assert not list(cache.glob("streams/*/"))


def test_rows_in_any_order_within_very_little_room(many, cache):
    split, here = streamed(many, Watched(many), kept=1), store.FeatureSet(many).split("train")
    files_open = open_files()
    for i in np.random.default_rng(0).permutation(238)[:60]:
        assert same(split[i], here[i])
        assert len(list(cache.glob("streams/*/*.arrow"))) == 1
    assert open_files() <= files_open + 3  # not one for each of 60 shards
    split.close()


def test_what_is_skipped_on_resuming_is_not_fetched(many):
    import torch
    from accelerate.data_loader import prepare_data_loader, skip_first_batches

    def read(place: Watched, skipped: int) -> list:
        split = streamed(many, place)
        sampler = WindowBatches(split.column("frames"), 4, 55, "short", 1, split.shard_of_clip)
        batches = {"batch_sampler": Ahead(sampler, split), "collate_fn": Collator(0, 0)}
        loader = prepare_data_loader(torch.utils.data.DataLoader(Windowed(split), **batches))
        found = [batch["input_features"] for batch in skip_first_batches(loader, skipped)]
        split.close()
        return found

    whole, place = read(Watched(many), 0), Watched(many)
    rest = read(place, 50)
    assert len(rest) == 5 and all((one == other).all() for one, other in zip(rest, whole[50:], strict=True))
    assert len(place.taken) < 20


def test_a_cut_connection_is_tried_again(many, monkeypatch):
    monkeypatch.setattr(transfers, "PAUSES", (0, 0.01))
    place = Watched(many, cut=2)
    split = streamed(many, place)
    assert same(split[0], store.FeatureSet(many).split("train")[0])
    assert place.taken == {split.shards[0]["file"]: 3}
    place.cut = 3
    with pytest.raises(LabError, match="cut"):
        split[100]
    place.cut = 0
    assert split[100]["id"] == "train-100"  # it is asked for again
    split.close()
    with pytest.raises(ValueError, match="closed"):
        split[0]


@pytest.mark.parametrize("harm, says", [("bytes", "is damaged"), ("cut", "cut short"), ("gone", "is gone")])
def test_a_harmed_shard_is_said_where_it_is_wanted_and_others_are_read(many, tmp_path, monkeypatch, cache, harm, says):
    monkeypatch.setattr(transfers, "PAUSES", (0,))
    place = Watched(shutil.copytree(many, tmp_path / "place"))
    shard = tmp_path / "place" / "train-00001-of-00060.parquet"
    content = shard.read_bytes()
    shard.write_bytes({"bytes": content[:500] + b"harm" + content[504:], "cut": content[:-9], "gone": b""}[harm])
    if harm == "gone":
        shard.unlink()
    split = streamed(many, place)
    split.expect({0, 1, 2})
    assert split[3]["id"] == "train-3"
    with pytest.raises(LabError, match=says) as error:
        split[4]
    assert "train-00001-of-00060.parquet" in str(error.value) and "\n" not in str(error.value)
    assert split[8]["id"] == "train-8"
    assert not list(cache.glob("streams/*/*.parquet"))
    split.close()


READ = """
import sys, time
from whisper_lab.stores import streaming
split = streaming.open_features(sys.argv[1], stream=True).split("train")
split.expect(set(range(30)))
print(split[0]["id"], flush=True)
if sys.argv[2] == "kill":
    time.sleep(60)
split[1000]
"""


@pytest.mark.parametrize("how", ["error", "kill"])
def test_nothing_is_left_on_disk(many, cache, how):
    process = subprocess.Popen(
        [sys.executable, "-c", READ, many, how], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout.readline() == "train-0\n"
    if how == "kill":
        other = streamed(many, Watched(many))  # while the first still reads
        other[0]
        other.close()
        assert list(cache.glob("streams/*/*.arrow"))
        process.send_signal(signal.SIGKILL)
    assert process.wait(20) == {"error": 1, "kill": -9}[how]
    if how == "kill":
        assert list(cache.glob("streams/*/*.arrow"))
        split = streamed(many, Watched(many))
        split[0]
        assert len(list(cache.glob("streams/*/"))) == 1
        split.close()
    assert not list(cache.glob("streams/*/"))


@pytest.fixture(scope="module")
def small(tmp_path_factory, processor) -> Path:
    """A feature set to train on, of 23 shards."""
    return make(tmp_path_factory.mktemp("features") / "small", processor, {"train": 46, "dev": 1, "test": 1}, 2)


def make_run(source, tiny, output, **options) -> runs.Run:
    settings = {"model": str(tiny), "output": str(output), "max_steps": 6, "batch_size": 4, "blend": 1.0} | options
    settings |= {"features": str(source), "stream": True}
    return runs.Run(runs.Options(**settings), streaming.open_features(str(source), stream=True))


def losses(run: runs.Run) -> list:
    """As the run goes on to its end."""
    run.train()
    history = run.trainer.state.log_history[:-1]
    return [{key: value for key, value in entry.items() if "loss" in key or "wer" in key} for entry in history]


class Kill(TrainerCallback):
    def on_step_begin(self, args, state, control, **_):
        if state.global_step == 3:
            raise RuntimeError("killed")


def test_a_killed_streamed_run_resumes_to_the_same_losses(small, tiny, tmp_path, cache):
    whole = losses(make_run(small, tiny, tmp_path / "whole"))
    assert len([entry for entry in whole if "loss" in entry]) == 6
    killed = make_run(small, tiny, tmp_path / "killed")
    killed.trainer.add_callback(Kill())
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(RuntimeError, match="killed"):
        killed.train()
    assert signal.getsignal(signal.SIGINT) is before
    assert not list(cache.glob("streams/*/"))
    resumed = make_run(small, tiny, tmp_path / "killed", resume=True)
    assert losses(resumed) == whole and resumed.resumed_at == 2
    assert not list(cache.glob("streams/*/"))
    with pytest.raises(LabError, match="recipe.stream"):
        runs.Run(runs.Options(**vars(resumed.options) | {"stream": False}), store.FeatureSet(small))


def test_from_a_url_to_a_registry_and_again(small, tiny, tmp_path, monkeypatch, capsys):
    features, models = f"file://{tmp_path}/published", f"file://{tmp_path}/registry"
    publishing.publish(small, features)
    options = "--max-steps 2 --batch-size 4 --blend 1 --stream".split()
    options += ["--features", features, "--model", str(tiny), "--registry", models]
    script = runpy.run_path(str(ROOT / "training-pipeline.py"))
    monkeypatch.setattr(sys, "argv", ["training-pipeline.py", *options])
    monkeypatch.chdir(tmp_path)
    for printed in ("Next, another optimiser", "finished"):
        assert script["main"]() is None
        out = capsys.readouterr().out
        assert f"Registered: {models}/v1\n" in out and printed in out
    (run,) = study.expand(vars(script["parse_args"](options)))
    assert study.expand(vars(script["parse_args"](run.command_line().split()[2:]))) == [run]
    there = {path.name for path in (tmp_path / "registry" / "v1").rglob("*")}
    assert there == finished.LEAVES | {publishing.CLAIM, publishing.LISTING}
    assert (tmp_path / "models" / "published" / "metrics.json").is_file()
    checkpoint.load_model(str(tmp_path / "registry" / "v1"))
    stated = registry.scores(tmp_path / "registry" / "v1")
    measured = json.loads((tmp_path / "models" / "published" / "metrics.json").read_text())["tuned"]
    assert stated["test_wer_normalised"] == measured["test"]["wer_normalised"]["value"] and len(stated) == 8


@pytest.mark.parametrize("url", ["hopsworks://project", "hopsworks://a/b/c", "ftpx://host/models"])
def test_a_registry_that_is_none_is_said_before_training(small, tiny, tmp_path, url):
    with pytest.raises(LabError, match=url.partition("://")[0]):
        make_run(small, tiny, tmp_path / "x", registry=url)
    assert not (tmp_path / "x").exists()
