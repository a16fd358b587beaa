"""MPEG audio, layers I to III (ISO/IEC 11172-3 and 13818-3), and the Xing header as LAME writes it.

A frame's length follows from the second and third byte of its header.
"""

import struct
from dataclasses import replace

from .frames import STRAY, TAGS, Framing, is_padding

KBIT_1 = (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448)  # layer I
KBIT_2 = (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384)
KBIT_3 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
KBIT_LOW_1 = (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256)  # MPEG-2: half the sampling rates
KBIT_LOW = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)


def _mpeg_rate(second: int, third: int) -> int:
    """Hz."""
    return (44_100, 48_000, 32_000)[third >> 2 & 3] >> {3: 0, 2: 1, 0: 2}[second >> 3 & 3]


def _mpeg_samples(second: int) -> int:
    """Samples of a frame."""
    layer, first_version = 4 - (second >> 1 & 3), second >> 3 & 3 == 3
    return 384 if layer == 1 else 576 if layer == 3 and not first_version else 1_152


def _mpeg_sizes() -> list[int]:
    """Bytes of a frame by the second and third byte of its header; 0 where those are no header."""
    sizes = [0] * 65_536
    for second in range(0xE0, 0x100):
        version, layer = second >> 3 & 3, 4 - (second >> 1 & 3)
        if version == 1 or layer == 4:
            continue
        rates = (KBIT_1, KBIT_2, KBIT_3)[layer - 1] if version == 3 else (KBIT_LOW_1, KBIT_LOW, KBIT_LOW)[layer - 1]
        for third in range(256):
            code, padding = third >> 4, third >> 1 & 1
            if 0 < code < 15 and third >> 2 & 3 < 3:
                slot = 4 if layer == 1 else 1  # bytes
                slots = _mpeg_samples(second) // 8 * rates[code] * 1_000 // (_mpeg_rate(second, third) * slot)
                sizes[second << 8 | third] = (slots + padding) * slot
    return sizes


SIZES = _mpeg_sizes()


def mpeg(data, start: int) -> Framing | None:
    """Counts from `start`; None where no frame is there, or another format that looks like one."""
    at, size = start, len(data)
    length = _mpeg_size(data, at)
    if not length or not (at + length >= size or _mpeg_size(data, at + length) or _starts(data, at + length, TAGS)):
        return None
    framing, header = Framing(_mpeg_rate(data[at + 1], data[at + 2])), _xing(data[at : at + length])
    frames, at = 0, at + length if header else at
    joined = any(data.find(sign, at) >= 0 for sign in (b"Xing", b"Info"))
    while True:
        count, end = _run(data, at, joined)
        if count:
            frames += count
            framing.seconds += count * _mpeg_samples(data[at + 1]) / _mpeg_rate(data[at + 1], data[at + 2])
        at = end
        if at == size:
            break
        length = _mpeg_size(data, at)
        if at + length > size:
            framing.breaks("truncated", "it ends in the middle of a frame")
            break
        found = at if length else _next_mpeg(data, at)
        if found is None and (_starts(data, at, TAGS) or is_padding(data, at)):
            framing.seams.append(framing.seconds)  # what a decoder says of it is nothing
            break
        if length or _starts(data, at, TAGS):
            framing.begins_anew()
        else:
            framing.breaks("damaged", f"{(found or size) - at:,} bytes that are no sound")
        if found is None:
            break
        at = found + length if length and _xing(data[at : at + length]) else found
    if header:
        _compare(framing, header, frames, at - start)
    return framing


def _run(data, at: int, joined: bool) -> tuple[int, int]:
    """How many frames of one kind follow each other from `at` on, and where they end; with `joined`, before another
    file's header."""
    count, last, kind = 0, len(data) - 4, None
    while at <= last and data[at] == 255:
        second, third = data[at + 1], data[at + 2]
        length = SIZES[second << 8 | third]
        kind = kind or (second & 0xFE, third & 0x0C)
        if not length or kind != (second & 0xFE, third & 0x0C) or at + length > last + 4:
            break
        if joined and _xing(data[at : at + min(length, 64)]):
            break
        at += length
        count += 1
    return count, at


def _mpeg_size(data, at: int) -> int:
    """Bytes of the frame at `at`; 0 where there is none."""
    return SIZES[data[at + 1] << 8 | data[at + 2]] if at + 4 <= len(data) and data[at] == 255 else 0


def _next_mpeg(data, at: int) -> int | None:
    """Where the next frame begins that another of its kind follows, or the end of the file."""
    while (at := data.find(b"\xff", at)) >= 0:
        if length := _mpeg_size(data, at):
            behind = at + length
            alike = _mpeg_size(data, behind) and (data[behind + 1] ^ data[at + 1]) & 0xFE == 0
            if behind == len(data) or alike and (data[behind + 2] ^ data[at + 2]) & 0x0C == 0:
                return at
        at += 1
    return None


def _xing(frame: bytes) -> tuple[int, int, int] | None:
    """Frames, bytes (0: not said) and samples to leave out by the header in an MP3's first frame, if it has one."""
    at = max(frame.find(b"Xing", 0, 64), frame.find(b"Info", 0, 64))
    if at < 0:
        return None
    flags, *numbers = struct.unpack_from(">4x3I", frame.ljust(at + 200, b"\0"), at)
    frames = numbers.pop(0) if flags & 1 else 0
    stream_bytes = numbers.pop(0) if flags & 2 else 0
    lame = at + 8 + 4 * (flags & 1) + 4 * (flags >> 1 & 1) + 100 * (flags >> 2 & 1) + 4 * (flags >> 3 & 1)
    trimmed = int.from_bytes(frame[lame + 21 : lame + 24].ljust(3, b"\0"), "big")
    return frames, stream_bytes, (trimmed >> 12) + (trimmed & 0xFFF)


def _compare(framing: Framing, header: tuple[int, int, int], frames: int, size: int) -> None:
    """Take what an MP3's header says for what it is worth, beside the `frames` that are in `size` bytes."""
    said, stream_bytes, trimmed = header
    framing.plain &= said == frames and abs(stream_bytes - size) <= 0.01 * size
    if said > frames and (framing.damage or not 0 < stream_bytes <= size + STRAY):
        lost = f"{framing.seconds * (said / max(frames, 1) - 1):.2f} s missing"
        if framing.damage:
            framing.damage[0] = replace(framing.damage[0], detail=f"{framing.damage[0].detail}, {lost}")
        else:
            framing.breaks("truncated", lost)
    framing.seconds = max(0.0, framing.seconds - trimmed / framing.rate)


def _starts(data, at: int, signs: tuple[bytes, ...]) -> bool:
    return data[at : at + 16].startswith(signs)
