"""What a model is to keep while it is trained: what its untuned self makes of the same sound at 30 s.

The teacher hears each clip once, before the training. What it makes of it is kept on disk in float16: the encoder's
states for the sound, the text, and the decoder's states for that, from which its next-token distributions follow. So a
step costs little more than it would with labels. The student, on windows as short as the speech, is drawn towards both
(as in https://github.com/futo-org/whisper-acft, and Hinton et al., "Distilling the knowledge in a neural network").
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import kl_div, log_softmax
from torch.utils.checkpoint import checkpoint as checkpointed
from tqdm import tqdm

from .. import files
from ..scores.drafts import JUDGED, Writer
from ..scores.hypotheses import evaluated
from ..speech.features import FRAMES, pad
from ..whisper import attention
from ..whisper.decoding import token_limit
from ..whisper.precision import autocast
from ..whisper.windows import shortest

BEYOND = 100  # frames past a clip's shortest window for which the teacher's states are kept, for longer windows
ARRAYS = ("states", "written")
TARGETS = (*ARRAYS, "heard")  # what `Targeted` adds to a batch


class Teacher:
    """`model` (WhisperForConditionalGeneration) as it is at each call; its text follows on the ids `prompt`."""

    def __init__(self, model, prompt: list[int], precision: str = "float32"):
        self.model, self.prompt, self.precision = model, prompt, precision
        self.given = len(prompt) - 1  # labels that are never learnt, as they are given

    @torch.inference_mode()
    @attention.without_cudnn()
    def __call__(
        self, features: torch.Tensor, labels: list[list[int]] | None = None
    ) -> tuple[torch.Tensor, list[list[int]], torch.Tensor]:
        """(clips, mels, 3000) → the encoder's last states (clips, 1500, width), the `labels` of each clip, and the
        decoder's last states (clips, tokens, width) before each of them that comes after the prompt.

        Without `labels`, they are of what the model writes, greedily; where it repeats itself or finds no end, of the
        prompt alone.
        """
        with autocast(self.model.device.type, self.precision), evaluated(self.model):
            encoded = self.model.get_encoder()(features).last_hidden_state
            writer = Writer(self.model, self.prompt)
            memory = writer.listen(encoded)
            labels = labels or self._labels(writer, memory)
            longest = max(map(len, labels))
            inputs = [[self.prompt[0], *ids[:-1]] + [writer.end] * (longest - len(ids)) for ids in labels]
            states = writer.read(memory.up_to(0), torch.tensor(inputs, device=features.device))
        return encoded, labels, states[:, self.given :]

    def _labels(self, writer: Writer, memory) -> list[list[int]]:
        clips, device = len(memory.read), memory.read.device
        writer.read(memory, torch.tensor([self.prompt[:-1]] * clips, device=device))
        texts = writer.write(memory, [[]] * clips, [0.0] * clips, [token_limit(FRAMES)] * clips)
        return [[*self.prompt[1:], *([] if one.rambles else [*one.tokens, writer.end])] for one in texts]


def teach(teacher: Teacher, split, clips: Sequence[int], batch_size: int, folder: Path) -> None:
    """Write what `teacher` makes of the `clips` of `split`, given by their places, into a new `folder`, for `Taught`.

    Clips on which it repeats itself are left out: that is nothing to learn.
    """
    told, frames = [], split.column("frames")
    order = sorted(clips, key=lambda i: (-frames[i], i))
    with files.making(folder) as new, tqdm(total=len(order), desc="Teacher", unit="clip", leave=False) as bar:
        new.mkdir()
        with open(new / "states", "wb") as states, open(new / "written", "wb") as written:
            for some in (order[i : i + batch_size] for i in range(0, len(order), batch_size)):
                features = torch.from_numpy(np.stack([pad(split[i]["features"], FRAMES) for i in some]))
                encoded, labels, decoded = teacher(features.to(teacher.model.device))
                for i, ids, sound, text in zip(some, labels, encoded, decoded):
                    if tokens := len(ids) - teacher.given:
                        positions = min(FRAMES, shortest(frames[i]) + BEYOND) // 2
                        told.append({"clip": i, "labels": ids, "states": positions, "written": tokens})
                        states.write(_half(sound[:positions]))
                        written.write(_half(text[:tokens]))
                bar.update(len(some))
            for file in (states, written):
                file.flush()
                os.fsync(file.fileno())
        files.write_json(new / "clips.json", {"width": encoded.shape[-1], "clips": told})


def _half(states: torch.Tensor) -> bytes:
    return states.half().cpu().numpy().astype("<f2", copy=False).tobytes()


class Taught:
    """The clips of `split` that a teacher made something of, in `folder`, as a split: rows have its `labels`, and
    float16 `states` (positions, width), the first of the encoder's, and `written` (tokens, width), the decoder's before
    each label that comes after the prompt."""

    def __init__(self, split, folder: Path):
        told = files.read_json(folder / "clips.json")
        self._split, self._folder, self._width, self._told = split, folder, told["width"], told["clips"]
        self._ends = {name: np.cumsum([0, *(one[name] for one in self._told)]) for name in ARRAYS}
        self._arrays: dict[str, np.ndarray] = {}

    def __getstate__(self) -> dict:
        return vars(self) | {"_arrays": {}}  # another process maps the same files

    def __len__(self) -> int:
        return len(self._told)

    def column(self, name: str) -> list:
        whole = self._split.column(name)
        return [whole[one["clip"]] for one in self._told]

    def __getitem__(self, index: int) -> dict:
        one = self._told[index]
        states = {name: self._array(name)[slice(*self._ends[name][index : index + 2])] for name in ARRAYS}
        return self._split[one["clip"]] | {"labels": one["labels"]} | states

    def _array(self, name: str) -> np.ndarray:
        if name not in self._arrays:
            self._arrays[name] = np.memmap(self._folder / name, "<f2", "r").reshape(-1, self._width)
        return self._arrays[name]


@dataclass(frozen=True)
class Rewritten:
    """`split` with other sentences: `texts`, and their `labels`."""

    split: object
    texts: list[str]
    labels: list[list[int]]

    def __len__(self) -> int:
        return len(self.split)

    def column(self, name: str) -> list:
        return self.texts if name == "sentence" else self.split.column(name)

    def __getitem__(self, index: int) -> dict:
        return self.split[index] | {"sentence": self.texts[index], "labels": self.labels[index]}


@dataclass(frozen=True)
class Targeted:
    """`collate` with what the teacher made of the clips: `states` (batch, positions of the window, width), of which
    `heard` (batch, positions) are there, and `written` (batch, tokens, width), for the labels that are learnt."""

    collate: Callable

    def __call__(self, rows: list[dict]) -> dict:
        batch = self.collate(rows)
        clips, tokens = batch["labels"].shape
        positions, width = batch["input_features"].shape[-1] // 2, rows[0]["states"].shape[-1]
        states, heard = torch.zeros(clips, positions, width, dtype=torch.float16), torch.zeros(clips, positions).bool()
        written = torch.zeros(clips, tokens, width, dtype=torch.float16)
        for i, row in enumerate(rows):
            count, end = min(positions, len(row["states"])), len(row["labels"])
            states[i, :count] = torch.tensor(row["states"][:count])
            heard[i, :count] = row["learnt"]
            written[i, end - len(row["written"]) : end] = torch.tensor(row["written"])
        return batch | {"states": states, "heard": heard, "written": written}


@dataclass(frozen=True)
class Weights:
    """Of the terms of `distance`."""

    written: float = 1.0
    states: float = 1.0


def distance(
    encoded: torch.Tensor,
    decoded: torch.Tensor,
    words: torch.nn.Module,
    before: torch.nn.Module,
    labels: torch.Tensor,
    targets: dict[str, torch.Tensor],
    weights: Weights = Weights(),
) -> torch.Tensor:
    """How far a student is from its teacher, summed over the tokens of `labels` (clips, tokens), but for −100.

    Of each token the divergence of the next-token distribution from the teacher's; and of its clip, the mean squared
    distance of the encoder's states. `encoded` and `decoded` are the student's last states, of which its `words` make
    logits; of the teacher's, `before` does. `targets` are those of `Targeted`.
    """
    learnt = labels != -100
    far = (encoded.float() - targets["states"].float()).square().mean(-1).masked_fill(~targets["heard"], 0)
    far = far.sum(-1) / targets["heard"].sum(-1).clamp(min=1)
    total = weights.states * (far * learnt.sum(-1)).sum()
    if weights.written:
        total = total + weights.written * divergence(decoded, words, targets["written"], before, learnt)
    return total


def divergence(
    states: torch.Tensor, words: torch.nn.Module, targets: torch.Tensor, before: torch.nn.Module, learnt: torch.Tensor
) -> torch.Tensor:
    """The sum over `learnt` (clips, tokens) of the Kullback-Leibler divergence of what `words` makes of `states`
    (clips, tokens, width) from what `before` makes of `targets`. Logits are made for `JUDGED` tokens at a time."""
    states, targets, learnt = states.flatten(0, 1), targets.flatten(0, 1), learnt.flatten()
    if states.device.type == "cpu":  # a GPU would have to be waited for to say how many these are
        states, targets, learnt = states[learnt], targets[learnt], learnt[learnt]

    def some(states: torch.Tensor, targets: torch.Tensor, learnt: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            aim = log_softmax(before(targets.to(before.weight.dtype)).float(), -1)
        each = kl_div(log_softmax(words(states).float(), -1), aim, log_target=True, reduction="none").sum(-1)
        return each.masked_fill(~learnt, 0).sum()

    if len(learnt) <= JUDGED:
        return some(states, targets, learnt)
    chunks = zip(*(part.split(JUDGED) for part in (states, targets, learnt)))
    return sum(checkpointed(some, *chunk, use_reentrant=False) for chunk in chunks)
