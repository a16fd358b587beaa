"""Sound of any length → timed segments of text.

Speech is cut into windows at pauses, windows of one length are decoded together, and segments come out while the rest
is still to be read. A model that learnt short windows is given windows as short as the speech; any other is padded to
30 s, which it needs.
"""

import importlib.metadata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from itertools import accumulate, chain, islice
from math import ceil, inf
from pathlib import Path
from statistics import median

import numpy as np

from .. import cuda, files
from ..speech import audio, voice
from ..speech.features import FRAMES, TAIL, FrontEnd, pad
from ..whisper import backends, checkpoint, windows
from ..whisper.decoding import (
    AUTO,
    CERTAIN,
    DEFAULT,
    FALLBACK,
    MAX_NEW_TOKENS,
    NO_SPEECH,
    POSITIONS,
    Decoded,
    Decoding,
    read_again,
    token_limit,
    unlooped,
)
from . import scripts
from .captions import SENTENCE_END, Segment, Word, joined, shared

AHEAD = 24  # windows looked at together, so that those of one length can be decoded together
BATCH = 8  # windows decoded together
LISTENED = 90.0  # seconds of speech, from the first on, that the language is detected in
NEW_SEGMENT = 0.6  # seconds of pause between words that begin a new segment
PACE = 12.0  # bytes of UTF-8 in a second of speech, until the speaker's are known: in Swedish 8 to 18, mostly 15
SPARSE = 0.75  # of the pace so far: with less text, something may be missing
MORE = 1.2  # times as much text, for which a window is better decoded in pieces
PIECE = 6.0  # seconds of speech in such a piece, at most
SURE = -0.8  # mean log probability a token; noise, tones and music were below -1.2, 9 in 10 human clips are above
BRIEF = 0.02  # seconds; what is shorter is no word


class Cancelled(Exception):
    """The caller asked to stop."""


@dataclass
class Progress:
    """How far a transcription has come: seconds of the recording, of how many (None if the file does not say); what of
    it is damaged: the rest is transcribed; and the language's code and probability, where it was detected."""

    done: float = 0
    total: float | None = None
    damage: list[audio.Damage] = field(default_factory=list)
    language: tuple[str, float] | None = None

    def facts(self) -> dict:
        """What a transcript as JSON says of the damage and the language detected; nothing where there is none."""
        facts = {"damage": [asdict(one) for one in self.damage]} if self.damage else {}
        if self.language:
            facts |= {"language": self.language[0], "language_probability": round(self.language[1], 3)}
        return facts


class Transcriber:
    """A fine-tuned or untuned Whisper, ready to read recordings. Safe to use from several threads at once."""

    def __init__(
        self,
        model: str,
        engine: str = backends.AUTO,
        device: str = "auto",
        threads: int = 0,
        precision: str = "auto",
    ):
        """`model`: a folder, a Hub id (NAME or NAME@REVISION) or "sample"; the others as `backends.load` has them.

        Raises LabError for a model that is not whole, and where the GPU has no room for it.
        """
        self.name = model
        self.folder, self.revision = checkpoint.folder(model)
        self.config = checkpoint.config(self.folder)
        self.lengths = self.config.get("trained_windows") or [FRAMES]
        self.tokenizer = checkpoint.load_processor(str(self.folder)).tokenizer
        with cuda.explained(f"loading {model}"):
            self.backend = backends.load(engine, self.folder, device, threads, precision)
        mels = self.config.get("num_mel_bins") or self.backend.model.n_mels  # CTranslate2's config.json lacks them
        self.front_end = FrontEnd(mels).prepared()

    @cached_property
    def longest(self) -> float:
        """Seconds of the longest window to cut speech into: the longest that tuning filled, or 30 s."""
        trained = [length for length in self.lengths if length < FRAMES]
        return (max(trained) if trained else FRAMES) / 100

    @cached_property
    def tuned_to(self) -> str | None:
        """The language that the model was tuned to, if any."""
        place = self.folder / "generation_config.json"
        named = files.read_json(place).get("language") if place.is_file() else None
        return checkpoint.whisper_language(named.strip("<|>")) if named else None

    @property
    def language(self) -> str:
        """The language that the model was tuned to, or Swedish."""
        return self.tuned_to or "sv"

    def segments(
        self,
        source: str | Path | np.ndarray,
        decoding: Decoding = DEFAULT,
        words: bool = False,
        start: float = 0,
        end: float | None = None,
        progress: Progress | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Iterator[Segment]:
        """The segments of `source`, a file or (samples,) float32 at 16 kHz, as they are read.

        With `words`, each word has its times, and segments end at pauses and sentence ends; without, a segment is a
        window. `start` and `end` choose a part, in seconds. `progress` is kept up to date. Raises AudioError, and
        Cancelled once `cancelled()` is true, which is asked before each batch and each segment.
        """
        progress = progress or Progress()
        if isinstance(source, np.ndarray):
            cut = source[int(start * audio.SAMPLE_RATE) : None if end is None else int(end * audio.SAMPLE_RATE)]
            blocks, total = iter([cut]), cut.size / audio.SAMPLE_RATE
        else:
            blocks = audio.blocks(source, start, end, damage=progress.damage)
            total = audio.seconds_of(source)
            total = None if total is None else min(end or total, total) - start
        progress.total = total
        prompt = self.prompt(decoding)
        cut = voice.windows(_until(blocks, cancelled), self.longest - TAIL / 100)  # or the next longer window is taken
        if decoding.language == AUTO and (first := list(islice(cut, ceil(LISTENED / self.longest)))):
            speech = [window.samples for window in first if window.heard] or [window.samples for window in first]
            progress.language = self.detected(np.concatenate(speech))
            prompt = self.prompt(replace(decoding, language=progress.language[0]))
            cut = chain(first, cut)
        decode = partial(self._read, decoding=decoding, prompt=prompt, words=words, cancelled=cancelled)
        paces = [PACE]
        ahead = self.backend.workers  # few at first, so that text appears soon
        while group := list(islice(cut, ahead)):
            for window, result in zip(group, decode(group)):
                progress.done = window.seconds[1]
                for piece, found in self._complete(window, result, decode, paces):
                    for segment in self._segments_of(piece, *found):
                        if cancelled():  # since the batch began: what comes now would be shown over "cancelled"
                            raise Cancelled
                        yield shifted(segment, start)
            ahead = min(4 * ahead, AHEAD)
        progress.done = progress.total = progress.total or progress.done

    def text(self, samples: np.ndarray, decoding: Decoding = DEFAULT) -> str:
        """What is said in (samples,) float32 at 16 kHz."""
        return joined(self.segments(samples, decoding))

    @cuda.explained("detecting the language")
    def detected(self, speech: np.ndarray) -> tuple[str, float]:
        """The code of the language spoken in (samples,) float32 at 16 kHz, and how likely it is: the mean over windows
        of 30 s, Whisper's own length, each by its seconds. A tuned model that is not certain has its own language:
        tuning seldom teaches it to tell languages, and it forgets."""
        size = FRAMES * audio.SAMPLE_RATE // 100
        likely: Counter[str] = Counter()
        for at in range(0, speech.size, size):
            mel = self.front_end.log_mel(speech[at : at + size])
            (found,) = self.backend.languages(self.backend.encode(pad(mel, FRAMES)[None]))
            likely.update({code: p * min(size, speech.size - at) / speech.size for code, p in found.items()})
        code, probability = likely.most_common(1)[0]
        if self.tuned_to and probability < CERTAIN:
            code = self.tuned_to
        return code, likely[code]

    def prompt(self, decoding: Decoding) -> list[int]:
        """What the decoder is given first: words to expect, if any, then language (the model's own before it is
        detected) and task."""
        language = self.language if decoding.language == AUTO else decoding.language
        ids = checkpoint.prompt_ids(self.tokenizer, language, decoding.task)
        if not decoding.prompt.strip():
            return ids
        before = self.tokenizer(f" {decoding.prompt.strip()}", add_special_tokens=False).input_ids
        room = POSITIONS - MAX_NEW_TOKENS - len(ids) - 1  # the last words count: they stand next to the speech
        return [self.tokenizer.convert_tokens_to_ids("<|startofprev|>"), *before[-room:], *ids]

    def _complete(self, window: voice.Window, result, decode, paces: list[float]) -> Iterator[tuple]:
        """`window` with its `result`, or its pieces with theirs, where there is too little text for the speech in it:
        of a sentence that is said several times, Whisper writes one, and after a long pause at times nothing.

        Of sound in which no speech was detected, the text is kept where the model is sure.
        """
        decoded, size = result[0], self._size(result)
        if not window.heard and (decoded.logprob < SURE or decoded.rambles or (decoded.no_speech or 0) > NO_SPEECH):
            return
        pace = size / max(window.seconds_of_speech, 1e-6)
        if window.seconds_of_speech > voice.WHOLE and pace < SPARSE * median(paces):
            pieces = window.pieces(PIECE)
            results = decode(pieces)
            if sum(map(self._size, results)) > MORE * size and all(one.ended for one, _ in results):
                for piece, found in zip(pieces, results):
                    yield from self._complete(piece, found, decode, paces)
                return
        if size and window.heard:
            paces.append(pace)
        yield window, result

    def _size(self, result) -> int:
        return len(self.decoded(result[0].tokens).strip().encode())

    def _read(
        self, group, decoding: Decoding, prompt, words: bool, cancelled
    ) -> list[tuple[Decoded, backends.Alignment | None]]:
        """Each window's text and, with `words`, the times of its tokens, in the order of `group`."""
        mels = [self.front_end.log_mel(window.samples) for window in group]
        results: list = [None] * len(group)
        by_length: dict[int, list[int]] = {}
        for i, mel in enumerate(mels):
            by_length.setdefault(windows.shortest(mel.shape[1], self.lengths), []).append(i)
        batches = [
            (frames, members[at : at + BATCH])
            for frames, members in by_length.items()
            for at in range(0, len(members), BATCH)
        ]

        def read(frames: int, batch: list[int]) -> None:
            if cancelled():
                raise Cancelled
            found = self._read_batch([mels[i] for i in batch], frames, decoding, prompt, words)
            for i, result in zip(batch, found):
                results[i] = result

        with ThreadPoolExecutor(self.backend.workers) as pool:
            list(pool.map(read, *zip(*batches)))
        return results

    @cuda.explained("transcribing")
    def _read_batch(self, mels: list[np.ndarray], frames: int, decoding: Decoding, prompt, words: bool):
        encoded = self.backend.encode(np.stack([pad(mel, frames) for mel in mels]))
        at_30_s: dict[int, object] = {}  # what was encoded again

        def with_beams(chosen: list[int]) -> list[Decoded]:
            some = self.backend.select(encoded, chosen)
            return self.backend.decode(some, prompt, token_limit(frames), decoding.beams)

        def again(chosen: list[int]) -> list[Decoded]:
            for i in chosen:
                at_30_s[i] = self.backend.encode(pad(mels[i], FRAMES)[None])
            return [self.backend.decode(at_30_s[i], prompt, token_limit(FRAMES), decoding.beams)[0] for i in chosen]

        greedy = self.backend.decode(encoded, prompt, token_limit(frames))
        read = read_again(greedy, frames, decoding.beams, with_beams, again)
        if decoding.fallback:
            read = [
                self._warmer(one, lambda i=i: at_30_s.get(i) or self.backend.encode(pad(mels[i], FRAMES)[None]), prompt)
                for i, one in enumerate(read)
            ]
        read = [
            Decoded([] if one.invented else unlooped(one.tokens), one.logprob, one.no_speech, one.ended) for one in read
        ]
        if not words:
            return [(one, None) for one in read]
        start = prompt[:-1]  # without <|notimestamps|>
        sounding = [min(mel.shape[1], frames) for mel in mels]
        times: list = [None] * len(read)
        together = [i for i, one in enumerate(read) if one.tokens and i not in at_30_s]
        if len(together) == len(read):
            times = self.backend.align(encoded, start, [one.tokens for one in read], sounding)
        else:
            for i, one in enumerate(read):
                if one.tokens:
                    alone = at_30_s[i] if i in at_30_s else self.backend.encode(pad(mels[i], frames)[None])
                    times[i] = self.backend.align(alone, start, [one.tokens], [mels[i].shape[1]])[0]
        return list(zip(read, times))

    def _warmer(self, first: Decoded, encode, prompt) -> Decoded:
        """openai/whisper's fallback: while a text loops or is unsure, sample again at a higher temperature."""
        if not (first.rambles or first.unsure) or first.invented:
            return first
        encoded, best = encode(), first
        for temperature in FALLBACK:
            best = self.backend.decode(encoded, prompt, token_limit(FRAMES), temperature=temperature)[0]
            if not (best.rambles or best.unsure):
                return best
        return best if first.rambles else first

    def _segments_of(
        self, window: voice.Window, decoded: Decoded, aligned: backends.Alignment | None
    ) -> Iterator[Segment]:
        begin, end = window.seconds
        text = self.decoded(decoded.tokens)
        if not any(c.isalnum() for c in text):
            return
        if aligned is None:
            yield Segment(begin, end, text.strip(), glued=scripts.goes_on(text))
            return
        times = _in_speech(begin + np.minimum(aligned.times, end - begin), window.speech)
        words = self._words(decoded.tokens, *times, aligned.probabilities)
        first = 0
        for i, word in enumerate(words):
            follows = words[i + 1] if i + 1 < len(words) else None
            if follows is None or follows.start - word.end > NEW_SEGMENT or SENTENCE_END.search(word.text):
                run = tuple(words[first : i + 1])
                yield Segment(run[0].start, max(run[-1].end, run[0].start), joined(run), run, glued=run[0].glued)
                first = i + 1

    def decoded(self, tokens: list[int]) -> str:
        """Their text, with the space that it begins with, if any."""
        return self.tokenizer.decode(tokens, skip_special_tokens=True)

    def words_of(self, tokens: list[int]) -> list[list[int]]:
        """The tokens of each word: one begins at a token that begins with a space or, in scripts without spaces, with a
        character that a line may begin with. A token may be a part of a character: none is parted."""
        text = self.decoded(tokens)
        ends = set(accumulate(map(len, scripts.parts(text))))
        words, first, at = [], 0, 0
        for i in range(1, len(tokens) + 1):
            word = self.decoded(tokens[first:i])  # of part of a character, U+FFFD
            if i == len(tokens) or (at + len(word) in ends and text.startswith(word, at)):
                words.append(tokens[first:i])
                first, at = i, at + len(word)
        return words

    def _words(self, tokens: list[int], starts: np.ndarray, ends: np.ndarray, probabilities: np.ndarray) -> list[Word]:
        words, at = [], 0
        for piece in self.words_of(tokens):
            start, mean = float(starts[at]), float(probabilities[at : at + len(piece)].mean())
            end = max(start, float(ends[at := at + len(piece)]))
            text = self.decoded(piece)
            if words and not any(c.isalnum() for c in text):  # a mark by itself belongs to the word before
                words[-1] = replace(words[-1], text=(words[-1].text + text).rstrip(), end=end)
            elif text.strip():
                glued = not text[0].isspace() if words else scripts.goes_on(text)
                words.append(Word(text.strip(), start, end, mean, glued))
        return _with_length(words)

    def facts(self) -> dict:
        """What has to be known to lay two copies side by side."""
        libraries = ("torch", "transformers", "ctranslate2", "faster-whisper", "gradio", "numpy", "soxr", "av")
        return {
            "model": self.name,
            "revision": self.revision,
            "weights": backends.weights_digest(self.folder),
            "engine": f"{self.backend.name}, {self.backend.precision} on {self.backend.device}",
            "windows": "30 s" if self.lengths == [FRAMES] else ", ".join(f"{n / 100:g}" for n in self.lengths) + " s",
            "versions": {name: importlib.metadata.version(name) for name in libraries},
        }


def _in_speech(times: np.ndarray, speech: list[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Ascending times → those of what begins and of what ends there: within a silence a word begins with the speech
    after it, and has ended with that before it. Where in a silence, attention says badly."""
    starts, ends = np.array(speech).T
    after = np.searchsorted(ends, times)  # the first stretch that has not ended
    moved = np.maximum(times, starts[np.minimum(after, len(starts) - 1)])
    before = np.maximum(np.searchsorted(starts, times) - 1, 0)  # the last stretch that had begun
    return np.minimum(moved, ends[-1]), np.minimum(times, ends[before])


def _with_length(words: list[Word]) -> list[Word]:
    """Words of no length share the time of the neighbour that is nearer, by their characters."""
    groups: list[list[Word]] = []
    wanting = False  # what the last of them waits for is the word after it
    for i, word in enumerate(words):
        brief = word.end - word.start < BRIEF
        before = word.start - words[i - 1].end if i else inf
        after = words[i + 1].start - word.end if i + 1 < len(words) else inf
        if groups and (wanting or brief and before <= after):
            groups[-1].append(word)
            wanting = wanting and brief
        else:
            groups.append([word])
            wanting = brief
    return [word for group in groups for word in shared(group, group[0].start, group[-1].end)]


def shifted(segment: Segment, seconds: float) -> Segment:
    """The same segment, `seconds` later."""
    if not seconds:
        return segment
    words = tuple(replace(word, start=word.start + seconds, end=word.end + seconds) for word in segment.words)
    return replace(segment, start=segment.start + seconds, end=segment.end + seconds, words=words)


def _until(blocks: Iterable[np.ndarray], cancelled: Callable[[], bool]) -> Iterator[np.ndarray]:
    for block in blocks:
        if cancelled():
            raise Cancelled
        yield block
