import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, inside

from whisper_lab import LabError, files
from whisper_lab.corpora import collection, corpus
from whisper_lab.corpora.collection import Collection, Refused
from whisper_lab.speech import audio

ADDING = """
import sys, numpy as np
from whisper_lab.corpora.collection import Collection
for i in range(int(sys.argv[2])):
    Collection(sys.argv[1]).add(np.full(8_000, 0.1, np.float32), f"Mening {i} {sys.argv[3]}", "Åsa")
"""


def sound(seconds: float = 0.5, seed: int = 0) -> np.ndarray:
    """Noise of 16 bit, as a microphone gives it."""
    values = np.random.default_rng(seed).integers(-32_768, 32_768, round(seconds * audio.SAMPLE_RATE))
    return values.astype(np.float32) / 32_768


def split_of(clips: Collection) -> dict[str, str]:
    return {clip["sentence"]: clip["split"] for clip in clips.clips()}


def test_what_is_added_comes_back(tmp_path):
    clips = Collection(tmp_path / "mine")
    assert not (tmp_path / "mine").exists() and clips.clips() == []
    first = clips.add(sound(0.5, 1), ' Vad  sa "hon",\n egentligen? ', "Åsa  Ö")
    second = clips.add(sound(1.25, 2), "Ät nu!", "Björn")
    newest, oldest = Collection(tmp_path / "mine").clips()
    assert (newest["id"], oldest["id"]) == (second, first) and first != second
    assert (oldest["sentence"], oldest["speaker"], oldest["seconds"]) == ('Vad sa "hon", egentligen?', "Åsa Ö", 0.5)
    assert clips.clips("Åsa Ö ") == [oldest] and clips.clips("någon") == []
    assert Path(newest["path"]).is_absolute() and (audio.read(newest["path"]) == sound(1.25, 2)).all()
    between = sound(1, 3) * 0.123
    clips.add(between, "Med avrundning.", "Björn")
    assert np.abs(audio.read(clips.clips()[0]["path"]) - between).max() <= 0.5 / 32_768


def test_the_corpus_reader_sees_a_release_without_names(tmp_path):
    clips = Collection(tmp_path / "mina-klipp")
    for i, speaker in enumerate(["Åsa", "Björn", "Åsa"]):
        clips.add(sound(1), f"Mening {i}.", speaker)
    read = corpus.read(str(tmp_path / "mina-klipp"), "sv-SE")
    assert (read.name, read.version, read.language) == ("mina-klipp", "", "sv-SE")
    said = [clip for split in ("train", "dev", "test") for clip in read.splits[split]]
    assert [clip.sentence for clip in said] == ["Mening 0.", "Mening 1.", "Mening 2."]
    assert [clip.seconds for clip in said] == [1.0] * 3 and all(Path(clip.path).is_file() for clip in said)
    assert said[0].client_id == said[2].client_id != said[1].client_id and len(said[0].client_id) == 128
    shared = b"".join(path.read_bytes() for path in (tmp_path / "mina-klipp" / "sv-SE").glob("*.tsv")).decode()
    assert "Åsa" not in shared and "Björn" not in shared
    Collection(tmp_path / "another").add(sound(1), "Mening 0.", "Åsa")
    elsewhere = corpus.read(str(tmp_path / "another"), "sv-SE", ["train"]).splits["train"][0]
    assert elsewhere.client_id != said[0].client_id  # so a name cannot be found by hashing it
    columns = (corpus.SAMPLE / "sv-SE" / "train.tsv").read_text(encoding="utf-8").splitlines()[0]
    assert all(shared.count(line) == count for line, count in ((columns, 3), ("clip\tduration[ms]", 1)))


def test_one_sentence_in_each_split_after_three_and_eight_one_one_after_ten(tmp_path):
    clips = Collection(tmp_path / "mine")
    for i in range(40):
        clips.add(sound(), f"Mening {i}", "Åsa")
        counts = Counter(split_of(clips).values())
        expected = {1: [1, 0, 0], 2: [1, 1, 0], 3: [1, 1, 1], 10: [8, 1, 1], 20: [16, 2, 2], 40: [32, 4, 4]}.get(i + 1)
        assert not expected or [counts[split] for split in ("train", "dev", "test")] == expected


def test_a_sentence_stays_in_its_split_whoever_reads_it_and_when(tmp_path):
    clips = Collection(tmp_path / "mine")
    for i in range(5):
        clips.add(sound(), f"Mening {i}.", "Åsa")
    before = split_of(clips)
    for i in range(5):
        clips.add(sound(), f"  mening {i}!", "Björn")
        clips.add(sound(), f"Mening {i}.", "Åsa")
    assert len(clips.clips()) == 15 and len(clips.clips("Åsa")) == 10
    assert all(split == before[f"M{text[1:-1]}."] for text, split in split_of(clips).items())
    clips = Collection(tmp_path / "again")
    ids = [clips.add(sound(), f"Mening {i}.", "Åsa") for i in range(10)]
    learnt = next(clip for clip in clips.clips() if clip["split"] == "train")
    for id in ids:
        clips.remove(id)
    for text in ("Ny", "Också ny"):  # the emptied dev would be next
        clips.add(sound(), text, "Åsa")
    clips.remove(clips.clips()[0]["id"])
    clips.add(sound(), learnt["sentence"], "Björn")
    assert split_of(clips) == {"Ny": "train", learnt["sentence"]: "train"}


def test_removal_takes_the_sound_and_the_rows_and_no_number_is_given_twice(tmp_path):
    clips = Collection(tmp_path / "mine")
    with pytest.raises(LabError, match="no clip 'sv-SE_000001'"):
        clips.remove("sv-SE_000001")
    assert not (tmp_path / "mine").exists()
    first, second = (clips.add(sound(), text, "Åsa") for text in ("Ett.", "Ett."))
    path = clips.clips()[0]["path"]
    clips.remove(second)
    assert not Path(path).exists() and [clip["id"] for clip in clips.clips()] == [first]
    assert second not in "".join(p.read_text(encoding="utf-8") for p in (tmp_path / "mine" / "sv-SE").glob("*.tsv"))
    for absent in (second, "../../elsewhere", ""):
        with pytest.raises(LabError, match="has no clip"):
            clips.remove(absent)
    assert clips.add(sound(), "Två.", "Åsa") not in (first, second)


class Killed(BaseException):
    pass


def kill_at(monkeypatch, step: int) -> None:
    """Die in place of the `step`th file's being put in its place, from 0."""
    whole, written = files.replacing, []

    @contextmanager
    def dying(path):
        with whole(path) as beside:
            yield beside
            written.append(path)
            if len(written) > step:
                raise Killed

    monkeypatch.setattr(files, "replacing", dying)


def assert_sound(folder: Path, sentences: set[str]) -> None:
    """The tables tell of `sentences`, of files that are there and durations that are right; and adding goes on."""
    clips = Collection(folder)
    held = clips.clips()
    assert {clip["sentence"] for clip in held} == sentences
    assert all(audio.read(clip["path"]).size == clip["seconds"] * audio.SAMPLE_RATE for clip in held)
    clips.add(sound(2), "Efter.", "Björn")
    assert {clip["sentence"] for clip in clips.clips()} == sentences | {"Efter."}
    assert len({clip["id"] for clip in clips.clips()}) == len(held) + 1
    assert (audio.read(clips.clips()[0]["path"]) == sound(2)).all()


@pytest.mark.parametrize("before", [0, 3])
@pytest.mark.parametrize("step", range(4))
def test_a_kill_while_adding_loses_that_clip_only(tmp_path, monkeypatch, before, step):
    sentences = [f"Mening {i}." for i in range(before)]
    for text in sentences:
        Collection(tmp_path / "mine").add(sound(), text, "Åsa")
    with monkeypatch.context() as patched, pytest.raises(Killed):
        kill_at(patched, step)
        Collection(tmp_path / "mine").add(sound(1), "Den som dör.", "Åsa")
    assert_sound(tmp_path / "mine", set(sentences))


@pytest.mark.parametrize("step", range(2))
def test_a_kill_while_removing_removes_or_keeps_the_whole_clip(tmp_path, monkeypatch, step):
    clips = Collection(tmp_path / "mine")
    ids = [clips.add(sound(), f"Mening {i}.", "Åsa") for i in range(3)]
    with monkeypatch.context() as patched, pytest.raises(Killed):
        kill_at(patched, step)
        clips.remove(ids[1])
    assert_sound(tmp_path / "mine", {"Mening 0.", "Mening 2."} | ({"Mening 1."} if step == 0 else set()))


def test_a_killed_process_leaves_no_lock(tmp_path):
    command = [sys.executable, "-c", ADDING, tmp_path / "mine", "10000", "x"]
    process = subprocess.Popen(command, cwd=ROOT)
    while process.poll() is None and not (tmp_path / "mine" / "sv-SE" / "test.tsv").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)
    held = {clip["sentence"] for clip in Collection(tmp_path / "mine").clips()}
    assert len(held) >= 3
    assert_sound(tmp_path / "mine", held)


def test_threads_and_processes_add_at_once_and_lose_nothing(tmp_path):
    processes = [
        subprocess.Popen([sys.executable, "-c", ADDING, tmp_path / "mine", "10", name], cwd=ROOT)
        for name in ("hos Åsa", "hos Björn")
    ]
    shared = Collection(tmp_path / "mine")

    def add(i: int) -> str:
        return (shared if i % 2 else Collection(tmp_path / "mine")).add(sound(0.5, i), f"Tråd {i}", f"Röst {i}")

    with ThreadPoolExecutor(20) as pool:
        ids = list(pool.map(add, range(20)))
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    held = {clip["id"]: clip for clip in shared.clips()}
    assert len(held) == 40 and len(split_of(shared)) == 40
    assert all(held[id]["speaker"] == f"Röst {i}" for i, id in enumerate(ids))
    assert all((audio.read(held[id]["path"]) == sound(0.5, i)).all() for i, id in enumerate(ids))
    assert Counter(split_of(shared).values()) == {"train": 32, "dev": 4, "test": 4}


@pytest.mark.parametrize(
    "reason, samples, sentence, speaker",
    [
        ("too short", sound(0.29), "Hej.", "Åsa"),
        ("too short", sound(0), "Hej.", "Åsa"),
        ("too long clip", sound(30.01), "Hej.", "Åsa"),
        ("silent", sound(1) * 0.003, "Hej.", "Åsa"),
        ("silent", sound(1) * np.nan, "Hej.", "Åsa"),
        ("no sentence", sound(1), " \n", "Åsa"),
        ("no letters", sound(1), "12, 13!", "Åsa"),
        ("no speaker", sound(1), "Hej.", "\t "),
    ],
)
def test_clips_that_cannot_be_learnt_from_are_refused(tmp_path, reason, samples, sentence, speaker):
    with pytest.raises(Refused) as refused:
        Collection(tmp_path / "mine").add(samples, sentence, speaker)
    assert refused.value.reason == reason and len(str(refused.value).splitlines()) == 1
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize("seconds, loudness", [(0.3, 1), (30, 0.0033)])
def test_the_shortest_longest_and_quietest_are_taken(tmp_path, seconds, loudness):
    clips = Collection(tmp_path / "mine")
    clips.add(sound(seconds) * loudness, "Å", "Ö")
    assert clips.clips()[0]["seconds"] == seconds


def test_what_is_no_collection_is_never_written_into(release, tmp_path):
    def everything() -> dict:
        return {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}

    language = (release / "sv-SE").rename(tmp_path / "other")  # a release in a folder that has lost its name
    (tmp_path / "empty").mkdir()
    late = Collection(tmp_path / "empty")
    (tmp_path / "empty" / "letter.txt").write_text("Hej")
    (tmp_path / "newer").mkdir()
    (tmp_path / "newer" / "collection.json").write_text(json.dumps({"schema_version": 99}))
    before = everything()
    for folder in (tmp_path, language, language / "train.tsv", tmp_path / "newer"):
        with pytest.raises(LabError, match="choose.* --collect"):
            Collection(folder)
    with pytest.raises(LabError, match="something else"):
        late.add(sound(), "Hej", "Åsa")
    for name in (release.name, "2026-voices", "sample"):  # would be taken for another corpus when read
        with pytest.raises(LabError, match="named like"):
            Collection(tmp_path / "new" / name)
    assert everything() == before


def test_an_empty_folder_becomes_a_collection_of_several_languages(tmp_path):
    for locale in ("sv-SE", "fi"):
        Collection(tmp_path, locale).add(sound(), "Kala", "Åsa")
    assert [len(Collection(tmp_path, locale).clips()) for locale in ("sv-SE", "fi")] == [1, 1]
    with pytest.raises(LabError, match="sv-SE, not fi"):
        Collection(tmp_path, "fi").next_sentence("Åsa")


def test_sentences_are_offered_until_all_are_read_then_those_read_least(tmp_path, monkeypatch):
    few = ["Ett äpple.", "Två päron?", "Tre plommon."]
    monkeypatch.setattr(collection, "SENTENCES", tmp_path / "few.txt")
    collection.SENTENCES.write_text("\n".join(few) + "\n", encoding="utf-8")
    clips = Collection(tmp_path / "mine")
    for _ in range(2):
        offered = []
        for _ in few:
            offered.append(clips.next_sentence("Åsa"))
            clips.add(sound(), offered[-1].lower(), "Åsa")
        assert sorted(offered) == sorted(few)
    clips.add(sound(), few[0], "Björn")
    assert clips.next_sentence("Björn") in few[1:]


def test_the_sentences_are_swedish_and_not_of_the_sample():
    sentences = collection.SENTENCES.read_text(encoding="utf-8").splitlines()
    assert len(set(map(collection.sentence_id, sentences))) == len(sentences) >= 60
    assert all(re.fullmatch(r"[A-ZÅÄÖ][a-zåäöA-ZÅÄÖ, ]+[.?]", text) for text in sentences)
    assert all(4 <= len(text.split()) <= 14 for text in sentences)
    assert set("abcdefghijklmnoprstuvxyzåäö") <= set("".join(sentences).lower())
    sample = "".join(path.read_text(encoding="utf-8") for path in (corpus.SAMPLE / "sv-SE").glob("*.tsv"))
    assert not [text for text in sentences if text in sample]


def test_twelve_clips_train_a_model(tiny, tmp_path):
    clips = Collection(tmp_path / "mine")
    for clip in corpus.read("sample", "sv-SE", ["train"], limit=12).splits["train"]:
        clips.add(audio.read(clip.path), clip.sentence, "Åsa")
    store = tmp_path / "features"
    made = inside("feature-pipeline.py", "--corpus", tmp_path / "mine", "--store", store, cwd=tmp_path)
    assert "left out" not in made.stdout and not (store / "rejected.tsv").read_text().splitlines()[1:]
    manifest = json.loads((store / "manifest.json").read_text())
    assert {name: split["rows"] for name, split in manifest["splits"].items()} == {"train": 10, "dev": 1, "test": 1}
    steps = ("--max-steps", "2", "--batch-size", "4", "--output", tmp_path / "model")
    inside("training-pipeline.py", "--features", store, "--model", tiny, *steps, cwd=tmp_path)
    assert (tmp_path / "model" / "model.safetensors").is_file() and (tmp_path / "model" / "metrics.json").is_file()
