"""One model out of several runs: the mean of what they learnt, blended, scored and saved as a run's.

Runs from one start end near enough to each other for their mean to be a model, too (Wortsman et al., "Model soups",
ICML 2022). It costs no time where it is served.
"""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch

from .. import files
from ..stores.store import FeatureSet
from ..whisper import checkpoint
from . import adapters, runs
from .recipes import Options


class Average(runs.Run):
    """A run whose training is the mean of finished ones, of the same start and recipe, in the folders `averaged`."""

    def __init__(self, options: Options, features: FeatureSet, averaged: Sequence[Path]):
        self.averaged = averaged
        super().__init__(options, features)

    def train(self) -> None:
        adapters.merge(self.model)  # which has learnt nothing; what is loaded has it merged
        self.model.load_state_dict(mean(self.start, self.averaged))
        facts = [files.read_json(folder / "metrics.json")["run"] for folder in self.averaged]
        energy = [one.get("energy_kwh") for one in facts]
        self.resumed_at = 0
        self.train_seconds = sum(one["train_seconds"] for one in facts)
        self.energy_kwh = None if None in energy else sum(energy)
        self.trainer.state.log_history = history([files.read_json(one / "history.json") for one in self.averaged])


def mean(start: dict, folders: Sequence[Path]) -> dict:
    """The mean of the runs' tuned weights, as they were before each was blended with `start` (a state dict).

    Of a run that kept no share of them nothing is left: it counts as `start`.
    """
    total = {name: torch.zeros_like(tensor) for name, tensor in start.items()}
    for folder in folders:
        share = files.read_json(folder / "metrics.json")["run"]["share"] or 1
        for name, saved in checkpoint.load_model(str(folder)).state_dict().items():
            total[name] += torch.lerp(start[name], saved, 1 / share) / len(folders)
    return total


def history(several: list[list[dict]]) -> list[dict]:
    """The runs' logs as one, in the mean over those that have an entry of a kind at a step."""
    kinds = defaultdict(list)
    for entry in (entry for one in several for entry in one):
        numbers = {key: value for key, value in entry.items() if isinstance(value, int | float)}
        kinds[entry["step"], *numbers].append(numbers)
    return [
        {key: statistics.fmean(one[key] for one in entries) for key in keys} | {"step": step}
        for (step, *keys), entries in kinds.items()
    ]
