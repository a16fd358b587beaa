"""Rows of a table → clips in splits: which column holds what, ids, and dev and test drawn where there are none."""

import hashlib
import math
import re
from collections import Counter, defaultdict
from dataclasses import replace
from typing import NamedTuple

from .. import LabError, text
from .corpus import Clip, LeftOut
from .parsing import Row, Unusable

USUAL = ("train", "dev", "test")
SPLITS = {
    "train": "train", "training": "train", "test": "test", "testing": "test",
    **dict.fromkeys(("dev", "validation", "valid", "val", "eval", "development"), "dev"),
}  # fmt: skip
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
FEWEST_SPEAKERS = 10  # from here on, dev and test are drawn by speaker


class Entry(NamedTuple):
    """A row: `named` says which columns hold what, `name` is the file's in the corpus, `place` is where the row is."""

    row: Row
    named: dict[str, str]
    file: str
    name: str
    place: str


def split_name(name: str) -> str:
    """ "validation", "Val", "eval" → "dev"; a name that is not known stays."""
    return SPLITS.get(name.strip().lower(), name.strip())


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


def settle(
    found: dict[str, list[Clip]],
    left_out: dict[str, list[LeftOut]],
    splits: list[str] | None,
    limit: int | None,
    where,
) -> tuple[dict[str, list[Clip]], dict[str, list[LeftOut]]]:
    """The splits that are wanted, by default train, dev and test, and what is left out of them; drawn where all that
    is there is train.

    What is left out of no split in particular is that of "". Raises LabError where a split is missing, or some rows
    are in none.
    """
    found = {split: clips for split, clips in found.items() if split or clips}
    if len(found) > 1 and "" in found:
        raise LabError(
            f"{where}: {len(found[''])} rows name no split, such as that of {found[''][0].path}; name one for each row"
        )
    if list(found) == [""] or (list(found) == ["train"] and splits != ["train"]):
        (whole,) = found.values()
        found = {split: clips for split, clips in draw(whole).items() if clips}
        left_out = {"": [row for rows in left_out.values() for row in rows]}
    wanted = splits or [split for split in USUAL if split in found] or list(found)
    missing = [split for split in wanted if not found.get(split)]
    if missing or not wanted:
        there = ", ".join(f"{split} ({len(rows)} clips)" for split, rows in found.items() if rows) or "none"
        raise LabError(
            f"{where} has no clip of {(missing or USUAL)[0]} (splits found: {there}{unused(left_out)}); "
            "choose with --splits"
        )
    left_out = {split: left_out[split] for split in ("", *wanted) if left_out.get(split)}
    return {split: found[split][:limit] for split in wanted}, left_out


def joined(*parts: dict[str, list[LeftOut]]) -> dict[str, list[LeftOut]]:
    """What is left out of each split, of several kinds."""
    return {split: [row for part in parts for row in part.get(split, ())] for part in parts for split in part}


def unused(left_out: dict[str, list[LeftOut]]) -> str:
    """How many rows are left out, and why the first is, for a message; "" if there are none."""
    rows = [row for rows in left_out.values() for row in rows]
    first = " ".join(": ".join(rows[0]).split()) if rows else ""
    return f"; left out: {len(rows)} rows, such as {first}" if rows else ""


def draw(whole: list[Clip]) -> dict[str, list[Clip]]:
    """Train, dev and test, a tenth each for the last two: by hash, so whatever the order of the rows.

    A speaker is in one of them only, if there are at least FEWEST_SPEAKERS; otherwise a sentence is. Clips of which no
    word can be scored count for no share, so that dev and test are never of such alone.
    """
    by_speaker = len({clip.client_id for clip in whole} - {""}) >= FEWEST_SPEAKERS

    def group(clip: Clip) -> str:
        own = by_speaker and clip.client_id
        return f"speaker {own}" if own else f"sentence {text.normalise(clip.sentence)}"

    groups: dict[str, list[str]] = {}
    usable = [clip for clip in whole if text.normalise(clip.sentence)] or whole
    for clip in usable:
        groups.setdefault(group(clip), []).append(clip.id)
    single = len(groups) < 3
    if single:
        groups = {clip.id: [clip.id] for clip in usable}
    tenth, sizes, place = max(1, round(len(usable) / 10)), {"dev": 0, "test": 0}, {}
    for key in sorted(groups, key=lambda key: hashlib.sha256(key.encode()).digest()):
        split = min(sizes, key=sizes.get)
        if len(groups[key]) < 2 * (tenth - sizes[split]) and len(place) < len(groups) - 1:  # nearer to a tenth with it
            place[key] = split
            sizes[split] += len(groups[key])
    for split in (split for split in sizes if not sizes[split] and len(place) < len(groups) - 1):
        place[min(groups.keys() - place, key=lambda key: (len(groups[key]), key))] = split
    splits = {clip.id: place.get(clip.id if single else group(clip), "train") for clip in whole}
    return {split: [clip for clip in whole if splits[clip.id] == split] for split in USUAL}


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
