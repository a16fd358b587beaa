"""What the bytes of MP3, FLAC, Ogg and WAV files say without being decoded: frames counted one by one, where they are
damaged, and whether more than one stream is in the file.

A length in a header may be missing, an estimate, or wrong; a count is none of these. Frames of MP3: ISO/IEC 11172-3,
and the Xing header as LAME writes it. FLAC: RFC 9639. Ogg: RFC 3533. WAV: Microsoft's RIFF.
"""

import mmap

from .frames import LEAST, Framing
from .mpeg import mpeg
from .numbered import flac, ogg
from .riff import other, wav

__all__ = ["LEAST", "Framing", "survey"]
SMALL = 1 << 20  # bytes: a smaller file is copied into memory, whose bytes are quicker to look at


def survey(file) -> Framing:
    """The framing of an open `file`, by its first bytes, not by its name. Of other formats, no more than `missing`."""
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
