"""How long other containers say that they are."""

import struct

from .frames import PADDING, Framing

ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")  # begins the part of a WMA file that is about the whole


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
