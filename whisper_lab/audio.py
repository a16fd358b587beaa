"""Any file → 16 kHz mono float32, in one place. libsndfile decodes (MP3, FLAC, Ogg, WAV), soxr resamples: both come
inside wheels, so no FFmpeg has to be installed; `datasets` would need torchcodec and FFmpeg's shared libraries."""

from pathlib import Path

import numpy as np
import soundfile
import soxr

from . import LabError

SAMPLE_RATE = 16_000  # Hz: what Whisper hears
WINDOW_SECONDS = 30  # the longest stretch that Whisper's encoder takes at once


class AudioError(LabError):
    """A file that cannot be read as sound. `reason` is a few words, for counting."""

    def __init__(self, path, reason: str, detail: str = ""):
        super().__init__(f"{path}: {reason}" + (f" ({detail})" if detail else ""))
        self.reason, self.detail = reason, detail


def read(path: str | Path, expected_seconds: float | None = None) -> np.ndarray:
    """The sound in `path` as (samples,) float32 at `SAMPLE_RATE`, channels averaged, amplitudes in [-1, 1].

    Raises AudioError for a file that is missing, empty, not audio, or cut short: by its own header, or, since an MP3
    without one does not know its length, against `expected_seconds` (a release's `clip_durations.tsv`).
    """
    path = Path(path)
    if not path.is_file():
        raise AudioError(path, "missing file")
    if path.stat().st_size == 0:
        raise AudioError(path, "empty file")
    try:
        with soundfile.SoundFile(path) as file:
            promised, rate = file.frames, file.samplerate
            samples = file.read(dtype="float32", always_2d=True).mean(axis=1)
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise AudioError(path, "not audio", str(error).rsplit(": ", 1)[-1]) from error
    if samples.size == 0:
        raise AudioError(path, "no samples")
    if expected_seconds is not None:
        promised = max(promised, expected_seconds * rate)
    missing = (promised - samples.size) / rate
    if missing > 0.25:  # an MP3 encoder's delay and padding are below 0.1 s
        raise AudioError(path, "truncated", f"{missing:.1f} s missing")
    if not np.isfinite(samples).all():
        raise AudioError(path, "not audio", "samples that are not numbers")
    return soxr.resample(samples, rate, SAMPLE_RATE) if rate != SAMPLE_RATE else samples
