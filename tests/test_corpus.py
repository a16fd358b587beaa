import shutil
from pathlib import Path

import pytest

from whisper_lab import LabError
from whisper_lab.corpora import corpus, drawing, splits


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


def lines(release, table: str) -> list[list[str]]:
    return [line.split("\t") for line in (release / "sv-SE" / f"{table}.tsv").read_text("utf-8").splitlines()]


def rewrite(release, table: str, rows: list[list[str]], coding: str = "utf-8") -> None:
    content = "".join("\t".join(cells) + "\n" for cells in rows)
    (release / "sv-SE" / f"{table}.tsv").write_bytes(content.encode(coding))


@pytest.mark.parametrize("coding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_hides_no_speaker(release, coding):
    before = corpus.read(str(release), "sv-SE")
    for split in ("train", "dev", "test"):
        rewrite(release, split, lines(release, split), coding)
    assert corpus.read(str(release), "sv-SE") == before
    assert corpus.read(str(release / "sv-SE"), "sv-SE") == before
    rewrite(release, "dev", [["path", "sentence"], ["å", "å"]], "latin-1")
    with pytest.raises(LabError, match=r"dev.tsv is not UTF-8 \(byte \d+\); save it again as UTF-8"):
        corpus.read(str(release), "sv-SE")


def test_rows_that_cannot_be_used_are_left_out_by_line(release):
    head, *rows = lines(release, "train")
    sentence, votes = head.index("sentence"), head.index("down_votes")
    rows[0][sentence] = rows[0][sentence].replace(" ", "\t", 1)
    rows[1][sentence] = rows[1][sentence].replace(" ", "\n", 1)
    rows[2][votes] = "många"
    rows[3][votes], rows[4][sentence] = "nan", '""'
    rows[5] = rows[5][:4]
    shifted = "\t".join(rows[6]).replace(" ", "\t", 1).split("\t")[: len(head)]  # cells of other columns
    other = [*rows[9][:sentence], "Nej.", *rows[9][sentence + 1 :]]
    rewrite(release, "train", [head, *rows[:6], shifted, *rows[8:], rows[8], other, ["   "]])
    found = corpus.read(str(release), "sv-SE")
    names = [rows[kept][head.index("path")].removesuffix(".mp3") for kept in (3, 4, 8, 10, 11)]
    assert [clip.id for clip in found.splits["train"]] == names
    assert [clip.sentence for clip in found.splits["train"]][1] == "" and found.splits["train"][0].down_votes == 0
    assert [(int(place.removeprefix("train.tsv, line ")), reason) for place, reason, _ in found.left_out["train"]] == [
        (2, "too many cells"),
        (3, "too few cells"),
        (4, "too few cells"),
        (8, "too few cells"),
        (16, "too few cells"),
        (9, "another locale"),
        (5, "no number"),
        (14, "the same row again"),
        (11, "a clip with several sentences"),
        (15, "a clip with several sentences"),
    ]


def test_durations_that_are_no_numbers_are_not_known(release):
    head, *rows = lines(release, "clip_durations")
    clips = [clip for clip in corpus.read(str(release), "sv-SE").splits["train"]]
    said = {clips[0].id: "", clips[1].id: "nan", clips[2].id: "long", clips[3].id: "-5"}
    rewrite(release, "clip_durations", [head, *([name, said.get(name[:-4], ms)] for name, ms in rows), ["x"]])
    again = corpus.read(str(release), "sv-SE").splits["train"]
    assert [clip.seconds for clip in again[:4]] == [None] * 4 and again[4:] == clips[4:]


def test_an_empty_split_is_called_empty_with_the_way_out(release):
    rewrite(release, "validated", lines(release, "train"))
    for left in ([lines(release, "dev")[0]], []):
        rewrite(release, "dev", left)
        with pytest.raises(LabError, match="dev.tsv is empty: .*--corpus .*validated.tsv"):
            corpus.read(str(release), "sv-SE")
    drawn = corpus.read(str(release / "sv-SE" / "validated.tsv"), "sv-SE").splits
    assert {split: len(clips) for split, clips in drawn.items()} == {"train": 10, "dev": 1, "test": 1}
    assert all(Path(clip.path).is_file() for clips in drawn.values() for clip in clips)


def test_a_release_without_splits_draws_them_from_what_was_approved(release, capfd):
    for split in ("dev", "test"):
        (release / "sv-SE" / f"{split}.tsv").unlink()
    (release / "sv-SE" / "train.tsv").rename(release / "sv-SE" / "validated.tsv")
    (release / "sv-SE" / "other.tsv").write_text("\t".join(lines(release, "validated")[0]) + "\n", "utf-8")
    whole = corpus.read(str(release), "sv-SE", ["validated"]).splits["validated"]
    drawn = corpus.read(str(release), "sv-SE")
    assert drawn.splits == drawing.draw(whole) and drawn.name == "Common Voice"
    assert "no train, dev and test: they are drawn from validated.tsv" in capfd.readouterr().err
    arranged, kept_out = splits.read(str(release), "sv-SE", None, ["validated"])
    assert {split: len(clips) for split, clips in arranged.splits.items()} == {"train": 10, "dev": 1, "test": 1}
    assert kept_out == {"clip of test": 1, "clip of dev": 1}


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
