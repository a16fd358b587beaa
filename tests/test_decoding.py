import pytest

from whisper_lab import LabError
from whisper_lab.decoding import LOOP, Decoded, Decoding, loop, read_again, token_limit, unlooped

SENTENCE = [11, 12, 13, 14, 15, 16, 17, 18]


def decoded(tokens, ended=True, logprob=-0.2, no_speech=0.0):
    return Decoded(list(tokens), logprob, no_speech, ended)


def test_a_phrase_without_end_is_cut_to_one():
    text = [1, 2, 3, *SENTENCE * 5, 11, 12]
    assert unlooped(text) == [1, 2, 3, *SENTENCE]


@pytest.mark.parametrize("text", ([], [1], [5] * (LOOP - 1), SENTENCE, SENTENCE * 2, [1, 2, 3] * 3, [*range(100)]))
def test_what_people_say_is_not_cut(text):
    assert loop(text) is None and unlooped(text) == text


def test_one_word_said_for_ever_is_cut():
    assert unlooped([1, 2, *[9] * 50]) == [1, 2, 9]


def test_a_sentence_said_twice_is_doubted_but_not_cut():
    twice = decoded([*range(14)] * 2)
    assert twice.rambles and unlooped(twice.tokens) == twice.tokens
    assert decoded(SENTENCE, ended=False).rambles and not decoded(SENTENCE).rambles


def test_only_what_rambles_on_a_short_window_is_read_again():
    asked = []

    def again(indices):
        asked.extend(indices)
        return [decoded([100 + i]) for i in indices]

    short = [decoded([1]), decoded([5] * 40), decoded([2]), decoded([3], ended=False)]
    assert [d.tokens for d in read_again(short, 300, again)] == [[1], [101], [2], [103]] and asked == [1, 3]
    assert read_again(short, 3_000, again) == short and asked == [1, 3]


def test_the_limit_leaves_room_for_fast_speech_and_stays_within_whispers_positions():
    assert all(token_limit(frames) >= 8.5 * frames / 100 for frames in (200, 400, 1_000))
    assert token_limit(3_000) == 224


def test_silence_is_known_by_openais_rule():
    assert decoded([1], logprob=-1.5, no_speech=0.9).invented
    assert not decoded([1], logprob=-0.5, no_speech=0.9).invented
    assert not decoded([1], logprob=-1.5, no_speech=0.1).invented


@pytest.mark.parametrize("wrong", ({"task": "sing"}, {"beams": 0}, {"beams": 100}))
def test_options_that_make_no_sense_are_refused(wrong):
    with pytest.raises(LabError):
        Decoding(**wrong)
