"""What every decoder of files gives: a recording, with what is damaged in it."""

import math
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass

import numpy as np

from .. import LabError

LOUDEST = 4  # times full scale: filters overshoot a little; beyond, floats hold integers that nobody scaled
NEAR_SECONDS = 0.5  # damage that is found twice, by its bytes and by the decoder, is one


class AudioError(LabError):
    """Sound that cannot be decoded. `reason` is a few words, for counting."""

    def __init__(self, path, reason: str, detail: str = ""):
        super().__init__(f"{path}: {reason}" + (f" ({detail})" if detail else ""))
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Damage:
    """Sound that a file has lost, `at` seconds from its beginning. `reason` is "damaged" or "truncated"."""

    reason: str
    at: float
    detail: str


@dataclass(frozen=True)
class Recording:
    """An open file. `pieces(second)` yields (rate, (samples, channels) float32) from that second on.

    `damage` is what is known to be missing, and grows while pieces are decoded. `seconds` is a count, or else what the
    container says: enough for a progress bar, and None where it says nothing.
    """

    coding: str
    seconds: float | None
    pieces: Callable[[int], Generator[tuple[int, np.ndarray]]]
    damage: list[Damage]

    @property
    def loudest(self) -> float:
        """Floats as they are must be scaled; what a codec makes of a broken frame may be of any height."""
        return LOUDEST if self.coding in ("float", "double") or self.coding.startswith("pcm_f") else math.inf

    def note(self, reason: str, at: float, detail: str) -> None:
        """Add damage, unless that is what is known already."""
        note_new(self.damage, Damage(reason, at, detail))


def note_new(damage: list[Damage], found: Damage, seams: list[float] | None = None) -> None:
    """Add what was `found` to `damage`, unless that is known: as damage, or as a seam, where decoders stumble."""
    if all(abs(found.at - at) > NEAR_SECONDS for at in (*(seams or ()), *(one.at for one in damage))):
        damage.append(found)


def later(pieces: Iterable[tuple[int, np.ndarray]], seconds: float) -> Generator[tuple[int, np.ndarray]]:
    """`pieces` without their first `seconds`."""
    for rate, samples in pieces:
        past = min(round(seconds * rate), len(samples))
        seconds -= past / rate
        if past < len(samples):
            yield rate, samples[past:]


def scaled(samples: np.ndarray) -> np.ndarray:
    """Integers of any size, or floats → float32 on the [-1, 1] scale."""
    floats, half = samples.astype(np.float32), 2 ** (8 * samples.itemsize - 1)
    return floats if samples.dtype.kind == "f" else (floats - (half if samples.dtype.kind == "u" else 0)) / half
