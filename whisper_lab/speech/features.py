"""Whisper's log-mel front-end without the 30 s of padding, and its exact reconstruction.

Whisper pads every clip to 30 s of silence before it takes the spectrum. Those frames hold nothing: all of them equal
one number, which follows from the loudest frame of the clip. So only the frames whose window touches the clip are
computed and stored, 4 s out of 30 in Common Voice, and `pad` puts the rest back, bit for bit.
"""

import math
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import torch

from .. import LabError, text
from .audio import SAMPLE_RATE, WINDOW_SECONDS, AudioError, read

N_FFT = 400  # samples: 25 ms windows
HOP = 160  # samples: a frame every 10 ms
FRAMES = WINDOW_SECONDS * SAMPLE_RATE // HOP  # 3,000 frames in the full window
TAIL = 3  # frames after the end of a clip whose windows still touch it
SILENCE = (math.log10(1e-10) + 4) / 4  # -1.5: a frame of digital silence
SLACK = 0.25  # seconds by which a part may be longer than its file: tables round
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
        _ = self._bands
        return self

    def log_mel(self, audio: np.ndarray) -> np.ndarray:
        """(samples,) float32 at 16 kHz → (mels, frames) float32, frames = min(3000, ceil(samples / 160) + TAIL).

        The audio is extended by at least half a window of zeros, so that the reflection which centres the first and
        last windows meets the same samples as in the padded extractor. Audio past 30 s is cut, as there.
        """
        samples, half = min(audio.size, FRAMES * HOP), N_FFT // 2
        frames = min(FRAMES, -(-samples // HOP) + TAIL)
        centred = np.zeros(min(FRAMES * HOP, -(-samples // HOP) * HOP + 5 * HOP) + N_FFT, np.float32)
        centred[half : half + samples] = audio[:samples]
        centred[:half], centred[-half:] = centred[N_FFT:half:-1], centred[-half - 2 : -N_FFT - 2 : -1]
        framed = torch.from_numpy(centred).unfold(0, N_FFT, HOP)[:frames] * _hann_window()
        # Real and imaginary parts are squared where they lie and summed by the filters, each given twice: half the time
        # of torch.stft, whose complex numbers want a root that is squared again.
        squares = torch.view_as_real(torch.fft.rfft(framed)).square_().view(frames, -1).T
        log = torch.cat([filters @ squares[low:high] for low, high, filters in self._bands]).clamp_(min=1e-10).log10_()
        return log.clamp_(min=log.max() - 8.0).add_(4.0).div_(4.0).numpy()

    @cached_property
    def _bands(self) -> list[tuple[int, int, torch.Tensor]]:
        """The filters in two bands, low and high: each leaves out the rows of `squares` that it would multiply by 0."""
        twice, bands = torch.from_numpy(self.filters).repeat_interleave(2, dim=1), []
        for filters in twice.split(self.mels * 2 // 3 + 1):
            used = filters.any(dim=0).nonzero()
            low, high = int(used[0]), int(used[-1]) + 1
            bands.append((low, high, filters[:, low:high].contiguous()))
        return bands


@cache
def _hann_window() -> torch.Tensor:
    return torch.hann_window(N_FFT)


def pad(log_mel: np.ndarray, frames: int, out: np.ndarray | None = None) -> np.ndarray:
    """(mels, some) → (mels, frames) float32, filled with what Whisper's extractor yields for silence after the clip.

    Frames past `frames` are cut. With `out`, a float32 array of that shape is filled instead of a new one.
    """
    if out is None:
        out = np.empty((log_mel.shape[0], frames), np.float32)
    kept = min(frames, log_mel.shape[1])
    out[:, :kept] = log_mel[:, :kept]
    loudest = max(out[:, :kept].max(), log_mel[:, kept:].max(initial=-np.inf))  # numpy is slow to compare float16
    out[:, kept:] = max(np.float32(loudest) - RANGE, SILENCE)
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
    unlabelled: bool = False  # clips have no sentences

    def __call__(self, clip: dict) -> dict:
        """`clip` (path, sentence, labels, seconds as the release says, start and end if it is a part of the file, and
        columns to keep) → the same with `seconds` as decoded, `frames`, and `features`: (mels, frames) float16,
        little-endian, row by row.

        A clip of a split that is cleaned also has `limits`, a cleaning.Limits, and `rejected`, what it says before
        reading. Raises Rejected.
        """
        if not clip["sentence"] and not self.unlabelled:
            raise Rejected("empty sentence")
        if control := text.CONTROL.search(clip["sentence"]):  # what nobody says, and no decoder would show
            raise Rejected("control token in the sentence", f"{control[0]}: take it out of the text")
        if clip.get("rejected"):
            raise Rejected(*clip["rejected"])
        if len(clip["labels"]) > self.max_labels:
            raise Rejected(f"more than {self.max_labels} tokens", f"{len(clip['labels'])} tokens")
        start, end = clip.get("start", 0.0), clip.get("end")
        try:
            samples = read(clip["path"], None if start or end else clip["seconds"], start, end)
        except AudioError as error:
            raise Rejected(error.reason, error.detail) from error
        seconds = samples.size / SAMPLE_RATE
        if end and end - start - seconds > SLACK:
            raise Rejected("part that the file has not", f"{start:g} to {end:g} s; it ends at {start + seconds:.2f} s")
        if seconds > WINDOW_SECONDS:
            raise Rejected(f"longer than {WINDOW_SECONDS} s", f"{seconds:.1f} s")
        limits = clip.get("limits")
        if limits and (unwanted := limits.after_reading(seconds, clip["sentence"])):
            raise Rejected(*unwanted)
        log_mel = torch.from_numpy(self.front_end.log_mel(samples)).half().numpy()  # a tenth of numpy's time
        kept = {name: value for name, value in clip.items() if name not in ("path", "limits", "rejected")}
        return kept | {"seconds": seconds, "frames": log_mel.shape[1], "features": log_mel.tobytes()}
