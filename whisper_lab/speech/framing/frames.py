"""What is known of a file's frames before any is decoded."""

from dataclasses import dataclass, field

from ..recording import Damage

TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICSBEGIN", b"3DI")  # what may stand before and behind the frames of an MP3
STRAY = 256  # bytes behind the last frame that are no loss
PADDING = 4_096  # bytes of zeros there that are none
LEAST = 0.05  # seconds: a header that promises less than that more than there is does not count well


@dataclass
class Framing:
    """The frames of a file. `seconds` of sound in them, None where that cannot be counted.

    `plain`: one whole stream and nothing else, whose header agrees with its frames. `unclosed`: a WAV whose recorder
    died before it could write how much sound there is. `missing`: the bytes that the file has not, of those that its
    container speaks of. `behind`: the bytes after its end. `seams`: the seconds at which another stream begins.
    `links`: of a chained Ogg, the bytes and seconds at which each stream but the first begins.
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


def is_padding(data, at: int) -> bool:
    """Whether what follows the last frame is too little to be lost sound."""
    return len(data) - at <= STRAY or len(data) - at <= PADDING and not data[at:].strip(b"\0")
