"""Rows of a table → clips in splits: which column holds what, ids, and dev and test drawn where there are none."""

import hashlib
import re
from collections import Counter
from pathlib import Path, PurePosixPath

from .. import LabError, text
from .corpus import Clip

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
    "seconds": ("seconds duration duration_seconds duration_s",),
}
FEWEST_SPEAKERS = 10  # from here on, dev and test are drawn by speaker

Row = dict[str, str]


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


def clips(entries: dict[str, list[tuple[Row, dict[str, str], Path, str]]]) -> dict[str, list[Clip]]:
    """Clips of (row, names of its columns, file, name of the file within the corpus) of each split.

    Ids are the id column's if there is one; else the files' stems, and where two are equal the whole names. Raises
    LabError where a column of ids is none.
    """
    every = {name: (row, named) for rows in entries.values() for row, named, _, name in rows}
    stems = Counter(PurePosixPath(name).stem for name in every)
    ids = {name: stem if stems[stem := PurePosixPath(name).stem] == 1 else name for name in every}
    for name, (row, named) in every.items():
        ids[name] = row[named["id"]].strip() if "id" in named else ids[name]
    twice, times = max(Counter(ids.values()).items(), key=lambda item: item[1], default=("", 0))
    if times > 1:
        raise LabError(f"the id {twice!r} belongs to {times} files; choose another column: --columns id=NAME")
    return {split: [_clip(ids[name], row, named, file) for row, named, file, name in rows]
            for split, rows in entries.items()}  # fmt: skip


def settle(found: dict[str, list[Clip]], splits: list[str] | None, limit: int | None, where) -> dict[str, list[Clip]]:
    """The splits that are wanted, by default train, dev and test; drawn where all that is there is train.

    Raises LabError where a split is missing, or names a file twice, or some rows are in none.
    """
    if len(found) > 1 and "" in found:
        raise LabError(f"{where}: {len(found[''])} rows name no split, such as that of {found[''][0].path}")
    if list(found) == [""] or (list(found) == ["train"] and splits != ["train"]):
        (whole,) = found.values()
        found = draw(whole)
    wanted = splits or [split for split in USUAL if found.get(split)] or list(found)
    missing = [split for split in wanted if not found.get(split)]
    if missing or not wanted:
        there = ", ".join(f"{split} ({len(rows)} clips)" for split, rows in found.items() if rows) or "none"
        raise LabError(f"{where} has no clip of {(missing or USUAL)[0]} (splits found: {there}); choose with --splits")
    for split in wanted:
        path, times = Counter(clip.path for clip in found[split]).most_common(1)[0]
        if times > 1:
            raise LabError(
                f"{where}: {times} rows of {split} name {path}; a clip is a file: cut the recording up first"
            )
    return {split: found[split][:limit] for split in wanted}


def draw(whole: list[Clip]) -> dict[str, list[Clip]]:
    """Train, dev and test, a tenth each for the last two: by hash, so whatever the order of the rows.

    A speaker is in one of them only, if there are at least FEWEST_SPEAKERS; otherwise a sentence is.
    """
    by_speaker = len({clip.client_id for clip in whole} - {""}) >= FEWEST_SPEAKERS
    groups: dict[str, list[str]] = {}
    for clip in whole:
        own = by_speaker and clip.client_id
        groups.setdefault(f"speaker {own}" if own else f"sentence {text.normalise(clip.sentence)}", []).append(clip.id)
    if len(groups) < 3:
        groups = {clip.id: [clip.id] for clip in whole}
    tenth, sizes, place = max(1, round(len(whole) / 10)), {"dev": 0, "test": 0}, {}
    for key in sorted(groups, key=lambda key: hashlib.sha256(key.encode()).digest()):
        split = min(sizes, key=sizes.get)
        if len(groups[key]) < 2 * (tenth - sizes[split]) and len(place) < len(groups) - 1:  # nearer to a tenth with it
            place[key] = split
            sizes[split] += len(groups[key])
    for split in (split for split in sizes if not sizes[split] and len(place) < len(groups) - 1):
        place[min(groups.keys() - place, key=lambda key: (len(groups[key]), key))] = split
    splits = {name: place.get(key, "train") for key, names in groups.items() for name in names}
    return {split: [clip for clip in whole if splits[clip.id] == split] for split in USUAL}


def _clip(name: str, row: Row, named: dict[str, str], file: Path) -> Clip:
    def cell(kind: str) -> str:
        return row.get(named.get(kind, ""), "").strip()

    try:
        seconds = float(cell("seconds")) or None
    except ValueError:
        seconds = None
    speaker = {"client_id": cell("speaker"), **{kind: cell(kind) for kind in ("age", "gender", "accents")}}
    return Clip(id=name, path=str(file), sentence=cell("text"), **speaker, seconds=seconds)
