import numpy as np
import pytest

from whisper_lab.corpora import corpus
from whisper_lab.speech import audio, voice
from whisper_lab.speech.audio import SAMPLE_RATE


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    return [audio.read(clip.path) for clip in corpus.read("sample", "sv-SE", ["dev"], limit=12).splits["dev"]]


@pytest.fixture(scope="module")
def talk(clips) -> np.ndarray:
    """A minute of speech, with pauses of 0.2 to 3 s and some hiss."""
    rng = np.random.default_rng(0)
    pauses = [np.zeros(int(SAMPLE_RATE * pause), np.float32) for pause in (0.2, 0.5, 1, 3) * 3]
    whole = np.concatenate([piece for pair in zip(clips, pauses) for piece in pair])
    return whole + 1e-4 * rng.standard_normal(whole.size).astype(np.float32)


def pieces(sound: np.ndarray, seconds: float) -> list[np.ndarray]:
    size = int(seconds * SAMPLE_RATE)
    return [sound[at : at + size] for at in range(0, sound.size, size)]


def test_probabilities_do_not_depend_on_how_the_sound_arrives(talk):
    whole, sounding = voice.Detector()(talk, last=True)
    detector, parts = voice.Detector(), pieces(talk, 0.37)
    heard, heard_sounding = zip(*(detector(part, last=part is parts[-1]) for part in parts))
    assert np.abs(np.concatenate(heard) - whole).max() < 1e-5
    assert np.array_equal(np.concatenate(heard_sounding), sounding)


@pytest.mark.parametrize("longest", (4, 6, 15, 30))
def test_windows_hold_all_the_speech_in_order_and_are_short_enough(talk, longest):
    found = list(voice.windows([talk], longest))
    speech = voice.stretches(*voice.Detector()(talk, last=True))
    assert all(window.samples.size <= longest * SAMPLE_RATE for window in found)
    edges = [window.start + np.array([0, window.samples.size]) for window in found]
    assert all(a[1] <= b[0] for a, b in zip(edges, edges[1:]))
    for window in found:
        assert np.array_equal(window.samples, talk[window.start : window.start + window.samples.size])
    covered = np.zeros(talk.size, bool)
    for start, end in edges:
        covered[start:end] = True
    held = sum(covered[a * voice.FRAME : b * voice.FRAME].sum() for a, b in speech)
    assert held > 0.98 * sum((b - a) * voice.FRAME for a, b in speech)


@pytest.mark.parametrize("seconds", (0.5, 7, 30))
def test_windows_do_not_depend_on_how_the_sound_arrives(talk, seconds):
    whole, parts = voice.windows([talk], 6), voice.windows(pieces(talk, seconds), 6)
    assert [w.start for w in whole] == [w.start for w in parts]


def test_a_clip_that_fits_is_read_as_it_is(clips):
    """As training and its scores read it."""
    for clip in clips:
        (window,) = voice.windows([clip], 30)
        assert np.array_equal(window.samples, clip)


def test_long_quiet_at_the_ends_is_left_out(clips):
    quiet = np.zeros(10 * SAMPLE_RATE, np.float32)
    (window,) = voice.windows([np.concatenate([quiet, clips[0], quiet])], 30)
    start, end = window.seconds
    assert 7.9 <= start <= 10 and end - start <= clips[0].size / SAMPLE_RATE + 2 * voice.WHOLE + 0.1


def test_speech_without_a_pause_is_cut_all_the_same(clips):
    """Twenty seconds of one vowel-like buzz of a voice, which never stops."""
    speech = voice.stretches(*voice.Detector()(clips[0], last=True))
    voiced = clips[0][speech[0][0] * voice.FRAME :][: SAMPLE_RATE // 2]
    found = list(voice.windows([np.tile(voiced, 40)], 6))
    assert len(found) >= 3 and all(window.samples.size <= 6 * SAMPLE_RATE for window in found)


@pytest.mark.parametrize("decibels", (-20, -40, -50))
def test_faint_speech_is_found_as_well_and_where_it_is(talk, decibels):
    loud = voice.Detector()(talk, last=True)[0] >= voice.SPEECH
    parts, detector = pieces(talk * np.float32(10 ** (decibels / 20)), 30), voice.Detector()
    found = np.concatenate([detector(part, last=part is parts[-1])[0] for part in parts]) >= voice.SPEECH
    assert (found & loud).sum() > 0.95 * loud.sum() and (found & ~loud).sum() < 0.05 * loud.sum()


def test_nothing_is_found_in_silence():
    hiss = np.random.default_rng(0).standard_normal(30 * SAMPLE_RATE).astype(np.float32)
    for level in (1e-5, 1e-3, 0.03):
        assert list(voice.windows([level * hiss], 6)) == []
    assert list(voice.windows([np.zeros(60 * SAMPLE_RATE, np.float32)], 6)) == []
    assert list(voice.windows([], 6)) == []
