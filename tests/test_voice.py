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


def test_high_voices_are_found(clips):
    """Played at twice the speed, as of children and cartoons; heard only as it is, a little over half is found."""
    found = sound = 0
    for clip in clips:
        probabilities, sounding = voice.Detector()(clip[::2], last=True)
        found, sound = found + (probabilities[sounding] >= voice.SPEECH).sum(), sound + sounding.sum()
    assert found > 0.9 * sound


def test_speech_grows_over_the_sound_that_touches_it():
    probabilities, sounding = np.zeros(200), np.zeros(200, bool)
    probabilities[50:60] = probabilities[150:155] = 1
    sounding[40:44] = sounding[50:70] = sounding[70 + voice.GAP : 75 + voice.GAP] = True
    sounding[100:] = True  # all around the second one
    reach = round(voice.REACH / voice.SECONDS)
    assert voice.stretches(probabilities, sounding) == [(40, 75 + voice.GAP), (150 - reach, 155 + reach)]


@pytest.mark.parametrize("seconds", (0.5, 30))
def test_sound_in_which_no_speech_is_detected_has_windows_of_its_own(talk, seconds, request):
    speech = voice.stretches(*voice.Detector()(talk, last=True))
    request.getfixturevalue("no_speech_detected")
    found = list(voice.windows(pieces(talk, seconds), 6))
    assert not any(window.heard for window in found) and all(window.samples.size <= 6 * SAMPLE_RATE for window in found)
    assert all(a.seconds[1] <= b.seconds[0] + 1e-6 for a, b in zip(found, found[1:]))
    covered = np.zeros(talk.size, bool)
    for window in found:
        assert np.array_equal(window.samples, talk[window.start : window.start + window.samples.size])
        covered[window.start : window.start + window.samples.size] = True
    held = sum(covered[a * voice.FRAME : b * voice.FRAME].sum() for a, b in speech)
    assert held > 0.95 * sum((b - a) * voice.FRAME for a, b in speech)


def test_pieces_meet_in_the_quietest_moment(clips):
    pause = np.zeros(SAMPLE_RATE // 2, np.float32)
    samples = np.concatenate([clips[0], pause, clips[1]])
    length, middle = samples.size / SAMPLE_RATE, (clips[0].size + pause.size / 2) / SAMPLE_RATE
    first, second = voice.Window(16_000, samples, [(1.0, 1 + length)]).pieces(length)
    assert abs(second.seconds[0] - 1 - middle) < 0.2 and first.seconds[1] == second.seconds[0]
    assert first.speech + second.speech == [(1.0, second.seconds[0]), (second.seconds[0], 1 + length)]
