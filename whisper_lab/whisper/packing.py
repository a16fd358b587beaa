"""Clips joined to windows of up to 30 s, with timestamps and the text before: how Whisper reads long recordings.

It writes when each segment begins and ends, is moved on to where the last one that it heard whole ended, and is given
what it wrote before. Tuned on single sentences without timestamps it forgets all three. So all clips are put one after
another, speaker by speaker, as if they were one recording, which is cut into windows. The joined log-mel is that of the
joined sound, but for the three frames about a seam, whose 25 ms reach into both clips.

Labels are as in Whisper's own training (Radford et al. 2022, section 2.3): <|0.00|> text<|3.98|><|3.98|> text<|7.20|>,
and of a segment that the window cuts off, only its beginning: whoever reads on then begins there. The text before has
timestamps where the labels have them, as it has when openai/whisper and transformers read on, and in distil-whisper's
training. Whisper is told by them: after a text without, the untuned base finds timestamps a third as likely as after
one with (KB-Whisper's training leaves them out).
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..speech.features import FRAMES, RANGE
from .decoding import POSITIONS

LABELS = POSITIONS // 2  # tokens for a window; openai/whisper keeps the other half for <|startofprev|> and text before
TIMED_SHARE = 3 / 4  # of packs, with timestamps; without, many sentences are still read as one text
CUT_SHARE = 1 / 2  # of those, in which the end cuts off a clip, as that of most windows of a recording does
TOLD_SHARE = 1 / 2  # of packs, with the text before: openai/whisper gives it, or, after a doubtful window, does not
PART = 100  # frames of a clip that at least are in the window, and at least are not, where it is cut off: 1 s


@dataclass(frozen=True)
class Tokens:
    """Ids that labels are put together from."""

    end: int  # <|endoftext|>
    previous: int  # <|startofprev|>
    zero: int  # <|0.00|>; each after it is 0.02 s later, up to <|30.00|>

    @classmethod
    def of(cls, tokenizer) -> "Tokens":
        token = tokenizer.convert_tokens_to_ids
        # Tokenizers of 2022 have no names for the timestamps, which have always come after this one.
        return cls(token("<|endoftext|>"), token("<|startofprev|>"), token("<|notimestamps|>") + 1)

    def segment(self, labels: Sequence[int], start: int, end: int, timestamps: bool) -> list[int]:
        """The text in a clip's `labels`, and with `timestamps` the frames at which it starts and ends, to 0.02 s."""
        text = list(labels[3:-1])  # not by their ids: words may have been added to a vocabulary, behind its end
        return [self.zero + (start + 1) // 2, *text, self.zero + (end + 1) // 2] if timestamps else text


def sounding(frames: int) -> int:
    """How many of a clip's stored frames its sound fills: all but the last three (FrontEnd.log_mel)."""
    return frames - 3 if frames < FRAMES else FRAMES


def packs(
    frames: Sequence[int], speakers: Sequence[str], tokens: Sequence[int], rng: np.random.Generator
) -> list[tuple[int, ...]]:
    """Each clip once, in tuples to be joined: one recording in which speakers take turns, cut into windows.

    Of each clip, `frames` are those stored and `tokens` its labels. A speaker's clips are neighbours, in random order;
    where they end within a window the next speaker goes on, as in a conversation: a corpus of a few clips for each
    would give half-empty windows otherwise, and speakers do change within the windows of real recordings.
    """
    names, speaker = np.unique(np.asarray(speakers, dtype=str), return_inverse=True)
    turns = rng.permutation(len(names))[speaker]
    found: list[list[int]] = []
    room = left = 0
    for i in sorted(rng.permutation(len(frames)).tolist(), key=lambda i: turns[i]):
        sound, text = sounding(frames[i]), tokens[i] - 2  # two timestamps, and without language, task, mode and end
        if sound > room or text > left or not found:
            found.append([])
            room, left = FRAMES, LABELS - 4  # language, task, the beginning of a clip that is cut off, end
        found[-1].append(i)
        room, left = room - sound, left - text
    return [tuple(pack) for pack in found]


def as_read(
    packs: Sequence[tuple[int, ...]], frames: Sequence[int], rng: np.random.Generator
) -> Iterator[tuple[list[int], int | None, bool]]:
    """For each of `packs`: the clips to join, the one whose text is given as that before, and whether with timestamps.

    The clip before is the last of the pack before; a clip that is cut off is the first of the next, with which reading
    would go on.
    """
    for before, pack, after in zip([(), *packs], packs, [*packs[1:], ()]):
        timed, cut, told = (rng.random(3) < (TIMED_SHARE, CUT_SHARE, TOLD_SHARE)).tolist()
        clips, room = list(pack), FRAMES - sum(sounding(frames[i]) for i in pack)
        if timed and cut and after and PART <= room <= sounding(frames[after[0]]) - PART:
            clips.append(after[0])
        yield clips, before[-1] if told and before else None, timed


def join(rows: Sequence[dict], previous: dict | None = None, timestamps: bool = True, *, tokens: Tokens) -> dict:
    """Rows of a split (reading.Split) → one of their sounds one after another, of the same keys, and two more:
    `given`, how many of the labels are given to the decoder and not learnt, and `before`, token ids that go before
    <|startoftranscript|>: <|startofprev|> and `previous` as labels have it, whose beginning goes where room lacks.

    `features` are float32. The last clip may go on after 30 s: of it, only the beginning is in the labels. There is no
    pause between clips, which have their own at both ends; digital silence would tell where one ends. Clips that
    do not fit into the decoder's positions are left out from the end.
    """
    lengths = [sounding(row["features"].shape[1]) for row in rows]
    ends = np.cumsum(lengths).tolist()
    fitting = bisect_right(ends, FRAMES)
    whole, rows = rows[:fitting], rows[: fitting + timestamps]
    given = 2 if timestamps else 3  # without, <|notimestamps|> is given too; with, the first timestamp is learnt
    labels = list(rows[0]["labels"][:given])
    for row, length, end in zip(whole, lengths, ends):
        labels += tokens.segment(row["labels"], end - length, end, timestamps)
    if len(whole) < len(rows):
        labels.append(labels[-1])
    labels.append(tokens.end)
    if len(labels) > POSITIONS and (len(rows) > 1 or timestamps):
        return join(rows[:-1] or rows, previous, timestamps and len(rows) > 1, tokens=tokens)

    parts = [row["features"][:, :length] for row, length in zip(rows, lengths)]
    log_mel = np.concatenate([*parts[:-1], rows[-1]["features"]], axis=1, dtype=np.float32)[:, :FRAMES]
    np.maximum(log_mel, log_mel.max() - RANGE, out=log_mel)
    room = min(LABELS, POSITIONS - len(labels)) - 1
    before = []
    if previous and room > 0:
        said = tokens.segment(previous["labels"], 0, sounding(previous["features"].shape[1]), timestamps)
        before = [tokens.previous, *said[-room:]]
    return rows[0] | {
        "id": "+".join(row["id"] for row in rows),
        "sentence": " ".join(row["sentence"] for row in whole),
        "seconds": min(sum(row["seconds"] for row in rows), FRAMES / 100),
        "frames": log_mel.shape[1],
        "features": log_mel,
        "labels": labels,
        "given": given,
        "before": before,
    }
