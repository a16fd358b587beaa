"""Replay: other speech, with its sentences, among that which is tuned on, so that less is forgotten of it."""

import bisect
import itertools
from dataclasses import dataclass

from .. import LabError
from ..scores import sources
from ..stores import streaming
from ..stores.reading import Part
from ..stores.store import FeatureSet
from .canaries import Canary

SHARE = 0.5  # clips for each of train, at most: of three clips in an epoch, one is then other speech


@dataclass(frozen=True)
class Replay:
    """A split to add to train, the corpus that it is from, and of how many clips it holds one in how many."""

    split: object
    corpus: dict
    every: int
    clips: int

    @property
    def mark(self) -> dict:
        """What a plan says of it."""
        return self.corpus | {"clips": len(self.split)}

    @property
    def note(self) -> str:
        name = " ".join(filter(None, (self.corpus["name"], self.corpus["version"], self.corpus["language"])))
        few = f", one in {self.every} of {self.clips:,}" if self.every > 1 else ""
        return f"{len(self.split):,} clips of {name}{few}"


class Joined:
    """Splits one after the other, as one split."""

    def __init__(self, *splits):
        self._splits, self._ends = splits, list(itertools.accumulate(map(len, splits)))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> dict:
        index = range(len(self))[index]
        number = bisect.bisect_right(self._ends, index)
        return self._splits[number][index - self._ends[number] + len(self._splits[number])]

    def column(self, name: str) -> list:
        return [value for split in self._splits for value in split.column(name)]


def find(source: str, features: FeatureSet, canaries: dict[str, Canary], processor, model: str) -> Replay:
    """What is replayed of `source`, a feature set in any language of the model, in a run on `features`: of its train,
    every n-th clip, at most `SHARE` as many as the run's own.

    Raises LabError where there is no such feature set, it does not fit the model, it has no sentences, and where its
    clips are judged by.
    """
    there = streaming.open_features(source, stream=False)
    if wrong := sources.misfit(model, processor, there):
        raise LabError(f"--replay {source} holds {wrong}; make its features for this model")
    if "unlabelled" in there.manifest:
        raise LabError(f"--replay {source} holds no sentences, and they are what is learnt; choose other features")
    if there.fingerprint == features.fingerprint:
        raise LabError(f"--replay {source} is what is tuned on; name other speech")
    train = there.split("train")
    every = -(-len(train) // max(1, int(SHARE * features.manifest["splits"]["train"]["rows"])))
    split = Part(train, slice(None, None, every))
    clips = set(zip(split.column("id"), split.column("sentence")))
    judges = {name: features.split(name) for name in ("dev", "test")}
    for name, judge in (judges | {name: one.split for name, one in canaries.items()}).items():
        if both := len(clips.intersection(zip(judge.column("id"), judge.column("sentence")))):
            raise LabError(f"--replay {source}: {both:,} of its clips are in {name} too, which judges; choose another")
    return Replay(split, there.manifest["corpus"], every, len(train))
