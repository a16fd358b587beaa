"""Clips → batches of one window length each, the same for the same seed, and the tensors that Whisper trains on."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from .. import LabError
from ..speech.features import FRAMES, pad
from . import packing
from .decoding import POSITIONS
from .windows import LENGTHS, shortest

FULL_SHARE = 1 / 16  # of mixed batches, read at 30 s: costs a fifth of the speed, keeps the model good there
LONGER_SHARE = 1 / 4  # of mixed batches, read at a length between the shortest and twice that
PACKED_SHARE = 1 / 2  # of packed's clips, in packs: for a clip they cost no more than short windows; the rest as mixed
TIMED_SHARE = 1 / 4  # of packed's other batches, with timestamps; with most packs (packing.TIMED_SHARE), half of all
CHUNK = 16  # batches sorted by length together: enough for little padding, few enough to leave the order random
LABELS = (16, 24, 32, 40, 48, 64, 96, 128, 192, 256, 320, POSITIONS)  # lengths that labels are padded to
GROUP = 8  # shards to draw clips from at a time while streaming: a thousand clips, and so of many speakers


class Example(NamedTuple):
    """What the model is shown at once: a clip, or several of them joined (`packing`)."""

    clips: tuple[int, ...]  # their places in the split
    window: int  # frames that the encoder takes
    seed: int = 0  # of its augmentation, so that it is the same in whatever process it is read
    previous: int | None = None  # the clip whose text is given as what was said before
    timestamps: bool = False
    learnt: bool = True  # False: stands in where a process has no example of a batch; no part of the loss

    @property
    def read(self) -> tuple[int, ...]:
        """The clips that are read for it."""
        return self.clips if self.previous is None else (*self.clips, self.previous)


@dataclass(frozen=True)
class WindowBatches:
    """A batch sampler: `count` batches over and over the clips, each of `Example`s with one window for all.

    In each pass every clip comes once (the last, smaller batch of a pass is left out); clips of like length meet in
    a batch. `window` says how long a batch is read: `short`, as short as its longest clip allows; `full`, 30 s always;
    `mixed`, short mostly, and longer often enough that the same weights stay good there; `packed`, as mixed, and as
    often 30 s of many clips, of which a batch has so many that its sound is as long as other batches'. These cut off
    some clips that are read whole elsewhere. `speakers` and `tokens` of the clips are for packs.

    Clips are drawn from the whole corpus, or, with `shards`, the number of each clip's shard, from `GROUP` shards at a
    time: the next when those are used up, so that each is wanted in one stretch of a pass.
    """

    frames: Sequence[int]
    batch_size: int
    count: int
    window: str
    seed: int
    shards: Sequence[int] | None = None
    speakers: Sequence[str] = ()
    tokens: Sequence[int] = ()  # labels of each clip

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[list[Example]]:
        rng, left = np.random.default_rng(self.seed), self.count
        while left:
            for batch in self._one_pass(rng)[:left]:
                if not batch[0].window:
                    window = self._draw(rng, max(self.frames[example.clips[0]] for example in batch))
                    timestamps = self.window == "packed" and rng.random() < TIMED_SHARE
                    batch = [example._replace(window=window, timestamps=timestamps) for example in batch]
                # Every example's seed is its own, and the draws above are the same whether it is used or not.
                seeds = np.random.default_rng((self.seed, self.count - left)).integers(1 << 62, size=len(batch))
                yield [example._replace(seed=int(seed)) for example, seed in zip(batch, seeds)]
                left -= 1

    def _one_pass(self, rng: np.random.Generator) -> list[list[Example]]:
        everything = np.arange(len(self.frames))
        stretches = [everything] if self.shards is None else self._stretches(rng)
        return [batch for clips in stretches for batch in self._batches(rng, clips)]

    def _stretches(self, rng: np.random.Generator) -> list[np.ndarray]:
        """The clips of every `GROUP` shards, and of the shard before as many as did not fill a batch there."""
        clips, rows = np.argsort(self.shards, kind="stable"), np.unique(self.shards, return_counts=True)[1]
        shards = np.split(clips, np.cumsum(rows)[:-1])
        order = rng.permutation(len(shards))
        groups = np.array_split(rows[order], -(-len(order) // GROUP))
        ends = np.cumsum([group.sum() for group in groups]) // self._size * self._size
        return np.split(np.concatenate([rng.permutation(shards[i]) for i in order]), ends[:-1])

    def _batches(self, rng: np.random.Generator, clips: np.ndarray) -> list[list[Example]]:
        """Window 0: still to be drawn."""
        order, span, whole = rng.permutation(clips), CHUNK * self._size, []
        if self.window == "packed":
            single = round((1 - PACKED_SHARE) * len(order) / self._size) * self._size
            order, packed = order[:single], order[single:]
            whole += self._packs(rng, packed)
        for start in range(0, len(order), span):
            chunk = sorted(order[start : start + span], key=lambda i: self.frames[i])
            batches = [chunk[i : i + self._size] for i in range(0, len(chunk), self._size)]
            whole += [[Example((int(i),), 0) for i in batch] for batch in batches if len(batch) == self._size]
        return [whole[i] for i in rng.permutation(len(whole))]

    def _packs(self, rng: np.random.Generator, clips: np.ndarray) -> list[list[Example]]:
        columns = [[column[i] for i in clips] for column in (self.frames, self.speakers, self.tokens)]
        drawn = packing.as_read(packing.packs(*columns, rng), columns[0], rng)
        packs = [
            Example(tuple(clips[pack].tolist()), FRAMES, 0, None if before is None else int(clips[before]), timestamps)
            for pack, before, timestamps in drawn
        ]
        size = max(1, min(len(packs), round(self._size * float(np.mean(self.frames)) / FRAMES)))
        order = [packs[i] for i in rng.permutation(len(packs))]
        return [order[i : i + size] for i in range(0, len(order) - size + 1, size)]

    @property
    def _size(self) -> int:
        return min(self.batch_size, len(self.frames))  # a corpus below one batch

    def _draw(self, rng: np.random.Generator, frames: int) -> int:
        least, chance, mixed = shortest(frames), rng.random(), self.window in ("mixed", "packed")
        if self.window == "full" or (mixed and chance < FULL_SHARE):
            return FRAMES
        if mixed and chance < FULL_SHARE + LONGER_SHARE:
            return int(rng.choice([length for length in LENGTHS if least <= length <= 2 * least]))
        return least


@dataclass(frozen=True)
class Parts:
    """The part of every batch that process `rank` among `processes` sees. Together they are the batch."""

    batches: WindowBatches
    processes: int = 1
    rank: int = 0

    def __len__(self) -> int:
        return len(self.batches)

    @property
    def batch_size(self) -> int:
        return max(1, self.batches.batch_size // self.processes)

    def __iter__(self) -> Iterator[list[Example]]:
        for batch in self.batches:
            # Strided, since a batch is sorted by length: the parts cost alike.
            yield batch[self.rank :: self.processes] or [batch[0]._replace(learnt=False)]


@dataclass(frozen=True)
class Windowed:
    """A split as torch's loader asks for it: [Example] → a row with its features padded to the window.

    `join` (rows, previous row, timestamps) makes one row of several clips, or of one with timestamps; `augment` is an
    augmentation.Augmentation.
    """

    split: object
    join: Callable | None = None
    augment: Callable | None = None

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, example: Example) -> dict:
        rows, rng = [self.split[i] for i in example.clips], np.random.default_rng(example.seed)
        if len(rows) > 1 or example.timestamps:
            if self.augment:  # before timestamps are counted: speed moves them
                rows = [self.augment.perturbed(row, rng, row["frames"]) for row in rows]
            previous = None if example.previous is None else self.split[example.previous]
            row = self.join(rows, previous, example.timestamps)
        else:
            row = rows[0]
        if self.augment:
            row = self.augment(row, rng, example.window)
        return row | {"features": pad(row["features"], example.window), "learnt": example.learnt}


@dataclass(frozen=True)
class Collator:
    """Rows → what WhisperForConditionalGeneration trains on.

    `start` is <|startoftranscript|>. The decoder's inputs are given here, not derived by the model, so that it never
    sees that token twice; what is given to the decoder (the prompt, and the text before) is in the inputs and out of
    the loss, since it is never predicted. Labels have few lengths, as windows have: kernels, their plans and graphs
    are for one shape each.
    """

    start: int
    end: int
    prompt: int = 3  # <|sv|><|transcribe|><|notimestamps|>
    vocabulary: int | None = None  # ids below it are the model's

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        """`input_features` (batch, mels, window), `labels` and `decoder_input_ids` (batch, one of `LABELS`)."""
        befores = [row.get("before", []) for row in rows]
        longest = max(len(row["labels"]) + len(before) for row, before in zip(rows, befores))
        length = next((length for length in LABELS if length >= longest), longest)
        inputs = torch.full((len(rows), length), self.end)
        labels = torch.full((len(rows), length), -100)
        for i, (row, before) in enumerate(zip(rows, befores)):
            ids, at = torch.tensor(row["labels"]), len(before)
            if unfit := self._unfit(ids, at + len(ids)):
                raise LabError(f"the labels of {row['id']} {unfit}; make the features again")
            inputs[i, :at] = torch.tensor(before, dtype=torch.long)
            inputs[i, at], inputs[i, at + 1 : at + len(ids)] = self.start, ids[:-1]
            if row.get("learnt", True):
                given = row.get("given", self.prompt)
                labels[i, at + given : at + len(ids)] = ids[given:]
        features = torch.from_numpy(np.stack([row["features"] for row in rows]))
        return {"input_features": features, "labels": labels, "decoder_input_ids": inputs}

    def _unfit(self, ids: torch.Tensor, positions: int) -> str | None:
        """Why these labels cannot be learnt. A GPU would say "device-side assert triggered", some steps later."""
        if ids[0] == self.start:
            return "begin with the token that the decoder adds"
        if positions > POSITIONS:
            return f"take {positions} positions, and the decoder has {POSITIONS}"
        if self.vocabulary and not 0 <= int(ids.min()) <= int(ids.max()) < self.vocabulary:
            return f"hold {int(ids.max())}, and the model knows {self.vocabulary} tokens"
        return None


@dataclass(frozen=True)
class Named:
    """`collate` with what the loss is reported by: `ids` of the rows, and the `speech` in them, in seconds."""

    collate: Collator

    def __call__(self, rows: list[dict]) -> dict:
        learnt = [row for row in rows if row["learnt"]]
        facts = {"ids": [row["id"] for row in learnt], "speech": sum(row["seconds"] for row in learnt)}
        return self.collate(rows) | facts


def pieces(batch: dict[str, torch.Tensor], frames: int) -> list[dict[str, torch.Tensor]]:
    """A collated batch cut into parts whose windows are together of at most `frames`, or of one clip each.

    Of as many clips each where that costs few more parts, for few shapes.
    """
    clips, _, window = batch["input_features"].shape
    most = max(1, min(clips, frames // window))
    alike = next(size for size in range(most, 0, -1) if clips % size == 0)
    size = alike if 2 * alike > most else -(-clips // -(-clips // most))
    return [dict(zip(batch, parts)) for parts in zip(*(tensor.split(size) for tensor in batch.values()))]


def by_length(frames: Sequence[int], batch_size: int, lengths: Sequence[int]) -> Iterator[list[Example]]:
    """Every clip once, at the shortest of `lengths` that holds it, longest first, in batches of one window: to decode.

    The first batch needs most memory.
    """
    windows = [shortest(count, lengths) for count in frames]
    order = sorted(range(len(frames)), key=lambda i: (-windows[i], -frames[i]))
    batch: list[Example] = []
    for i in order:
        if batch and (len(batch) == batch_size or batch[0].window != windows[i]):
            yield batch
            batch = []
        batch.append(Example((i,), windows[i]))
    if batch:
        yield batch
