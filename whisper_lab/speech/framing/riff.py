"""WAV, and how long other containers say that they are."""

import struct

from .frames import LEAST, PADDING, Framing, is_padding

ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")  # begins the part of a WMA file that is about the whole


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


def other(data) -> Framing:
    """Whether bytes are missing or left over, by MP4's boxes and the sizes that others begin with."""
    end, size = 0, len(data)
    if data[4:8] == b"ftyp":
        while end + 8 <= size and (end == 0 or data[end + 4 : end + 8] != b"ftyp"):
            length = int.from_bytes(data[end : end + 4], "big")
            length = int.from_bytes(data[end + 8 : end + 16], "big") if length == 1 else length or size - end
            end += max(8, length)
    elif data[:4] == b"\x1aE\xdf\xa3" and (at := data.find(b"\x18\x53\x80\x67", 0, 4_096)) > 0:
        width = 9 - data[at + 4].bit_length()
        length = int.from_bytes(data[at + 4 : at + 4 + width], "big") - (1 << 7 * width)
        end = at + 4 + width + length if 0 <= length < (1 << 7 * width) - 1 else 0
    elif data[:4] == b"\x30\x26\xb2\x75" and (at := data.find(ASF_FILE, 0, 65_536)) > 0:
        end = int.from_bytes(data[at + 40 : at + 48], "little")
    elif data[:4] == b".snd" and data[8:12] != b"\xff\xff\xff\xff":
        end = sum(struct.unpack(">II", data[4:12]))
    elif data[:4] in (b"RIFF", b"FORM"):
        end = 8 + int.from_bytes(data[4:8], "little" if data[:4] == b"RIFF" else "big")
    alone = data[4:8] == b"ftyp" or data[:4] == b"FORM"  # what follows is not decoded
    behind = size - end if alone and size - end > PADDING else 0
    return Framing(seconds=None, plain=False, missing=max(0, end - size), behind=behind)
