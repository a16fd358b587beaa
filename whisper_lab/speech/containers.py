"""Files of sound as the libraries that decode them see them: libsndfile what it knows (MP3, FLAC, Ogg, WAV), FFmpeg's
libraries the rest (M4A, WebM, MP4, WMA, AMR, …). Both come inside wheels (soundfile, av): no FFmpeg to install."""

import math
import os
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import soundfile

from .. import LabError

LOUDEST = 4  # times full scale: filters overshoot a little; beyond, floats hold integers that nobody scaled
PIECE = 1 << 18  # samples, over all channels, that are decoded at once
JITTER_SECONDS = 0.1  # by which a container's timestamps may stray
LONGEST_GAP_SECONDS = 3_600  # a longer one is a broken clock
EXACT = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "asf", "flv")  # containers whose timestamps hold after a seek


class AudioError(LabError):
    """Sound that cannot be read. `reason` is a few words, for counting."""

    def __init__(self, path, reason: str, detail: str = ""):
        super().__init__(f"{path}: {reason}" + (f" ({detail})" if detail else ""))
        self.reason, self.detail = reason, detail


def scaled(samples: np.ndarray) -> np.ndarray:
    """Integers of any size, or floats → float32 on the [-1, 1] scale."""
    floats, half = samples.astype(np.float32), 2 ** (8 * samples.itemsize - 1)
    return floats if samples.dtype.kind == "f" else (floats - (half if samples.dtype.kind == "u" else 0)) / half


@dataclass(frozen=True)
class Recording:
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
def opened(path: str | Path) -> Iterator[Recording]:
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
            yield Recording(file.subtype.lower(), file.frames / file.samplerate, 0.25, partial(_by_libsndfile, file))
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
def _opened_by_ffmpeg(path: str | Path) -> Iterator[Recording]:
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
                yield Recording(stream.codec_context.name, *_length(container, stream), pieces)
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
        samples, rate = scaled(_samples(frame)), frame.sample_rate
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
