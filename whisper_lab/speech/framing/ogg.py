"""Ogg, whose pages are numbered and sealed by checksums (RFC 3533)."""

import struct
import zlib

from .frames import Framing, is_padding

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
