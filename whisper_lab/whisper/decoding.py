"""How text is read from a window: the options with the defaults that training's scores, the terminal and the pages
share, and what tells text that was heard from text that the decoder makes up."""

from collections.abc import Sequence
from dataclasses import dataclass

from .. import LabError
from ..speech.features import FRAMES

POSITIONS = 448  # of Whisper's decoder, every size
MAX_NEW_TOKENS = POSITIONS // 2  # as in openai/whisper; 30 s of fast Swedish is about 150
LOOP = 12  # tokens of repetition that nobody says: "nej, nej, nej" is below it
FALLBACK = (0.2, 0.4, 0.6, 0.8, 1.0)  # openai/whisper's temperatures after a greedy attempt that failed
DOUBT = -0.2  # mean log probability a token; where the greedy text is above, beams seldom find a better one
UNSURE = -1.0  # mean log probability a token, below which openai/whisper does not trust a text
NO_SPEECH = 0.6  # probability of <|nospeech|> above which openai/whisper believes it, if the text is unsure too
AUTO = "auto"  # the language that Whisper itself detects in the sound
CERTAIN = 0.5  # probability of a language below which it is a guess


@dataclass(frozen=True)
class Decoding:
    """Options of decoding. By default the same sound gives the same text every time: nothing is sampled."""

    language: str = "sv"  # or AUTO
    task: str = "transcribe"  # or translate, into English
    beams: int = 5  # to search for a better text where the greedy one is in doubt; 1: greedy throughout
    fallback: bool = False  # sample at rising temperatures where a text loops or is unsure
    prompt: str = ""  # names and words to expect; given to the decoder as if it had just been said

    def __post_init__(self):
        if self.task not in ("transcribe", "translate"):
            raise LabError(f"the task is transcribe or translate, not {self.task!r}")
        if not 1 <= self.beams <= 10:
            raise LabError(f"{self.beams} beams: 1 (greedy) to 10 make sense")


DEFAULT = Decoding()


@dataclass(frozen=True)
class Decoded:
    """What was read from a window: text tokens without prompt and end, the mean log probability of a token, the
    probability that Whisper gave to "no speech" (None where it was not asked for), and whether it ended by itself."""

    tokens: list[int]
    logprob: float
    no_speech: float | None
    ended: bool

    @property
    def rambles(self) -> bool:
        """The decoder repeats itself, even if only once, or did not find an end."""
        return not self.ended or loop(self.tokens, copies=2) is not None

    @property
    def doubtful(self) -> bool:
        """Worth a search with beams: neither sure nor hopeless."""
        return self.rambles or UNSURE < self.logprob < DOUBT

    @property
    def unsure(self) -> bool:
        return self.logprob < UNSURE

    @property
    def invented(self) -> bool:
        """openai/whisper's rule for a window without speech."""
        return self.unsure and (self.no_speech or 0) > NO_SPEECH


def token_limit(frames: int) -> int:
    """Tokens that a window of `frames` may take: ten a second and a few, more than the fastest Swedish speech needs."""
    return min(MAX_NEW_TOKENS, 12 + 10 * frames // 100)


def loop(tokens: Sequence[int], copies: int = 3) -> int | None:
    """Where `tokens` begin to repeat what went before, `copies` of it in a row, by `LOOP` tokens or more; else None."""
    found = None
    for period in range(1, min(len(tokens) // copies, len(tokens) - LOOP) + 1):  # of others there is no room for enough
        run, enough = 0, max((copies - 1) * period, LOOP)
        for i in range(period, len(tokens)):
            run = run + 1 if tokens[i] == tokens[i - period] else 0
            if run >= enough:
                found = min(i - run + 1, found or len(tokens))
                break
    return found


def unlooped(tokens: list[int]) -> list[int]:
    """`tokens` up to where they begin to repeat themselves."""
    return tokens[: loop(tokens)]


def read_again(greedy: list[Decoded], frames: int, beams: int, with_beams, at_30_s) -> list[Decoded]:
    """What is in doubt on windows of `frames` is read once more with `beams`, and what rambles even then at 30 s,
    Whisper's own length, where it finds the end.

    `with_beams(indices)` and `at_30_s(indices)` decode those of the batch, on the same windows and at `FRAMES`.
    """
    read = list(greedy)
    doubtful = [i for i, one in enumerate(read) if one.doubtful] if beams > 1 else []
    for i, one in zip(doubtful, with_beams(doubtful) if doubtful else ()):
        read[i] = one
    rambling = [i for i, one in enumerate(read) if one.rambles] if frames < FRAMES else []
    for i, one in zip(rambling, at_30_s(rambling) if rambling else ()):
        read[i] = one
    return read
