"""Text while one speaks. Every pass reads what was said since the last cut; words that two successive passes agree on
are settled and never taken back (LocalAgreement: Liu et al. 2020; Macháček et al. 2023, "Turning Whisper into Real-Time
Transcription System"). Settled words are forced on the next pass, so no pass can contradict them, and each is short.
"""

import threading
import time
from dataclasses import dataclass, field, replace

import numpy as np

from ..speech import voice
from ..speech.audio import SAMPLE_RATE, from_samples
from ..speech.features import FRAMES, pad
from ..text import normalise
from ..whisper.decoding import AUTO, CERTAIN, Decoding, loop, token_limit
from ..whisper.windows import shortest
from .scripts import goes_on
from .transcription import Transcriber

QUIET = 0.7  # seconds without speech after which what was said is settled
WORDLESS = 1.0  # seconds of more speech in which there has to be a word
TELLING = 3.0  # seconds of sound in which a language can be detected; until it is, it is taken for the model's own
IDLE = 60.0  # seconds after which a speaker who does not send is forgotten
KEPT = 3_600.0  # seconds that a whole recording waits for its turn to be transcribed
LONGEST = 30 * 60  # seconds of one recording kept in memory


@dataclass
class Listener:
    """One person speaking. Not safe for two threads at once."""

    transcriber: Transcriber
    decoding: Decoding
    rate: int = SAMPLE_RATE
    pieces: list[np.ndarray] = field(default_factory=list)  # (samples,) int16 at `rate`: all that was heard
    settled: list[str] = field(default_factory=list)  # words, each with the space before it, if any
    _since: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int16))  # after the last cut, at `rate`
    _forced: list[list[int]] = field(default_factory=list)  # tokens of the words settled since the last cut
    _before: list[list[int]] = field(default_factory=list)  # of the words that the last pass heard after those
    _said: float = 0.0  # seconds after the last cut until which everything is settled
    _grown: float = 0.0  # seconds of speech after the last cut at which the text grew

    @property
    def seconds(self) -> float:
        return sum(piece.size for piece in self.pieces) / self.rate

    @property
    def text(self) -> str:
        """What is settled."""
        return "".join(self.settled).strip()

    def hear(self, rate: int, samples: np.ndarray) -> tuple[str, str]:
        """(samples,) int16 that follow what was heard before → the text that stays, the text that may still change,
        with the space between them, if any."""
        self.rate = rate
        self.pieces.append(samples)
        self._since = np.concatenate([self._since, samples])
        if self._since.size < 0.3 * rate:
            return self.text, self._text(self._before)
        sound = from_samples(rate, self._since)
        length, said = sound.size / SAMPLE_RATE, int(self._said * SAMPLE_RATE)
        speech = voice.stretches(*voice.Detector()(sound[said:], last=True))
        if not speech:
            self._settle(self._before)
            self._before = []
            if not said or length - self._said > voice.WHOLE:  # until then, what was said helps to hear what follows
                self._cut(max(0, length - 1))
            return self.text, ""
        end = self._said + speech[-1][1] * voice.SECONDS
        paused = length - end > QUIET
        words, times = self._pass(sound)
        if words != self._before:
            self._grown = end
        elif end - self._grown > WORDLESS and not paused:  # Whisper took a pause for the end: what follows, alone
            self._settle(words)
            self._before = []
            begin = int(max(self._grown / 2, self._grown - QUIET) * SAMPLE_RATE)  # never before what was said
            self._cut((begin + voice.quietest(sound[begin : begin + SAMPLE_RATE])) / SAMPLE_RATE)
            return self.text, ""
        agreed = len(words) if paused else self._agreed(words[:-1])  # the last word may be half said
        self._settle(words[:agreed])
        self._before = words[agreed:]
        if paused:
            self._said = end
        if sound.size / SAMPLE_RATE > self.transcriber.longest - 1:
            self._make_room(times)
        return self.text, self._text(self._before)

    def everything(self) -> tuple[int, np.ndarray]:
        """The rate, and (samples,) int16: all that was heard, as it came."""
        return self.rate, np.concatenate(self.pieces) if self.pieces else np.zeros(0, np.int16)

    def _pass(self, sound: np.ndarray) -> tuple[list[list[int]], np.ndarray]:
        """The tokens of each word after the forced ones; when each word begins, forced ones too, and the last ends."""
        t = self.transcriber
        mel = t.front_end.log_mel(sound)
        frames = shortest(mel.shape[1], t.lengths)
        forced = [token for word in self._forced for token in word]
        encoded = t.backend.encode(pad(mel, frames)[None])
        if self.decoding.language == AUTO and sound.size >= TELLING * SAMPLE_RATE:
            (likely,) = t.backend.languages(encoded)
            if likely[code := max(likely, key=likely.get)] >= CERTAIN:
                self.decoding = replace(self.decoding, language=code)
        prompt = t.prompt(self.decoding)
        limit = max(8, token_limit(min(mel.shape[1], frames)) - len(forced))
        # The settled text of 24 human clips in a row has a WER of 25.6 % with 5 beams and 29.8 % with one, no later.
        tokens = t.backend.decode(encoded, prompt, limit, self.decoding.beams, forced=forced)[0].tokens
        words = t.words_of(tokens[: loop(tokens, copies=2)])
        if sound.size / SAMPLE_RATE <= t.longest - 1 or not (forced or words):
            return words, np.zeros(0)
        text = [*forced, *(token for word in words for token in word)]
        times = t.backend.align(encoded, prompt[:-1], [text], [min(mel.shape[1], FRAMES)])[0].times
        at = np.cumsum([0, *map(len, self._forced), *map(len, words)])
        return words, times[at]

    def _agreed(self, words: list[list[int]]) -> int:
        count = 0
        for now, before in zip(words, self._before):
            if normalise(self._text([now])) != normalise(self._text([before])):
                break
            count += 1
        return count

    def _settle(self, words: list[list[int]]) -> None:
        for word in words:
            self.settled.append(self._text([word]))
            self._forced.append(word)

    def _make_room(self, times: np.ndarray) -> None:
        """Leave the older half of the sound, up to a word that stays."""
        if not self._forced:  # two passes agree on nothing: better a doubtful word than none
            self._settle(self._before)
            self._before = []
        half = self._since.size / self.rate - self.transcriber.longest / 2
        gone = min(len(self._forced), int(np.searchsorted(times, half)))
        forced = self._forced[gone:]
        self._cut(float(times[gone]) if gone < len(times) else self._since.size / self.rate)
        self._forced = forced

    def _cut(self, seconds: float) -> None:
        self._since = self._since[int(seconds * self.rate) :]
        self._said = max(0.0, self._said - seconds)
        self._grown = max(0.0, self._grown - seconds)
        self._forced = []

    def _text(self, words: list[list[int]]) -> str:
        text = self.transcriber.decoded([i for word in words for i in word])
        return f" {text}" if text and not self._forced and not text[0].isspace() and not goes_on(text) else text


class Listeners:
    """Everybody who is speaking now: at most `places` are read at a time, the others wait their turn."""

    def __init__(self, transcriber: Transcriber, places: int):
        self.transcriber, self.places = transcriber, places
        self._all: dict[str, tuple[Listener, threading.Lock]] = {}
        self._seen: dict[str, float] = {}
        self._whole: set[str] = set()
        self._guard = threading.Lock()

    def hear(self, key: str, at: int, rate: int, samples: np.ndarray, decoding: Decoding, last: bool = False) -> dict:
        """What speaker `key` said from sample `at` of the recording on, once more or for the first time; it is kept
        until it is taken where it is the `last` of it.

        → `heard`: samples known by now; `settled` and `tentative` text; `waiting`: the place in the queue, 0 when it
        is read; `full`: no more is taken.
        """
        with self._guard:
            self._forget()
            if key not in self._all:
                self._all[key] = Listener(self.transcriber, decoding), threading.Lock()
            self._seen[key] = time.monotonic()
            listener, alone = self._all[key]
            speaking = [one for one in self._all if one not in self._whole or one == key]
            waiting = max(0, speaking.index(key) + 1 - self.places)
        with alone:
            heard = round(listener.seconds * listener.rate)
            if at > heard:  # what came before was forgotten
                return {"heard": heard, "settled": "", "tentative": "", "waiting": waiting, "full": False}
            samples, tentative = samples[heard - at :], ""
            full = (heard + samples.size) / rate > LONGEST
            if full:
                samples = samples[: max(0, int(LONGEST * rate) - heard)]
            if samples.size:
                if waiting:  # kept for the final pass, and read from here on once there is a place
                    listener.rate = rate
                    listener.pieces.append(samples)
                else:
                    _, tentative = listener.hear(rate, samples)
            heard += samples.size
            if last or full:
                self._whole.add(key)
            settled = listener.text
        return {"heard": heard, "settled": settled, "tentative": tentative, "waiting": waiting, "full": full}

    def take(self, key: str) -> tuple[int, np.ndarray]:
        """All that the speaker `key` said; nothing of it is kept. Raises KeyError."""
        with self._guard:
            listener, alone = self._all.pop(key)
            self._seen.pop(key, None)
            self._whole.discard(key)
        with alone:
            return listener.everything()

    def _forget(self) -> None:
        now = time.monotonic()
        for key in [key for key, at in self._seen.items() if now - at > (KEPT if key in self._whole else IDLE)]:
            del self._seen[key], self._all[key]
            self._whole.discard(key)
