import numpy as np
import pytest
import soundfile

from whisper_lab import audio


def tone(seconds: float, rate: int, hertz: float = 440.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 32_000, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_any_rate_and_channels_become_the_same_16_khz_mono(tmp_path, rate, channels):
    file = tmp_path / "tone.wav"
    soundfile.write(file, np.stack([tone(1, rate)] * channels, axis=1), rate)
    heard = audio.read(file)
    assert heard.dtype == np.float32 and heard.ndim == 1
    assert heard.size == pytest.approx(16_000, abs=2)
    middle = slice(1_000, 15_000)  # resampling rings at the ends
    np.testing.assert_allclose(heard[middle], tone(1, 16_000)[middle], atol=2e-3)


@pytest.mark.parametrize("kind", ["mp3", "flac", "ogg", "wav"])
def test_formats(tmp_path, kind):
    file = tmp_path / f"tone.{kind}"
    soundfile.write(file, tone(2, 48_000), 48_000)
    heard = audio.read(file, expected_seconds=2)
    assert heard.size == pytest.approx(32_000, abs=2_000)
    assert np.abs(heard).max() == pytest.approx(0.5, abs=0.05)


def test_channels_are_averaged(tmp_path):
    file = tmp_path / "opposite.wav"
    soundfile.write(file, np.stack([tone(1, 16_000), -tone(1, 16_000)], axis=1), 16_000)
    assert np.abs(audio.read(file)).max() < 1e-3


@pytest.mark.parametrize(
    "reason, spoil",
    [
        ("missing file", lambda file: file.unlink()),
        ("empty file", lambda file: file.write_bytes(b"")),
        ("not audio", lambda file: file.write_bytes(b"<html>404 Not Found</html>" * 100)),
        ("truncated", lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])),
    ],
)
@pytest.mark.parametrize("kind", ["mp3", "wav", "flac"])
def test_a_spoilt_file_says_how(tmp_path, kind, reason, spoil):
    file = tmp_path / f"clip.{kind}"
    soundfile.write(file, tone(3, 32_000), 32_000)
    spoil(file)
    with pytest.raises(audio.AudioError) as error:
        audio.read(file, expected_seconds=3)
    # libsndfile refuses a FLAC or WAV that breaks off, or reads what is there: both are found out
    assert error.value.reason in ({reason, "not audio"} if reason == "truncated" else {reason})
    assert str(file) in str(error.value)
