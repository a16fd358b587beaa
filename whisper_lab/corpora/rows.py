"""Rows of a table → clips: which column holds what, ids, and each clip once."""

import math
import os
import re
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from .. import LabError, files
from .corpus import Clip, LeftOut
from .parsing import Row, Unusable

COLUMNS = {  # names known; those after the comma count where none of the first is there
    "audio": ("audio audio_filepath audio_file audio_path wav wav_path file_name", "path file filename filepath"),
    "text": ("sentence text transcription transcript", "normalized_text raw_text raw_transcription utterance"),
    "speaker": ("client_id speaker_id speaker", "spk spk_id speaker_name user_id"),
    "split": ("split", "subset partition"),
    "id": ("clip_id utterance_id utt_id segment_id",),  # not "id", which FLEURS gives to sentences
    "age": ("age age_group",),
    "gender": ("gender sex",),
    "accents": ("accents accent", "dialect"),
    "seconds": ("seconds duration duration_seconds duration_s", "duration_ms duration[ms]"),
    "start": ("offset start start_time start_seconds start_s begin begin_time", "start_ms offset_ms begin_ms"),
    "end": ("end end_time end_seconds end_s stop stop_time", "end_ms stop_ms"),
    "down_votes": ("down_votes",),
}
UNKNOWN = {"", "nan", "none", "null", "na", "n/a", "<na>"}  # as pandas and others write that there is no number
LONGEST = 1e6  # seconds of a file that parts are looked for in: more than a week


class Entry(NamedTuple):
    """A row: `named` says which columns hold what, `name` is the file's in the corpus, `place` is where the row is."""

    row: Row
    named: dict[str, str]
    file: str
    name: str
    place: str


def match(found: list[str], given: dict[str, str], where) -> dict[str, str]:
    """Which of the columns `found` holds what: {"audio": "file_name", "text": "transcription", …}.

    `given` goes before the guesses. Raises LabError where audio or text is missing, a given column is not there, or two
    fit equally.
    """
    unknown = [key for key in given if key not in COLUMNS]
    if unknown:
        raise LabError(f"--columns knows no {unknown[0]!r}; it takes {', '.join(COLUMNS)}, as in --columns text=NAME")
    named, listed = {}, f"its columns are: {', '.join(found) or 'none'}"
    for kind, ranks in COLUMNS.items():
        fitting = [given[kind]] if kind in given else []
        for rank in ranks if kind not in given else ():
            fitting = fitting or [c for c in found if re.sub(r"[\s-]+", "_", c.strip().lower()) in rank.split()]
        if len(fitting) > 1:
            raise LabError(f"{where}: {' and '.join(fitting)} could both be the {kind}; choose: --columns {kind}=NAME")
        if fitting and fitting[0] not in found:
            raise LabError(f"{where} has no column {fitting[0]!r} for --columns {kind}=…; {listed}")
        if fitting:
            named[kind] = fitting[0]
        elif kind in ("audio", "text"):
            raise LabError(f"{where} has no column known as {kind}; {listed}; say which: --columns {kind}=NAME")
    return named


def clips(entries: dict[str, list[Entry]]) -> tuple[dict[str, list[Clip]], dict[str, list[LeftOut]]]:
    """The clips of each split, and the rows that are none or that say again what another row has said.

    Ids are the id column's if there is one; else the files' stems, and where two are equal the whole names; parts of
    one file have their seconds in it, too. Raises LabError where a column of ids is none.
    """
    made, left_out = {}, {}
    for split, rows in entries.items():
        parsed, left_out[split] = [], []
        for entry in rows:
            try:
                parsed.append((entry, _clip(entry)))
            except Unusable as error:
                left_out[split].append((entry.place, error.reason, error.detail))
        made[split], again = _once(parsed)
        left_out[split] += again
    every = {_key(*one): one for parsed in made.values() for one in parsed}
    parts = Counter(name for name, _, _ in every)
    stems, ids = Counter(map(_stem, parts)), {}
    for (name, start, end), (entry, _) in every.items():
        own = stem if stems[stem := _stem(name)] == 1 else name
        own += f"_{start}-{'' if end is None else end}" if parts[name] > 1 else ""
        ids[name, start, end] = _cell(entry, "id") or own
    twice, times = max(Counter(ids.values()).items(), key=lambda item: item[1], default=("", 0))
    if times > 1:
        raise LabError(f"the id {twice!r} belongs to {times} files; choose another column: --columns id=NAME")
    return {split: [_called(clip, ids[_key(entry, clip)]) for entry, clip in parsed]
            for split, parsed in made.items()}, left_out  # fmt: skip


def _called(clip: Clip, id: str) -> Clip:
    return clip if clip.id == id else replace(clip, id=id)


def _stem(name: str) -> str:
    """The name of a file without its folder and suffix, as a Path has it, in a tenth of the time."""
    base = name.rpartition("/")[2]
    return base[:dot] if 0 < (dot := base.rfind(".")) < len(base) - 1 else base


def _key(entry: Entry, clip: Clip) -> tuple:
    return entry.name, clip.start, clip.end


def _once(parsed: list[tuple[Entry, Clip]]) -> tuple[list[tuple[Entry, Clip]], list[LeftOut]]:
    """Each clip once, and the rows left out: those that say the same again, and all that say something else of it."""
    rows = defaultdict(list)
    for entry, clip in parsed:
        rows[clip.path, clip.start, clip.end].append((entry, clip))
    kept, left_out = [], []
    for same in rows.values():
        first = next((one for one in same if one[1].sentence), same[0])
        if len({clip.sentence for _, clip in same} - {""}) > 1:
            several = f"{len(same)} rows name {first[0].name}; if they are parts of it, give it columns start and end"
            left_out += [(entry.place, "a clip with several sentences", several) for entry, _ in same]
            continue
        kept.append(first)
        again = f"{first[0].name}, as in {first[0].place}"
        left_out += [(one[0].place, "the same row again", again) for one in same if one is not first]
    return kept, left_out


def copies_as_one(entries: list[Entry]) -> list[Entry]:
    """The rows of a split, where those of one sound, byte for byte, name one file. Compared are rows of one size that
    have their name or their sentence in common."""
    alike, sizes = defaultdict(list), [os.path.getsize(entry.file) for entry in entries]
    for entry, size in zip(entries, sizes):
        for said in (entry.row["audio"], "\n" + entry.row[entry.named["text"]]):
            alike[size, said].append(entry.file)
    compared = {file for (size, _), found in alike.items() if size and len(found) > 1 for file in found}
    first: dict[str, Entry] = {}
    ones = [first.setdefault(files.file_digest(Path(e.file)), e) if e.file in compared else e for e in entries]
    return [entry._replace(file=one.file, name=one.name) for entry, one in zip(entries, ones)]


def _cell(entry: Entry, kind: str) -> str:
    """What the row says of `kind`; "" where the table has no column of it."""
    return entry.row.get(entry.named[kind], "").strip() if kind in entry.named else ""


def _number(entry: Entry, kind: str) -> float | None:
    """A number of a column, seconds if it is one of milliseconds; None where there is none. Raises Unusable."""
    cell = _cell(entry, kind)
    if cell.lower() in UNKNOWN:
        return None
    try:
        value = float(cell) / (1000 if entry.named[kind].endswith(("_ms", "[ms]")) else 1)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise Unusable("no number", f"{entry.named[kind]}: {cell}")
    return value


def _clip(entry: Entry) -> Clip:
    """The clip of a row, its file's stem for its id. Raises Unusable."""
    try:
        seconds = max(_number(entry, "seconds") or 0, 0) or None
    except Unusable:
        seconds = None
    start, end = _number(entry, "start"), _number(entry, "end")
    if start is not None and end is None and seconds:
        end = round(start + seconds, 6)
    begin = start or 0.0
    if not (0 <= begin <= LONGEST and (end is None or begin < end <= LONGEST)):
        raise Unusable("no part of a file", f"from {begin} to {end} s")
    if begin or end is not None:
        seconds = None if end is None else round(end - begin, 6)
    return Clip(
        id=_stem(entry.name),
        path=entry.file,
        sentence=_cell(entry, "text"),
        client_id=_cell(entry, "speaker"),
        **{kind: _cell(entry, kind) for kind in ("age", "gender", "accents")},
        seconds=seconds,
        down_votes=int(_number(entry, "down_votes") or 0),
        start=begin,
        end=end,
    )
