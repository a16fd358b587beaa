"""Clips → batches of one window length each, the same for the same seed, and the tensors that Whisper trains on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from . import LabError
from .features import FRAMES, pad
from .windows import LENGTHS, shortest

FULL_SHARE = 1 / 16  # of mixed batches, read at 30 s: costs a fifth of the speed, keeps the model good there
LONGER_SHARE = 1 / 4  # of mixed batches, read at a length between the shortest and twice that
CHUNK = 16  # batches sorted by length together: enough for little padding, few enough to leave the order random
GROUP = 8  # shards to draw clips from at a time while streaming: a thousand clips, and so of many speakers


@dataclass(frozen=True)
class WindowBatches:
    """A batch sampler: `count` batches over and over the clips, each [(clip, window), …] with one window for all.

    In each pass every clip comes once (the last, smaller batch of a pass is left out); clips of like length meet in
    a batch. `window` says how long a batch is read: `short`, as short as its longest clip allows; `full`, 30 s always;
    `mixed`, short mostly, and longer often enough that the same weights stay good there.

    Clips are drawn from the whole corpus, or, with `shards`, the number of each clip's shard, from `GROUP` shards at a
    time: the next when those are used up, so that each is wanted in one stretch of a pass.
    """

    frames: Sequence[int]
    batch_size: int
    count: int
    window: str
    seed: int
    shards: Sequence[int] | None = None

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        rng = np.random.default_rng(self.seed)
        left = self.count
        while left:
            for batch in self._one_pass(rng)[:left]:
                window = self._draw(rng, max(self.frames[i] for i in batch))
                yield [(int(i), window) for i in batch]
                left -= 1

    def _one_pass(self, rng: np.random.Generator) -> list[np.ndarray]:
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

    def _batches(self, rng: np.random.Generator, clips: np.ndarray) -> list[np.ndarray]:
        order, span = rng.permutation(clips), CHUNK * self._size
        batches = []
        for start in range(0, len(order), span):
            chunk = sorted(order[start : start + span], key=lambda i: self.frames[i])
            batches += [chunk[i : i + self._size] for i in range(0, len(chunk), self._size)]
        whole = [batch for batch in batches if len(batch) == self._size]
        return [whole[i] for i in rng.permutation(len(whole))]

    @property
    def _size(self) -> int:
        return min(self.batch_size, len(self.frames))  # a corpus below one batch

    def _draw(self, rng: np.random.Generator, frames: int) -> int:
        least, chance = shortest(frames), rng.random()
        if self.window == "full" or (self.window == "mixed" and chance < FULL_SHARE):
            return FRAMES
        if self.window == "mixed" and chance < FULL_SHARE + LONGER_SHARE:
            return int(rng.choice([length for length in LENGTHS if least <= length <= 2 * least]))
        return least


@dataclass(frozen=True)
class Windowed:
    """A split as torch's loader asks for it: [(clip, window)] → the row with its features padded to the window."""

    split: object

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, item: tuple[int, int]) -> dict:
        index, window = item
        row = self.split[index]
        return row | {"features": pad(row["features"], window)}


@dataclass(frozen=True)
class Collator:
    """Rows → what WhisperForConditionalGeneration trains on.

    `start` is <|startoftranscript|>. The decoder's inputs are given here, not derived by the model, so that it never
    sees that token twice; the prompt's tokens are in the inputs and out of the loss, since they are never predicted.
    """

    start: int
    end: int
    prompt: int = 3  # <|sv|><|transcribe|><|notimestamps|>

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        """`input_features` (batch, mels, window), `labels` and `decoder_input_ids` (batch, longest label)."""
        longest = max(len(row["labels"]) for row in rows)
        inputs = torch.full((len(rows), longest), self.end)
        labels = torch.full((len(rows), longest), -100)
        for i, row in enumerate(rows):
            ids = torch.tensor(row["labels"])
            if ids[0] == self.start:
                raise LabError(
                    f"the labels of {row['id']} begin with the token that the decoder adds; make the features again"
                )
            inputs[i, 0], inputs[i, 1 : len(ids)] = self.start, ids[:-1]
            labels[i, self.prompt : len(ids)] = ids[self.prompt :]
        features = torch.from_numpy(np.stack([row["features"] for row in rows]))
        return {"input_features": features, "labels": labels, "decoder_input_ids": inputs}


def by_length(frames: Sequence[int], batch_size: int, lengths: Sequence[int]) -> Iterator[list[tuple[int, int]]]:
    """Every clip once, at the shortest of `lengths` that holds it, longest first, in batches of one window: to decode.

    The first batch needs most memory.
    """
    windows = [shortest(count, lengths) for count in frames]
    order = sorted(range(len(frames)), key=lambda i: (-windows[i], -frames[i]))
    batch: list[tuple[int, int]] = []
    for i in order:
        if batch and (len(batch) == batch_size or batch[0][1] != windows[i]):
            yield batch
            batch = []
        batch.append((i, windows[i]))
    if batch:
        yield batch
