import errno
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, inside, script

from whisper_lab import LabError
from whisper_lab.corpora import corpus
from whisper_lab.speech.features import Extract, FrontEnd
from whisper_lab.stores import engine, store, survey
from whisper_lab.whisper import checkpoint

SETTINGS = {"corpus": {"name": "test"}, "language": "sv", "front_end": FrontEnd().settings(), "tokenizer": "t"}


@pytest.fixture
def splits(processor, monkeypatch) -> dict[str, list[dict]]:
    """15 clips, 4 to a shard, two of them unusable."""
    monkeypatch.setattr(store, "CLIPS_PER_SHARD", 4)
    rows = {}
    for split, count in (("train", 10), ("dev", 5)):
        clips = corpus.read("sample", "sv-SE", [split], limit=count).splits[split]
        labels = checkpoint.label_ids(processor.tokenizer, [clip.sentence for clip in clips], "sv")
        rows[split] = [vars(clip) | {"labels": ids} for clip, ids in zip(clips, labels)]
    rows["train"][2]["sentence"] = ""
    rows["dev"][4]["path"] += ".gone"
    return rows


EXTRACT = Extract(FrontEnd())


def build(folder, splits, extract=EXTRACT, settings=SETTINGS):
    return store.build(folder, settings, splits, extract, engine.Local(1))


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


class Killed(BaseException):
    pass


def test_rows_that_are_no_clips_are_listed_and_counted_with_the_clips(tmp_path, splits):
    lost = {"": [("mine.tsv, line 2", "too few cells", "a\tb")], "dev": [("mine.tsv, line 9", "missing file", "")]}
    plain = build(tmp_path / "plain", splits)
    for _ in range(2):  # also when nothing is left to make
        manifest = store.build(tmp_path / "set", SETTINGS, splits, EXTRACT, engine.Local(1), left_out=lost)
        assert manifest["rejected"] == {"too few cells": 1} and "rejected" not in plain
        assert manifest["splits"]["dev"]["rejected"] == {"missing file": 2}
        assert manifest["splits"]["train"] == plain["splits"]["train"]
    lines = [line.split("\t") for line in (tmp_path / "set" / "rejected.tsv").read_text().splitlines()]
    assert lines[1:3] == [
        ["", "mine.tsv, line 2", "too few cells", "a b"],
        ["dev", "mine.tsv, line 9", "missing file", ""],
    ]
    made_of = {"name": "mine", "version": "", "language": "sv", "fingerprint": "f" * 64}
    said = survey.report(tmp_path / "set", manifest | {"corpus": made_of}, {})
    assert "left out, of no split: 1 row, too few cells" in said and "left out of dev: 2 clips, missing file" in said


def test_what_is_read_is_what_was_written(tmp_path, splits):
    manifest = build(tmp_path / "set", splits)
    assert manifest["splits"]["train"]["rows"] == 9 and manifest["splits"]["train"]["rejected"] == {"empty sentence": 1}
    assert manifest["splits"]["dev"]["rejected"] == {"missing file": 1}
    lines = (tmp_path / "set" / "rejected.tsv").read_text().splitlines()
    assert [line.split("\t")[:3] for line in lines[1:]] == [
        ["train", splits["train"][2]["id"], "empty sentence"],
        ["dev", splits["dev"][4]["id"], "missing file"],
    ]
    train = store.FeatureSet(tmp_path / "set").split("train")
    kept = [clip for clip in splits["train"] if clip["sentence"]]
    assert len(train) == 9 and train.column("id") == [clip["id"] for clip in kept]
    for i in (0, 8):
        expected = EXTRACT(kept[i])
        assert train[i]["features"].tobytes() == expected["features"] and train[i]["features"].shape == (
            80,
            expected["frames"],
        )
        assert train[i]["labels"] == kept[i]["labels"] and train[i]["client_id"] == kept[i]["client_id"]


def test_the_clips_are_the_shards_without_features(tmp_path, splits):
    for clip in splits["train"][4:8]:
        clip["sentence"] = ""  # a shard without a row
    manifest = build(tmp_path / "set", splits)
    features = store.FeatureSet(tmp_path / "set")
    assert manifest["clips"]["rows"] == 9 and manifest["clips"]["file"] == "clips.parquet"
    for split in ("train", "dev"):
        clips, whole = features.clips(split).to_pylist(), features.split(split)
        assert [clip["id"] for clip in clips] == whole.column("id") and {clip["split"] for clip in clips} == {split}
        for i, clip in enumerate(clips):
            assert all(whole[i][key] == clip[key] for key in ("sentence", "client_id", "accents", "seconds", "frames"))
            assert clip["tokens"] == len(whole[i]["labels"])
    listed = [(entry["file"], row) for entry in manifest["splits"]["train"]["shards"] for row in range(entry["rows"])]
    assert [(clip["shard"], clip["row"]) for clip in features.clips("train").to_pylist()] == listed
    with pytest.raises(LabError, match="no split 'nowhere'"):
        features.clips("nowhere")


def test_datasets_reads_the_shards_too(tmp_path, splits):
    import datasets

    build(tmp_path / "set", splits)
    read = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "set" / "train-*.parquet"), cache_dir=str(tmp_path / "cache")
    )
    assert read["train"]["sentence"][:] == [clip["sentence"] for clip in splits["train"] if clip["sentence"]]


def test_a_run_killed_at_any_clip_ends_in_the_same_bytes(tmp_path, splits):
    build(tmp_path / "whole", splits)
    for killed_at in range(13):
        calls = 0

        def extract(clip, killed_at=killed_at):
            nonlocal calls
            calls += 1
            if calls > killed_at:
                raise Killed
            return EXTRACT(clip)

        folder = tmp_path / f"killed-at-{killed_at}"
        with pytest.raises(Killed):
            build(folder, splits, extract)
        with pytest.raises(LabError, match="unfinished feature set"):
            store.FeatureSet(folder)
        build(folder, splits)
        assert contents(folder) == contents(tmp_path / "whole"), killed_at


def test_sigkill_in_two_processes_ends_in_the_same_bytes(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    limit = ["--limit", "140"]  # more than a shard
    inside("feature-pipeline.py", "--store", whole, *limit, cwd=tmp_path)
    run = subprocess.Popen(
        [sys.executable, ROOT / "feature-pipeline.py", "--store", killed, *limit, "--workers", "2"],
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while run.poll() is None and not list(killed.glob("*.parquet")):
        time.sleep(0.01)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    assert not (killed / "manifest.json").exists()
    inside("feature-pipeline.py", "--store", killed, *limit, cwd=tmp_path)
    assert contents(killed) == contents(whole)


def test_other_settings_are_refused_in_one_line_and_the_same_again_is_free(tmp_path, splits):
    before = build(tmp_path / "set", splits)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "set").glob("*-of-*.parquet")}
    with pytest.raises(LabError, match="front_end.mels: 80 there, 128 now") as error:
        build(tmp_path / "set", splits, settings=SETTINGS | {"front_end": FrontEnd(128).settings()})
    assert "\n" not in str(error.value) and "--store" in str(error.value)
    assert build(tmp_path / "set", splits) == before
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "set").glob("*-of-*.parquet")}


def test_a_folder_with_something_else_in_it_is_not_touched(tmp_path, splits):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(LabError, match="not empty"):
        build(tmp_path, splits)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("name", ["train-00001-of-00003.parquet", "clips.parquet"])
@pytest.mark.parametrize("spoil", ["flip", "cut", "delete"])
def test_a_damaged_file_is_named_and_made_again(tmp_path, splits, spoil, name):
    build(tmp_path / "set", splits)
    before = contents(tmp_path / "set")
    shard = tmp_path / "set" / name
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 1
    shard.unlink()
    if spoil != "delete":
        shard.write_bytes(data if spoil == "flip" else data[: len(data) // 2])
    with pytest.raises(LabError, match=f"{name} is (damaged|missing)"):
        store.FeatureSet(tmp_path / "set")
    build(tmp_path / "set", splits)
    assert contents(tmp_path / "set") == before


def test_no_manifest_no_set(tmp_path):
    with pytest.raises(LabError, match="no feature set.*feature-pipeline.py --store '.*/no where'$"):
        store.FeatureSet(tmp_path / "no where")


def test_a_split_without_a_usable_clip_ends_in_an_error(tmp_path, splits):
    for clip in splits["dev"]:
        clip["sentence"] = ""
    with pytest.raises(LabError, match="no clip of dev could be used"):
        build(tmp_path / "set", splits)
    assert not (tmp_path / "set" / "manifest.json").exists()


def test_a_full_disk_is_one_line_and_the_run_goes_on_later(tmp_path):
    """A real one: a file system of 1 MB, which takes root to mount."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system here: {mounted.stderr.decode().strip()}")
    try:
        typed = ["feature-pipeline.py", "--store", disk / "set", "--limit", "16"]
        done = script(*typed, cwd=tmp_path, check=False)
        assert done.returncode == 2 and "no room left on disk" in done.stderr and "Traceback" not in done.stderr
        assert not (disk / "set" / "manifest.json").exists() and not list((disk / "set").glob(".partial-*"))
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        inside(*typed, cwd=tmp_path)
        store.FeatureSet(disk / "set")
    finally:
        subprocess.run(["umount", disk], check=True)


def test_no_room_is_told_from_other_faults_of_the_system():
    from whisper_lab import command

    def fail(number):
        def main():
            raise OSError(number, os.strerror(number))

        return main

    with pytest.raises(SystemExit) as left:
        command.run(fail(errno.ENOSPC))
    assert left.value.code == 2
    with pytest.raises(PermissionError):
        command.run(fail(errno.EACCES))


def test_the_manifest_says_what_is_there(tmp_path, release):
    done = inside("feature-pipeline.py", "--corpus", release, "--store", "a set/", cwd=tmp_path)
    assert done.stdout.endswith("Next: python training-pipeline.py --features 'a set'\n")
    manifest = json.loads((tmp_path / "a set" / "manifest.json").read_text())
    assert manifest["corpus"]["version"] == "99.0-2026-01-01" and manifest["language"] == "sv"
    assert manifest["front_end"]["mels"] == 80 and manifest["schema_version"] == 2
    assert manifest["train_splits"] == ["train"] and manifest["cleaning"]["max_seconds"] == 30
    for split in manifest["splits"].values():
        assert split["rows"] == sum(shard["rows"] for shard in split["shards"])
        assert all(len(shard["sha256"]) == 64 for shard in split["shards"])
        assert split["bytes"] / split["seconds"] < 20_000  # 80 kB at 4 s


def test_spoilt_clips_do_not_stop_a_run(tmp_path, release):
    clips = sorted((release / "sv-SE" / "clips").iterdir())
    clips[0].unlink()
    clips[1].write_bytes(b"")
    clips[2].write_bytes(clips[2].read_bytes()[:3000])
    clips[3].write_text("not audio at all")
    whole = clips[4].read_bytes()
    clips[4].write_bytes(whole[:6_000] + bytes(1_000) + whole[7_000:])
    clips[5].write_bytes(clips[5].read_bytes() + clips[6].read_bytes())  # two clips in one file, whose length is known
    done = inside("feature-pipeline.py", "--corpus", release, "--store", tmp_path / "set", cwd=tmp_path)
    rejected = (tmp_path / "set" / "rejected.tsv").read_text().splitlines()[1:]
    reasons = {line.split("\t")[1]: line.split("\t")[2:] for line in rejected}
    wanted = ["missing file", "empty file", "truncated", "not audio", "damaged"]
    assert [reasons[clip.stem][0] for clip in clips[:5]] == wanted and len(reasons) == 5
    assert reasons[clips[4].stem][1] == "1,008 bytes that are no sound, at 1.5 s"
    assert all(f" 1 clip, {reason}" in done.stdout for reason in ("empty file", "truncated"))


def test_a_url_gets_the_set_as_a_version_of_its_own(tmp_path, release):
    environment = os.environ | {"WHISPER_LAB_CACHE": str(tmp_path / "cache")}
    command = ["feature-pipeline.py", "--corpus", release, "--store", f"file://{tmp_path}/shared"]
    for flags, version in (([], "v1"), (["--max-repeats", "1"], "v2")):
        done = inside(*command, *flags, cwd=tmp_path, env=environment)
        assert done.stdout.endswith(f"training-pipeline.py --features file://{tmp_path}/shared/{version}\n")
    built = list((tmp_path / "cache" / "built").iterdir())
    assert len(built) == 2 and all(len(folder.name) == 16 for folder in built)
    for version in ("v1", "v2"):
        assert store.FeatureSet(tmp_path / "shared" / version).manifest["corpus"]["version"] == "99.0-2026-01-01"
    wrong = inside(*command[:3], "--store", "nothing://there", cwd=tmp_path, env=environment, check=False)
    assert wrong.returncode == 2 and "nothing" in wrong.stderr and "Features" not in wrong.stderr


def test_train_can_be_made_of_more_of_the_release(tmp_path, release):
    language = release / "sv-SE"
    rows = [(language / f"{split}.tsv").read_text(encoding="utf-8").splitlines() for split in ("train", "dev", "test")]
    again = rows[0][1].replace(".mp3", "-again.mp3", 1)
    (language / "clips" / again.split("\t")[1]).write_bytes(
        (language / "clips" / rows[0][1].split("\t")[1]).read_bytes()
    )
    validated = [rows[0][0], *(line for split in rows for line in split[1:]), again]
    (language / "validated.tsv").write_text("\n".join(validated) + "\n", encoding="utf-8")
    args = ["--corpus", release, "--train-splits", "train", "validated", "--store", tmp_path / "set"]
    done = inside("feature-pipeline.py", *args, cwd=tmp_path)
    manifest = store.FeatureSet(tmp_path / "set").manifest
    assert {name: split["rows"] for name, split in manifest["splits"].items()} == {"train": 13, "dev": 4, "test": 4}
    assert (
        manifest["train_splits"] == ["train", "validated"] and "kept out of train: 4 clips, clip of test" in done.stdout
    )


def test_a_store_holds_nothing_else(tmp_path, release):
    inside("feature-pipeline.py", "--corpus", release, "--store", tmp_path / "set", cwd=tmp_path)
    assert {path.name for path in (tmp_path / "set").iterdir()} == {
        "plan.json", "manifest.json", "rejected.tsv", "clips.parquet", "survey.png",
        *(f"{split}-00000-of-00001.parquet" for split in ("train", "dev", "test")),
    }  # fmt: skip
