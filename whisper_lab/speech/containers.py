"""Files of sound as the libraries that decode them see them. libsndfile decodes what was counted and found whole (MP3,
FLAC, Ogg, WAV), quicker; FFmpeg's libraries decode everything else, and go on where libsndfile stumbles. Both come
inside wheels (soundfile, av): no FFmpeg to install."""

import io
import math
import os
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import soundfile

from .. import LabError
from .framing import LEAST, Damage, Framing, survey

LOUDEST = 4  # times full scale: filters overshoot a little; beyond, floats hold integers that nobody scaled
PIECE = 1 << 18  # samples, over all channels, that are decoded at once
JITTER_SECONDS = 0.1  # by which a container's timestamps may stray
LONGEST_GAP_SECONDS = 3_600  # of all gaps together: more is a broken clock
NEAR_SECONDS = 0.5  # damage that is found twice, by its bytes and by the decoder, is one
EXACT = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "asf", "flv")  # containers whose timestamps hold after a seek
TRIES = 100  # in a row
TABLED = EXACT[0]  # the container that lists every packet, so that its length is a count
MPG123 = (b"[src/libmpg123", b"Note: ", b"Warning: ", b"\n")  # how the lines begin that libmpg123 writes to stderr


class AudioError(LabError):
    """Sound that cannot be decoded. `reason` is a few words, for counting."""

    def __init__(self, path, reason: str, detail: str = ""):
        super().__init__(f"{path}: {reason}" + (f" ({detail})" if detail else ""))
        self.reason, self.detail = reason, detail


def scaled(samples: np.ndarray) -> np.ndarray:
    """Integers of any size, or floats → float32 on the [-1, 1] scale."""
    floats, half = samples.astype(np.float32), 2 ** (8 * samples.itemsize - 1)
    return floats if samples.dtype.kind == "f" else (floats - (half if samples.dtype.kind == "u" else 0)) / half


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
        _note(self.damage, [], Damage(reason, at, detail))


def _note(damage: list[Damage], seams: list[float], found: Damage) -> None:
    if all(abs(found.at - at) > NEAR_SECONDS for at in (*seams, *(one.at for one in damage))):
        damage.append(found)


@contextmanager
def opened(path: str | Path) -> Iterator[Recording]:
    """The file at `path`, by its content, whatever it is called. Raises AudioError where there is no sound in it."""
    if not os.path.exists(path):
        raise AudioError(path, "missing file")
    if not os.path.isfile(path):
        raise AudioError(path, "not a file")
    if os.path.getsize(path) == 0:
        raise AudioError(path, "empty file")
    try:
        with open(path, "rb") as file:
            found = survey(file)
    except OSError as error:
        raise AudioError(path, "cannot be opened", error.strerror) from error
    with ExitStack() as stack:
        yield _by_what_fits(path, found, stack)


def _by_what_fits(path, found: Framing, stack: ExitStack) -> Recording:
    """By libsndfile where the count and its own agree, otherwise by FFmpeg, and by libsndfile where that knows nothing."""
    file = _sndfile(path, found) if found.plain else None
    if not file or file.frames < found.seconds * file.samplerate - 1:
        try:
            return stack.enter_context(_opened_by_ffmpeg(path, found))
        except AudioError as error:
            file = _sndfile(path, found) if error.reason == "not audio" else None
            if not (file and file.frames and file.seekable()) or file.format == "MP3":
                raise
            found = Framing(file.samplerate, file.frames / file.samplerate)
    stack.enter_context(file)
    damage: list[Damage] = []
    return Recording(file.subtype.lower(), found.seconds, partial(_by_libsndfile, path, file, found, damage), damage)


def _sndfile(path, found: Framing) -> soundfile.SoundFile | None:
    """The file as libsndfile opens it, if it does."""
    with suppress(soundfile.SoundFileError, RuntimeError, TypeError), _libmpg123_quiet():  # TypeError: called *.raw
        return soundfile.SoundFile(os.fsencode(path))  # bytes: a name may be in no encoding
    return None


def _by_libsndfile(path, file, found: Framing, damage: list[Damage], begin: int) -> Generator[tuple[int, np.ndarray]]:
    """Until the decoder ends, or stumbles: FFmpeg decodes what is left, and says what is damaged."""
    # An MP3 frame leans on those before it; libmpg123 seeks without them, to 0.1 s of noise and a line on stderr. So it
    # decodes what is before, and soundfile, which seeks after each read unless the file cannot, is told that it cannot.
    file.seekable = lambda: False
    rate, mpeg = file.samplerate, file.subtype.startswith("MPEG")
    given, wanted = min(begin * rate, file.frames), file.frames
    with suppress(soundfile.SoundFileError, _Stumbled):
        if begin and not mpeg:
            file.seek(given)
        for before in range(0, given if mpeg else 0, rate):
            _decoded(file, min(rate, given - before), mpeg)
        while given < wanted and len(samples := _decoded(file, min(wanted - given, PIECE // file.channels), mpeg)):
            given += len(samples)
            yield rate, samples
        if given >= found.seconds * rate - 1:
            return
    with _opened_by_ffmpeg(path, found) as other:
        before, skipped = given // rate, given % rate
        for rate, samples in other.pieces(before):
            if len(samples) > skipped:
                yield rate, samples[skipped:]
            skipped = max(0, skipped - len(samples))
            damage[:] = other.damage
        damage[:] = other.damage


class _Stumbled(Exception):
    """libmpg123 went on, but not without a word."""


def _decoded(file: soundfile.SoundFile, count: int, mpeg: bool) -> np.ndarray:
    """The next `count` samples, or fewer at the end, as (samples, channels). Raises _Stumbled."""
    if not mpeg:
        return file.read(count, dtype="float32", always_2d=True)
    with _libmpg123_quiet() as said:
        samples = file.read(count, dtype="float32", always_2d=True)
    if said:
        raise _Stumbled
    return samples


@cache
def _stderr_meanwhile():
    return threading.Lock(), tempfile.TemporaryFile()


@contextmanager
def _libmpg123_quiet() -> Iterator[list[bytes]]:
    """A list that holds, at the end, what libmpg123 would have written to stderr. Through libsndfile it cannot be told
    not to; what others write there meanwhile is passed on."""
    lock, caught = _stderr_meanwhile()
    said: list[bytes] = []
    with lock:
        try:
            kept = os.dup(2)
        except OSError:  # there is no stderr
            yield said
            return
        try:
            os.dup2(caught.fileno(), 2)
            yield said
        finally:
            os.dup2(kept, 2)
            if caught.tell() or caught.seek(0, os.SEEK_END):
                caught.seek(0)
                for line in caught.read().splitlines(keepends=True):
                    said.append(line) if line.startswith(MPG123) else os.write(2, line)
                caught.seek(0)
                caught.truncate()
            os.close(kept)


class _File(io.FileIO):
    """The bytes of a file from `begin` to `end`. FFmpeg may be sent anywhere by a damaged header, without an error."""

    def __init__(self, path: str | Path, begin: int = 0, end: int | None = None):
        super().__init__(path)
        self.begin, self.end = begin, os.path.getsize(path) if end is None else end
        self.seek(0)

    def read(self, size: int = -1) -> bytes:
        left = max(0, self.end - super().tell())
        return super().read(left if size < 0 else min(size, left))

    def tell(self) -> int:
        return super().tell() - self.begin

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        to = offset + (self.begin, super().tell(), self.end)[whence]
        try:
            return super().seek(to) - self.begin if to >= self.begin else -1
        except (OSError, OverflowError):
            return -1


@contextmanager
def _opened_by_ffmpeg(path: str | Path, found: Framing, begin: int = 0, end: int | None = None) -> Iterator[Recording]:
    """The file as FFmpeg opens it; of a chained Ogg, whose streams may differ, one from byte `begin` to `end`."""
    import av

    with _File(path, begin, end) as file:
        headless = file.read(8)[4:] == b"ftyp"  # an MP4's table of contents is often at its end
        file.seek(0)
        file.name = ""  # FFmpeg goes by the content: by name, a text called *.g722 would be a minute of noise
        # A playlist may name other files and addresses: an open file does not keep FFmpeg from them, this does.
        options = {"protocol_whitelist": "none"} | ({"ignore_length": "1"} if found.unclosed else {})
        try:
            container = av.open(file, metadata_errors="ignore", container_options=options)
        except av.FFmpegError as error:
            raise AudioError(path, "truncated" if headless else "not audio", error.strerror) from error
        with container:
            stream = _track(path, container)
            for other in container.streams:
                if other is not stream:
                    other.discard = av.stream.Discard.all
            if stream.codec_context.name == "flac":  # a frame whose checksum is wrong is noise
                stream.codec_context.options = {"err_detect": "crccheck+explode"}
            damage = list(found.damage)
            pieces = partial(_by_ffmpeg, container, stream, found, damage)
            if found.links and end is None:
                pieces = partial(_link_by_link, path, found, damage)
            yield Recording(stream.codec_context.name, found.seconds or _length(container, stream), pieces, damage)


def _link_by_link(path, found: Framing, damage: list[Damage], begin: int) -> Generator:
    """Each stream of a chained Ogg by itself: FFmpeg gives up where the next one has another number of channels."""
    links = [(0, 0.0), *found.links]
    ends = [*(at for at, _ in found.links), os.path.getsize(path)]
    skip = float(begin)
    for (first, seconds), last in zip(links, ends):
        with _opened_by_ffmpeg(path, Framing(seconds=None), first, last) as one:
            for rate, samples in one.pieces(0):
                past = min(round(skip * rate), len(samples))
                skip -= past / rate
                if past < len(samples):
                    yield rate, samples[past:]
            for lost in one.damage:
                _note(damage, found.seams, replace(lost, at=seconds + lost.at))


def _track(path, container):
    """The stream that FFmpeg takes for the best, or the first that can be decoded."""
    best = container.streams.best("audio")
    decodable = [stream for stream in (best, *container.streams.audio) if stream and stream.codec_context]
    if not decodable:
        kinds = sorted({stream.type for stream in container.streams})
        reason = "unknown coding" if "audio" in kinds else "no sound in it"
        raise AudioError(path, reason, f"streams: {', '.join(kinds) or 'none'}")
    return decodable[0]


def _length(container, stream) -> float | None:
    """Seconds by the container's word."""
    if container.start_time is None and container.format.name not in ("wav", "w64"):
        return None  # raw AAC: FFmpeg guesses from the bit rate of the beginning, where silence costs little
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    return None if container.duration is None else container.duration / 1_000_000


def _by_ffmpeg(container, stream, found: Framing, damage: list[Damage], begin: int, seek=True) -> Generator:
    """Each frame in its place by its timestamp, so that times are those a player shows; gaps become silence."""
    import av

    zero = (container.start_time or 0) / av.time_base
    if begin and seek and container.format.name in EXACT:
        with suppress(av.FFmpegError):  # a second early: some codecs give nothing for the first packets
            container.seek(int((begin - 1 + zero) / stream.time_base), stream=stream)
    elif begin:
        before = float(begin)
        for rate, samples in _by_ffmpeg(container, stream, found, damage, 0):
            skip = min(round(before * rate), len(samples))
            before -= skip / rate
            if skip < len(samples):
                yield rate, samples[skip:]
        return
    clock, first, leading, silent = float(begin), True, 0, 0.0

    def note(reason: str, detail: str) -> None:
        if not (first and begin):  # after a seek, the first packets may lean on what was not decoded
            _note(damage, found.seams, Damage(reason, clock, detail))

    for frame in _frames(container, stream):
        if frame is None:
            leading += first
            if leading != 1:  # one packet of something else before the first frame is no sound
                note("damaged", "cannot be decoded")
            continue
        samples, rate = scaled(_samples(frame)), frame.sample_rate
        late = frame.time - zero - clock if frame.time is not None else 0.0
        if first and begin and late > 0:  # sought too far
            container.seek(0)
            yield from _by_ffmpeg(container, stream, found, damage, begin, seek=False)
            return
        if first and late < 0:
            samples = samples[round(-late * rate) :]
        elif first and late < JITTER_SECONDS and len(container.streams) == 1:
            zero += late  # a codec's delay, and no picture that the sound would have to wait for
        elif (0 if first else JITTER_SECONDS) < late <= LONGEST_GAP_SECONDS - silent:
            if not first:
                note("damaged", f"no sound for {late:.2f} s")
            silence = round(late * rate)
            for at in range(0, silence, rate):
                yield rate, np.zeros((min(rate, silence - at), samples.shape[1]), np.float32)
            clock, silent = clock + late, silent + late
        elif abs(late) > JITTER_SECONDS:
            zero += late
        if len(samples):
            yield rate, samples
            clock, first = clock + len(samples) / rate, False
    length = _length(container, stream) if container.format.name == TABLED else None
    if found.missing or length and length - clock > 1:
        lost = f"{length - clock:.1f} s" if length and length > clock else f"{found.missing:,} bytes"
        damage[:] = [one for one in damage if clock - one.at > NEAR_SECONDS]  # the last packet, which is half a one
        note("truncated", f"{lost} missing")
    elif found.seconds and not damage and found.seconds - clock > LEAST:
        note("damaged", f"{found.seconds - clock:.2f} s missing")
    if found.behind:
        damage.append(Damage("damaged", clock, f"{found.behind:,} bytes behind its end are not decoded"))


def _frames(container, stream) -> Iterator:
    """Decoded frames, None for what FFmpeg cannot decode, up to where it cannot read on, as FFmpeg does."""
    import av

    tries = 0
    while tries < TRIES:
        try:
            for packet in container.demux(stream):
                tries = 0
                try:
                    yield from packet.decode()
                except av.FFmpegError:
                    yield None
            return
        except av.BlockingIOError:  # "try again": a broken MPEG-TS whose next packet has not been found yet
            tries += 1
        except (av.InvalidDataError, IndexError):  # IndexError: PyAV's, at the end, of a stream that began on the way
            return
        except av.FFmpegError:
            yield None
            return


def _samples(frame) -> np.ndarray:
    """(samples, channels) of the type that the codec has; PyAV's own conversion ends the process at eight channels."""
    from av.audio.plane import AudioPlane

    channels = frame.layout.nb_channels
    planes = channels if frame.format.is_planar else 1
    kind = {"u": "u", "s": "i"}.get(frame.format.name[0], "f") + str(frame.format.bytes)
    count = frame.samples * channels // planes
    sides = [np.frombuffer(AudioPlane(frame, plane), kind, count) for plane in range(planes)]
    return np.stack(sides, axis=1).reshape(-1, channels)
