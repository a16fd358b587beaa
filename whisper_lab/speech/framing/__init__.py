"""What the bytes of MP3, FLAC, Ogg and WAV files say without being decoded: frames counted one by one, where they are
damaged, and whether more than one stream is in the file.

A length in a header may be missing, an estimate, or wrong; a count is none of these.
"""

import mmap

from .flac import flac
from .frames import LEAST, Framing
from .mpeg import mpeg
from .ogg import ogg
from .others import other
from .wav import wav

__all__ = ["LEAST", "Framing", "framing_of"]
SMALL = 1 << 20  # bytes: a smaller file is copied into memory, whose bytes are quicker to look at


def framing_of(file) -> Framing:
    """The framing of an open `file`, by its bytes, not by its name; of other formats, `missing` and `behind` alone."""
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        data = mapped if len(mapped) > SMALL else mapped[:]
        start = 0
        while data[start : start + 3] == b"ID3":
            start = _behind_id3(data, start)
        if data[start : start + 4] == b"fLaC":
            return flac(data, start)
        if data[:4] == b"OggS":
            return ogg(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
            return wav(data)
        return mpeg(data, start) or other(data)


def _behind_id3(data, at: int) -> int:
    """Where an ID3v2 tag at `at` ends."""
    sizes = data[at + 6 : at + 10]
    return at + 10 + sum((byte & 127) << 7 * place for place, byte in enumerate(reversed(sizes)))
