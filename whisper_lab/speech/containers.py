"""Files of sound, whatever they are called and whatever their headers say. What was counted and found whole (MP3, FLAC,
Ogg, WAV), libsndfile decodes; FFmpeg decodes everything else, and goes on where libsndfile stumbles."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from . import ffmpeg, sndfile
from .ffmpeg import opened_by_ffmpeg
from .framing import Framing, framing_of
from .recording import AudioError, Damage, Recording


@contextmanager
def opened(path: str | Path) -> Iterator[Recording]:
    """The file at `path`, by its content, whatever it is called. Raises AudioError where there is no sound in it."""
    found = _framing(path)
    with ExitStack() as stack:
        yield _chosen(path, found, stack)


def codings(path: str | Path) -> tuple[str, set[str], set[str]]:
    """The file's container, and the codings of its sound and of its pictures, by FFmpeg's names and by its content.
    The container is "" for one that FFmpeg does not know, for a file that is not whole, and for several in a row."""
    found = _framing(path)
    if found.damage or found.seams or found.missing or found.behind or found.unclosed:
        return "", set(), set()
    try:
        return ffmpeg.codings(path, found)
    except AudioError:
        return "", set(), set()


def _framing(path: str | Path) -> Framing:
    """What the file's bytes say. Raises AudioError for what is no file, or empty."""
    if not os.path.exists(path):
        raise AudioError(path, "missing file")
    if not os.path.isfile(path):
        raise AudioError(path, "not a file")
    if os.path.getsize(path) == 0:
        raise AudioError(path, "empty file")
    try:
        with open(path, "rb") as file:
            return framing_of(file)
    except OSError as error:
        raise AudioError(path, "cannot be opened", error.strerror) from error


def _chosen(path, found: Framing, stack: ExitStack) -> Recording:
    """The recording as libsndfile opens it, where the count and its own length agree; else as FFmpeg does; else, of a
    format that FFmpeg does not know, as libsndfile does."""
    file = sndfile.opened_by_libsndfile(path, stack) if found.plain else None
    if not file or file.frames < found.seconds * file.samplerate - 1:
        try:
            return stack.enter_context(opened_by_ffmpeg(path, found))
        except AudioError as error:
            file = sndfile.opened_by_libsndfile(path, stack) if error.reason == "not audio" else None
            if not (file and file.frames and file.seekable()) or file.format == "MP3":
                raise
            found = Framing(file.samplerate, file.frames / file.samplerate)
    damage: list[Damage] = []
    return Recording(file.subtype.lower(), found.seconds, partial(sndfile.pieces, path, file, found, damage), damage)
