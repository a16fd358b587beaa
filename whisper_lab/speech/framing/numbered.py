"""FLAC, whose frames are numbered, and Ogg, whose pages are numbered and sealed by checksums."""

import struct
import zlib

from .frames import Framing, is_padding


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


MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _ogg_crc(page: bytes) -> int:
    """Ogg's checksum is that of zlib with the bits of every byte in the other order, and neither end inverted."""
    mirrored = zlib.crc32((page[:22] + bytes(4) + page[26:]).translate(MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)


def ogg(data) -> Framing:
    """Counts pages, compares their checksums, and takes the length of each stream from its last one."""
    framing, at, size = Framing(), 0, len(data)
    base, serial, numbers, early, begun, ended = 0.0, None, {}, 0, False, False
    while at < size:
        page = _ogg_page(data, at)
        if not page:
            found = data.find(b"OggS", at + 1)
            while found >= 0 and not _ogg_page(data, found):
                found = data.find(b"OggS", found + 1)
            if found < 0 and data[at : at + 4] == b"OggS":
                framing.breaks("truncated", "it ends in the middle of a page")
            elif found >= 0 or not is_padding(data, at):
                framing.breaks("damaged", f"{(found if found >= 0 else size) - at:,} bytes that are no sound")
            if found < 0:
                break
            at = found
            continue
        flags, granule, number, sequence = page[5], *struct.unpack_from("<qII", page, 6)
        if flags & 2:  # the first of a stream
            if begun:
                base, serial, numbers, begun = framing.seconds, None, {}, False
                framing.begins_anew()
                framing.links.append((at, base))
            framing.plain &= not numbers  # with another beside it, it is a film
            rate, skip = _ogg_rate(page[27 + page[26] :])
            if rate and serial is None:
                serial, framing.rate, early = number, rate, skip
        elif sequence != numbers.get(number, sequence):
            framing.breaks("damaged", f"{sequence - numbers[number]:,} pages missing")
        begun |= not flags & 2
        numbers[number] = sequence + 1
        if number == serial:
            ended = bool(flags & 4)
            if granule > 0:
                framing.seconds = base + max(0, granule - early) / framing.rate
        at += len(page)
    framing.plain &= ended
    if serial is None:
        framing.seconds = None
    return framing


def _ogg_page(data, at: int) -> bytes | None:
    """The whole page at `at`, if its checksum agrees."""
    head = data[at : at + 27]
    if len(head) < 27 or head[:4] != b"OggS":
        return None
    end = at + 27 + head[26] + sum(data[at + 27 : at + 27 + head[26]])
    page = data[at:end]
    return page if end <= len(data) and _ogg_crc(page) == int.from_bytes(page[22:26], "little") else None


def _ogg_rate(body: bytes) -> tuple[int, int]:
    """Hz that positions count in, and those before the sound begins, by a stream's first packet; 0 for no sound."""
    if body[:7] == b"\x01vorbis":
        return int.from_bytes(body[12:16], "little"), 0
    if body[:8] == b"OpusHead":
        return 48_000, int.from_bytes(body[10:12], "little")
    if body[:5] == b"\x7fFLAC":
        return int.from_bytes(body[27:30], "big") >> 4, 0
    if body[:8] == b"Speex   ":
        return int.from_bytes(body[36:40], "little"), 0
    return 0, 0
