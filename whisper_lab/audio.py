"""Any sound → 16 kHz mono float32, in one place: a clip, a film, hours of either, or what a browser recorded.

libsndfile decodes what it knows (MP3, FLAC, Ogg, WAV), FFmpeg's libraries the rest (M4A, WebM, MP4, WMA, AMR, …), soxr
resamples: all come inside wheels (soundfile, av, soxr), so no FFmpeg has to be installed.
"""

import math
import os
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from numbers import Real
from pathlib import Path

import numpy as np
import soundfile
import soxr

from . import LabError

SAMPLE_RATE = 16_000  # Hz: what Whisper hears
WINDOW_SECONDS = 30  # the longest stretch that Whisper's encoder takes at once
RATES = (4_000, 384_000)  # Hz: lowest and highest taken
TYPES = ("uint8", "int8", "int16", "int32", "float16", "float32", "float64")
LOUDEST = 4  # times full scale: filters overshoot a little; beyond, floats hold integers that nobody scaled
PIECE = 1 << 18  # samples, over all channels, that are decoded at once
JITTER_SECONDS = 0.1  # by which a container's timestamps may stray
LONGEST_GAP_SECONDS = 3_600  # a longer one is a broken clock
EXACT = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "asf", "flv")  # containers whose timestamps hold after a seek
RECORDING = "the recording"  # what an error calls samples without a file


class AudioError(LabError):
    """Sound that cannot be read. `reason` is a few words, for counting."""

    def __init__(self, path, reason: str, detail: str = ""):
        super().__init__(f"{path}: {reason}" + (f" ({detail})" if detail else ""))
        self.reason, self.detail = reason, detail


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


def read(path: str | Path, expected_seconds: float | None = None) -> np.ndarray:
    """The sound in `path` as (samples,) float32 at `SAMPLE_RATE`, channels averaged, amplitudes in [-1, 1].

    Raises AudioError for a file that is missing, empty, not audio, without sound, or cut short: by its own header, or,
    since an MP3 without one does not know its length, against `expected_seconds` (a release's `clip_durations.tsv`).
    """
    return np.concatenate([*_sound(path, expected_seconds=expected_seconds)])


def blocks(path: str | Path, start: float = 0, end: float | None = None, seconds: float = 30) -> Iterator[np.ndarray]:
    """The sound in `path` from `start` to `end` (seconds) as `read` hears it, clipped to [-1, 1], in arrays of
    `seconds` (the last one shorter), in memory that does not grow with the file.

    Raises AudioError as `read` does, on the way, and "no samples" where the file ends before `start`.
    """
    size, held = round(seconds * SAMPLE_RATE), []
    with closing(_sound(path, start, end)) as sound:
        for piece in sound:
            held.append(np.clip(piece, -1, 1))
            if (ready := sum(map(len, held)) // size * size) > 0:
                joined = np.concatenate(held)
                yield from joined[:ready].reshape(-1, size)
                held = [joined[ready:]]
    if any(map(len, held)):
        yield np.concatenate(held)


def seconds_of(path: str | Path) -> float | None:
    """How long the sound in `path` lasts by its header, without decoding; None if the container does not say."""
    with _opened(path) as recording:
        return recording.seconds


def describe(path: str | Path) -> Received:
    """The sound in `path` as it was recorded; all of it is decoded. Raises AudioError, not for a cut one."""
    seconds = peak = 0.0
    with _opened(path) as recording:
        for rate, samples in recording.pieces(0):
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
    floats = _scaled(samples)
    if _fit(RECORDING, rate, floats) > 1 and (floats == np.rint(floats)).all():
        raise AudioError(RECORDING, "not scaled", "whole numbers held as floats; divide them by full scale first")
    return floats


def _scaled(samples: np.ndarray) -> np.ndarray:
    """Integers of any size, or floats → float32 on the [-1, 1] scale."""
    floats, half = samples.astype(np.float32), 2 ** (8 * samples.itemsize - 1)
    return floats if samples.dtype.kind == "f" else (floats - (half if samples.dtype.kind == "u" else 0)) / half


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
    last, stream = None, None
    for rate, samples in pieces:
        _fit(what, rate, samples, loudest)
        if rate != last:
            if stream:
                yield stream.resample_chunk(np.zeros(0, np.float32), last=True)
            last, stream = rate, soxr.ResampleStream(rate, SAMPLE_RATE, 1) if rate != SAMPLE_RATE else None
        mono = samples.mean(axis=1) if samples.shape[1] > 1 else samples[:, 0]
        yield stream.resample_chunk(mono) if stream else mono
    if stream:
        yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


def _sound(path, start: float = 0, end: float | None = None, expected_seconds: float | None = None) -> Generator:
    """The sound in `path` from `start` to `end` (seconds) as (samples,) float32 at `SAMPLE_RATE`, in pieces."""
    begin = max(0, int(start) - 1)  # a whole second is a sample at any rate; one before, so that codecs have settled
    first, last = round(start * SAMPLE_RATE), sys.maxsize if end is None else round(end * SAMPLE_RATE)
    heard, given = begin * SAMPLE_RATE, False
    with _opened(path) as recording, closing(recording.pieces(begin)) as pieces:
        for piece in _resampled(path, pieces, recording.loudest):
            part = piece[max(0, first - heard) : max(0, last - heard)]
            heard += piece.size
            if part.size:
                given = True
                yield part
            if heard >= last:
                break
    if not given:
        raise AudioError(path, "no samples", f"from {start:g} s on" if start else "")
    missing = min(max(recording.seconds or 0, expected_seconds or 0), last / SAMPLE_RATE) - heard / SAMPLE_RATE
    if missing > recording.slack:
        raise AudioError(path, "truncated", f"{missing:.1f} s missing")


@dataclass(frozen=True)
class _Recording:
    """An open file. `pieces(second)` yields (rate, (samples, channels) float32) from that second on."""

    coding: str
    seconds: float | None  # by the header
    slack: float  # seconds by which an unharmed file may be shorter
    pieces: Callable[[int], Generator[tuple[int, np.ndarray]]]

    @property
    def loudest(self) -> float:
        """Floats as they are must be scaled; what a codec makes of a broken frame may be of any height."""
        return LOUDEST if self.coding in ("float", "double") or self.coding.startswith("pcm_f") else math.inf


@contextmanager
def _opened(path: str | Path) -> Iterator[_Recording]:
    if not os.path.exists(path):
        raise AudioError(path, "missing file")
    if not os.path.isfile(path):
        raise AudioError(path, "not a file")
    if os.path.getsize(path) == 0:
        raise AudioError(path, "empty file")
    try:
        file = soundfile.SoundFile(path)
    except (soundfile.SoundFileError, RuntimeError, TypeError):  # TypeError: it is called *.raw
        file = None
    with file or nullcontext():
        if file is None or not file.seekable():  # GSM and G.72x as telephone systems write them: soundfile cannot
            with _opened_by_ffmpeg(path) as recording:
                yield recording
            return
        try:
            yield _Recording(file.subtype.lower(), file.frames / file.samplerate, 0.25, partial(_by_libsndfile, file))
        except soundfile.SoundFileError as error:
            raise AudioError(path, "not audio", str(error).rsplit(": ", 1)[-1]) from error


def _by_libsndfile(file: soundfile.SoundFile, begin: int) -> Generator[tuple[int, np.ndarray]]:
    # An MP3 frame leans on those before it; libmpg123 seeks without them, to 0.1 s of noise and a line on stderr. So it
    # reads what is before, and soundfile, which seeks after each read unless the file cannot, is told that it cannot.
    file.seekable = lambda: False
    rate, left = file.samplerate, file.frames - begin * file.samplerate
    if left > 0 and begin and not file.subtype.startswith("MPEG"):
        file.seek(begin * rate)
    elif left > 0:
        for _ in range(begin):
            file.read(rate)
    while left > 0 and len(samples := file.read(min(left, PIECE // file.channels), dtype="float32", always_2d=True)):
        left -= len(samples)
        yield rate, samples


@contextmanager
def _opened_by_ffmpeg(path: str | Path) -> Iterator[_Recording]:
    import av

    try:
        file = open(path, "rb", buffering=0)  # noqa: SIM115
    except OSError as error:
        raise AudioError(path, "cannot be read", error.strerror) from error
    with file:
        headless = file.read(8)[4:] == b"ftyp"  # an MP4's table of contents is often at its end
        file.seek(0)
        file.name = ""  # FFmpeg goes by the content: by name, a text called *.g722 would be a minute of noise
        # A playlist may name other files and addresses: an open file does not keep FFmpeg from them, this does.
        alone = {"protocol_whitelist": "none"}
        try:
            with av.open(file, metadata_errors="ignore", container_options=alone) as container:
                stream = container.streams.best("audio")
                if stream is None or stream.codec_context is None:
                    kinds = {other.type for other in container.streams}
                    reason = "unknown coding" if "audio" in kinds else "no sound in it"
                    raise AudioError(path, reason, f"streams: {', '.join(sorted(kinds)) or 'none'}")
                for other in container.streams:
                    if other is not stream:
                        other.discard = av.stream.Discard.all
                pieces = partial(_by_ffmpeg, container, stream)
                yield _Recording(stream.codec_context.name, *_length(container, stream), pieces)
        except (av.FFmpegError, OSError) as error:  # OSError: sent to before the beginning of the file
            raise AudioError(path, "truncated" if headless else "not audio", error.strerror) from error


def _length(container, stream) -> tuple[float | None, float]:
    """Seconds by the header, and by how many an unharmed file may be shorter."""
    if container.start_time is None and container.format.name not in ("wav", "w64"):
        return None, 0.25  # raw AAC: FFmpeg guesses from the bit rate of the beginning, where silence costs little
    if stream.duration is not None:
        return float(stream.duration * stream.time_base), 1.0
    if container.duration is None:
        return None, 0.25
    return container.duration / 1_000_000, (1.0 if len(container.streams) == 1 else math.inf)


def _by_ffmpeg(container, stream, begin: int, seek: bool = True) -> Generator[tuple[int, np.ndarray]]:
    """Each frame in its place by its timestamp, so that times are those a player shows; gaps become silence."""
    import av

    zero = (container.start_time or 0) / av.time_base
    if begin and seek and container.format.name in EXACT:
        with suppress(av.FFmpegError):  # a second early: some codecs give nothing for the first packets
            container.seek(int((begin - 1 + zero) / stream.time_base), stream=stream)
    elif begin:
        before = float(begin)
        for rate, samples in _by_ffmpeg(container, stream, 0):
            skip = min(round(before * rate), len(samples))
            before -= skip / rate
            if skip < len(samples):
                yield rate, samples[skip:]
        return
    clock, first = float(begin), True
    for frame in _frames(container, stream):
        samples, rate = _scaled(_samples(frame)), frame.sample_rate
        late = frame.time - zero - clock if frame.time is not None else 0.0
        if first and begin and late > 0:  # sought too far
            container.seek(0)
            yield from _by_ffmpeg(container, stream, begin, seek=False)
            return
        if first and late < 0:
            samples = samples[round(-late * rate) :]
        elif (0 if first else JITTER_SECONDS) < late <= LONGEST_GAP_SECONDS:
            silence = round(late * rate)
            for at in range(0, silence, rate):
                yield rate, np.zeros((min(rate, silence - at), samples.shape[1]), np.float32)
            clock += late
        elif abs(late) > JITTER_SECONDS:
            zero += late
        if len(samples):
            yield rate, samples
            clock, first = clock + len(samples) / rate, False


def _frames(container, stream) -> Iterator:
    """Decoded frames, without those that FFmpeg cannot decode, up to where it cannot read on, as FFmpeg does."""
    import av

    with suppress(av.FFmpegError, IndexError):  # IndexError: PyAV's, at the end, of a stream that began on the way
        for packet in container.demux(stream):
            with suppress(av.FFmpegError):
                yield from packet.decode()


def _samples(frame) -> np.ndarray:
    """(samples, channels) of the type that the codec has; PyAV's own conversion ends the process at eight channels."""
    from av.audio.plane import AudioPlane

    channels = frame.layout.nb_channels
    planes = channels if frame.format.is_planar else 1
    kind = {"u": "u", "s": "i"}.get(frame.format.name[0], "f") + str(frame.format.bytes)
    count = frame.samples * channels // planes
    sides = [np.frombuffer(AudioPlane(frame, plane), kind, count) for plane in range(planes)]
    return np.stack(sides, axis=1).reshape(-1, channels)
