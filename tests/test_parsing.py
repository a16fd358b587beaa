"""Whatever has happened to a table: each of its rows is parsed right, or left out by its line. Nothing is guessed."""

import csv
import io
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from whisper_lab import LabError
from whisper_lab.corpora import corpus, parsing
from whisper_lab.corpora.cells import LINE_END
from whisper_lab.text import cleaned

LETTERS = "aåo \"'’.|\u2028\u0085\f\u0301"
LAYOUTS = {
    "release": "client_id path sentence up_votes down_votes age gender accents locale segment",
    "own": "path sentence client_id age",
    "text last": "client_id age path sentence",
    "text first": "sentence path client_id age",
}
HARMLESS = ("", "", "", "twice", "no votes")
RAW = ("delimiter", "line end", "NUL", "mark", "short", "long")  # what no writer of tables does
FAULTS = (*HARMLESS, *RAW, "no name", "another sentence")
ENDS = ("\n", "\r\n", "\r")
QUOTING = {"bare": csv.QUOTE_NONE, "minimal": csv.QUOTE_MINIMAL, "all": csv.QUOTE_ALL}


def written(cells: list[str], style: str, delimiter: str) -> str:
    """A line as Common Voice ("bare"), pandas ("minimal") and others ("all") write it."""
    file, mark = io.StringIO(), None if style == "bare" else '"'
    csv.writer(file, delimiter=delimiter, quoting=QUOTING[style], quotechar=mark, lineterminator="").writerow(cells)
    return file.getvalue()


def spoilt(cells: list[str], place: int, fault: str, at: int, delimiter: str, end: str) -> str:
    """A line as it stands, with a fault in the cell `place` or in the number of cells."""
    text, middle = cells[place], len(cells[place]) // 2
    signs = {"delimiter": delimiter, "line end": end, "NUL": "\0"}
    if fault in signs:
        cells = [*cells[:place], text[:middle] + signs[fault] + text[middle:], *cells[place + 1 :]]
    elif fault == "mark":
        cells = [*cells[:place], f'"{text}', *cells[place + 1 :]]
    return delimiter.join(
        [*cells, "x"] if fault == "long" else cells[: 1 + at % (len(cells) - 1)] if fault == "short" else cells
    )


def read(folder: Path, name: str, content: bytes, recordings: int, release: bool = False) -> corpus.Corpus | None:
    """The corpus of a table of train; None where it is refused in a line."""
    root = folder / "cv-corpus-1.0-2020-01-01" / "sv-SE" if release else folder
    (root / "clips").mkdir(parents=True)
    for number in range(recordings):
        (root / "clips" / f"{number}.mp3").touch()
    (root / name).write_bytes(content)
    try:
        return corpus.read(str(root if release else root / name), "sv-SE", ["train"])
    except LabError as error:
        assert "\n" not in str(error)
        return None


def lines_left_out(found: corpus.Corpus) -> set[int]:
    return {int(place.rpartition(" ")[2]) for rows in found.left_out.values() for place, _, _ in rows}


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(FAULTS), st.text(LETTERS + ",;\t\n\r", max_size=9), st.integers(0, 9)),
        min_size=1,
        max_size=7,
    ),
    st.sampled_from(sorted(LAYOUTS)),
    st.sampled_from([("bare", "\t"), *((style, sign) for style in ("minimal", "all") for sign in "\t,;")]),
    st.booleans(),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    st.sampled_from(ENDS),
    st.sampled_from(["", "  ", "{end}", "{end}{end}", "{end}  {end}"]),
    st.sampled_from([".mp3", ""]),
)
def test_any_tsv_or_csv(chosen, layout, written_as, index, coding, end, tail, suffix):
    style, delimiter = written_as
    # Without suffixes, two halves of rows can look just as one row with line ends in a quoted cell.
    assume(suffix or sum(fault in RAW for fault, _, _ in chosen) < 2)
    columns = [""] * index + LAYOUTS[layout].split()
    place, lines, rows, number = columns.index("sentence"), [written(columns, style, delimiter)], [], 2
    for i, (fault, text, at) in enumerate(chosen):
        if style == "bare" or fault in RAW:
            text = "".join(sign for sign in text if sign in LETTERS)
            # What looks as if pandas had written it may be so: nobody can tell.
            marked = text.strip()[:1] == '"' or fault == "mark"
            assume(not (marked and text.strip()[-1:] == '"' and (fault in RAW or '""' in text.strip()[1:-1])))
        sentence = text.strip() or "a"
        values = {"client_id": f"s{i}", "path": f"{i}{suffix}" if fault != "no name" else "", "age": f"a{i}"}
        values |= {
            "": str(i),
            "locale": "sv-SE",
            "sentence": sentence,
            "down_votes": "nan" if fault == "no votes" else "1",
        }
        line = written([values.get(name, "") for name in columns], style, delimiter)
        if fault in RAW:
            line = spoilt([values.get(name, "") for name in columns], place, fault, at, delimiter, end)
        said = [(line, sentence)] * (2 if fault == "twice" else 1)
        if fault == "another sentence":
            values["sentence"] = f"{sentence}b"
            said.append((written([values.get(name, "") for name in columns], style, delimiter), values["sentence"]))
        for line, sentence in said:
            lines.append(line)
            rows.append((i, fault, sentence, range(number, number + len(LINE_END.split(line)))))
            number = rows[-1][-1].stop
    content = (end.join(lines) + tail.format(end=end)).encode(coding)
    with tempfile.TemporaryDirectory() as folder:
        found = read(Path(folder), "train.tsv", content, len(chosen), layout == "release")
    if not found:
        return
    left, kept = lines_left_out(found), {clip.id: clip for clip in found.splits["train"]}
    assert len(kept) == len(found.splits["train"])
    whole = [row for row in rows if not left.intersection(row[-1])]
    for i, fault, sentence, _ in whole:
        clip = kept.pop(str(i))
        right = [
            "" if (sentence, style) == ('""', "bare") else sentence,
            f'"{sentence}' if fault == "mark" else sentence,
        ]
        assert clip.sentence in map(cleaned, right) and (clip.client_id, clip.age) == (f"s{i}", f"a{i}")
        assert fault not in ("no name", "NUL", "short", "long")
    assert not kept


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=5)
VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXT, st.lists(st.integers(), max_size=2))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["", "", "dict", "cut", "no object", "twice", "list", "surrogate", "NUL", "no text"]),
            st.text(min_size=1, max_size=9),
            st.dictionaries(st.sampled_from(["duration", "note", "speaker_id"]), VALUES),
        ),
        min_size=1,
        max_size=7,
    ),
    st.sampled_from(["utf-8", "utf-8-sig"]),
    st.sampled_from(ENDS),
    st.booleans(),
)
def test_any_json_lines(chosen, coding, end, escaped):
    lines = []
    for i, (fault, text, more) in enumerate(chosen):
        more = {key: value for key, value in more.items() if not (key == "speaker_id" and isinstance(value, list))}
        row = {"audio": {"path": f"{i}.mp3"} if fault == "dict" else f"{i}.mp3", "text": text.replace("\0", ""), **more}
        row |= {"list": {"text": [text]}, "NUL": {"text": f"{text}\0"}, "no text": {"text": None}}.get(fault, {})
        line = json.dumps(row, ensure_ascii=escaped)
        faults = {
            "cut": line[:-2],
            "no object": "[1]",
            "twice": line[:-1] + ', "text": "b"}',
            "surrogate": line.replace('"text": "', '"text": "\\ud800'),
        }
        lines.append(faults.get(fault, line))
    with tempfile.TemporaryDirectory() as folder:
        found = read(Path(folder), "train.jsonl", end.join(lines).encode(coding), len(chosen))
    good = [number for number, (fault, _, _) in enumerate(chosen, 1) if fault in ("", "dict", "no text")]
    if not found:
        assert not good
        return
    assert lines_left_out(found) == set(range(1, len(chosen) + 1)) - set(good)
    assert [int(clip.id) + 1 for clip in found.splits["train"]] == good
    for clip in found.splits["train"]:
        fault, text, _ = chosen[int(clip.id)]
        assert clip.sentence == ("" if fault == "no text" else cleaned(text.replace("\0", "")))


@pytest.mark.parametrize(
    "content, rows, left_out",
    [
        ("path\ttext\na.wav\tHan sa \"nej\".\n", ['Han sa "nej".'], []),
        ("path\ttext\na.wav\t\"Han sa \"\"nej\"\".\"\n", ['Han sa "nej".'], []),
        ("path\ttext\na.wav\t\"Hej!\"\nb.wav\t\"\"\n", ['"Hej!"', ""], []),
        ("path\ttext\na.wav\t\"Hej\nb.wav\tdå\"\n", ['"Hej', 'då"'], []),  # and not one row of both
        ("path,text\na.wav,\"Hej\nb.wav,då\n", ["då"], [2]),
        ("path\ttext\na.wav\tHej\ndu glada\nb.wav\tså\n", ["så"], [2, 3]),  # or half a sentence would be the label
        ("text\tpath\nHej\ndu glada\ta.wav\nså\tb.wav\n", ["så"], [2, 3]),
        ("path,text\na.wav,\"Hej,\ndu, glada\"\n", ["Hej,\ndu, glada"], []),
        ("path\ttext\tage\na.wav\t\"Hej\tdu\"\told\n", ["Hej\tdu"], []),
        ("path\ttext\n" + "".join(f"{n}.wav\t\"Ord {n}\"\n" for n in range(6)), [f"Ord {n}" for n in range(6)], []),
        ("path\ttext\na.wav\t\"Han \"\"sa\"\".\"\nb.wav\tOch \"då\"\nc.wav\t\"A\" å\n", ['Och "då"', '"A" å'], [2]),
        ("path,text\na.wav,Hej\u2028du\u0085\n", ["Hej\u2028du\u0085"], []),
    ],
)  # fmt: skip
def test_quotation_marks_and_line_ends(tmp_path, content, rows, left_out):
    (tmp_path / "train.tsv").write_text(content, encoding="utf-8")
    table = parsing.parse(tmp_path / "train.tsv", lambda columns: {"audio": "path", "text": "text"})
    assert [row["text"] for _, row in table.rows] == rows
    assert [int(place.rpartition(" ")[2]) for place, _, _ in table.left_out] == left_out


def test_a_table_that_is_no_text_is_refused_with_the_way_out(tmp_path):
    def refused(content: bytes) -> str:
        (tmp_path / "train.csv").write_bytes(content)
        with pytest.raises(LabError) as error:
            parsing.parse(tmp_path / "train.csv", lambda columns: {"audio": columns[0]})
        return str(error.value)

    assert "train.csv is not UTF-8 (byte 10)" in refused("path,text\nå,å\n".encode("latin-1"))
    assert "NUL" in refused("path,text\n".encode("utf-16-le"))
    assert "spreadsheet" in refused(b"PK\3\4") and "UTF-16" in refused(b"\xff\xfe\0")
    assert "two columns called 'text'" in refused(b"path,text,text\na,b,c\n")
    (tmp_path / "train.csv").write_bytes(b"")
    assert parsing.parse(tmp_path / "train.csv", lambda columns: {}).rows == []
