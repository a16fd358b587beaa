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
from .recipes import Options

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


def find(options: Options, features: FeatureSet, canaries: dict[str, Canary], processor) -> Replay | None:
    """What a run on `features` replays of --replay, a feature set in any language of the model: of its train, every
    n-th clip, at most `SHARE` as many as the run's own. None without --replay.

    Raises LabError where `options` ask for what does not go with it, there is no such feature set, it does not fit the
    model, it has no sentences, and where its clips are judged by.
    """
    if not (source := options.replay):
        return None
    for name in ("stream", "perturb", "adapt_windows"):
        if getattr(options, name):
            raise LabError(f"--replay takes both feature sets as they are, whole; leave out --{name.replace('_', '-')}")
    there = streaming.open_features(source)
    if wrong := sources.misfit(options.model, processor, there):
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
