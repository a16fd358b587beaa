"""Where there is speech, and where to cut a recording into windows: Silero's voice activity model, which comes with
faster-whisper, over a stream of any length in bounded memory. https://github.com/snakers4/silero-vad
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from math import inf

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from .audio import SAMPLE_RATE

FRAME = 512  # samples: what the model takes at a time, 32 ms
SECONDS = FRAME / SAMPLE_RATE
CONTEXT = 64  # samples of the frame before, which it wants to see too
TURN = 3  # frames that are four when they are played at three quarters of the speed
SPEECH, QUIET = 0.5, 0.35  # probabilities at which speech begins, and below which it ends: Silero's own
PAUSE = 0.3  # seconds of quiet that end a stretch of speech
WHOLE = 2.0  # seconds of quiet that belong to a clip
SHORTEST = 0.1  # seconds: clicks are shorter than any word
FAINT, CLEAR = 0.1, 0.5  # peaks of full scale: below the first, sound is made as loud as the second before it is judged
MOST = 300.0  # times as loud: what is fainter still is noise
HALVES = 5.0  # seconds in which a peak fades by half
ABOVE, BELOW = 10.0, 47.0  # decibels above the quietest of the last seconds, and below the peak, within which is sound
QUIETEST = 3.0  # seconds
LASTING = 0.4  # seconds of sound without detected speech that are worth a try: shorter are clicks and knocks
REACH, GAP = 1.0, 8  # seconds that speech may grow over the sound around it, and frames of quiet that it passes


@cache
def _session():
    from faster_whisper.vad import get_vad_model

    return get_vad_model().session


class _Silero:
    """The model over a stream of frames."""

    def __init__(self):
        self._h = self._c = np.zeros((1, 1, 128), np.float32)
        self._before = np.zeros(CONTEXT, np.float32)

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """(frames, FRAME) → (frames,) probabilities."""
        before = np.vstack([self._before, frames[:-1, -CONTEXT:]])
        self._before = frames[-1, -CONTEXT:]
        inputs = {"input": np.hstack([before, frames]), "h": self._h, "c": self._c}
        probabilities, self._h, self._c = _session().run(None, inputs)
        return probabilities.reshape(-1)


class Detector:
    """Speech probabilities of a stream, and where there is any sound, 32 ms at a time.

    The model hears everything twice: as it is, and at three quarters of the speed, where the high voices of children
    and of those who play them are an adult's. Of 374 human clips it finds all then (372 otherwise) and 2 begin more
    than 0.2 s late (29), at no higher probabilities for noise, tones and hold music.
    """

    def __init__(self):
        self._as_it_is, self._slower = _Silero(), _Silero()
        self._rest = np.zeros(0, np.float32)
        self._last = np.float32(0)  # sample of the frames before
        self._peak = -inf  # of the frames before, fading; in decibels, as are levels
        self._levels = np.full(round(QUIETEST / SECONDS), np.inf)  # of the frames before

    def __call__(self, samples: np.ndarray, last: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """(samples,) that follow those of the call before → (frames,) probabilities of the frames now complete, and
        (frames,) whether there is sound.

        Frames come in threes. With `last`, what does not fill them is filled up with silence.
        """
        samples = np.concatenate([self._rest, samples])
        if last and samples.size % (TURN * FRAME):
            samples = np.pad(samples, (0, TURN * FRAME - samples.size % (TURN * FRAME)))
        count = samples.size // (TURN * FRAME) * TURN
        self._rest = samples[count * FRAME :]
        if not count:
            return np.zeros(0, np.float32), np.zeros(0, bool)
        frames = samples[: count * FRAME].reshape(count, FRAME)
        peaks = self._peaks(frames)
        # At a peak of 0.005 Silero misses 30 % of the speech in 40 human clips that it finds at 0.5; at 0.0015, all.
        peak = 10 ** (peaks.max() / 20)
        loud = frames * np.float32(min(MOST, CLEAR / peak) if peak < FAINT else 1)
        with ThreadPoolExecutor(1) as aside:
            slower = aside.submit(self._slower, self._slowed(loud.reshape(-1)))
            probabilities = self._as_it_is(loud)
        slower = slower.result().reshape(-1, TURN + 1)[:, [0, 2, 3]].reshape(-1)  # those at each frame's middle
        return np.maximum(probabilities, slower), self._sounding(frames, peaks)

    def _peaks(self, frames: np.ndarray) -> np.ndarray:
        """(frames,) the loudest until then, faded."""
        found = 20 * np.log10(np.abs(frames).max(axis=1) + 1e-9)
        faded = np.arange(len(frames) + 1) * (6 * SECONDS / HALVES)
        peaks = (np.maximum.accumulate(np.append(self._peak, found) + faded) - faded)[1:]
        self._peak = peaks[-1]
        return peaks

    def _slowed(self, sound: np.ndarray) -> np.ndarray:
        places = np.arange(sound.size * (TURN + 1) // TURN) * (TURN / (TURN + 1))
        slowed = np.interp(places, np.arange(sound.size + 1), np.append(self._last, sound))
        self._last = sound[-1]
        return slowed.astype(np.float32).reshape(-1, FRAME)

    def _sounding(self, frames: np.ndarray, peaks: np.ndarray) -> np.ndarray:
        levels = 10 * np.log10(np.square(frames).mean(axis=1) + 1e-12)
        known = np.concatenate([self._levels, levels])
        quietest = sliding_window_view(known, self._levels.size + 1).min(axis=1)
        self._levels = known[levels.size :]
        return (levels > quietest + ABOVE) & (levels > peaks - BELOW)


@dataclass(frozen=True)
class Window:
    """A stretch of a recording with speech in it. `start` in samples of the recording."""

    start: int
    samples: np.ndarray  # (samples,) float32, 16 kHz
    speech: list[tuple[float, float]]  # where in the recording there is speech in it, in seconds
    heard: bool = True  # by the detector; otherwise there is sound, and what it is the model has to say

    @property
    def seconds(self) -> tuple[float, float]:
        return self.start / SAMPLE_RATE, (self.start + self.samples.size) / SAMPLE_RATE

    @property
    def seconds_of_speech(self) -> float:
        return sum(end - start for start, end in self.speech)

    def pieces(self, longest: float) -> list["Window"]:
        """The window in two, cut where its middle half is quietest, and these again while they have more than `longest`
        seconds of speech."""
        quarter = self.samples.size // 4
        cut = quarter + quietest(self.samples[quarter : self.samples.size - quarter])
        at = (self.start + cut) / SAMPLE_RATE
        first = replace(self, samples=self.samples[:cut], speech=[(a, min(b, at)) for a, b in self.speech if a < at])
        speech = [(max(a, at), b) for a, b in self.speech if b > at]
        second = replace(self, start=self.start + cut, samples=self.samples[cut:], speech=speech)
        return [
            piece
            for half in (first, second)
            if half.speech
            for piece in (half.pieces(longest) if half.seconds_of_speech > longest else [half])
        ]


def quietest(samples: np.ndarray) -> int:
    """The sample in the middle of the quietest quarter of a second."""
    loudness = np.square(samples[: samples.size // FRAME * FRAME]).reshape(-1, FRAME).mean(axis=1)
    return int(np.convolve(loudness, np.ones(GAP) / GAP, "same").argmin()) * FRAME if loudness.size else 0


def stretches(probabilities: np.ndarray, sounding: np.ndarray) -> list[tuple[int, int]]:
    """(frames,) probabilities and whether there is sound → [(first frame of speech, frame after the last)].

    Pauses below `PAUSE` are bridged, and speech grows over the sound that touches it, by at most `REACH`: its softest
    beginnings and ends are below the model's threshold.
    """
    pause, shortest = round(PAUSE / SECONDS), SHORTEST / SECONDS
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
    found = [(a, b) for a, b in found if b - a >= shortest]
    grown: list[tuple[int, int]] = []
    for (a, b), following in zip(found, [*(a for a, _ in found[1:]), len(sounding)]):
        a -= _reach(sounding[max(0, a - round(REACH / SECONDS), grown[-1][1] if grown else 0) : a][::-1])
        b += _reach(sounding[b : min(b + round(REACH / SECONDS), following)])
        if grown and a - grown[-1][1] < pause:
            a = grown.pop()[0]
        grown.append((a, b))
    return grown


def _reach(sounding: np.ndarray) -> int:
    """How many frames there are from the first on to the last with sound before more than `GAP` without."""
    reached = 0
    for i in np.flatnonzero(sounding):
        if i - reached > GAP:
            break
        reached = int(i) + 1
    return reached


def windows(blocks: Iterable[np.ndarray], longest: float, margin: float = WHOLE) -> Iterator[Window]:
    """Cut a recording, given in `blocks` of any size, into windows of speech of at most `longest` seconds, and into
    others of the sound between them, in which no speech was detected.

    Windows are contiguous sound with up to `margin` seconds of quiet at each end, by default as much as clips have; of
    the pause between two, each gets half. They end in the longest pause of their later half or, where nobody pauses,
    where speech is least likely.
    """
    detector, limit, edge = Detector(), int(longest / SECONDS), round(margin / SECONDS)
    ahead = 2 * edge + round(REACH / SECONDS)  # frames after a window that decide where it ends
    kept, probabilities, sounding = np.zeros(0, np.float32), np.zeros(0, np.float32), np.zeros(0, bool)
    first = 0  # frame of the recording that `kept` begins with

    def window(start: int, end: int, spoken: list[tuple[int, int]], heard: bool = True) -> Window:
        held = [((first + a) * SECONDS, (first + b) * SECONDS) for a, b in spoken]
        return Window((first + start) * FRAME, kept[start * FRAME : end * FRAME], held, heard)

    def unheard(runs: list[tuple[int, int]], end: int) -> Iterator[Window]:
        groups = _together(runs, limit)
        befores, afters = [0, *(group[-1][1] for group in groups)], [*(group[0][0] for group in groups[1:]), 2 * end]
        for before, group, after in zip(befores, groups, afters):
            a, b = group[0][0], group[-1][1]
            room = min(edge, (limit - (b - a)) // 2)
            yield window(max(a - room, (before + a) // 2), min(b + room, (b + after) // 2, end), group, False)

    for block, last in _with_last(blocks):
        found, sound = detector(block, last)
        kept = np.concatenate([kept, block])
        probabilities, sounding = np.concatenate([probabilities, found]), np.concatenate([sounding, sound])
        while speech := stretches(probabilities, sounding):
            begin = speech[0][0]
            if not last and probabilities.size < begin + limit + ahead:
                break
            stop, resume = _cut(speech, probabilities, limit)
            quiet = edge if resume is None else (resume - stop) // 2
            room = limit - (stop - begin)
            before = min(edge, begin, max(room // 2, room - quiet))
            end = min(stop + min(edge, quiet, room - before), probabilities.size)
            yield from unheard(_runs(sounding[: begin - before], limit), begin - before)
            spoken = [(a, min(b, stop)) for a, b in speech if a < stop]
            pauses = [(b, a) for (_, b), (a, _) in zip(spoken, spoken[1:])]
            spoken += [(b + x, b + y) for b, a in pauses for x, y in _runs(sounding[b:a], limit)]
            yield window(begin - before, end, sorted(spoken))
            kept, first = kept[end * FRAME :], first + end
            probabilities, sounding = probabilities[end:], sounding[end:]
        done = max(0, speech[0][0] - edge if speech else probabilities.size - (0 if last else ahead + edge))
        runs = _runs(sounding[:done], limit)
        if runs and not last and done - runs[-1][1] <= GAP and done - runs[-1][0] < limit:
            done = runs.pop()[0]  # it may go on
        yield from unheard(runs, done)
        kept, probabilities, sounding, first = kept[done * FRAME :], probabilities[done:], sounding[done:], first + done


def _runs(sounding: np.ndarray, limit: int) -> list[tuple[int, int]]:
    """[(first frame, frame after the last)] of sound for at least `LASTING` seconds, in pieces of at most `limit`."""
    frames = np.flatnonzero(sounding)
    gaps = np.flatnonzero(np.diff(frames) > GAP + 1)
    runs = [(int(a), int(b) + 1) for a, b in zip(frames[[0, *gaps + 1]], frames[[*gaps, -1]])] if frames.size else []
    return [(at, min(at + limit, b)) for a, b in runs if b - a >= LASTING / SECONDS for at in range(a, b, limit)]


def _together(runs: list[tuple[int, int]], limit: int) -> list[list[tuple[int, int]]]:
    """Runs that fit a window of `limit` frames, and are less than `WHOLE` seconds apart."""
    groups: list[list[tuple[int, int]]] = []
    for a, b in runs:
        if groups and b - groups[-1][0][0] <= limit and a - groups[-1][-1][1] < WHOLE / SECONDS:
            groups[-1].append((a, b))
        else:
            groups.append([(a, b)])
    return groups


def _cut(speech, probabilities: np.ndarray, limit: int) -> tuple[int, int | None]:
    """Where the speech of the window ends that the first stretch begins, and where that of the next begins, if it is
    known; in frames."""
    begin = speech[0][0]
    inside = [stretch for stretch in speech if stretch[1] <= begin + limit]
    pauses = [(after[0] - before[1], before[1], after[0]) for before, after in zip(inside, speech[1:])]
    if len(inside) == len(speech):
        return speech[-1][1], None
    if pauses:
        _, stop, resume = max([pause for pause in pauses if pause[1] >= begin + limit // 2] or pauses[-1:])
        return stop, resume
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
