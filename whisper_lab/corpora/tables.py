"""A corpus of one's own: a TSV, CSV or JSONL file that names recordings and what is said in them, or a folder of such.

recordings.csv                                    one table; dev and test are drawn from it
train.tsv, dev.csv, test.jsonl                    a table a split
metadata.csv, train/metadata.csv, …               the `audiofolder` layout of `datasets`
"""

import csv
import io
import json
import re
from pathlib import Path

from .. import LabError
from .corpus import Corpus
from .rows import SPLITS, USUAL, Row, clips, match, settle, split_name

KINDS = {".tsv", ".csv", ".jsonl", ".json"}
SOUND = {".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".webm"}


def read(
    path: Path,
    language: str,
    splits: list[str] | None = None,
    limit: int | None = None,
    columns: dict[str, str] | None = None,
) -> Corpus:
    """The corpus of the table or folder `path`, at most `limit` clips a split.

    Where there is but one table that names no split, or only train, dev and test are drawn from it, a tenth each.
    Raises LabError where there is no table, a column or split is missing or unclear, or no recording is where it says.
    """
    path = Path(path)
    root = path if path.is_dir() else path.parent
    tables = _tables(path)
    usual = [split for split in tables if split in ("", *USUAL)]
    entries: dict[str, list] = {}
    for split in dict.fromkeys([*usual, *(s for s in splits or () if s in tables)] or tables):
        table = tables[split]
        rows = _rows(table)
        named = match(list(rows[0]), columns or {}, table)
        found = [
            (row, named, *_recording(table, root, number, row[named["audio"]])) for number, row in enumerate(rows, 1)
        ]
        if not any(file.is_file() for _, _, file, _ in found):
            raise LabError(
                f"{table}: none of the {len(rows)} recordings in {named['audio']!r} is there, such as {found[0][2]}"
            )
        folders = [SPLITS.get(name.partition("/")[0].lower(), "") for _, _, _, name in found]
        folders = folders if all(folders) else [""] * len(found)
        for entry, folder in zip(found, folders):
            own = split_name(entry[0][named["split"]]) if "split" in named else split or folder
            entries.setdefault(own, []).append(entry)
    name = path.resolve().name if path.is_dir() else path.stem
    return Corpus(name=name, version="", language=language, splits=settle(clips(entries), splits, limit, path))


def holds(path: Path) -> bool:
    """Whether `path` is a table, or a folder with tables or with sound that is no Common Voice release."""
    if path.is_file():
        return path.suffix.lower() in KINDS
    for tsv in path.glob("*.tsv"):
        with open(tsv, encoding="utf-8", errors="replace") as file:
            if {"client_id", "path"} <= set(file.readline().rstrip("\n").split("\t")) and (path / "clips").is_dir():
                return False
    return bool(_listed(path)) or any(p.suffix.lower() in SOUND for at in ("*", "*/*") for p in path.glob(at))


def _listed(folder: Path) -> list[Path]:
    """Tables directly in `folder`; JSON files hold much else, so only those named for a split."""
    found = (p for p in folder.iterdir() if p.suffix.lower() in KINDS and p.is_file()) if folder.is_dir() else ()
    found = [p for p in sorted(found) if p.suffix.lower() != ".json" or _split_of(p)]
    inner = (p for name in ("metadata.csv", "metadata.tsv", "metadata.jsonl") for p in folder.glob(f"*/{name}"))
    return found + sorted(p for p in inner if p.parent.name.lower() in SPLITS)


def _split_of(table: Path) -> str:
    """The split that a table is named for: "dev" for valid_manifest.json and validation/metadata.csv; "" for none."""
    if table.stem == "metadata":
        return SPLITS.get(table.parent.name.lower(), "")
    inside = {SPLITS[word] for word in re.split(r"[-_.\s]+", table.stem.lower()) if word in SPLITS}
    return inside.pop() if len(inside) == 1 else ""


def _tables(path: Path) -> dict[str, Path]:
    """The table of each split; "" is the split of the only one, if it is named for none."""
    if path.is_file():
        return {_split_of(path): path}
    listed = _listed(path)
    if not listed:
        raise LabError(
            f"{path} holds no table: put a metadata.csv there with the columns file_name (a recording's path) and text"
        )
    named: dict[str, Path] = {}
    for table in listed:
        split = _split_of(table)
        if split in named and split:
            raise LabError(f"{path} has two tables for {split}, {named[split].name} and {table.name}; name one of them")
        named[split or table.stem] = table
    if any(split in USUAL for split in named):
        return named
    if len(listed) > 1 and "metadata" not in named:
        names = ", ".join(table.name for table in listed)
        raise LabError(f"{path} has several tables, none named for a split ({names}); name one of them")
    return {"": named.get("metadata", listed[0])}


def _rows(table: Path) -> list[Row]:
    try:
        content = table.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise LabError(f"{table} is not UTF-8 (byte {error.start}); save it again as UTF-8") from error
    rows = _json_rows(table, content) if table.suffix.lower() in (".jsonl", ".json") else _cells(table, content)
    if not rows:
        raise LabError(f"{table} has no rows")
    return rows


def _json_rows(table: Path, content: str) -> list[Row]:
    """Of one JSON object a line, or of a JSON list of them. The first row has every key."""
    lines = [content] if content.lstrip().startswith("[") else content.split("\n")
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            value = json.loads(line) if line.strip() else []
        except json.JSONDecodeError as error:
            raise LabError(f"{table}, line {number} is no JSON: {error.msg} at character {error.pos}") from error
        rows += value if isinstance(value, list) else [value]
    if not all(isinstance(row, dict) for row in rows):
        raise LabError(f'{table}: every line has to be a JSON object, such as {{"audio": …, "text": …}}')
    keys = dict.fromkeys(key for row in rows for key in row)
    return [{key: "" if row.get(key) is None else str(row[key]) for key in keys} for row in rows]


def _cells(table: Path, content: str) -> list[Row]:
    head = content.partition("\n")[0]
    delimiter = "\t" if table.suffix.lower() == ".tsv" else max(",;\t", key=head.count)  # Excel's Swedish CSV has ;
    quoted = delimiter != "\t" or _is_quoted(content)
    options = {"strict": True} if quoted else {"quoting": csv.QUOTE_NONE}
    rows, reader = [], csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, **options)
    try:
        header = [name.strip() for name in next(reader, [])]
        for cells in reader:
            if cells and len(cells) != len(header):
                raise LabError(f"{table}, line {reader.line_num}: {len(cells)} cells, but {len(header)} columns")
            rows += [dict(zip(header, cells))] if cells else []
    except csv.Error as error:
        raise LabError(f"{table}, line {reader.line_num}: {error}") from error
    return rows


def _is_quoted(content: str) -> bool:
    """Whether a TSV is quoted: its header is, or quotation marks are doubled inside quoted cells and nowhere else."""
    if content.startswith('"'):
        return True
    opened = [cell for line in content.split("\n") for cell in line.split("\t") if cell.startswith('"')]
    whole = all(re.fullmatch(r'"(?:[^"]|"")*"', cell) for cell in opened)
    return whole and any('""' in cell[1:-1] for cell in opened)


def _recording(table: Path, root: Path, number: int, cell: str) -> tuple[Path, str]:
    """The file that a cell names, and its name within `root`; where it is nowhere, where it would be looked for first.

    Looked for in the table's folder, and in clips/ and audio/ there.
    """
    if not cell.strip():
        raise LabError(f"{table}, row {number}: the name of the recording is empty")
    places = [table.parent / folder / cell.strip() for folder in ("", "clips", "audio")]
    file = next((place for place in places if place.is_file()), places[0])
    return file, (file.relative_to(root) if file.is_relative_to(root) else file).as_posix()
