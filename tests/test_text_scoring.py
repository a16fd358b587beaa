import numpy as np
import pytest

from whisper_lab.scores import scoring
from whisper_lab.text import normalise


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
    ],
)
def test_normalisation(written, scored):
    assert normalise(written) == scored
    assert normalise(scored) == scored


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
