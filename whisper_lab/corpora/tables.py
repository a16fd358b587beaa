"""A corpus of one's own: a TSV, CSV or JSONL file that names recordings and what is said in them, or a folder of such.

recordings.csv                                    one table; dev and test are drawn from it
train.tsv, dev.csv, test.jsonl                    a table a split
metadata.csv, train/metadata.csv, …               the `audiofolder` layout of `datasets`
metadata.csv, wavs/*.wav                          LJSpeech's: id|text|normalised text, without names of columns
"""

import os
import re
from functools import partial
from pathlib import Path, PurePosixPath

from .. import LabError
from . import parsing
from .corpus import SHEETS, Corpus, LeftOut, joined, unused
from .drawing import SPLITS, USUAL, settle, split_name
from .recordings import SOUND, Recordings
from .rows import Entry, clips, match

KINDS = {".tsv", ".csv", ".jsonl", ".json"}
ALONE = KINDS | {".txt"}  # where it is named itself: Excel's "Unicode text"


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
    entries: dict[str, list[Entry]] = {}
    left_out: dict[str, list[LeftOut]] = {}
    for split in dict.fromkeys([*usual, *(s for s in splits or () if s in tables)] or tables):
        named, found, unusable = listed(tables[split], root, columns or {})
        left_out.setdefault("" if "split" in named else split, []).extend(unusable)
        for entry, folder in zip(found, _folders([entry.name for entry in found])):
            own = split_name(entry.row[named["split"]]) if "split" in named else split or folder
            entries.setdefault(own, []).append(entry)
    name = path.resolve().name if path.is_dir() else path.stem
    made, again = clips(entries)
    for split in left_out:
        made.setdefault(split, [])
    made, left_out = settle(made, joined(left_out, again), splits, limit, path)
    return Corpus(name=name, version="", language=language, splits=made, left_out=left_out)


def listed(
    path: Path, root: Path, columns: dict[str, str], recordings: Recordings | None = None
) -> tuple[dict[str, str], list[Entry], list[LeftOut]]:
    """Which columns of the table `path` hold what, its rows, and those that cannot be used.

    `root` is the corpus' folder; `recordings` are by default looked for beside the table. Raises LabError where no row
    can be used, or no recording is there.
    """
    table = parsing.parse(path, partial(match, given=columns, where=path))
    left_out, entries = [*table.left_out], []
    recordings = recordings or Recordings(path.parent)
    for place, row in table.rows:
        if not (cell := row[table.named["audio"]].strip()):
            left_out.append((place, "no name of a recording", row[table.named["text"]]))
            continue
        file, written = recordings.find(cell)
        name = str(PurePosixPath(written)).removeprefix(f"{root}/")
        entries.append(Entry(row, table.named, file, name, place))
    if not entries:
        what = "none of its rows can be used" if left_out else "it has no rows; fill it, or take it away"
        raise LabError(f"{path}: {what}{unused({'': left_out})}")
    if not any(os.path.isfile(entry.file) for entry in entries):
        raise LabError(
            f"{path}: none of the {len(entries)} recordings in {table.named['audio']!r} is there, such as "
            f"{entries[0].file}"
        )
    return table.named, entries, left_out


def holds(path: Path) -> bool:
    """Whether `path` is a table, or a folder with tables or with sound that is no Common Voice release."""
    if path.is_file():
        return path.suffix.lower() in ALONE
    for tsv in path.glob("*.tsv"):
        if {"client_id", "path"} <= set(parsing.header(tsv)) and (path / "clips").is_dir():
            return False
    known = SOUND | set(SHEETS)
    return bool(_listed(path)) or any(p.suffix.lower() in known for at in ("*", "*/*") for p in path.glob(at))


def _listed(folder: Path) -> list[tuple[str, Path]]:
    """Tables directly in `folder` and in folders of splits, in it or in a folder there, each with its split or "".

    JSON files hold much else, so only those named for a split count.
    """
    if not folder.is_dir():
        return []
    found = [(_split_of(p), p) for p in sorted(folder.iterdir()) if p.suffix.lower() in KINDS and p.is_file()]
    found = [(split, p) for split, p in found if split or p.suffix.lower() != ".json"]
    for above in [folder, *sorted(p for p in folder.iterdir() if p.is_dir())]:
        named = sorted(name for name in os.listdir(above) if name.lower() in SPLITS and (above / name).is_dir())
        for name in named:
            inner = sorted(p for p in (above / name).iterdir() if p.suffix.lower() in KINDS - {".json"})
            inner = [p for p in inner if p.stem == "metadata"] or inner
            found += [(SPLITS[name.lower()], p) for p in inner]
    return found


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
    found = _listed(path) or [("", p) for p in sorted(path.iterdir()) if p.suffix.lower() in KINDS]
    if not found:
        sheets = [p.name for p in sorted(path.iterdir()) if p.suffix.lower() in SHEETS]
        raise LabError(
            f"{path} holds no table that can be parsed: open {sheets[0]} and save it as CSV (UTF-8)" if sheets else
            f"{path} holds no table: put a metadata.csv there with the columns file_name (a recording's path) and text"
        )  # fmt: skip
    named: dict[str, Path] = {}
    for split, table in found:
        if split in named and split:
            names = " and ".join(str(one.relative_to(path)) for one in (named[split], table))
            raise LabError(f"{path} has two tables for {split}, {names}; name one of them")
        named[split or table.stem] = table
    if any(split in USUAL for split in named):
        return named
    if len(found) > 1 and "metadata" not in named:
        names = ", ".join(table.name for _, table in found)
        raise LabError(f"{path} has several tables, none named for a split ({names}); name one of them")
    return {"": named.get("metadata", found[0][1])}


def _folders(names: list[str]) -> list[str]:
    """The split of each recording by the folders it is in; "" for all, where they do not tell train from others."""
    first = [SPLITS.get(name.partition("/")[0].lower(), "") for name in names]
    if all(first):
        return first
    if any(name.startswith("/") for name in names):  # folders above all of them say nothing
        above = os.path.commonpath([os.path.dirname(name) for name in names if name.startswith("/")])
        names = [name.removeprefix(above) for name in names]
    inside = [{SPLITS[part] for part in name.lower().split("/")[:-1] if part in SPLITS} for name in names]
    found = [one.pop() if len(one) == 1 else "" for one in inside]
    return found if "train" in found and len({*found} - {""}) > 1 else [""] * len(found)
