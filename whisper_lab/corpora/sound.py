"""A folder of sound without sentences: each stretch of speech in it is a clip, for what learns from sound alone."""

import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from .. import LabError
from ..speech import audio, voice
from .corpus import Clip, Corpus
from .drawing import settle
from .recordings import SOUND

LENGTHS = (2, 3, 4, 5, 6, 8, 10, 15, 20)  # seconds that clips are cut to: as the windows that are to be learnt
MARGIN = 0.3  # seconds of quiet at their ends: a teacher says nothing of silence


def read(path: Path, language: str, splits: list[str] | None = None, limit: int | None = None) -> Corpus:
    """The speech in the file or the folder `path` and all folders in it, cut at pauses; train, dev and test are drawn
    from it, by file where there are enough of them. At most `limit` clips a split.

    Raises LabError where `path` is not there, where there is no file of sound, or no speech in any.
    """
    if not path.exists():
        raise LabError(f"{path} is not a folder or file that is here; --unlabelled takes a file or a folder of sound")
    found = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix.lower() in SOUND)
    if not found:
        raise LabError(f"{path} holds no sound; --unlabelled takes a file, or a folder of {' '.join(sorted(SOUND))}")
    clips, left_out = [], []
    for file in tqdm(found, desc="Speech", unit="file", leave=False):
        name = file.relative_to(path).as_posix() if path.is_dir() else file.name
        try:
            parts = [(round(start, 3), round(end, 3)) for start, end in cut(file, zlib.crc32(name.encode()))]
        except audio.AudioError as error:
            left_out.append((name, error.reason, error.detail))
            continue
        left_out += [] if parts else [(name, "no speech", "")]
        clips += [
            Clip(f"{name}_{start}-{end}", str(file), "", name, seconds=round(end - start, 3), start=start, end=end)
            for start, end in parts
        ]
    if not clips:
        why = ": ".join(left_out[0]).rstrip(": ")
        raise LabError(f"{path} holds no speech in {len(found):,} file{'s' * (len(found) > 1)} of sound, such as {why}")
    made, left_out = settle({"": clips}, {"": left_out}, splits, limit, path)
    own = path.resolve().name if path.is_dir() else path.stem
    return Corpus(name=own, version="", language=language, splits=made, left_out=left_out)


def cut(path: Path, seed: int) -> Iterator[tuple[float, float]]:
    """(start, end) in seconds of each clip in a file. They are cut in pauses, to lengths drawn from `LENGTHS`; speech
    without a pause stays together, up to 30 s. Raises audio.AudioError."""
    rng = np.random.default_rng(seed)
    for window in voice.windows(audio.blocks(path), audio.WINDOW_SECONDS, margin=MARGIN):
        if not window.heard:
            continue
        start, last = window.seconds
        longest = rng.choice(LENGTHS)
        for (_, quiet), (sound, end) in zip(window.speech, window.speech[1:]):
            if end - start > longest:
                pause = (quiet + sound) / 2
                yield start, pause
                start, longest = pause, rng.choice(LENGTHS)
        yield start, last
