import shutil

import pytest

from whisper_lab import LabError
from whisper_lab.corpora import corpus


def test_the_release_as_it_is(release):
    for folder in (release, release / "sv-SE", release.parent):
        read = corpus.read(str(folder), "sv-SE")
        assert (read.name, read.version, read.language) == ("Common Voice", "99.0-2026-01-01", "sv-SE")
        assert {name: len(clips) for name, clips in read.splits.items()} == {"train": 12, "dev": 4, "test": 4}
    clip = read.splits["train"][0]
    assert clip.seconds and len(clip.client_id) == 128 and "å" in "".join(c.sentence for c in read.splits["train"])


def test_a_copy_elsewhere_has_the_same_fingerprint_and_another_sentence_another(release, tmp_path):
    copy = shutil.copytree(release, tmp_path / "elsewhere" / release.name)
    before = corpus.read(str(release), "sv-SE").fingerprint
    assert corpus.read(str(copy), "sv-SE").fingerprint == before
    tsv = copy / "sv-SE" / "dev.tsv"
    tsv.write_text(tsv.read_text(encoding="utf-8").replace(".\t", "!\t", 1), encoding="utf-8")
    assert corpus.read(str(copy), "sv-SE").fingerprint != before


def test_quotation_marks_are_part_of_the_sentence(release):
    tsv = release / "sv-SE" / "dev.tsv"
    head, first, *rest = tsv.read_text(encoding="utf-8").splitlines()
    cells = first.split("\t")
    cells[3] = '"Hej", sa hon'
    tsv.write_text("\n".join([head, "\t".join(cells), *rest]) + "\n", encoding="utf-8")
    assert corpus.read(str(release), "sv-SE").splits["dev"][0].sentence == '"Hej", sa hon'


def test_old_releases_call_accents_accent_and_give_no_durations(release):
    (release / "sv-SE" / "clip_durations.tsv").unlink()
    for tsv in (release / "sv-SE").glob("*.tsv"):
        tsv.write_text(tsv.read_text(encoding="utf-8").replace("\taccents\t", "\taccent\t", 1), encoding="utf-8")
    clip = corpus.read(str(release), "sv-SE").splits["test"][0]
    assert clip.seconds is None and clip.accents == ""


def test_mistakes_say_what_was_looked_for_and_found(release, tmp_path):
    def message(*args) -> str:
        with pytest.raises(LabError) as error:
            corpus.read(*args)
        return str(error.value)

    assert "is not a folder" in message(str(tmp_path / "nowhere"), "sv-SE")
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "beach.jpg").touch()
    said = message(str(tmp_path / "holiday"), "sv-SE")
    assert "looked for clips/" in said and "beach.jpg" in said
    assert "--language sv-SE" in message(str(release / "sv-SE"), "fi")
    assert "languages found: sv-SE" in message(str(release), "fi")
    assert "splits found: dev, test, train" in message(str(release), "sv-SE", ["validated"])
    tsv = release / "sv-SE" / "train.tsv"
    tsv.write_text(tsv.read_text(encoding="utf-8").replace("\tsentence\t", "\ttext\t", 1), encoding="utf-8")
    said = message(str(release), "sv-SE")
    assert "no column 'sentence'" in said and "text" in said
