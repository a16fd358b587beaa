"""The splits of a corpus: which are wanted, and dev and test drawn where there are none."""

import hashlib

from .. import LabError, text
from .corpus import Clip, LeftOut, unused

USUAL = ("train", "dev", "test")
SPLITS = {
    "train": "train", "training": "train", "test": "test", "testing": "test",
    **dict.fromkeys(("dev", "validation", "valid", "val", "eval", "development"), "dev"),
}  # fmt: skip
FEWEST_SPEAKERS = 10  # from here on, dev and test are drawn by speaker


def split_name(name: str) -> str:
    """ "validation", "Val", "eval" → "dev"; a name that is not known stays."""
    return SPLITS.get(name.strip().lower(), name.strip())


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
