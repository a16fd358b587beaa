"""WAV: Microsoft's RIFF."""

import struct

from .frames import LEAST, Framing, is_padding


def wav(data) -> Framing:
    """Finds the sound among the chunks, and whether these fill the file."""
    framing, at, size = Framing(seconds=None), 12, len(data)
    counted, speed = False, 0  # whether the codes are numbers; bytes a second
    while data[at : at + 4] != b"data":
        if at + 8 > size:
            framing.plain = False
            return framing
        if data[at : at + 4] == b"fmt ":
            kind, _, framing.rate, speed = struct.unpack("<HHII", data[at + 8 : at + 20].ljust(12, b"\0"))
            counted = kind in (1, 3) or kind == 0xFFFE and data[at + 32 : at + 33] in (b"\1", b"\3")
        at = _next_chunk(data, at)
    length, there, end = int.from_bytes(data[at + 4 : at + 8], "little"), size - at - 8, _next_chunk(data, at)
    closed = abs(8 + int.from_bytes(data[4:8], "little") - size) <= 1
    unknown = there < length >= 0x7FFF_0000 or length == 0 < there and not closed
    while end + 8 <= size and data[end : end + 4] != b"RIFF" and data[end : end + 4].strip().isalnum():
        end = _next_chunk(data, end)
    framing.behind = size - end if data[end : end + 4] == b"RIFF" else 0  # another file that was joined
    framing.unclosed = unknown or not framing.behind and not is_padding(data, end)
    framing.plain = counted and not framing.unclosed and not framing.behind
    if counted and speed:
        framing.seconds = (there if framing.unclosed else min(length, there)) / speed
    if not unknown and length - there > LEAST * speed:
        if counted and speed:
            framing.breaks("truncated", f"{(length - there) / speed:.2f} s missing")
        else:
            framing.plain, framing.missing = False, length - there
    return framing


def _next_chunk(data, at: int) -> int:
    length = int.from_bytes(data[at + 4 : at + 8], "little")
    return at + 8 + length + length % 2
