import csv
import json
import os
import random
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from whisper_lab import LabError, text
from whisper_lab.corpora import corpus, drawing, tables
from whisper_lab.corpora.corpus import SAMPLE, Clip
from whisper_lab.speech import audio
from whisper_lab.speech.features import Extract, FrontEnd, Rejected

RECORDING = next((SAMPLE / "sv-SE" / "clips").glob("*.mp3"))


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(RECORDING, folder / name)


def write(path: Path, columns: str, *lines, **options) -> Path:
    """A table as its suffix says, through the writers that people use."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        if path.suffix in (".jsonl", ".json"):
            file.writelines(json.dumps(dict(zip(columns.split(), line))) + "\n" for line in lines)
        else:
            delimiter = "\t" if path.suffix == ".tsv" else ","
            csv.writer(file, **{"delimiter": delimiter} | options).writerows([columns.split(), *lines])
    return path


def read(path: Path, *args, **columns) -> corpus.Corpus:
    return corpus.read(str(path), "sv", *args, columns=columns)


def refusal(path: Path, *args, **columns) -> str:
    with pytest.raises(LabError) as error:
        read(path, *args, **columns)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "names, columns",
    [
        (("train.tsv", "dev.tsv", "test.tsv"), "path sentence"),
        (("train.tsv", "validation.csv", "test.jsonl"), "audio transcription"),
        (("train_manifest.json", "val_manifest.json", "test_manifest.json"), "audio_filepath text"),
        (("train/metadata.csv", "validation/metadata.csv", "test/metadata.csv"), "file_name text"),
    ],
)
def test_a_table_a_split_in_any_format(tmp_path, names, columns):
    for number, name in enumerate(names):
        put((tmp_path / name).parent, f"{number}.mp3")
        write(tmp_path / name, columns, (f"{number}.mp3", f"Mening {number}: å, ä och ö."))
    found = read(tmp_path)
    assert (found.name, found.version, found.language) == (tmp_path.name, "", "sv")
    assert list(found.splits) == ["train", "dev", "test"]
    for number, (clip,) in enumerate(found.splits.values()):
        assert (clip.id, clip.sentence) == (str(number), f"Mening {number}: å, ä och ö.")
        assert Path(clip.path).read_bytes() == RECORDING.read_bytes()


def test_what_else_is_known_of_a_clip(tmp_path):
    put(tmp_path / "clips", "a.mp3")
    columns = "path sentence client_id age gender accents duration split"
    line = ("a.mp3", " Hej! ", "Åsa", "fifties", "female", "Skånska", "2.5", "valid")
    found = read(write(tmp_path / "mine.csv", columns, line), ["dev"])
    (clip,) = found.splits["dev"]
    path = str(tmp_path / "clips" / "a.mp3")
    assert clip == Clip("a", path, "Hej!", "Åsa", "fifties", "female", "Skånska", 2.5)
    assert found.name == "mine"


def test_columns_that_are_named_go_before_guesses(tmp_path):
    put(tmp_path, "a.mp3", "b.mp3")
    table = write(tmp_path / "dev.csv", "file text inspelning ord talare", ("a.mp3", "fel", "b.mp3", "rätt", "Bo"))
    (clip,) = read(table, audio="inspelning", text="ord", speaker="talare").splits["dev"]
    assert (Path(clip.path).name, clip.sentence, clip.client_id) == ("b.mp3", "rätt", "Bo")


def test_a_column_that_is_missing_or_unclear_is_said_with_the_flag(tmp_path):
    put(tmp_path, "a.mp3")
    said = refusal(write(tmp_path / "one.csv", "file ord", ("a.mp3", "hej")))
    assert "file, ord" in said and "--columns text=NAME" in said
    said = refusal(write(tmp_path / "two.csv", "file text sentence", ("a.mp3", "hej", "hopp")))
    assert "text and sentence" in said and "--columns text=NAME" in said
    assert "'uttal'" in refusal(tmp_path / "two.csv", text="uttal")
    assert "knows no 'words'" in refusal(tmp_path / "two.csv", words="text")
    assert refusal(write(tmp_path / "three.csv", "text", ("hej",))).count("--columns audio=NAME") == 1


@pytest.mark.parametrize("sentence", ['"Hej", sa hon', '"Hej!"', 'Han sa "nej" och gick', "Ett, två; tre", 'sa "hej"'])
@pytest.mark.parametrize("style", ["bare", "quoted where needed", "all quoted", "csv", "jsonl"])
def test_sentences_keep_their_own_quotation_marks(tmp_path, sentence, style):
    put(tmp_path, "a.mp3", "b.mp3")
    table = tmp_path / ("dev.tsv" if "quoted" in style or style == "bare" else f"dev.{style}")
    options = {"all quoted": {"quoting": csv.QUOTE_ALL}, "bare": {"quoting": csv.QUOTE_NONE, "quotechar": None}}
    write(table, "path sentence", ("a.mp3", sentence), ("b.mp3", 'Och "då" då'), **options.get(style, {}))
    assert [clip.sentence for clip in read(table).splits["dev"]] == [sentence, 'Och "då" då']


def test_a_spreadsheets_csv(tmp_path):
    put(tmp_path, "a.mp3")
    table = write(tmp_path / "dev.csv", "path sentence", ("a.mp3", "Hej, du"), delimiter=";")
    table.write_text("\ufeff" + table.read_text(encoding="utf-8"), encoding="utf-8")  # Excel's "CSV UTF-8"
    assert read(table).splits["dev"][0].sentence == "Hej, du"
    table.write_bytes("path;sentence\na.mp3;Å\n".encode("latin-1"))
    assert "is not UTF-8" in refusal(table)


def test_rows_that_do_not_fit_are_left_out_by_line(tmp_path):
    put(tmp_path, "a.mp3", "b.mp3")

    def left_out(name: str, content: str) -> list[tuple[str, str]]:
        (tmp_path / name).write_text(content, encoding="utf-8")
        found = read(tmp_path / name, ["dev"])
        assert [clip.id for clip in found.splits["dev"]] == ["a"]
        return [(place, reason) for place, reason, _ in found.left_out["dev"]]

    assert left_out("dev.csv", "path,sentence\na.mp3,hej\nb.mp3,ett, två\n") == [("dev.csv, line 3", "too many cells")]
    assert left_out("dev.csv", "path,sentence\na.mp3,hej\nb.mp3\n\n") == [("dev.csv, line 3", "too few cells")]
    assert left_out("dev.csv", "path,sentence\na.mp3,hej\n,hopp\n") == [("dev.csv, line 3", "no name of a recording")]
    assert left_out("dev.jsonl", '{"path": "a.mp3", "text": "hej"}\n{"path": \n') == [("dev.jsonl, line 2", "no JSON")]
    said = refusal(write(tmp_path / "dev.csv", "path sentence", ("a.mp3", "ett", "två")))
    assert (
        "none of its rows can be used" in said and "dev.csv, line 2: too many cells: 3 of 2: a.mp3 | ett | två" in said
    )
    assert "has no rows" in refusal(write(tmp_path / "empty.csv", "path sentence"))


def test_a_column_without_a_name_holds_nothing(tmp_path):
    put(tmp_path, "7.mp3")
    (tmp_path / "dev.csv").write_text(",path,sentence\n3,7.mp3,hej\n", encoding="utf-8")  # pandas' index
    (clip,) = read(tmp_path / "dev.csv").splits["dev"]
    assert clip == Clip("7", str(tmp_path / "7.mp3"), "hej")


def test_a_column_of_splits(tmp_path):
    put(tmp_path, "1.mp3", "2.mp3", "3.mp3")
    lines = [("1.mp3", "ett", "train"), ("2.mp3", "två", "Validation"), ("3.mp3", "tre", "mine")]
    table = write(tmp_path / "mine.csv", "path sentence split", *lines)
    assert {split: [clip.id for clip in clips] for split, clips in read(table).splits.items()} == {
        "train": ["1"],
        "dev": ["2"],
    }
    assert list(read(table, ["mine"]).splits) == ["mine"]
    write(table, "path sentence split", *lines[:2], ("3.mp3", "tre", ""))
    assert "1 rows name no split" in refusal(table) and "3.mp3" in refusal(table)


def test_one_recording_for_several_sentences_is_left_out_and_the_same_row_counts_once(tmp_path):
    put(tmp_path, "lecture.mp3", "a.mp3")
    lines = [("lecture.mp3", f"mening {number}") for number in range(12)]
    said = refusal(write(tmp_path / "train.csv", "path sentence", *lines), ["train"])
    assert "left out: 12 rows, such as train.csv, line 2: a clip with several sentences" in said
    found = read(write(tmp_path / "train.csv", "path sentence", *lines[:2], *[("a.mp3", "hej")] * 3), ["train"])
    assert [clip.sentence for clip in found.splits["train"]] == ["hej"]
    assert [(place, reason) for place, reason, _ in found.left_out["train"]] == [
        ("train.csv, line 2", "a clip with several sentences"),
        ("train.csv, line 3", "a clip with several sentences"),
        ("train.csv, line 5", "the same row again"),
        ("train.csv, line 6", "the same row again"),
    ]


@pytest.mark.parametrize(
    "columns, lines",
    [
        ("audio_filepath offset duration text", [("a.mp3", 0.5, 1.25, "ett"), ("a.mp3", 2, 1, "två")]),  # NeMo
        ("path start end text", [("a.mp3", 0.5, 1.75, "ett"), ("a.mp3", 2, 3, "två")]),
        ("path start_ms end_ms text", [("a.mp3", 500, 1750, "ett"), ("a.mp3", 2000, 3000, "två")]),
        ("path begin end_time duration text", [("a.mp3", 0.5, 1.75, 99, "ett"), ("a.mp3", 2, 3, 99, "två")]),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_parts_of_a_file_are_clips_of_their_own(tmp_path, columns, lines, suffix):
    put(tmp_path, "a.mp3")
    one, two = read(write(tmp_path / f"dev{suffix}", columns, *lines), ["dev"]).splits["dev"]
    assert [(clip.id, clip.sentence, clip.part, clip.seconds) for clip in (one, two)] == [
        ("a_0.5-1.75", "ett", (0.5, 1.75), 1.25),
        ("a_2.0-3.0", "två", (2.0, 3.0), 1.0),
    ]
    whole, part, rate = audio.read(one.path), audio.read(one.path, None, one.start, one.end), audio.SAMPLE_RATE
    assert np.array_equal(part, whole[rate // 2 : rate * 7 // 4])
    row = Extract(FrontEnd())(vars(one) | {"labels": [1]})
    assert row["seconds"] == 1.25 and row["features"] == FrontEnd().log_mel(part).astype(np.float16).tobytes()


def test_parts_that_a_file_has_not_are_named(tmp_path):
    put(tmp_path, "a.mp3", "b.mp3")
    lines = [
        ("a.mp3", 0, 99),
        ("a.mp3", 99, 100),
        ("a.mp3", 2, 1),
        ("a.mp3", -1, 1),
        ("a.mp3", "x", 1),
        ("b.mp3", "", ""),
    ]
    found = read(write(tmp_path / "dev.csv", "path start end text", *((*line, "hej") for line in lines)), ["dev"])
    assert [clip.part for clip in found.splits["dev"]] == [(0.0, 99.0), (99.0, 100.0), None]
    assert [reason for _, reason, _ in found.left_out["dev"]] == ["no part of a file"] * 2 + ["no number"]
    for clip, said in zip(found.splits["dev"], ("part that the file has not", "no samples")):
        with pytest.raises(Rejected, match=said):
            Extract(FrontEnd())(vars(clip) | {"labels": [1]})
    assert read(write(tmp_path / "dev.csv", "path duration text", ("a.mp3", 2.5, "hej"))).splits["dev"][0].part is None


def test_the_fingerprint_of_a_corpus_without_parts_is_what_it_was():
    clips = [Clip("a", "/x", "Å", seconds=1.5, down_votes=2), Clip("b", "/x", "Ä")]
    before = "5d54aef02940db708e41f5b045b1721f324f63146cd54db7ecbada48f242df30"
    assert corpus.Corpus("x", "", "sv", {"train": clips}).fingerprint == before


def test_where_recordings_are_looked_for(tmp_path):
    put(tmp_path, "clips/a.mp3", "audio/b.mp3", "deep/er/c.mp3", "elsewhere/d.mp3")
    names = ["a.mp3", "b.mp3", "deep/er/c.mp3", str(tmp_path / "elsewhere" / "d.mp3"), "gone.mp3"]
    table = write(tmp_path / "test.csv", "path sentence", *((name, name) for name in names))
    clips = read(table).splits["test"]
    assert [Path(clip.path).is_file() for clip in clips] == [True] * 4 + [False]
    assert [clip.id for clip in clips] == ["a", "b", "c", "d", "gone"]
    shutil.rmtree(tmp_path / "clips")
    write(table, "path sentence", ("a.mp3", "hej"))
    assert "none of the 1 recordings" in refusal(table) and "a.mp3" in refusal(table)


def test_names_written_elsewhere_are_found(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "å/ö ä.mp3") for form in ("NFC", "NFD"))
    for disk, table in ((composed, decomposed), (decomposed, composed)):
        put(tmp_path / disk[:2], disk)
        listed = write(tmp_path / disk[:2] / "dev.csv", "path sentence", (table.replace("/", "\\"), "hej"))
        assert Path(read(listed).splits["dev"][0].path) == tmp_path / disk[:2] / disk
    put(tmp_path, "wavs/a.mp3", "wavs/b.mp3", "wavs/b.wav")
    table = write(tmp_path / "dev.csv", "path sentence", ("a", "hej"), ("b", "hopp"))
    assert [(c.id, Path(c.path).is_file()) for c in read(table).splits["dev"]] == [("a", True), ("b", False)]


@pytest.mark.parametrize(
    "lines, text",
    [
        (["1|Nr 1, sa han|Nummer ett, sa han", "2|Två å|två å"], ["Nr 1, sa han", "Två å"]),
        (["1|anna|Nr 1, sa han", "2|bo|Två å"], ["Nr 1, sa han", "Två å"]),  # Piper's, of several speakers
        (["1|Nr 1, sa han", "2|Två å"], ["Nr 1, sa han", "Två å"]),
        (["file_name|text", "1|Nr 1, sa han", "2|Två å"], ["Nr 1, sa han", "Två å"]),
    ],
)
def test_tables_like_ljspeechs(tmp_path, lines, text):
    put(tmp_path, "wavs/1.wav", "wavs/2.wav")
    (tmp_path / "metadata.csv").write_text("\n".join(lines), encoding="utf-8")
    found = read(tmp_path)
    assert sorted(clip.sentence for part in found.splits.values() for clip in part) == sorted(text)
    assert {clip.client_id for part in found.splits.values() for clip in part} <= {"", "anna", "bo"}


def test_what_spreadsheets_save(tmp_path):
    put(tmp_path, "a.mp3")
    (tmp_path / "mine.txt").write_bytes('path\tsentence\r\na.mp3\t"Sa ""å"""\r\n'.encode("utf-16"))  # Unicode text
    assert read(tmp_path / "mine.txt").splits["train"][0].sentence == 'Sa "å"'
    (tmp_path / "mine.txt").rename(tmp_path / "mine.xlsx")
    for path in (tmp_path, tmp_path / "mine.xlsx"):
        assert "mine.xlsx" in refusal(path) and "save it as CSV" in refusal(path)


def test_equal_stems_have_ids_that_tell_them_apart(tmp_path):
    names = ["bo/1.mp3", "åsa/1.mp3", "åsa/2.mp3"]
    put(tmp_path, *names)
    for order in (names, names[::-1]):
        table = write(tmp_path / "test.csv", "path sentence", *((name, name) for name in order))
        assert {c.sentence: c.id for c in read(table).splits["test"]} == dict(zip(names, [*names[:2], "2"]))
    table = write(tmp_path / "test.csv", "path sentence nr", *((name, name, "7") for name in names))
    assert "'7' belongs to 3 files" in refusal(table, id="nr")
    assert [clip.id for clip in read(table, id="sentence").splits["test"]] == names


def whole(count: int, speakers: int, sentences: int) -> list[Clip]:
    return [
        Clip(f"c{i}", f"c{i}", f"Mening {i % sentences}!", f"s{i % speakers}" if speakers else "") for i in range(count)
    ]


@pytest.mark.parametrize(
    "count, speakers, sentences",
    [(10, 0, 10), (10, 10, 10), (10, 2, 3), (10, 1, 1), (100, 12, 100), (1000, 0, 700), (1000, 40, 5), (37, 11, 9)],
)
def test_drawn_splits_are_complete_apart_and_the_same_in_any_order(count, speakers, sentences):
    clips = whole(count, speakers, sentences)
    drawn = drawing.draw(clips)
    assert list(drawn) == ["train", "dev", "test"] and all(drawn.values())
    assert sorted(c.id for part in drawn.values() for c in part) == sorted(c.id for c in clips)
    random.Random(1).shuffle(clips)
    again = drawing.draw(clips)
    assert {s: {c.id for c in part} for s, part in again.items()} == {s: {c.id for c in p} for s, p in drawn.items()}

    def shared(of) -> set:
        seen = [{of(clip) for clip in part} for part in drawn.values()]
        return (seen[0] & seen[1]) | (seen[0] & seen[2]) | (seen[1] & seen[2])

    if speakers >= 10:
        assert not shared(lambda clip: clip.client_id)
    elif sentences >= 3:
        assert not shared(lambda clip: text.normalise(clip.sentence))
    if count >= 100:
        assert all(0.05 <= len(drawn[split]) / count <= 0.2 for split in ("dev", "test"))


def test_one_table_is_drawn_from_and_one_named_for_a_split_is_not(tmp_path):
    names = [f"{number}.mp3" for number in range(20)]
    put(tmp_path, *names)
    lines = [(name, f"mening {name}") for name in names]
    write(tmp_path / "metadata.csv", "file_name text", *lines)
    drawn = read(tmp_path)
    assert {split: len(clips) for split, clips in drawn.splits.items()} == {"train": 16, "dev": 2, "test": 2}
    assert read(tmp_path, None, 1).splits["train"] == drawn.splits["train"][:1]
    (tmp_path / "metadata.csv").rename(tmp_path / "train.csv")
    assert read(tmp_path).splits == drawn.splits  # without dev and test nobody can train
    assert len(read(tmp_path, ["train"]).splits["train"]) == 20  # unless nothing else is asked for
    (tmp_path / "train.csv").rename(tmp_path / "test.csv")
    assert {split: len(clips) for split, clips in read(tmp_path).splits.items()} == {"test": 20}
    assert "splits found: test (20 clips)" in refusal(tmp_path, ["dev"])


def test_one_table_for_recordings_in_folders_of_splits(tmp_path):
    names = ["train/1.mp3", "train/2.mp3", "test/1.mp3", "valid/1.mp3"]
    put(tmp_path, *names)
    write(tmp_path / "metadata.csv", "file_name text", *((name, name) for name in names))
    found = read(tmp_path).splits
    assert {split: [clip.sentence for clip in clips] for split, clips in found.items()} == {
        "train": names[:2],
        "dev": names[3:],
        "test": names[2:3],
    }


def test_folders_of_splits_anywhere_in_the_names_are_kept(tmp_path):
    names = [f"audios/{split}/{n}.mp3" for split, count in (("train", 8), ("eval", 4)) for n in range(count)]
    put(tmp_path, *names, "audios/5.mp3")
    table = write(tmp_path / "metadata.csv", "file_name text", *((name, name) for name in names))
    assert {split: len(clips) for split, clips in read(table).splits.items()} == {"train": 8, "dev": 4}
    write(table, "file_name text", *((str(tmp_path / name), name) for name in names))
    assert {split: len(clips) for split, clips in read(table).splits.items()} == {"train": 8, "dev": 4}
    write(table, "file_name text", *((name, name) for name in [*names, "audios/5.mp3"]))
    assert "1 rows name no split, such as that of " in refusal(table) and "5.mp3" in refusal(table)
    for split in ("train", "eval"):
        listed = [(f"{n}.mp3", f"{split} {n}") for n in range(4)]
        write(tmp_path / "audios" / split / "transcripts.csv", "file_name text", *listed)
    table.unlink()
    assert {split: len(clips) for split, clips in read(tmp_path).splits.items()} == {"train": 4, "dev": 4}


def test_clips_of_no_word_are_not_what_is_judged_by():
    for count in (3, 12, 40):
        clips = [Clip(str(n), "", f"Mening {n}" if n % 3 else "" if n % 2 else "…") for n in range(count)]
        drawn = drawing.draw(clips)
        assert sum(map(len, drawn.values())) == count
        assert all(text.normalise(clip.sentence) for split in ("dev", "test") for clip in drawn[split])
        assert count < 12 or (drawn["dev"] and drawn["test"])


def test_a_table_called_sample_is_not_the_sample(tmp_path):
    put(tmp_path, "a.mp3")
    found = read(write(tmp_path / "sample.csv", "path sentence", ("a.mp3", "hej")))
    assert found.name == "sample" and not corpus.bundled(found.identity())
    copy = shutil.copytree(SAMPLE, tmp_path / SAMPLE.name, copy_function=os.link)
    assert not corpus.bundled(corpus.read(str(copy), "sv-SE", ["dev"]).identity())
    assert corpus.bundled(corpus.read(str(SAMPLE), "sv-SE", ["dev"], 1).identity())


def test_folders_that_leave_it_open_say_what_is_needed(tmp_path):
    put(tmp_path, "a.mp3")
    said = refusal(tmp_path)
    assert "no table" in said and "metadata.csv" in said and "file_name" in said
    write(tmp_path / "spring.csv", "path sentence", ("a.mp3", "hej"))
    write(tmp_path / "autumn.csv", "path sentence", ("a.mp3", "hopp"))
    assert "autumn.csv, spring.csv" in refusal(tmp_path)
    write(tmp_path / "train.tsv", "path sentence", ("a.mp3", "hej"))
    assert list(read(tmp_path, ["spring", "train"]).splits) == ["spring", "train"]  # any table can be asked for
    write(tmp_path / "train.csv", "path sentence", ("a.mp3", "hej"))
    assert "two tables for train" in refusal(tmp_path)


def test_a_common_voice_release_is_left_to_its_own_reader(release):
    assert not tables.holds(release) and not tables.holds(release / "sv-SE")
    assert corpus.read(str(release / "sv-SE"), "sv-SE").name == "Common Voice"
