"""Whisper's log-mel front-end without the 30 s of padding, and its exact reconstruction.

Whisper pads every clip to 30 s of silence before it takes the spectrum. Those frames hold nothing: all of them equal
one number, which follows from the loudest frame of the clip. So only the frames whose window touches the clip are
computed and stored, 4 s out of 30 in Common Voice, and `pad` puts the rest back, bit for bit.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from . import LabError
from .audio import SAMPLE_RATE, WINDOW_SECONDS, AudioError, read

N_FFT = 400  # samples: 25 ms windows
HOP = 160  # samples: a frame every 10 ms
FRAMES = WINDOW_SECONDS * SAMPLE_RATE // HOP  # 3,000 frames in the full window
SILENCE = (math.log10(1e-10) + 4) / 4  # -1.5: a frame of digital silence
RANGE = 8 / 4  # the dynamic range that Whisper keeps below the loudest frame: 8 decades of power, scaled by 1/4


@dataclass(frozen=True)
class FrontEnd:
    """The log-mel spectrogram of openai/whisper (`audio.py`), as transformers' WhisperFeatureExtractor computes it.

    `mels` is 80, or 128 for large-v3 and turbo.
    """

    mels: int = 80

    def settings(self) -> dict:
        """What the features depend on, as the manifest records it."""
        return {
            "kind": "whisper log-mel",
            "mels": self.mels,
            "rate": SAMPLE_RATE,
            "n_fft": N_FFT,
            "hop": HOP,
            "dtype": "float16",
        }

    @cached_property
    def filters(self) -> np.ndarray:
        """(mels, N_FFT // 2 + 1) float32, by librosa, as OpenAI made its `mel_filters.npz`."""
        import librosa

        return librosa.filters.mel(sr=SAMPLE_RATE, n_fft=N_FFT, n_mels=self.mels)

    def prepared(self) -> "FrontEnd":
        """Itself, with its filters made, so that no worker process has to import librosa for them."""
        _ = self.filters
        return self

    def log_mel(self, audio: np.ndarray) -> np.ndarray:
        """(samples,) float32 at 16 kHz → (mels, frames) float32, frames = min(3000, ceil(samples / 160) + 3).

        The audio is extended by at least half a window of zeros, so that the reflection which centres the first and
        last windows meets the same samples as in the padded extractor. Audio past 30 s is cut, as there.
        """
        samples = min(audio.size, FRAMES * HOP)
        frames = min(FRAMES, -(-samples // HOP) + 3)
        extended = np.zeros(min(FRAMES * HOP, -(-samples // HOP) * HOP + 5 * HOP), np.float32)
        extended[:samples] = audio[:samples]
        spectrum = torch.stft(
            torch.from_numpy(extended), N_FFT, HOP, window=torch.hann_window(N_FFT), return_complex=True
        )
        power = (spectrum[:, :frames].abs() ** 2).contiguous()
        log = torch.clamp(torch.from_numpy(self.filters) @ power, min=1e-10).log10_()
        return ((torch.maximum(log, log.max() - 8.0) + 4.0) / 4.0).numpy()


def pad(log_mel: np.ndarray, frames: int, out: np.ndarray | None = None) -> np.ndarray:
    """(mels, some) → (mels, frames) float32, filled with what Whisper's extractor yields for silence after the clip.

    Frames past `frames` are cut. With `out`, a float32 array of that shape is filled instead of a new one.
    """
    if out is None:
        out = np.empty((log_mel.shape[0], frames), np.float32)
    kept = min(frames, log_mel.shape[1])
    out[:, :kept] = log_mel[:, :kept]
    out[:, kept:] = max(np.float32(log_mel.max()) - RANGE, SILENCE)
    return out


class Rejected(LabError):
    """A clip that cannot be learnt from. `reason` is a few words, for counting."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{reason} ({detail})" if detail else reason)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Extract:
    """A clip → a row of the feature store. Called in many processes, so it holds only what pickles."""

    front_end: FrontEnd
    max_labels: int = 448  # tokens: Whisper's decoder positions

    def __call__(self, clip: dict) -> dict:
        """`clip` (path, sentence, labels, seconds as the release says, and columns to keep) → the same with
        `seconds` as decoded, `frames`, and `features`: (mels, frames) float16, little-endian, row by row.

        Raises Rejected.
        """
        if not clip["sentence"]:
            raise Rejected("empty sentence")
        if len(clip["labels"]) > self.max_labels:
            raise Rejected(f"more than {self.max_labels} tokens", f"{len(clip['labels'])} tokens")
        try:
            samples = read(clip["path"], clip["seconds"])
        except AudioError as error:
            raise Rejected(error.reason, error.detail) from error
        seconds = samples.size / SAMPLE_RATE
        if seconds > WINDOW_SECONDS:
            raise Rejected(f"longer than {WINDOW_SECONDS} s", f"{seconds:.1f} s")
        log_mel = self.front_end.log_mel(samples).astype("<f2")
        kept = {name: value for name, value in clip.items() if name != "path"}
        return kept | {"seconds": seconds, "frames": log_mel.shape[1], "features": log_mel.tobytes()}
