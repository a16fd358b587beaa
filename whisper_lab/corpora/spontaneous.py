"""Common Voice Spontaneous Speech: questions answered freely, and written down by others.

sps-corpus-1.0-2025-09-05-sv-SE/audios/*.mp3, ss-corpus-sv-SE.tsv, …

What nobody has put into train, dev or test yet is the split `unassigned`, with or without a transcription.
"""

import re
import sys
from collections import defaultdict
from pathlib import Path

from .. import LabError
from . import drawing, rows, tables
from .corpus import Corpus, LeftOut, joined
from .recordings import Recordings

NAME = "Common Voice Spontaneous Speech"
TABLE = re.compile(r"ss-corpus-(.+)\.tsv")
UNASSIGNED = "unassigned"


def holds(path: Path) -> bool:
    """Whether `path` is such a release, its table, or a folder with releases of it and of nothing else."""
    return bool(_tables(path))


def read(path: Path, language: str, splits: list[str] | None = None, limit: int | None = None) -> Corpus:
    """The release at `path`, at most `limit` clips a split.

    Where it has no train, dev and test, they are drawn from what has a transcription. Of several transcriptions of one
    recording the one with most votes is taken. Raises LabError as `tables.read` does, and for another language.
    """
    found = _tables(path)
    chosen = [table for table in found if TABLE.fullmatch(table.name)[1] == language]
    if len(chosen) != 1:
        there = ", ".join(sorted(TABLE.fullmatch(table.name)[1] for table in found))
        raise LabError(
            f"{path} holds {'several releases of' if chosen else 'no'} {language} (languages found: {there}); "
            + ("name one of them" if chosen else "choose with --language")
        )
    (table,) = chosen
    root = table.parent
    named, entries, unusable = tables.listed(table, root, {}, Recordings(root, ("audios", "clips", "")))
    # Its durations are a browser's, and some are 0: a clip that they make too short is none.
    ours = {kind: column for kind, column in named.items() if kind != "seconds"}
    entries, fewer_votes = _most_voted([entry._replace(named=ours) for entry in entries])
    by_split = defaultdict(list)
    for entry in entries:
        own = drawing.split_name(entry.row[named["split"]]) if "split" in named else ""
        by_split[own or UNASSIGNED].append(entry)
    clips, again = rows.clips(by_split)
    left_out = joined({"": unusable + fewer_votes}, again)
    if not any(clips.get(split) for split in drawing.USUAL):
        print(f"{table} names no train, dev and test: they are drawn from what has a transcription", file=sys.stderr)
        clips |= drawing.draw([clip for clip in clips[UNASSIGNED] if clip.sentence])
        left_out[""] += [(clip.id, "empty sentence", "") for clip in clips[UNASSIGNED] if not clip.sentence]
        left_out[""] += left_out.pop(UNASSIGNED, [])
    clips, left_out = drawing.settle(clips, left_out, splits, limit, table)
    version = root.resolve().name.removesuffix(f"-{language}")
    version = version.removeprefix("sps-corpus-") if version.startswith("sps-corpus-") else ""
    return Corpus(NAME, version, language, clips, left_out=left_out)


def _tables(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if TABLE.fullmatch(path.name) else []
    inside = [] if any(path.glob("cv-corpus-*")) else path.glob("*/ss-corpus-*.tsv")
    return sorted(path.glob("ss-corpus-*.tsv")) or sorted(inside)


def _most_voted(entries: list[rows.Entry]) -> tuple[list[rows.Entry], list[LeftOut]]:
    """The rows without the transcriptions that another one of the same recording has more votes than, and those."""
    votes: dict[str, list[float]] = defaultdict(list)
    for entry in entries:
        votes[entry.file].append(_votes(entry))
    left_out = [
        (entry.place, "another transcription has more votes", entry.name)
        for entry in entries
        if votes[entry.file].count(most := max(votes[entry.file])) == 1 and _votes(entry) < most
    ]
    places = {place for place, _, _ in left_out}
    return [entry for entry in entries if entry.place not in places], left_out


def _votes(entry: rows.Entry) -> float:
    """How many approved of a transcription; of none, where there is none."""
    cell = entry.row.get("votes", "").strip()
    return float(cell) if cell.isdecimal() and entry.row[entry.named["text"]].strip() else 0.0
