"""Which clips are trained on: the release's own training split, or more of the release.

In Common Voice the official splits hold few of the clips that listeners approved, because they take a sentence once;
`validated` holds them all, three times as many clips in Swedish. What is added must not teach the answers: no clip,
sentence or speaker of the splits that are scored on comes along.
"""

import hashlib
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace

from .. import LabError
from ..text import normalise
from . import corpus
from .corpus import Clip, Corpus

OFFICIAL = ("train", "dev", "test")
LARGEST_DEV = 500  # clips


def read(
    source: str,
    language: str,
    splits: list[str] | None,
    train_splits: list[str],
    limit: int | None = None,
    columns: dict[str, str] | None = None,
    dev_clips: int | None = None,
) -> tuple[Corpus, Counter]:
    """As corpus.read, with `train` made of `train_splits`, and of it so many moved to dev that there are `dev_clips`;
    and how many clips were kept out of train, by reason."""
    read = corpus.read(source, language, needed(splits, train_splits), limit, columns)
    arranged, kept_out = arrange(read.splits, splits, train_splits, language)
    if dev_clips:
        arranged, more = larger_dev(arranged, dev_clips, language)
        kept_out = kept_out + more
    of_train = [{"train": found} for split, found in read.left_out.items() if split in train_splits]
    others = {split: read.left_out[split] for split in ("", *arranged) if split in read.left_out.keys() - train_splits}
    left_out = corpus.joined(*of_train, others)
    lacking = [split for split in OFFICIAL if split not in arranged]
    if splits is None and lacking and "train" in arranged:
        print(
            f"{source} has no {' and no '.join(lacking)}, and training needs all of {', '.join(OFFICIAL)}: give it one "
            "as you gave it train, or one table without splits, of which they are drawn",
            file=sys.stderr,
        )
    return replace(read, splits=arranged, left_out=left_out), kept_out


def needed(splits: list[str] | None, train_splits: list[str]) -> list[str] | None:
    """The splits to read so that `splits` (None: the usual ones) can be made with training clips of `train_splits`.

    Raises LabError where `test` is to be trained on.
    """
    if "test" in train_splits:
        raise LabError("test is what models are scored on: it cannot be trained on; leave it out of --train-splits")
    if train_splits == ["train"]:
        return splits
    if splits is None and set(train_splits) <= set(OFFICIAL):
        return None
    return list(dict.fromkeys([*train_splits, "dev", "test", *(split for split in splits or () if split != "train")]))


def arrange(
    read: dict[str, list[Clip]], splits: list[str] | None, train_splits: list[str], language: str = ""
) -> tuple[dict[str, list[Clip]], Counter]:
    """The clips of `splits` (None: all that there are), `train` made of `train_splits`; what was kept out, by reason.
    `language` is theirs, for what is small and large in it.

    The release's own train and dev are taken as they stand; of any other split, no clip, sentence (normalised) or
    speaker of test and dev is, so speakers have to be known. A clip in several of `train_splits` counts once. With dev
    among them, a new dev is held out of the whole, as a model cannot be chosen on what it learnt. Raises LabError where
    nothing is left to train on, and where a split names no speaker.
    """
    if train_splits == ["train"]:
        return read, Counter()
    if missing := [split for split in train_splits if split not in read]:
        raise LabError(f"there is no {missing[0]} to train on, only {', '.join(read)}; choose other --train-splits")
    beyond = [split for split in train_splits if split not in OFFICIAL]
    for split in [*beyond, "dev", "test"] if beyond else []:
        if read.get(split) and not any(clip.client_id for clip in read[split]):
            raise LabError(
                f"{split} names no speaker, so the speakers of test and dev cannot be kept out of {' '.join(beyond)}: "
                "say which column does with --columns speaker=NAME (in Common Voice it is client_id; mend that table), "
                "or train on --train-splits train"
            )
    kept_out = Counter()
    overlaps = [
        _overlap(split, read[split], language)
        for split in ("test", "dev")
        if split in read and split not in train_splits
    ]
    merged, seen = [], set()
    for split in sorted(train_splits, key=lambda split: split not in OFFICIAL):  # what is taken as it stands, first
        for clip in read[split]:
            if clip.id in seen:
                continue
            seen.add(clip.id)
            reason = None if split in OFFICIAL else next(filter(None, (of(clip) for of in overlaps)), None)
            if reason:
                kept_out[reason] += 1
            else:
                merged.append(clip)
    others = {split: clips for split, clips in read.items() if split not in train_splits and split != "train"}
    if "dev" in train_splits and (splits is None or "dev" in splits):
        dev = hold_out(merged)
        merged, more = _without(merged, dev, language)
        kept_out += more
        others = {"dev": dev} | others
    if not merged:
        why = ", ".join(f"{reason}: {count:,}" for reason, count in kept_out.most_common()) or "they hold no clips"
        raise LabError(f"nothing is left to train on in {' '.join(train_splits)} ({why}); choose other --train-splits")
    others = {split: clips for split, clips in others.items() if splits is None or split in splits}
    return {"train": merged} | others, kept_out


def larger_dev(read: dict[str, list[Clip]], clips: int, language: str = "") -> tuple[dict[str, list[Clip]], Counter]:
    """`read` with clips of train moved to dev until it has about `clips`, never more, chosen as `hold_out` does; and
    how many train lost besides, as their sentences are in dev now. What was moved is said on stderr.

    Raises LabError where train or dev is not there, and where nothing would be left to train on.
    """
    if not (read.get("train") and read.get("dev")):
        raise LabError(f"--dev-clips moves clips of train to dev, and there are only {', '.join(read)}; leave it out")
    train, dev = read["train"], read["dev"]
    moved = hold_out(train, clips - len(dev)) if clips > len(dev) else []
    left, kept_out = _without(train, moved, language)
    if not left:
        raise LabError(f"--dev-clips {clips:,} leaves nothing of the {len(train):,} clips of train; ask for fewer")
    said = f"dev: {len(moved):,} clips of train moved to its {len(dev):,}"
    if moved and {clip.client_id for clip in moved} & {clip.client_id for clip in left}:
        said += " (whole sentences, as speakers are too few or not named: some may speak in both)"
    print(f"{said}; train has {len(left):,} left, without {kept_out.total():,} of the same sentences", file=sys.stderr)
    return read | {"train": left, "dev": dev + moved}, kept_out


def _without(clips: list[Clip], dev: list[Clip], language: str) -> tuple[list[Clip], Counter]:
    """`clips` but for those of a new `dev` and of its sentences, and how many the latter were."""
    taken, sentences = {clip.id for clip in dev}, {normalise(clip.sentence, language) for clip in dev}
    left = [clip for clip in clips if clip.id not in taken]
    kept = [clip for clip in left if normalise(clip.sentence, language) not in sentences]
    return kept, Counter({"sentence of the new dev": len(left) - len(kept)})


def _overlap(split: str, clips: list[Clip], language: str) -> Callable[[Clip], str | None]:
    """What a clip shares with those of `split`, such as "speaker of test". Clips of no named speaker share none."""
    ids, speakers = {clip.id for clip in clips}, {clip.client_id for clip in clips} - {""}
    sentences = {normalise(clip.sentence, language) for clip in clips}

    def reason(clip: Clip) -> str | None:
        if clip.id in ids:
            return f"clip of {split}"
        if clip.client_id in speakers:
            return f"speaker of {split}"
        return f"sentence of {split}" if normalise(clip.sentence, language) in sentences else None

    return reason


def hold_out(clips: list[Clip], target: int | None = None) -> list[Clip]:
    """About `target` of `clips`, or a twentieth, 1 to LARGEST_DEV, to judge by: whole speakers, the same in every run.

    Where speakers are too few or too busy for that, whole sentences.
    """
    clips = [clip for clip in clips if normalise(clip.sentence)]  # a clip of no word judges nothing
    target = target or min(LARGEST_DEV, max(1, len(clips) // 20))
    by_speaker = _groups(clips, lambda clip: clip.client_id, target)
    return (
        by_speaker if 2 * len(by_speaker) >= target else _groups(clips, lambda clip: normalise(clip.sentence), target)
    )


def _groups(clips: list[Clip], key: Callable[[Clip], str], target: int) -> list[Clip]:
    """Whole groups of clips of one `key`, in the order of the keys' hashes, as long as at most `target` clips."""
    groups = defaultdict(list)
    for clip in clips:
        groups[key(clip)].append(clip)
    chosen = []
    for name in sorted(groups, key=lambda name: hashlib.sha256(name.encode()).digest()):
        if len(chosen) + len(groups[name]) <= target:
            chosen += groups[name]
    return chosen
