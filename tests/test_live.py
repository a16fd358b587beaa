import numpy as np
import pytest
from conftest import JAPANESE
from quick import Quick

from whisper_lab.corpora import corpus
from whisper_lab.serving import live, scripts
from whisper_lab.speech import audio
from whisper_lab.speech.audio import SAMPLE_RATE
from whisper_lab.speech.features import FRAMES
from whisper_lab.whisper.decoding import AUTO, Decoding


@pytest.fixture(scope="module")
def base() -> Quick:
    return Quick("sample")


@pytest.fixture(scope="module")
def talk() -> np.ndarray:
    """Two sentences with a second of quiet after each, as a browser sends them: 16 bits."""
    clips = corpus.read("sample", "sv-SE", ["test"], limit=2).splits["test"]
    sound = np.concatenate([np.pad(audio.read(clip.path), (0, SAMPLE_RATE)) for clip in clips])
    return np.round(32_767 * sound).astype(np.int16)


def spoken(talk: np.ndarray, seconds: float) -> list[np.ndarray]:
    size = int(seconds * SAMPLE_RATE)
    return [talk[at : at + size] for at in range(0, talk.size, size)]


def test_what_is_settled_is_never_taken_back(base, talk):
    listener, before, tentative_seen = live.Listener(base, Decoding()), "", False
    for piece in spoken(talk, 1.0):
        settled, tentative = listener.hear(SAMPLE_RATE, piece)
        assert settled.startswith(before)
        before, tentative_seen = settled, tentative_seen or bool(tentative)
    assert tentative_seen and len(before.split()) >= 6
    assert tentative == "", "after a second of quiet all of it is settled"
    rate, everything = listener.everything()
    assert rate == SAMPLE_RATE and np.array_equal(everything, talk)


def test_a_long_talk_without_a_pause_is_followed(base, talk, monkeypatch):
    """Longer than a window: words are settled, and the sound before them let go."""
    monkeypatch.setitem(base.__dict__, "longest", 4.0)
    voiced = np.concatenate([part[:-SAMPLE_RATE] for part in np.array_split(talk, 2)])
    listener, before = live.Listener(base, Decoding()), ""
    for piece in spoken(voiced, 1.2):
        settled, _ = listener.hear(SAMPLE_RATE, piece)
        assert settled.startswith(before)
        before = settled
        assert listener._since.size <= 5.2 * SAMPLE_RATE
    assert len(before.split()) >= 4


def test_what_follows_a_pause_that_was_taken_for_the_end_is_heard_by_itself(base, talk, monkeypatch):
    """Whisper writes nothing of it as long as what is before stands in the window."""
    voiced = np.concatenate([part[: -SAMPLE_RATE // 2] for part in np.array_split(talk, 2)])
    words, passes = base.words_of(base.tokenizer(" Hej då", add_special_tokens=False).input_ids), []

    def stuck(self, sound):
        passes.append(sound.size / SAMPLE_RATE)
        return words[len(self._forced) :], np.array([0.1, 0.4, 0.6])

    monkeypatch.setattr(live.Listener, "_pass", stuck)
    listener = live.Listener(base, Decoding())
    for piece in spoken(voiced[: 4 * SAMPLE_RATE], 0.5):
        settled, _ = listener.hear(SAMPLE_RATE, piece)
    assert settled.startswith("Hej då Hej") and max(passes) < 4


def test_japanese_is_settled_by_character(base, espeak, monkeypatch):
    monkeypatch.setattr(base, "lengths", [FRAMES])  # where it hears Japanese
    sound = np.pad(audio.read(espeak("ja", JAPANESE)), (0, SAMPLE_RATE))
    listener, before, steps = live.Listener(base, Decoding("ja")), "", 0
    for piece in spoken(np.round(32_767 * sound).astype(np.int16), 1.0):
        settled, tentative = listener.hear(SAMPLE_RATE, piece)
        assert settled.startswith(before) and not set(" \ufffd") & set(settled + tentative)
        steps += settled != before
        before = settled
    assert steps > 1, "settled before all of it was said"
    assert len(before) > 10 and scripts.UNSPACED.match(before)


def test_the_language_is_detected_once_it_is_certain(base, espeak, monkeypatch):
    pcm = np.round(32_767 * audio.read(espeak("ja", JAPANESE))).astype(np.int16)
    listener = live.Listener(base, Decoding(AUTO))
    settled, tentative = listener.hear(SAMPLE_RATE, pcm[: 2 * SAMPLE_RATE])
    assert listener.decoding.language == AUTO and not scripts.UNSPACED.search(settled + tentative)
    monkeypatch.setattr(base.backend, "languages", lambda encoded: [{"th": 0.4, "ja": 0.3}])
    listener.hear(SAMPLE_RATE, pcm[2 * SAMPLE_RATE : 4 * SAMPLE_RATE])
    assert listener.decoding.language == AUTO
    monkeypatch.undo()
    settled, tentative = listener.hear(SAMPLE_RATE, pcm[4 * SAMPLE_RATE :])
    assert listener.decoding.language == "ja" and scripts.UNSPACED.search(settled + tentative)


def test_quiet_is_not_words(base):
    listener = live.Listener(base, Decoding())
    for _ in range(6):
        assert listener.hear(SAMPLE_RATE, np.zeros(SAMPLE_RATE, np.int16)) == ("", "")
    assert listener.seconds == 6 and listener._since.size <= 2 * SAMPLE_RATE


def test_a_piece_that_comes_twice_is_heard_once(base, talk):
    """As when the connection broke before the answer came."""
    listeners = live.Listeners(base, 8)
    pieces, at = spoken(talk[: 3 * SAMPLE_RATE], 1), 0
    for piece in pieces:
        for _ in range(2):
            reply = listeners.hear("key", at, SAMPLE_RATE, piece, Decoding())
        at += piece.size
        assert reply["heard"] == at
    assert np.array_equal(listeners.take("key")[1], talk[: 3 * SAMPLE_RATE])


def test_after_a_restart_the_browser_is_asked_for_all_of_it(base, talk):
    reply = live.Listeners(base, 8).hear("key", 5_000, SAMPLE_RATE, talk[5_000:9_000], Decoding())
    assert reply["heard"] == 0


def test_nothing_is_kept_of_who_has_stopped_or_left(base, talk, monkeypatch):
    listeners = live.Listeners(base, 8)
    for key in ("stopped", "left"):
        listeners.hear(key, 0, SAMPLE_RATE, talk[:8_000], Decoding())
    listeners.take("stopped")
    with pytest.raises(KeyError):
        listeners.take("stopped")
    now = live.time.monotonic()
    monkeypatch.setattr(live.time, "monotonic", lambda: now + live.IDLE + 1)
    listeners.hear("new", 0, SAMPLE_RATE, talk[:8_000], Decoding())
    assert set(listeners._all) == {"new"}


def test_a_whole_recording_waits_for_its_turn_and_holds_no_place(base, talk, monkeypatch):
    listeners = live.Listeners(base, 1)
    listeners.hear("whole", 0, SAMPLE_RATE, talk[:8_000], Decoding())
    assert listeners.hear("other", 0, SAMPLE_RATE, talk[:8_000], Decoding())["waiting"] == 1
    listeners.hear("whole", 8_000, SAMPLE_RATE, talk[:0], Decoding(), last=True)
    assert listeners.hear("other", 8_000, SAMPLE_RATE, talk[:0], Decoding())["waiting"] == 0
    now = live.time.monotonic()
    monkeypatch.setattr(live.time, "monotonic", lambda: now + live.IDLE + 1)
    listeners.hear("new", 0, SAMPLE_RATE, talk[:8_000], Decoding())
    assert set(listeners._all) == {"whole", "new"}
    assert np.array_equal(listeners.take("whole")[1], talk[:8_000]) and not listeners._whole
    listeners.hear("never taken", 0, SAMPLE_RATE, talk[:8_000], Decoding(), last=True)
    monkeypatch.setattr(live.time, "monotonic", lambda: now + live.IDLE + live.KEPT + 2)
    listeners.hear("newer", 0, SAMPLE_RATE, talk[:8_000], Decoding())
    assert set(listeners._all) == {"newer"}


def test_who_comes_too_many_waits_sees_the_place_and_loses_nothing(base, talk):
    listeners = live.Listeners(base, 2)
    said = talk[: 2 * SAMPLE_RATE]
    replies = {key: listeners.hear(key, 0, SAMPLE_RATE, said, Decoding()) for key in "abcd"}
    assert [replies[key]["waiting"] for key in "abcd"] == [0, 0, 1, 2]
    assert replies["c"]["heard"] == said.size and not replies["c"]["tentative"]
    listeners.take("a")
    assert [listeners.hear(key, said.size, SAMPLE_RATE, said, Decoding())["waiting"] for key in "cd"] == [0, 1]
    assert np.array_equal(listeners.take("d")[1], np.tile(said, 2))


def test_recordings_are_of_bounded_length(base, monkeypatch):
    monkeypatch.setattr(live, "LONGEST", 2)
    listeners, second = live.Listeners(base, 8), np.zeros(SAMPLE_RATE, np.int16)
    replies = [listeners.hear("key", at * SAMPLE_RATE, SAMPLE_RATE, second, Decoding()) for at in range(3)]
    assert [reply["full"] for reply in replies] == [False, False, True]
    assert listeners.take("key")[1].size == 2 * SAMPLE_RATE
