"""Files as libsndfile decodes them, quicker than FFmpeg: those that were counted and found whole. It comes inside the
wheel of `soundfile`."""

import os
import tempfile
import threading
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache

import numpy as np
import soundfile

from .ffmpeg import opened_by_ffmpeg
from .framing import Framing
from .recording import Damage, later

PIECE = 1 << 18  # samples, over all channels, that are decoded at once
MPG123 = (b"[src/libmpg123", b"Note: ", b"Warning: ", b"\n")  # how the lines begin that libmpg123 writes to stderr


def opened_by_libsndfile(path, stack: ExitStack) -> soundfile.SoundFile | None:
    """The file as libsndfile opens it, if it does; `stack` closes it."""
    with suppress(soundfile.SoundFileError, RuntimeError, TypeError), _libmpg123_quiet():  # TypeError: called *.raw
        return stack.enter_context(soundfile.SoundFile(os.fsencode(path)))  # bytes: a name may be in no encoding
    return None


def pieces(path, file, found: Framing, damage: list[Damage], begin: int) -> Generator[tuple[int, np.ndarray]]:
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
    with opened_by_ffmpeg(path, found, damage) as other:
        yield from later(other.pieces(given // rate), given % rate / rate)


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
