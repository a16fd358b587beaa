import numpy as np
import pytest
from transformers import WhisperFeatureExtractor

from whisper_lab.corpora import corpus
from whisper_lab.speech import audio
from whisper_lab.speech.features import FRAMES, Extract, FrontEnd, Rejected, pad

RATE = audio.SAMPLE_RATE


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    """A minute of the sample, end to end."""
    clips = corpus.read("sample", "sv-SE", ["train"], limit=20).splits["train"]
    return np.concatenate([audio.read(clip.path) for clip in clips])


def lengths() -> list[int]:
    """0.1 s to 30 s, on, before and after the borders of a hop, and beyond the window."""
    spread = np.geomspace(0.1 * RATE, 30 * RATE, 40).astype(int).tolist()
    edges = [1_600, 1_601, 1_759, 1_760, 63_999, 64_000, 64_001, 478_999, 479_200, 479_680, 479_999, 480_000, 480_001]
    return sorted({*spread, *edges, 500_000})


@pytest.mark.parametrize("mels", [80, 128])
def test_reconstruction_is_exact(speech, mels):
    extractor, ours = WhisperFeatureExtractor(feature_size=mels), FrontEnd(mels)
    assert len(lengths()) >= 50
    for i, samples in enumerate(lengths()):
        clip = speech[i * 999 : i * 999 + samples] * 10.0 ** -(i % 4)
        padded = extractor(clip, sampling_rate=RATE, return_tensors="np").input_features[0]
        stored = ours.log_mel(clip)
        assert stored.shape[1] == min(FRAMES, -(-min(clip.size, 480_000) // 160) + 3)
        assert np.abs(pad(stored, FRAMES) - padded).max() <= 1e-6
        assert np.abs(pad(stored.astype(np.float16), FRAMES) - padded).max() <= 1e-3


def test_digital_silence():
    silence = np.zeros(RATE, np.float32)
    padded = WhisperFeatureExtractor()(silence, sampling_rate=RATE, return_tensors="np").input_features[0]
    np.testing.assert_allclose(pad(FrontEnd().log_mel(silence), FRAMES), padded, atol=1e-6)


def test_a_short_window_is_the_beginning_of_the_long_one(speech):
    stored = FrontEnd().log_mel(speech[: 3 * RATE])
    np.testing.assert_array_equal(pad(stored, 500), pad(stored, FRAMES)[:, :500])
    np.testing.assert_array_equal(pad(stored, 100), stored[:, :100])


def clip(path: str, **changes) -> dict:
    return {"id": "x", "path": path, "sentence": "Hej", "labels": [1, 2], "seconds": None} | changes


def test_what_cannot_be_learnt_from_is_rejected_with_its_reason(tmp_path, speech):
    import soundfile

    extract = Extract(FrontEnd())
    good = corpus.read("sample", "sv-SE", ["dev"], limit=1).splits["dev"][0].path
    soundfile.write(tmp_path / "long.wav", speech[: 31 * RATE], RATE)
    cases = {
        "empty sentence": clip(good, sentence=""),
        "more than 448 tokens": clip(good, labels=[1] * 449),
        "longer than 30 s": clip(str(tmp_path / "long.wav")),
        "missing file": clip(str(tmp_path / "nowhere.mp3")),
    }
    for reason, spoilt in cases.items():
        with pytest.raises(Rejected) as error:
            extract(spoilt)
        assert error.value.reason == reason
    row = extract(clip(good))
    assert row["frames"] * 80 * 2 == len(row["features"]) and row["seconds"] > 1
    assert extract(clip(good, labels=[1] * 448))


def test_at_4_s_a_clip_takes_less_than_80_kb():
    row_bytes = (
        FrontEnd().log_mel(np.random.default_rng(0).standard_normal(4 * RATE).astype(np.float32)).astype("<f2").nbytes
    )
    assert row_bytes < 80_000  # before zstd, and for noise, which does not compress; the padded float32 is 960,000
