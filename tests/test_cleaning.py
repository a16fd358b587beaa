import json

import pytest
from conftest import inside

from whisper_lab import LabError
from whisper_lab.corpora import corpus
from whisper_lab.corpora.cleaning import Limits
from whisper_lab.corpora.corpus import Clip
from whisper_lab.speech.features import Extract, FrontEnd, Rejected


def rejected(limits: Limits, clips: list[Clip]) -> list:
    return [row["rejected"] for row in limits.applied_to([vars(clip) for clip in clips])]


def test_by_default_all_that_can_be_learnt_stays():
    clips = [Clip(str(i), "", "Samma mening.", down_votes=99) for i in range(50)]
    assert rejected(Limits(), clips) == [None] * 50
    assert Limits().after_reading(0.05, "x" * 400) is None and Limits().after_reading(30.0, "x") is None


def test_each_limit_is_met_exactly_and_no_more():
    limits = Limits(max_seconds=10, min_seconds=1, max_characters_per_second=20)
    assert limits.after_reading(10.0, "x") is None and limits.after_reading(10.01, "x")[0] == "longer than 10 s"
    assert limits.after_reading(1.0, "x") is None and limits.after_reading(0.99, "x")[0] == "shorter than 1 s"
    assert limits.after_reading(2.0, "å" * 40) is None
    assert limits.after_reading(2.0, "å" * 41) == ("more than 20 characters a second", "41 in 2.00 s")


def test_of_a_repeated_sentence_the_first_clips_stay_and_a_voted_down_one_takes_no_place():
    sentences = ["Hej då!", "hej, då", "Hej.", "HEJ DÅ", "Hej då"]
    clips = [Clip(str(i), "", text, down_votes=2 if i == 0 else 0) for i, text in enumerate(sentences)]
    reasons = rejected(Limits(max_down_votes=1, max_repeats=2), clips)
    assert [bool(reason) for reason in reasons] == [True, False, False, False, True]
    assert reasons[0] == ("more than 1 down-votes", "2 down-votes")
    assert reasons[4][0] == "sentence repeated more than 2 times"
    assert rejected(Limits(max_down_votes=0), clips)[1:] == [None] * 4


def test_a_row_carries_what_it_is_cleaned_by():
    first = corpus.read("sample", "sv-SE", ["train"], limit=1).splits["train"][0]
    extract, row = Extract(FrontEnd()), vars(first) | {"labels": [1]}
    assert extract(row)["seconds"] > 1
    assert not {"limits", "rejected"} & set(extract(*Limits().applied_to([row])))
    with pytest.raises(Rejected) as error:
        extract(row | {"limits": Limits(max_seconds=1)})
    assert error.value.reason == "longer than 1 s"
    with pytest.raises(Rejected) as error:  # and is not read in vain
        extract(row | {"path": "nowhere", "rejected": ("more than 0 down-votes", "3 down-votes")})
    assert (error.value.reason, error.value.detail) == ("more than 0 down-votes", "3 down-votes")


def test_cleaning_is_of_the_training_split_only_and_counted(tmp_path, release):
    tsv = release / "sv-SE" / "train.tsv"
    head, first, second, *rest = tsv.read_text(encoding="utf-8").splitlines()
    down, sentence = head.split("\t").index("down_votes"), head.split("\t").index("sentence")
    cells, again = first.split("\t"), second.split("\t")
    cells[down], again[sentence] = "3", rest[0].split("\t")[sentence].upper()
    tsv.write_text("\n".join([head, "\t".join(cells), "\t".join(again), *rest]) + "\n", encoding="utf-8")
    args = ["--corpus", release, "--store", tmp_path / "set"]
    limits = ["--max-down-votes", 2, "--max-repeats", 1, "--max-seconds", 4.6, "--max-characters-per-second", 11]
    done = inside("feature-pipeline.py", *args, *limits, cwd=tmp_path)
    manifest = json.loads((tmp_path / "set" / "manifest.json").read_text())
    counts = manifest["splits"]["train"]["rejected"]
    assert counts["more than 2 down-votes"] == 1 and counts["sentence repeated more than 1 times"] == 1
    assert counts["longer than 4.6 s"] == 2 and counts["more than 11 characters a second"] == 1
    assert manifest["splits"]["train"]["rows"] + sum(counts.values()) == 12
    assert all(manifest["splits"][split]["rejected"] == {} for split in ("dev", "test"))
    assert "left out of train: 1 clip, more than 2 down-votes" in done.stdout
    assert manifest["cleaning"]["max_down_votes"] == 2 and manifest["cleaning"]["min_seconds"] == 0
    other = inside("feature-pipeline.py", *args, cwd=tmp_path, check=False)
    assert other.returncode == 2 and "cleaning.max_down_votes: 2 there, None now" in other.stderr


@pytest.mark.parametrize(
    "wrong",
    [{"max_seconds": 31}, {"max_seconds": 0}, {"min_seconds": 30}, {"min_seconds": -1}, {"max_repeats": 0},
     {"max_down_votes": -1}, {"max_characters_per_second": 0}],
)  # fmt: skip
def test_limits_that_cannot_be_are_refused_by_the_flags_name(wrong):
    with pytest.raises(LabError, match="^--" + next(iter(wrong)).replace("_", "-")):
        Limits(**wrong)
