"""Any sound → 16 kHz mono float32, in one place: a clip, a film, hours of either, or what a browser recorded.

Decoding is `containers`'; here types are scaled, channels averaged and rates changed, by soxr.
"""

import math
import sys
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from numbers import Real
from pathlib import Path

import numpy as np
import soxr

from .containers import opened
from .recording import LOUDEST, NEAR_SECONDS, AudioError, Damage, Recording, scaled

SAMPLE_RATE = 16_000  # Hz: what Whisper hears
WINDOW_SECONDS = 30  # the longest stretch that Whisper's encoder takes at once
RATES = (4_000, 384_000)  # Hz: lowest and highest taken
TYPES = ("uint8", "int8", "int16", "int32", "float16", "float32", "float64")
CANCELLED = 0.02  # of the loudest channel's power: with less than that left in their mean, channels cancel each other
LEAST_OFFSET = 5e-4  # of full scale: an offset below is no trouble
SHORTER = 0.25  # seconds by which a clip may be shorter than its release says
RECORDING = "the recording"  # what an error calls samples without a file


@dataclass(frozen=True)
class Received:
    """Sound as it came. `dtype` is the array's, or the coding of a file; `peak` is on the [-1, 1] scale."""

    rate: int  # Hz
    dtype: str
    channels: int
    seconds: float
    peak: float


def from_samples(rate: int, samples: np.ndarray) -> np.ndarray:
    """(rate, samples) as a browser or Gradio gives them → (samples,) float32 at `SAMPLE_RATE` in [-1, 1].

    `samples` is (samples,), (samples, channels) or (channels, samples): the shorter axis is the channels. Integers are
    divided by their type's full scale. Floats lie in [-1, 1] already, or up to 4, and are clipped; a peak beyond is
    refused, for integers held as floats raise every log-mel value (int16: by 2.26) and Whisper does not complain.
    Raises AudioError for that and for any other type, shape or rate, for no samples, NaN and infinity.
    """
    floats = np.clip(_floats(rate, samples), -1, 1)
    return np.clip(np.concatenate([*_resampled(RECORDING, [(rate, floats)])]), -1, 1)


def received(rate: int, samples: np.ndarray) -> Received:
    """What a browser or Gradio gave, for a self-check. Raises AudioError as `from_samples` does."""
    floats = _floats(rate, samples)
    kind = str(np.asarray(samples).dtype)
    return Received(rate, kind, floats.shape[1], len(floats) / rate, _fit(RECORDING, rate, floats))


def read(
    path: str | Path, expected_seconds: float | None = None, start: float = 0, end: float | None = None
) -> np.ndarray:
    """The sound in `path` from `start` to `end` (seconds) as (samples,) float32 at `SAMPLE_RATE`, channels averaged,
    amplitudes in [-1, 1].

    Raises AudioError for a file that is missing, empty, not audio, without sound, damaged, or cut short: by its own
    count, or, since an MP3 without a header does not know its length, against `expected_seconds` (a release's
    `clip_durations.tsv`).
    """
    damage: list[Damage] = []
    samples = np.concatenate([*_sound(path, start, end, damage)])
    if not damage and not start and expected_seconds:
        missing = min(expected_seconds, end or expected_seconds) - samples.size / SAMPLE_RATE
        damage += [Damage("truncated", 0, f"{missing:.1f} s missing")] if missing > SHORTER else []
    if damage:
        raise AudioError(path, damage[0].reason, described(damage[:1]))
    return samples


def blocks(
    path: str | Path,
    start: float = 0,
    end: float | None = None,
    seconds: float = 30,
    damage: list[Damage] | None = None,
) -> Iterator[np.ndarray]:
    """The sound in `path` from `start` to `end` (seconds) as `read` hears it, clipped to [-1, 1], in arrays of
    `seconds` (the last one shorter), in memory that does not grow with the file. `start` is exact to the sample, or to
    the millisecond where the container counts in those (WebM, WMA).

    What is damaged is left out, the rest is given, and `damage` says where. Raises AudioError for what holds no sound
    at all, and "no samples" where the file ends before `start`.
    """
    size, held = round(seconds * SAMPLE_RATE), []
    with closing(_sound(path, start, end, [] if damage is None else damage)) as sound:
        for piece in sound:
            held.append(np.clip(piece, -1, 1))
            if (ready := sum(map(len, held)) // size * size) > 0:
                joined = np.concatenate(held)
                yield from joined[:ready].reshape(-1, size)
                held = [joined[ready:]]
    if any(map(len, held)):
        yield np.concatenate(held)


def described(damage: list[Damage]) -> str:
    """Such as "4,000 bytes that are no sound, at 83.4 s; 0.5 s missing, at 120.0 s"."""
    shown = [f"{one.detail}, at {one.at:.1f} s" for one in damage[:3]]
    return "; ".join([*shown, f"and {len(damage) - 3} more"] if len(damage) > 3 else shown)


def seconds_of(path: str | Path) -> float | None:
    """How long the sound in `path` lasts, without decoding: counted, or by the container's word, for a progress bar;
    None if it does not say."""
    with opened(path) as recording:
        return recording.seconds


def describe(path: str | Path) -> Received:
    """The sound in `path` as it was recorded, as far as it goes; all of it is decoded.

    Raises AudioError as `read` does, but not for what is cut short.
    """
    seconds = peak = 0.0
    with opened(path) as recording:
        for rate, samples in _mended(recording, recording.pieces(0), 0):
            seconds, peak = seconds + len(samples) / rate, max(peak, _fit(path, rate, samples, recording.loudest))
    if not seconds:
        raise AudioError(path, "no samples")
    return Received(rate, recording.coding, samples.shape[1], seconds, peak)


def _floats(rate: int, samples: np.ndarray) -> np.ndarray:
    """Samples as a browser gives them → (samples, channels) float32 on the [-1, 1] scale, fit to be heard."""
    samples = np.asarray(samples)
    if samples.dtype.name not in TYPES:
        raise AudioError(RECORDING, "wrong type", f"{samples.dtype}; taken are {', '.join(TYPES)}")
    if samples.ndim not in (1, 2):
        raise AudioError(RECORDING, "wrong shape", f"{samples.shape}; taken are samples, and samples by channels")
    if samples.size == 0:
        raise AudioError(RECORDING, "no samples")
    samples = samples[:, None] if samples.ndim == 1 else samples if len(samples) >= samples.shape[1] else samples.T
    floats = scaled(samples)
    if _fit(RECORDING, rate, floats) > 1 and (floats == np.rint(floats)).all():
        raise AudioError(RECORDING, "not scaled", "whole numbers held as floats; divide them by full scale first")
    return floats


def _fit(what, rate: int, samples: np.ndarray, loudest: float = LOUDEST) -> float:
    """The peak of float samples at `rate` Hz. Raises AudioError, naming `what`, for what cannot be sound."""
    if not (isinstance(rate, Real) and RATES[0] <= rate <= RATES[1]):
        raise AudioError(what, "wrong rate", f"{rate!r}; taken are {RATES[0]:,} to {RATES[1]:,} Hz")
    peak = float(np.maximum(samples.max(), -samples.min()))
    if not np.isfinite(peak):
        raise AudioError(what, "not audio", "samples that are not numbers")
    if peak > loudest:
        raise AudioError(what, "not scaled", f"a peak of {peak:g}; divide by full scale first, so that it is at most 1")
    return peak


def _resampled(what, pieces: Iterable[tuple[int, np.ndarray]], loudest: float = LOUDEST) -> Iterator[np.ndarray]:
    """Pieces of (rate, (samples, channels) float32) → pieces of (samples,) float32 at `SAMPLE_RATE`.

    The one place where channels and rates are converted. The pieces join as if they had been resampled at once.
    """
    # A piece is held back until the next has come: the last one ends a stream.
    mono, rate, stream, offset = None, None, None, 0.0
    for following, samples in _by_the_second(pieces):
        _fit(what, following, samples, loudest)
        if mono is not None:
            stream = stream or soxr.ResampleStream(rate, SAMPLE_RATE, 1)
            yield stream.resample_chunk(mono, last=following != rate)
            stream = stream if following == rate else None
        mono, rate = _one_channel(samples), following
        offset = _offset(mono, offset)
        mono = mono - offset if offset else mono
    if stream:
        yield stream.resample_chunk(mono, last=True)
    elif mono is not None:
        yield soxr.resample(mono, rate, SAMPLE_RATE)  # the same samples, in a sixth less time


def _mended(recording: Recording, pieces, begin: float) -> Iterator[tuple[int, np.ndarray]]:
    """Pieces without the samples that a damaged file of floats has where its bytes were overwritten: no numbers, or
    enormous ones. Where most samples are such from the beginning, the file is not damaged, but holds something else."""
    if recording.loudest == math.inf:  # no floats
        yield from pieces
        return
    clock, sound = begin, False
    for rate, samples in pieces:
        if not (samples.max(initial=0) <= recording.loudest and -samples.min(initial=0) <= recording.loudest):
            bad = ~(np.abs(samples) <= recording.loudest)
            if sound or bad.mean() < 0.5:
                at = clock + bad.any(axis=1).argmax() / rate
                recording.note("damaged", at, f"{bad.sum():,} samples are no sound")
                samples = np.where(bad, np.float32(0), samples)
        clock, sound = clock + len(samples) / rate, True
        yield rate, samples


def _by_the_second(pieces: Iterable[tuple[int, np.ndarray]]) -> Iterator[tuple[int, np.ndarray]]:
    """Pieces of at least a second, but for the last of a rate: what is less says little of offset and channels."""
    held, rate = [], 0
    for following, samples in pieces:
        if held and (following, samples.shape[1]) != (rate, held[0].shape[1]):
            yield rate, np.concatenate(held)
            held = []
        held, rate = [*held, samples], following
        if sum(map(len, held)) >= rate:
            yield rate, held[0] if len(held) == 1 else np.concatenate(held)
            held = []
    if held:
        yield rate, held[0] if len(held) == 1 else np.concatenate(held)


def _one_channel(samples: np.ndarray) -> np.ndarray:
    """(samples, channels) → their mean, or the loudest where the channels cancel each other, as in opposite phase."""
    if samples.shape[1] == 1:
        return samples[:, 0]
    mean = samples.mean(axis=1)
    powers = np.einsum("sc,sc->c", samples, samples)
    loudest = int(powers.argmax())
    return mean if mean @ mean >= CANCELLED * powers[loudest] else samples[:, loudest]


def _offset(mono: np.ndarray, before: float) -> float:
    """What is to be taken off a piece: a constant that a microphone adds and nobody hears, but which hides speech from
    whatever listens for it. `before` is that of the piece before."""
    found = float(mono.mean()) if mono.size else 0.0
    far = abs(found - before)
    return found if far > LEAST_OFFSET and far**2 > (mono @ mono / mono.size - found**2) / 4 else before


def _sound(path, start: float, end: float | None, damage: list[Damage]) -> Generator:
    """The sound in `path` from `start` to `end` (seconds) as (samples,) float32 at `SAMPLE_RATE`, in pieces; what is
    missing of it is added to `damage`."""
    begin = max(0, int(start) - 1)  # a whole second is a sample at any rate; one before, so that codecs have settled
    first, last = round(start * SAMPLE_RATE), sys.maxsize if end is None else round(end * SAMPLE_RATE)
    heard, given = begin * SAMPLE_RATE, False
    with opened(path) as recording, closing(recording.pieces(begin)) as pieces:
        for piece in _resampled(path, _mended(recording, pieces, begin), recording.loudest):
            part = piece[max(0, first - heard) : max(0, last - heard)]
            heard += piece.size
            if part.size:
                given = True
                yield part
            if heard >= last:
                break
        damage += [one for one in recording.damage if start <= one.at + NEAR_SECONDS and one.at < last / SAMPLE_RATE]
    if not given:
        raise AudioError(path, "no samples", f"from {start:g} s on" if start else "")
