"""A table of text → its rows. Each is parsed right, or left out with its line and the reason; none is guessed."""

import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .. import LabError
from .cells import LINE_END, Sheet
from .corpus import LeftOut

JSON = (".jsonl", ".json")
MARKS = {  # what a file begins with → how its text is coded; that of UTF-32 begins with that of UTF-16
    b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16",
}  # fmt: skip
NO_TEXT = (b"PK\3\4", b"\xd0\xcf\x11\xe0")  # .xlsx and .ods, .xls
LJSPEECH = (["file_name", "text", "normalized_text"], ["file_name", "speaker", "text"])  # columns that it never names

Row = dict[str, str]
Match = Callable[[list[str]], dict[str, str]]  # columns → which of them holds what: {"audio": "path", …}


@dataclass(frozen=True)
class Table:
    """`named` says which columns hold what; each row comes with its place, such as "train.tsv, line 3"."""

    named: dict[str, str]
    rows: list[tuple[str, Row]]
    left_out: list[LeftOut]


class Unusable(LabError):
    """A row that cannot be used. `reason` is a few words, for counting."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason} ({detail})")
        self.reason, self.detail = reason, detail


def parse(path: Path, match: Match) -> Table:
    """The table in the TSV, CSV, JSON or JSON-lines file `path`.

    Raises LabError where it is no text, where two columns have one name, and as `match` does.
    """
    content = decoded(path)
    return _of_objects(path, content, match) if path.suffix.lower() in JSON else _of_lines(path, content, match)


def header(path: Path) -> list[str]:
    """The names of the columns of a TSV or CSV."""
    with open(path, "rb") as file:
        return _sheet(path, _text(file.read(100_000), "replace")).first


def decoded(path: Path) -> str:
    """The text in `path`, of which a byte-order mark is no part. Raises LabError where it is not UTF-8."""
    raw = path.read_bytes()
    if raw.startswith(NO_TEXT):
        raise LabError(f"{path} is a spreadsheet, not text; open it and save it as CSV (UTF-8)")
    try:
        return _text(raw)
    except UnicodeDecodeError as error:
        name = error.encoding.upper().replace("UTF8", "UTF-8")
        raise LabError(f"{path} is not {name} (byte {error.start}); save it again as UTF-8") from error


def _text(raw: bytes, errors: str = "strict") -> str:
    coding = next((name for mark, name in MARKS.items() if raw.startswith(mark)), "utf-8")
    return raw.decode(coding, errors).lstrip("\ufeff")


def _sheet(path: Path, content: str) -> Sheet:
    lines = LINE_END.split(content.lstrip("\r\n"), maxsplit=100)[:100]
    head = lines[0]
    if path.suffix.lower() == ".tsv" and "\t" in head:
        return Sheet(content, "\t")
    if head and all("|" in line for line in lines[:100] if line.strip()):
        return Sheet(content, "|")
    return Sheet(content, max(",;\t", key=head.count))  # a Swedish Excel's CSV has ;


def _of_lines(path: Path, content: str, match: Match) -> Table:
    sheet, headed = _sheet(path, content), True
    columns = sheet.first
    if not columns:
        return Table({}, [], [])
    if sheet.delimiter == "|" and len(columns) in (2, 3):
        try:
            match(columns)
        except LabError:
            columns, headed = _as_ljspeech(sheet), False
    if any("\0" in name for name in columns):
        raise LabError(f"{path} holds NUL characters, as of UTF-16 without a byte-order mark; save it again as UTF-8")
    if twice := next((name for name in columns if name and columns.count(name) > 1), None):
        raise LabError(f"{path} has two columns called {twice!r}; give one of them another name")
    named = match([name for name in columns if name])
    rows, left_out = [], []
    for line in sheet.rows(columns.index(named["audio"]), headed):
        place = f"{path.name}, line {line.number}"
        if line.problem:
            left_out.append((place, *line.problem))
        else:
            rows.append((place, {name: cell for name, cell in zip(columns, line.cells) if name}))
    return Table(named, rows, left_out)


def _as_ljspeech(sheet: Sheet) -> list[str]:
    """The columns of a table in LJSpeech's layout: with speakers in the middle, as Piper has them, if no cell there has
    two words."""
    usual, speakers = LJSPEECH
    middle = [line.cells[1] for line in sheet.rows(0, headed=False) if not line.problem]
    spoken = len(sheet.first) == 2 or any(" " in cell.strip() for cell in middle)
    return usual[: len(sheet.first)] if spoken else speakers


def _of_objects(path: Path, content: str, match: Match) -> Table:
    """Of a JSON object a line, or of one list of objects."""
    objects, left_out, failed = [], [], None
    if content.lstrip().startswith("["):
        try:
            objects = [(f"{path.name}, row {number}", value) for number, value in enumerate(_loaded(content), 1)]
        except Unusable as error:
            failed = error
    if not objects:
        for number, line in enumerate(LINE_END.split(content), 1):
            place = f"{path.name}, line {number}"
            try:
                objects += [(place, _loaded(line))] if line.strip() else []
            except Unusable as error:
                left_out.append((place, error.reason, error.detail))
    if failed and not any(isinstance(value, dict) for _, value in objects):
        raise LabError(f"{path}: {failed}")
    left_out += [(place, "no JSON object", repr(value)[:60]) for place, value in objects if not isinstance(value, dict)]
    objects = [(place, value) for place, value in objects if isinstance(value, dict)]
    columns = list(dict.fromkeys(key for _, value in objects for key in value))
    named, rows = match(columns) if objects else {}, []
    for place, value in objects:
        try:
            rows.append((place, {key: _cell(key, value.get(key), named) for key in columns}))
        except Unusable as error:
            left_out.append((place, error.reason, error.detail))
    return Table(named, rows, left_out)


def _loaded(text: str):
    """A JSON value. Raises Unusable where it is none, says one thing twice, or holds half a character."""
    try:
        value = json.loads(text, object_pairs_hook=_once)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except json.JSONDecodeError as error:
        raise Unusable("no JSON", f"{error.msg} in line {error.lineno}, column {error.colno}") from error
    except (UnicodeEncodeError, RecursionError, ValueError) as error:
        raise Unusable("no JSON", f"{type(error).__name__}: {ascii(text[:60])}") from error


def _once(pairs: list[tuple[str, object]]) -> dict:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise Unusable("one key twice", ascii(Counter(key for key, _ in pairs).most_common(1)[0][0]))
    return value


def _cell(key: str, value, named: dict[str, str]) -> str:
    """A JSON value as a table would have it; that of {"audio": {"path": …}} is the path. Raises Unusable."""
    if key == named["audio"] and isinstance(value, dict):
        value = value.get("path")
    if isinstance(value, dict | list) and key in named.values() and key != named.get("seconds"):
        raise Unusable("no text in a cell", f"{key}: {json.dumps(value, ensure_ascii=False)[:60]}")
    if value is None or isinstance(value, dict | list) or (isinstance(value, float) and math.isnan(value)):
        return ""
    if "\0" in str(value):
        raise Unusable("NUL characters", key)
    return str(value)
