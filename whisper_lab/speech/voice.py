"""Where there is speech, and where to cut a recording into windows: Silero's voice activity model, which comes with
faster-whisper, over a stream of any length in bounded memory. https://github.com/snakers4/silero-vad
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

from .audio import SAMPLE_RATE

FRAME = 512  # samples: what the model takes at a time, 32 ms
SECONDS = FRAME / SAMPLE_RATE
CONTEXT = 64  # samples of the frame before, which it wants to see too
SPEECH, QUIET = 0.5, 0.35  # probabilities at which speech begins, and below which it ends: Silero's own
PAUSE = 0.3  # seconds of quiet that end a stretch of speech
WHOLE = 2.0  # seconds of quiet that belong to a clip
SHORTEST = 0.1  # seconds: clicks are shorter than any word
FAINT, CLEAR = 0.1, 0.5  # peaks of full scale: below the first, sound is made as loud as the second before it is judged
MOST = 300.0  # times as loud: what is fainter still is noise


@cache
def _session():
    from faster_whisper.vad import get_vad_model

    return get_vad_model().session


class Detector:
    """Speech probabilities of a stream, 32 ms at a time."""

    def __init__(self):
        self._h = self._c = np.zeros((1, 1, 128), np.float32)
        self._before = np.zeros(CONTEXT, np.float32)
        self._rest = np.zeros(0, np.float32)
        self._peak = 0.0

    def __call__(self, samples: np.ndarray, last: bool = False) -> np.ndarray:
        """(samples,) that follow those of the call before → (frames,) probabilities of the frames now complete.

        With `last`, what does not fill a frame is filled up with silence.
        """
        samples = np.concatenate([self._rest, samples])
        if last and samples.size % FRAME:
            samples = np.pad(samples, (0, FRAME - samples.size % FRAME))
        count = samples.size // FRAME
        self._rest = samples[count * FRAME :]
        if not count:
            return np.zeros(0, np.float32)
        self._peak = max(self._peak, float(np.abs(samples).max()))
        # At a peak of 0.005 Silero misses 30 % of the speech in 40 human clips that it finds at 0.5; at 0.0015, all.
        gain = min(MOST, CLEAR / max(self._peak, 1e-9)) if self._peak < FAINT else 1
        frames = samples[: count * FRAME].reshape(count, FRAME) * np.float32(gain)
        before = np.vstack([self._before, frames[:-1, -CONTEXT:]])
        self._before = frames[-1, -CONTEXT:]
        inputs = {"input": np.hstack([before, frames]), "h": self._h, "c": self._c}
        probabilities, self._h, self._c = _session().run(None, inputs)
        return probabilities.reshape(-1)


@dataclass(frozen=True)
class Window:
    """A stretch of a recording with speech in it. `start` in samples of the recording."""

    start: int
    samples: np.ndarray  # (samples,) float32, 16 kHz
    speech: list[tuple[float, float]]  # where in the recording there is speech in it, in seconds

    @property
    def seconds(self) -> tuple[float, float]:
        return self.start / SAMPLE_RATE, (self.start + self.samples.size) / SAMPLE_RATE


def stretches(probabilities: np.ndarray) -> list[tuple[int, int]]:
    """(frames,) probabilities → [(first frame of speech, frame after the last)], pauses below `PAUSE` bridged."""
    pause, shortest = round(PAUSE * SAMPLE_RATE / FRAME), SHORTEST * SAMPLE_RATE / FRAME
    found, start, end = [], None, None
    for i, p in enumerate(probabilities):
        if p >= SPEECH:
            start, end = (i, i + 1) if start is None else (start, i + 1)
        elif start is not None and p >= QUIET and i == end:
            end = i + 1
        elif start is not None and i - end >= pause:
            found.append((start, end))
            start = None
    if start is not None:
        found.append((start, end))
    return [(a, b) for a, b in found if b - a >= shortest]


def windows(blocks: Iterable[np.ndarray], longest: float, margin: float = 0.3) -> Iterator[Window]:
    """Cut a recording, given in `blocks` of any size, into windows of speech of at most `longest` seconds.

    Windows are contiguous sound with up to `margin` seconds of quiet at each end; they are cut in the longest pause of
    their later half or, where nobody pauses, where speech is least likely. A recording whose speech fits one window is
    one window, with up to `WHOLE` seconds of quiet at its ends: the clip as it was, as training and its scores read it.
    """
    detector, limit = Detector(), int(longest * SAMPLE_RATE) // FRAME
    kept, probabilities, first = np.zeros(0, np.float32), np.zeros(0, np.float32), 0  # not given out yet; in frames
    started = False
    for block, last in _with_last(blocks):
        kept = np.concatenate([kept, block])
        probabilities = np.concatenate([probabilities, detector(block, last)])
        while True:
            speech = stretches(probabilities)
            if not speech:
                drop = max(0, probabilities.size - limit)
                break
            edge = min(round(margin * SAMPLE_RATE / FRAME), limit // 8)
            spare = limit - (speech[-1][1] - speech[0][0])
            if last and not started and spare > 2 * edge:
                edge = min(spare // 2, round(WHOLE * SAMPLE_RATE / FRAME))
            begin = max(0, speech[0][0] - edge)
            if not last and probabilities.size < begin + limit + edge + round(PAUSE * SAMPLE_RATE / FRAME):
                drop = begin
                break
            end, after = _cut(speech, probabilities, begin, limit, edge)
            held = [((first + a) * SECONDS, (first + min(b, end)) * SECONDS) for a, b in speech if a < end]
            yield Window((first + begin) * FRAME, kept[begin * FRAME : end * FRAME], held)
            started = True
            kept, probabilities, first = kept[after * FRAME :], probabilities[after:], first + after
        if not started and not last:  # the quiet before the first word may belong to its window
            drop = max(0, drop - round(WHOLE * SAMPLE_RATE / FRAME))
        kept, probabilities, first = kept[drop * FRAME :], probabilities[drop:], first + drop


def _cut(speech, probabilities, begin: int, limit: int, edge: int) -> tuple[int, int]:
    """Where a window that starts at frame `begin` ends, and where the search for the next one starts."""
    inside = [stretch for stretch in speech if stretch[1] + edge <= begin + limit]
    if len(inside) == len(speech):  # all there is
        return (end := min(probabilities.size, speech[-1][1] + edge)), end
    pauses = [
        (after[0] - before[1], before[1], after[0])
        for before, after in zip(speech, speech[1:])
        if begin + limit // 2 <= before[1] and before[1] + edge <= begin + limit
    ] or [(after[0] - before[1], before[1], after[0]) for before, after in zip(inside[-1:], speech[len(inside) :])]
    if pauses:
        length, stop, resume = max(pauses)
        after = max(stop + length // 2, resume - edge)  # of an odd pause too no frame is in two windows
        return min(stop + edge, after), after
    tail = probabilities[begin + limit // 2 : begin + limit]
    cut = begin + limit // 2 + int(np.argmin(np.convolve(tail, np.ones(5) / 5, "same")[2:-2])) + 2
    return cut, cut


def _with_last(blocks: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, bool]]:
    before = None
    for block in blocks:
        if before is not None:
            yield before, False
        before = block
    if before is not None:
        yield before, True
