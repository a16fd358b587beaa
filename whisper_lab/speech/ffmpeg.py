"""Files as FFmpeg's libraries decode them, which come inside the wheel of `av`: whatever is whole, each frame in its
place, and a note of what is not."""

import io
import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from .framing import LEAST, Framing
from .recording import NEAR_SECONDS, AudioError, Damage, Recording, later, note_new, scaled

JITTER_SECONDS = 0.1  # by which a container's timestamps may stray
LONGEST_GAP_SECONDS = 3_600  # of all gaps together: more is a broken clock
EXACT = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "asf", "flv")  # containers whose timestamps hold after a seek
TABLED = EXACT[0]  # the container that lists every packet, so that its length is a count
TRIES = 100  # in a row
ATTACHED = 1024  # FFmpeg's AV_DISPOSITION_ATTACHED_PIC: a cover, as a stream of one picture


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
def _opened(path: str | Path, found: Framing, begin: int = 0, end: int | None = None):
    """The file's container as FFmpeg opens it. Raises AudioError where it knows none."""
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
            yield container


def codings(path: str | Path, found: Framing) -> tuple[str, set[str], set[str]]:
    """The file's container, and the codings of its sound and of its pictures, by FFmpeg's names; "" is one that it does
    not know. A cover is no picture. Raises AudioError as `opened_by_ffmpeg` does."""
    with _opened(path, found) as container:
        _track(path, container)
        streams = [one for one in container.streams if not one.disposition & ATTACHED]
        sound, pictures = (
            {one.codec_context.codec.canonical_name if one.codec_context else "" for one in streams if one.type == kind}
            for kind in ("audio", "video")
        )
        return container.format.name, sound, pictures


@contextmanager
def opened_by_ffmpeg(
    path: str | Path, found: Framing, damage: list[Damage] | None = None, begin: int = 0, end: int | None = None
) -> Iterator[Recording]:
    """The file as FFmpeg opens it; of a chained Ogg, whose streams may differ, one from byte `begin` to `end`.

    What is damaged is added to the list `damage`, or to a new one.
    """
    import av

    with _opened(path, found, begin, end) as container:
        stream = _track(path, container)
        for other in container.streams:
            if other is not stream:
                other.discard = av.stream.Discard.all
        if stream.codec_context.name == "flac":  # a frame whose checksum is wrong is noise
            stream.codec_context.options = {"err_detect": "crccheck+explode"}
        damage = [] if damage is None else damage
        damage += found.damage
        pieces = partial(_by_ffmpeg, container, stream, found, damage)
        if found.links and end is None:
            pieces = lambda begin: later(_link_by_link(path, found, damage), begin)  # noqa: E731
        yield Recording(stream.codec_context.name, found.seconds or _length(container, stream), pieces, damage)


def _link_by_link(path, found: Framing, damage: list[Damage]) -> Generator:
    """Each stream of a chained Ogg by itself: FFmpeg gives up where the next one has another number of channels."""
    links = [(0, 0.0), *found.links]
    ends = [*(at for at, _ in found.links), os.path.getsize(path)]
    for (first, seconds), last in zip(links, ends):
        with opened_by_ffmpeg(path, Framing(seconds=None), begin=first, end=last) as one:
            yield from one.pieces(0)
            for lost in one.damage:
                note_new(damage, replace(lost, at=seconds + lost.at), found.seams)


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
        yield from later(_by_ffmpeg(container, stream, found, damage, 0), begin)
        return
    clock, first, leading, silent = float(begin), True, 0, 0.0
    pictured = any(one.type == "video" and not one.disposition & ATTACHED for one in container.streams)

    def note(reason: str, detail: str) -> None:
        if not (first and begin):  # after a seek, the first packets may lean on what was not decoded
            note_new(damage, Damage(reason, clock, detail), found.seams)

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
        elif first and late < JITTER_SECONDS and not pictured:
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
    elif found.seconds and not damage and found.seconds - clock > LEAST * (1 + len(found.seams)):
        note("damaged", f"{found.seconds - clock:.2f} s missing")
    if found.behind:
        damage.append(Damage("damaged", clock, f"{found.behind:,} bytes behind its end are not decoded"))


def _frames(container, stream) -> Iterator:
    """Decoded frames, and None for each packet that cannot be decoded, as far as FFmpeg finds packets."""
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
