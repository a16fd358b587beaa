import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whisper_lab.scores import choices, report, scoring
from whisper_lab.text import cleaned, guess, normalise


@pytest.mark.parametrize(
    "written, scored",
    [
        ("Åsa åt sex kex, på ön!", "åsa åt sex kex på ön"),
        ("Idén om ett café?", "idén om ett café"),
        ("A\u030asa", "åsa"),  # the ring as a character of its own
        ("Det kostar 3,50 – klockan 10.30.", "det kostar 3,50 klockan 10.30"),
        ("e-post (snabb) [skratt] «så»", "e post snabb skratt så"),
        ("d’Artagnan's", "dartagnans"),
        ("...", ""),
        ("sjuk\u00adhuset \u200bhär", "sjukhuset här"),
        ("rock´n´roll d‘A d`A dʼA d＇A", "rocknroll da da da da"),
        ("ʼsåʼ ‘så’", "så så"),
        ("rе\u0301в’я", "rе\u0301вя"),  # a letter and its mark that have no composed form
        ("می\u200cخواهم", "میخواهم"),
        ("H\u0331", "ẖ"),  # composed only when it is small
        ("２０：３０", "20:30"),
        ("ΟΔΟΣ STRAẞE", "οδος straße"),
    ],
)
def test_normalisation(written, scored):
    assert normalise(written) == scored
    assert normalise(scored) == scored


@pytest.mark.parametrize("language", ["tr", "tr-TR", "az", "Turkish"])
def test_turkish_and_azerbaijani_have_two_letters_i(language):
    assert (
        normalise("İSTANBUL IŞIK I\u0307ki", language)
        == "istanbul ışık iki"
        == normalise("i\u0307stanbul ışık iki", "tr")
    )
    assert normalise("IŞIK", "sv-SE") == "işik"
    table = scoring.scores(["İyi IŞIK"], ["iyi ışık"], language)
    assert table["wer_normalised"].value == 0 == scoring.difference(["I"], ["ı"], ["ı"], language).value


ANY = st.text(
    st.one_of(st.characters(), st.sampled_from("İIıi'ʼ`\u0307\u030a\u0331.,:09３．\u00ad\u200dｶﾞ中")), max_size=12
)


@given(ANY, st.sampled_from(["", "tr", "zh"]))
@settings(max_examples=300, deadline=None)
def test_what_is_normalised_stays_and_how_a_letter_is_composed_does_not_matter(text, language):
    once = normalise(text, language)
    assert normalise(once, language) == once == normalise(unicodedata.normalize("NFD", text), language)
    assert normalise(cleaned(text), language) == once


def test_languages_without_spaces_go_by_characters_and_say_so():
    for locale, name in (("zh-CN", "Chinese"), ("ja", "Japanese"), ("th", "Thai"), ("yue", "Cantonese"), ("lo", "Lao"),
                         ("my", "Burmese"), ("km", "Khmer"), ("nan-tw", "Min Nan")):  # fmt: skip
        assert scoring.headline(locale) == "cer_normalised" and name in scoring.because(locale)
    assert scoring.headline("sv-SE") == "wer_normalised" == scoring.headline("") and scoring.because("sv-SE") == ""
    said, ours, theirs = ["我喜欢，学习中文。"], ["我喜欢 学习英文"], ["我喜 学习英文"]
    assert scoring.scores(said, ours, "zh")["cer_normalised"].value == pytest.approx(100 / 7, abs=1e-3)
    assert scoring.difference(said, ours, theirs, "zh").value == pytest.approx(-100 / 7, abs=1e-3)
    assert report.aligned("我喜欢", "我喜学", "zh-CN") == [("equal", "我喜", "我喜"), ("substitute", "欢", "学")]


def test_a_language_that_nobody_named_is_known_by_its_letters():
    texts = {"zh": "我喜欢 iPhone", "ja": "これは本です", "th": "สวัสดี", "tr": "Işık açık, İyi günler", "": "123"}
    assert {code: guess([text] * 3) for code, text in texts.items()} == {code: code for code in texts}
    assert guess(["Åsa är i İstanbul hos Işık", "och läser en bok om havet " * 9]) == ""  # a name or two
    assert guess([]) == ""


def test_rates_are_those_of_the_corpus_not_the_mean_of_the_clips():
    table = scoring.scores(["en två tre fyra", "fem"], ["en två tre fyra", "sex"])
    assert table["wer"].value == pytest.approx(20)
    assert table["wer"].low <= 20 <= table["wer"].high


def test_case_and_punctuation_count_raw_only():
    table = scoring.scores(["Hej, Åsa!"], ["hej åsa"])
    assert table["wer"].value == 100 and table["wer_normalised"].value == 0
    assert table["cer"].value > 0 and table["cer_normalised"].value == 0
    assert scoring.scores(["åsa"], ["asa"])["wer_normalised"].value == 100  # å is not a


def test_nothing_heard_and_nothing_said():
    assert scoring.counts(["en två"], [""], "word").tolist() == [[2, 2]]
    assert scoring.counts([""], ["en två"], "word").tolist() == [[2, 0]]
    with pytest.raises(ValueError, match="no words"):
        scoring.scores([""], ["hej"])


def test_evaluates_interface_agrees_with_the_counts():
    references, hypotheses = ["en två tre", "fyra fem"], ["en tva tre", "fyra fem sex"]
    assert scoring.metric("word").compute(references=references, predictions=hypotheses) == {
        "wer": pytest.approx(2 / 5)
    }
    wrong, total = scoring.counts(references, hypotheses, "character").sum(axis=0)
    assert scoring.metric("character").compute(references=references, predictions=hypotheses)["cer"] == wrong / total


def test_the_interval_covers_the_truth_about_95_times_in_100():
    rng, truth, hits = np.random.default_rng(1), 0.2, 0
    for i in range(200):
        table = np.stack([rng.binomial(10, truth, 60), np.full(60, 10)], axis=1)
        low, high = np.percentile(scoring.bootstrap(table, seed=i), (2.5, 97.5))
        hits += low <= 100 * truth <= high
    assert 180 <= hits <= 199


def test_difference_is_paired():
    references = [f"ord{i} ord ord ord" for i in range(40)]
    worse = [r.replace("ord ord ord", "ord ord fel") for r in references]
    better = scoring.difference(references, references, worse)
    assert better.value == -25 and better.high < 0
    same = scoring.difference(references, worse, worse)
    assert (same.value, same.low, same.high) == (0, 0, 0)


# What dev could tell of the checkpoints


def log(clips: int, *wrong: int) -> tuple[list[dict], list[str]]:
    """The log of checkpoints with so many wrong words in every ten clips, and the sentences of dev, of ten words."""
    rng, history = np.random.default_rng(1), [{"step": 5, "loss": 1.0}]
    for i, count in enumerate(wrong, 1):
        edits = rng.multinomial(count * clips // 10, np.full(clips, 1 / clips))
        rate = {"eval_wer_normalised": float(edits.mean() * 10)}
        history.append({"step": 10 * i, choices.EDITS: " ".join(map(str, edits)), **rate})
    return history, [" ".join(["ord"] * 10)] * clips


def test_a_small_dev_does_not_tell_near_checkpoints_apart_and_a_large_one_does():
    few, many = (choices.of_checkpoints(*log(clips, 30, 12, 10), "sv-SE") for clips in (30, 3_000))
    assert (few["step"], few["next_best"], few["others"], few["others_alike"]) == (30, 20, 2, 1)
    assert few["difference"] == pytest.approx(-2) and few["low"] < 0 < few["high"]
    said = choices.on_checkpoints(few)
    assert said.startswith(
        "Dev has 30 clips, too few to tell the checkpoint that was chosen (step 30) from 1 of the 2 "
    )
    assert f"−2.0 points (95 % interval −{-few['low']:.1f} to +{few['high']:.1f}) against step 20" in said
    assert "--dev-clips 120" in choices.way_out(few)
    assert many["others_alike"] == 0 and many["high"] < 0 and choices.on_checkpoints(many) == ""


def test_checkpoints_that_are_as_good_are_not_worth_a_word():
    alike = choices.of_checkpoints(*log(20_000, 10, 10), "sv-SE")
    assert alike["others_alike"] == 1 and alike["high"] - alike["low"] < 1 and choices.on_checkpoints(alike) == ""


def test_nothing_is_said_where_there_was_nothing_to_choose_or_it_was_not_kept():
    history, sentences = log(30, 12, 10)
    assert choices.of_checkpoints(history[:2], sentences, "sv-SE") is None
    history[1].pop(choices.EDITS)
    assert choices.of_checkpoints(history, sentences, "sv-SE") is None and choices.on_checkpoints(None) == ""
