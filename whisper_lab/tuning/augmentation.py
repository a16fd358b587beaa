"""A training clip as it is met this time: masked, sounding otherwise, its words cut into other tokens.

Masks (SpecAugment, Park et al. 2019) take a feature set as it is; perturbing the sound reads the clip's file again; BPE
dropout (Provilkov et al. 2020) needs the tokenizer's merges. What becomes of a row follows from it and the generator's
seed, in whatever process it is read.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soxr
import torch

from .. import LabError, near
from ..corpora import corpus, splits
from ..corpora.corpus import Clip
from ..speech.audio import SAMPLE_RATE, read
from ..speech.features import HOP, TAIL, FrontEnd
from ..stores.store import FeatureSet
from ..text import cleaned
from ..whisper.decoding import POSITIONS
from ..whisper.windows import shortest
from .merges import Merges

# Masks as many and as wide as NeMo's for small and medium Conformers: adaptive in size, as Park et al. 2020 and Gulati
# et al. 2020 have them, so that a clip of 2 s keeps its words, and never wider than in Park et al. 2019, so that one of
# 30 s does. At most a quarter of the time is masked, an eighth on average.
TIME_MASKS, TIME_SHARE, TIME_WIDEST = 5, 0.05, 100  # of the clip's frames; frames
FREQUENCY_MASKS, FREQUENCY_SHARE = 2, 27 / 80  # of the mels: a third of them is masked on average

PERTURBATIONS = ("speed", "room", "noise", "gain")  # in the order in which they come
SPEEDS = (0.9, 1.0, 1.1)  # each a third of the time (Ko et al. 2015, and Kaldi)
CHANCES = {"room": 0.3, "noise": 0.3, "gain": 0.5}  # most clips keep the sound that the model is scored on
RT60 = (0.1, 0.6)  # seconds that the sound of a room takes to fall by 60 dB: a furnished room, a bare one
DIRECT = (0.0, 10.0)  # dB from the room's sound up to the direct sound: across a table, near the mouth
NEAR = 40  # samples, 2.5 ms: what comes within them counts as direct sound (Eaton et al. 2016, the ACE challenge)
SNR = (10.0, 30.0)  # dB from the noise up to the clip
COLOUR = (0.0, 2.0)  # the exponent of 1/f in the noise's power: white to brown
FLAT = 50  # Hz: below, coloured noise grows no further, or most of its power would lie where Whisper does not listen
GAIN = (-12.0, 6.0)  # dB


@dataclass(frozen=True)
class Augmentation:
    """A row of a split → the row as it is met this time; what is not asked for stays, and the row given never changes.

    Pickles. `front_end` and `sounds` (clips by their ids) are for `perturb`, `merges` for `bpe_dropout`.
    """

    masks: bool = False
    perturb: tuple[str, ...] = ()
    bpe_dropout: float = 0.0
    front_end: FrontEnd | None = None
    sounds: Mapping[str, Clip] = field(default_factory=dict, repr=False)
    merges: Merges | None = field(default=None, repr=False)

    def __call__(self, row: dict, rng: np.random.Generator, frames: int | None = None) -> dict:
        """All that is asked for. `frames` as in `perturbed`.

        A joined row (it has `given`) is not perturbed: its clips are to be, each by itself, before they are joined and
        their timestamps counted.
        """
        if "given" not in row:
            row = self.perturbed(row, rng, frames)
        return self.masked(self.relabelled(row, rng), rng)

    def perturbed(self, row: dict, rng: np.random.Generator, frames: int | None = None) -> dict:
        """The row of one clip with its sound perturbed: its `features`, `frames` and `seconds`.

        A speed at which it would have more than `frames` is not taken; None stands for the shortest window that holds
        the clip as it is. Nothing is scaled past full scale. Raises AudioError where the clip's file cannot be read.
        """
        limit = shortest(row["frames"]) if frames is None else frames
        speed = float(rng.choice(SPEEDS)) if "speed" in self.perturb else 1.0
        if -(-round(row["seconds"] * SAMPLE_RATE / speed) // HOP) + TAIL > limit:
            speed = 1.0
        drawn = [name for name in CHANCES if name in self.perturb and rng.random() < CHANCES[name]]
        if speed == 1 and not drawn:
            return row
        clip = self.sounds[row["id"]]
        samples = at_speed(read(clip.path, None if clip.part else row["seconds"], clip.start, clip.end), speed)
        if "room" in drawn:
            samples = in_room(samples, impulse_response(rng.uniform(*RT60), rng.uniform(*DIRECT), rng))
        if "noise" in drawn:
            samples = with_noise(samples, rng.uniform(*SNR), rng.uniform(*COLOUR), rng)
        gain = 10 ** (rng.uniform(*GAIN) / 20) if "gain" in drawn else 1.0
        samples = samples * np.float32(min(gain, 1 / max(np.abs(samples).max(), 1e-9)))
        log_mel = torch.from_numpy(self.front_end.log_mel(samples)).half().numpy()
        seconds = samples.size / SAMPLE_RATE
        return row | {"seconds": seconds, "frames": log_mel.shape[1], "features": log_mel}

    def relabelled(self, row: dict, rng: np.random.Generator) -> dict:
        """The row with `labels` by BPE dropout; as they were, where the decoder has no room for those."""
        if not self.bpe_dropout:
            return row
        labels = self.merges.encoded_again(row["labels"], self.bpe_dropout, rng)
        return row | {"labels": labels} if len(row.get("before", ())) + len(labels) <= POSITIONS else row

    def masked(self, row: dict, rng: np.random.Generator) -> dict:
        """The row with `features` by SpecAugment."""
        return row | {"features": mask(row["features"], row["frames"], rng)} if self.masks else row


def build(
    features: FeatureSet,
    tokenizer,
    masks: bool = False,
    perturb: tuple[str, ...] = (),
    bpe_dropout: float = 0.0,
    source: str | None = None,
    columns: dict[str, str] | None = None,
) -> Augmentation | None:
    """The augmentation of a feature set's train; None if nothing is asked for. `source` and `columns` as in `sounds`.

    Raises LabError for a perturbation that is not known, a dropout outside of 0 to 1, and as `sounds`.
    """
    for name in perturb:
        if name not in PERTURBATIONS:
            raise LabError(f"there is no perturbation {name!r}{near(name, PERTURBATIONS)}")
    if not 0 <= bpe_dropout < 1:
        raise LabError(f"BPE dropout is a share of the merges, from 0 to below 1, not {bpe_dropout:g}; 0.1 is usual")
    if not (masks or perturb or bpe_dropout):
        return None
    return Augmentation(
        masks,
        tuple(perturb),
        bpe_dropout,
        FrontEnd(features.mels).prepared() if perturb else None,
        sounds(features, source, columns) if perturb else {},
        Merges.of(tokenizer) if bpe_dropout else None,
    )


def sounds(features: FeatureSet, source: str | None = None, columns: dict[str, str] | None = None) -> dict[str, Clip]:
    """Each clip of train, by id, in the corpus that the set was made of: `source`, and what its
    `columns` are called, as corpus.read takes them.

    Without `source`, the sample's and a Hub dataset's are found by themselves. Raises LabError for other corpora, and
    where clips are not in `source`, say something else there, or their files are gone.
    """
    made_of = features.manifest["corpus"]
    if source is None and corpus.bundled(made_of):
        source = "sample"
    elif source is None and "/" in made_of["name"]:
        source = f"hub:{made_of['name']}@{made_of['version']}"
    elif source is None:
        raise LabError(
            f"--perturb needs the sound of {' '.join(filter(None, (made_of['name'], made_of['version'])))}; say where "
            "it is: --audio SOURCE, as feature-pipeline.py was given it with --corpus, and its --columns"
        )
    wanted = splits.needed(features.splits, features.manifest["train_splits"])  # as the set was made: ids depend on it
    found = corpus.read(source, made_of["language"], wanted, None, columns)
    clips = {clip.id: clip for split in found.splits.values() for clip in split}
    train = features.clips("train")
    sentences = dict(zip(train["id"].to_pylist(), train["sentence"].to_pylist()))
    other = [id for id, text in sentences.items() if id not in clips or clips[id].sentence != cleaned(text)]
    if lacking := other or [id for id in sentences if not Path(clips[id].path).is_file()]:
        raise LabError(
            f"{source}: {len(lacking)} of the {len(sentences)} clips of train are {'not in it' if other else 'gone'}, "
            f"such as {lacking[0]}; --audio takes the corpus that the features were made of, or leave --perturb out"
        )
    return {id: clips[id] for id in sentences}


def mask(log_mel: np.ndarray, frames: int, rng: np.random.Generator) -> np.ndarray:
    """A copy of (mels, some) in which stretches of the first `frames`, and of the mels there, hold the clip's mean.

    The mean, as in Park et al., whose features have mean 0: silence would say that nothing was said, and 0, which
    transformers fills in (all over the 30 s), is for Whisper as loud as speech. The loudest cell stays, since the level
    of the silence after the clip follows from it (`features.pad`).
    """
    out = log_mel.copy()
    clip = out[:, :frames]
    values = torch.from_numpy(clip).float().numpy()  # numpy is slow to compare float16
    fill, loudest = values.mean(), np.unravel_index(values.argmax(), values.shape)
    kept = clip[loudest]
    for _ in range(FREQUENCY_MASKS):
        clip[_stretch(len(clip), FREQUENCY_SHARE * len(clip), rng)] = fill
    for _ in range(TIME_MASKS):
        clip[:, _stretch(frames, min(TIME_SHARE * frames, TIME_WIDEST), rng)] = fill
    clip[loudest] = kept
    return out


def _stretch(size: int, widest: float, rng: np.random.Generator) -> slice:
    width = rng.integers(int(widest) + 1)
    start = rng.integers(size - width + 1)
    return slice(start, start + width)


def at_speed(samples: np.ndarray, speed: float) -> np.ndarray:
    """Played `speed` times as fast, so that the pitch changes too, as Kaldi does it. (samples,) float32."""
    return soxr.resample(samples, SAMPLE_RATE * speed, SAMPLE_RATE) if speed != 1 else samples


def impulse_response(rt60: float, direct_db: float, rng: np.random.Generator) -> np.ndarray:
    """What a room makes of a click: the click, and noise that falls by 60 dB in `rt60` seconds (Polack 1988), all of it
    `direct_db` below the click. (samples,) float32."""
    seconds = np.arange(round(rt60 * SAMPLE_RATE)) / SAMPLE_RATE
    response = rng.standard_normal(seconds.size) * 10 ** (-3 * seconds / rt60)
    response[:NEAR] = 0
    response *= 10 ** (-direct_db / 20) / np.sqrt(np.sum(response**2))
    response[0] = 1
    return response.astype(np.float32)


def in_room(samples: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Convolved with an impulse response, as long, as loud and as early as before."""
    size = _fast(samples.size + response.size)
    heard = np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(response, size), size)[: samples.size]
    return heard * np.sqrt(_power(samples) / max(_power(heard), 1e-20)).astype(np.float32)


def with_noise(samples: np.ndarray, snr_db: float, colour: float, rng: np.random.Generator) -> np.ndarray:
    """With noise `snr_db` below the clip's mean power, of a power that falls with the frequency as 1/f**`colour`."""
    size = _fast(samples.size)
    hertz = np.maximum(np.fft.rfftfreq(size, 1 / SAMPLE_RATE), FLAT).astype(np.float32)
    bins = rng.standard_normal((hertz.size, 2), np.float32).view(np.complex64)[:, 0]
    noise = np.fft.irfft(bins * hertz ** np.float32(-colour / 2), size)[: samples.size]
    return samples + noise * np.sqrt(_power(samples) / _power(noise) / 10 ** (snr_db / 10)).astype(np.float32)


def _power(samples: np.ndarray) -> np.float64:
    return np.mean(np.square(samples, dtype=np.float64))


def _fast(size: int) -> int:
    """The next size that a Fourier transform is quick for."""
    return -(-size // 4096) * 4096
