import pytest

from whisper_lab import LabError
from whisper_lab.whisper.decoding import LOOP, Decoded, Decoding, loop, read_again, token_limit, unlooped

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


def test_repetition_is_found_wherever_there_is_room_for_it():
    for copies in (2, 3):
        for period in range(1, 20):
            for before in range(3):
                enough = period + max((copies - 1) * period, LOOP)
                text = [*range(-before, 0), *(i % period for i in range(enough))]
                assert loop(text, copies) == before + period and loop(text[:-1], copies) is None


def test_a_sentence_said_twice_is_doubted_but_not_cut():
    twice = decoded([*range(14)] * 2)
    assert twice.rambles and unlooped(twice.tokens) == twice.tokens
    assert decoded(SENTENCE, ended=False).rambles and not decoded(SENTENCE).rambles


def test_only_what_is_in_doubt_is_searched_with_beams_and_only_what_rambles_still_is_read_at_30_s():
    asked = []

    def with_beams(indices):
        asked.append(("beams", indices))
        return [decoded([100 + i], ended=i != 3) for i in indices]

    def at_30_s(indices):
        asked.append(("30 s", indices))
        return [decoded([200 + i]) for i in indices]

    sure = decoded([1], logprob=-0.1)
    greedy = [sure, decoded([5] * 40, logprob=-0.1), decoded([2], logprob=-0.5), decoded([3], ended=False), sure]
    read = read_again(greedy, 300, 5, with_beams, at_30_s)
    assert [d.tokens for d in read] == [[1], [101], [102], [203], [1]]
    assert asked == [("beams", [1, 2, 3]), ("30 s", [3])]
    asked.clear()
    assert [d.tokens for d in read_again(greedy, 3_000, 5, with_beams, at_30_s)][3] == [103] and len(asked) == 1
    asked.clear()
    assert [d.tokens[0] for d in read_again(greedy, 300, 1, with_beams, at_30_s)] == [1, 201, 2, 203, 1]
    assert asked == [("30 s", [1, 3])]


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
