"""What the bytes of MP3, FLAC, Ogg and WAV files say without being decoded: frames counted one by one, where they are
damaged, and whether more than one stream is in the file.

A length in a header may be missing, an estimate, or wrong; a count is none of these. Frames of MP3: ISO/IEC 11172-3,
and the Xing header as LAME writes it. FLAC: RFC 9639. Ogg: RFC 3533. WAV: Microsoft's RIFF.
"""

import mmap
import struct
import zlib
from dataclasses import dataclass, field, replace

TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICSBEGIN", b"3DI")  # what may stand before and behind the frames of an MP3
STRAY = 256  # bytes behind the last frame that are no loss
PADDING = 4_096  # bytes of zeros there that are none
LEAST = 0.05  # seconds: a header that promises less than that more than there is does not count well
SMALL = 1 << 20  # bytes: a smaller file is copied into memory, whose bytes are quicker to look at


ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")  # begins the part of a WMA file that is about the whole


@dataclass(frozen=True)
class Damage:
    """Sound that a file has lost, `at` seconds from its beginning. `reason` is "damaged" or "truncated"."""

    reason: str
    at: float
    detail: str


@dataclass
class Framing:
    """The frames of a file. `seconds` of sound in them, None where that cannot be counted.

    `plain`: one whole stream and nothing else, whose header agrees with its frames. `seams`: the seconds at which
    another stream begins. `links`: of a chained Ogg, the bytes and seconds at which each stream but the first begins. `unclosed`: a WAV whose recorder died before it could write how much sound there is.
    `missing`: the bytes that the file has not, of those that its container speaks of. `behind`: the bytes after its end.
    """

    rate: int = 0  # Hz
    seconds: float | None = 0.0
    plain: bool = True
    unclosed: bool = False
    missing: int = 0
    behind: int = 0
    damage: list[Damage] = field(default_factory=list)
    seams: list[float] = field(default_factory=list)
    links: list[tuple[int, float]] = field(default_factory=list)

    def breaks(self, reason: str, detail: str) -> None:
        """Note damage behind what has been counted."""
        self.plain = False
        if not self.damage or self.damage[-1].at != self.seconds:
            self.damage.append(Damage(reason, self.seconds or 0.0, detail))

    def begins_anew(self) -> None:
        """Note that another stream follows what has been counted."""
        self.plain = False
        if self.seams[-1:] != [self.seconds]:
            self.seams.append(self.seconds or 0.0)


def survey(file) -> Framing:
    """The framing of an open `file`, by its first bytes, not by its name. Of other formats, no more than `missing`."""
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        data = mapped if len(mapped) > SMALL else mapped[:]
        start = 0
        while data[start : start + 3] == b"ID3":
            start = _behind_id3(data, start)
        if data[start : start + 4] == b"fLaC":
            return _flac(data, start)
        if data[:4] == b"OggS":
            return _ogg(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
            return _wav(data)
        return _mpeg(data, start) or _other(data)


def _behind_id3(data, at: int) -> int:
    """Where an ID3v2 tag at `at` ends."""
    sizes = data[at + 6 : at + 10]
    return at + 10 + sum((byte & 127) << 7 * place for place, byte in enumerate(reversed(sizes)))


# MPEG audio, layers I to III. A frame's length follows from the second and third byte of its header.
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


def _mpeg(data, start: int) -> Framing | None:
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
        if found is None and (_starts(data, at, TAGS) or _is_padding(data, at)):
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


def _is_padding(data, at: int) -> bool:
    """Whether what follows the last frame is too little to be lost sound."""
    return len(data) - at <= STRAY or len(data) - at <= PADDING and not data[at:].strip(b"\0")


def _flac(data, start: int) -> Framing:
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


def _ogg(data) -> Framing:
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
            elif found >= 0 or not _is_padding(data, at):
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


def _wav(data) -> Framing:
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
    unknown = length == 0 or length >= 0x7FFF_0000
    while end + 8 <= size and data[end : end + 4] != b"RIFF" and data[end : end + 4].strip().isalnum():
        end = _next_chunk(data, end)
    framing.behind = size - end if data[end : end + 4] == b"RIFF" else 0  # another file that was joined
    framing.unclosed = unknown and length > there or not framing.behind and not _is_padding(data, end)
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


def _other(data) -> Framing:
    """Whether bytes are missing or left over, by MP4's boxes and the sizes that WebM, WMA, AVI, AIFF and AU begin with."""
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
