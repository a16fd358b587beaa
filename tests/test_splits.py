from collections import Counter
from dataclasses import replace

import pytest
from conftest import inside

from whisper_lab import LabError, files
from whisper_lab.corpora import corpus, splits
from whisper_lab.corpora.corpus import Clip
from whisper_lab.text import normalise


def clips(prefix: str, count: int, speakers: int, sentence: str = "Mening {} ur {}.") -> list[Clip]:
    return [
        Clip(f"{prefix}{i}", f"/{prefix}{i}.mp3", sentence.format(i, prefix), client_id=f"{prefix}-{i % speakers}")
        for i in range(count)
    ]


@pytest.fixture
def release() -> dict[str, list[Clip]]:
    """Common Voice in small: `validated` holds the official splits and more, some of it by or of what is scored on."""
    official = {name: clips(name, count, 10) for name, count in (("train", 200), ("dev", 40), ("test", 40))}
    overlapping = [
        Clip("by-test", "/x", "Ny mening.", client_id="test-3"),
        Clip("by-dev", "/x", "Ny mening.", client_id="dev-3"),
        Clip("says-test", "/x", "MENING 7, ur test!", client_id="someone"),
        Clip("says-dev", "/x", "mening 7 ur dev", client_id="someone"),
    ]
    more = clips("more", 300, 30)
    return official | {"validated": [*more, *overlapping, *(c for part in official.values() for c in part)]}


def names(part: list[Clip]) -> list[str]:
    return [clip.id for clip in part]


def test_the_default_is_the_release_as_it_is(release):
    scored = ["test", "out_of_domain"]
    assert splits.needed(None, ["train"]) is None and splits.needed(scored, ["train"]) == scored
    assert splits.arrange(release, None, ["train"]) == (release, Counter())


def test_validated_brings_all_but_the_clips_speakers_and_sentences_that_are_scored_on(release):
    asked = splits.needed(None, ["validated"])
    arranged, kept_out = splits.arrange({name: release[name] for name in asked}, None, ["validated"])
    assert list(arranged) == ["train", "dev", "test"]
    assert arranged["dev"] == release["dev"] and arranged["test"] == release["test"]
    assert set(names(arranged["train"])) == set(names(release["train"]) + names(clips("more", 300, 30)))
    assert kept_out == {
        "clip of test": 40,
        "clip of dev": 40,
        "speaker of test": 1,
        "speaker of dev": 1,
        "sentence of test": 1,
        "sentence of dev": 1,
    }
    assert len(arranged["train"]) + kept_out.total() == len(release["validated"])


def test_test_and_dev_guard_training_even_where_they_are_not_asked_for(release):
    asked = splits.needed(["train"], ["train", "validated"])
    arranged, kept_out = splits.arrange({name: release[name] for name in asked}, ["train"], ["train", "validated"])
    assert list(arranged) == ["train"] and kept_out["clip of test"] == 40
    assert not {"by-test", "says-dev"} & set(names(arranged["train"]))


def test_a_clip_in_several_splits_counts_once_and_the_first_come_first(release):
    release["train"][0] = Clip("train0", "/x", "Mening 0 ur train.", client_id="test-3")  # the release's own choice
    arranged, _ = splits.arrange(release, None, ["train", "validated"])
    assert splits.arrange(release, None, ["validated", "train"])[0] == arranged
    assert names(arranged["train"])[:200] == names(release["train"])
    assert len(names(arranged["train"])) == len(set(names(arranged["train"]))) == 500


def test_who_is_not_named_is_not_the_same_speaker(release):
    release["test"].append(Clip("anonymous", "/x", "Ett.", client_id=""))
    release["validated"].append(Clip("another", "/x", "Två.", client_id=""))
    arranged, _ = splits.arrange(release, None, ["validated"])
    assert "another" in names(arranged["train"])


@pytest.mark.parametrize("nameless", ["validated", "dev", "test"])
def test_where_speakers_are_not_known_nothing_beyond_train_is_trained_on(release, nameless):
    release[nameless] = [replace(clip, client_id="") for clip in release[nameless]]
    with pytest.raises(LabError, match=f"^{nameless} names no speaker.*--columns speaker=NAME.*--train-splits train"):
        splits.arrange(release, None, ["train", "validated"])
    del release["validated"]
    splits.arrange(release, None, ["train", "dev"])


def test_rows_left_out_are_those_of_the_splits_that_are_made(tmp_path, capfd):
    for split, count in (("train", 4), ("more", 3), ("dev", 2), ("other", 1)):
        lines = [f"{split}{n}.wav,{split} {n},{split}{n}" for n in range(count)] + [f"{split}.wav"] * count
        (tmp_path / f"{split}.csv").write_text("\n".join(["path,text,speaker", *lines]), encoding="utf-8")
        (tmp_path / f"{split}0.wav").touch()
    arranged, _ = splits.read(str(tmp_path), "sv", ["train", "dev"], ["train"])
    assert {split: len(rows) for split, rows in arranged.left_out.items()} == {"train": 4, "dev": 2}
    splits.read(str(tmp_path), "sv", None, ["train"])
    assert "has no test, and training needs all of train, dev, test" in capfd.readouterr().err
    (tmp_path / "test.csv").write_text("path,text,speaker\ntest.wav,test,t\n", encoding="utf-8")
    (tmp_path / "test.wav").touch()
    arranged, _ = splits.read(str(tmp_path), "sv", ["train"], ["train", "more"])
    assert {split: len(rows) for split, rows in arranged.left_out.items()} == {"train": 7}


def test_the_new_dev_is_not_of_clips_without_a_word():
    part = [Clip(str(n), "", "…" if n % 2 else f"Mening {n}.") for n in range(40)]
    assert all(normalise(clip.sentence) for clip in splits.hold_out(part))


def test_dev_trained_on_makes_room_for_another_dev_of_other_speakers(release):
    del release["validated"]
    assert splits.needed(None, ["train", "dev"]) is None
    many = release | {"train": clips("train", 2000, 400)}
    arranged, kept_out = splits.arrange(many, None, ["train", "dev"])
    assert list(arranged) == ["train", "dev", "test"] and not kept_out and arranged["test"] == many["test"]
    assert len(arranged["train"]) + len(arranged["dev"]) == 2040 and 90 <= len(arranged["dev"]) <= 102
    speakers, judges = ({clip.client_id for clip in arranged[name]} for name in ("train", "dev"))
    assert not speakers & judges and len(judges) > 10
    assert set(names(arranged["train"])) & set(names(many["dev"]))  # dev's are learnt from indeed
    assert splits.arrange(many, None, ["train", "dev"])[0] == arranged
    without_dev, _ = splits.arrange(many, ["train", "test"], ["train", "dev"])
    assert len(without_dev["train"]) == 2040  # who wants no dev loses nothing to it


@pytest.mark.parametrize("speakers", [0, 1, 2])
def test_with_too_few_speakers_dev_is_of_other_sentences(speakers):
    part = clips("own", 100, max(1, speakers), "Mening nummer {}.")
    if not speakers:
        part = [Clip(clip.id, clip.path, clip.sentence) for clip in part]
    part += [Clip(f"again{i}", "/x", clip.sentence.upper(), clip.client_id) for i, clip in enumerate(part)]
    arranged, kept_out = splits.arrange({"train": part, "dev": part[:5]}, None, ["train", "dev"])
    trained, judged = ({normalise(clip.sentence) for clip in arranged[name]} for name in ("train", "dev"))
    assert not trained & judged and len(arranged["dev"]) == 10 and not kept_out


def test_what_others_say_of_the_new_dev_is_kept_out():
    part = clips("train", 400, 80, "Mening nummer {}.")
    part += [Clip(f"again{i}", "/x", clip.sentence, "echo") for i, clip in enumerate(part)]
    arranged, kept_out = splits.arrange({"train": part, "dev": []}, None, ["train", "dev"])
    trained, judged = ({normalise(clip.sentence) for clip in arranged[name]} for name in ("train", "dev"))
    assert not trained & judged and kept_out == {"sentence of the new dev": len(arranged["dev"])}


@pytest.mark.parametrize("count, expected", [(1, 1), (19, 1), (60, 3), (100_000, splits.LARGEST_DEV)])
def test_the_new_dev_is_a_twentieth_but_never_none_or_much(count, expected):
    assert len(splits.hold_out(clips("x", count, count))) == expected


def test_a_small_dev_is_made_larger_out_of_train(release, capsys):
    del release["validated"]
    train = [*release["train"], *(replace(clip, id=f"again{clip.id}", client_id="echo") for clip in release["train"])]
    larger, kept_out = splits.larger_dev(release | {"train": train}, 140)
    moved = larger["dev"][40:]
    assert larger["dev"][:40] == release["dev"] and larger["test"] == release["test"] and len(moved) == 100
    trained, judged = ({clip.client_id for clip in larger[name]} for name in ("train", "dev"))
    assert not trained & judged and len(judged) == 10 + 5
    assert not {normalise(clip.sentence) for clip in moved} & {normalise(clip.sentence) for clip in larger["train"]}
    assert kept_out == {"sentence of the new dev": 100} and len(larger["train"]) + 200 == len(train)
    said = capsys.readouterr().err
    assert said == "dev: 100 clips of train moved to its 40; train has 200 left, without 100 of the same sentences\n"
    assert splits.larger_dev(release, 40) == (release, Counter())
    assert "dev: 0 clips of train moved to its 40; train has 200 left, without 0" in capsys.readouterr().err
    few = release | {"train": clips("own", 100, 2)}
    assert len(splits.larger_dev(few, 70)[0]["dev"]) == 70
    assert "moved to its 40 (whole sentences, as speakers are too few or not named" in capsys.readouterr().err


def test_dev_is_not_made_larger_by_all_there_is(release):
    del release["validated"]
    with pytest.raises(LabError, match="--dev-clips 240 leaves nothing of the 200 clips of train; ask for fewer"):
        splits.larger_dev(release, 240)
    with pytest.raises(LabError, match="moves clips of train to dev, and there are only train, test; leave it out"):
        splits.larger_dev({"train": release["train"], "test": release["test"]}, 60)


def test_a_larger_dev_is_asked_for_on_the_command_line(tmp_path):
    asked = ("--store", tmp_path / "x", "--limit", "8", "--dev-clips", "10")
    said = inside("feature-pipeline.py", *asked, cwd=tmp_path).stderr
    assert "dev: 2 clips of train moved to its 8; train has 6 left" in said
    made = files.read_json(tmp_path / "x" / "manifest.json")
    assert (made["splits"]["dev"]["rows"], made["splits"]["train"]["rows"]) == (10, 6)
    assert files.read_json(tmp_path / "x" / "plan.json")["plan"]["dev_clips"] == 10


def test_the_samples_dev_can_be_trained_on():
    read = corpus.read("sample", "sv-SE", splits.needed(None, ["train", "dev"])).splits
    arranged, _ = splits.arrange(read, None, ["train", "dev"])
    assert list(arranged) == ["train", "dev", "test", "out_of_domain"]
    assert len(arranged["train"]) + len(arranged["dev"]) == len(read["train"]) + len(read["dev"])


def test_mistakes_are_one_line(release):
    with pytest.raises(LabError, match="no dev to train on, only train, test; .*--train-splits"):
        splits.arrange({"train": release["train"], "test": release["test"]}, None, ["train", "dev"])
    with pytest.raises(LabError, match="test is what models are scored on.*--train-splits"):
        splits.needed(None, ["train", "test"])
    same = {"validated": release["test"], "test": release["test"], "dev": release["dev"]}
    with pytest.raises(LabError, match="nothing is left to train on in validated .clip of test: 40.*--train-splits"):
        splits.arrange(same, None, ["validated"])
