"""FLAC, whose frames are numbered (RFC 9639)."""

from .frames import Framing


def flac(data, start: int) -> Framing:
    """Counts the frames of the FLAC stream at `start` by the numbers in their headers."""
    at, last = start + 4, False
    while not last and at + 4 <= len(data):
        last, size = data[at] & 128, int.from_bytes(data[at + 1 : at + 4], "big")
        at += 4 + size
    facts = int.from_bytes(data[start + 18 : start + 26], "big")  # rate, channels, bits, samples
    rate, said = facts >> 44, facts & (1 << 36) - 1
    largest = int.from_bytes(data[start + 10 : start + 12], "big")  # samples of a block
    framing = Framing(rate, plain=bool(rate and said))
    if not rate:
        framing.seconds = None
        return framing
    found = list(_flac_frames(data, at, largest))
    samples, base = 0, 0
    for i, (number, size, place) in enumerate(found):
        follows = i + 1 < len(found) and found[i + 1][0] == number + size
        if number == 0 and samples and follows and data.rfind(b"fLaC", 0, place) > start:
            framing.seconds = (base + samples) / rate
            framing.begins_anew()
            base, samples = base + samples, 0
        if number > samples and (follows or number + size == said):
            framing.seconds = (base + samples) / rate
            framing.breaks("damaged", f"{(number - samples) / rate:.2f} s missing")
            samples = number
        samples += size if number == samples else 0
    framing.seconds = (base + samples) / rate
    if samples < said and not base:
        framing.breaks("truncated", f"{(said - samples) / rate:.2f} s missing")
    framing.plain &= samples == said
    return framing


def _flac_frames(data, at: int, largest: int):
    """(first sample, samples, place) of everything from `at` on that has the form of a frame's header."""
    sign = data[at : at + 2]
    while sign in (b"\xff\xf8", b"\xff\xf9") and (at := data.find(sign, at)) >= 0:
        place, at = at, at + 2
        head = data[place : place + 16].ljust(16, b"\0")
        code, rate = head[2] >> 4, head[2] & 15
        ones = 8 - (head[4] ^ 255).bit_length()  # leading: how many bytes the number takes
        if code == 0 or rate == 15 or head[3] & 1 or ones in (1, 8):
            continue
        number, end = head[4] & (127 >> ones), 5
        for byte in head[5 : 4 + ones]:
            number, end = number << 6 | byte & 63, end + 1
        if code in (6, 7):
            size, end = int.from_bytes(head[end : end + code - 5], "big") + 1, end + code - 5
        else:
            size = 192 if code == 1 else 256 << code - 8 if code > 7 else 576 << code - 2
        end += {12: 1, 13: 2, 14: 2}.get(rate, 0)
        if end < 16 and _crc8(head[:end]) == head[end]:
            yield number if sign == b"\xff\xf9" else number * largest, size, place


def _crc8(head: bytes) -> int:
    crc = 0
    for byte in head:
        crc ^= byte
        for _ in range(8):
            crc = crc << 1 ^ (0x107 if crc & 128 else 0)
    return crc
