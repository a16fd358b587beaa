"""How much of the tuned weights is safe: on dev, and for speech that must not get worse."""

import json
import re
import shutil

import finished
import numpy as np
import pytest

from whisper_lab import LabError, files
from whisper_lab.corpora.corpus import SAMPLE
from whisper_lab.scores import card, scoring
from whisper_lab.scores.hypotheses import Hypotheses
from whisper_lab.sharing import model_card
from whisper_lab.stores import store
from whisper_lab.tuning import blending, canaries, runs, training
from whisper_lab.whisper import checkpoint

CURVE = {1.0: 10, 0.8: 9, 0.6: 9.5, 0.4: 16, 0.2: 40}  # share → percent of words that are wrong


def made(rate: float, clips: int, seed: float, right: str = "rätt", wrong: str = "fel") -> Hypotheses:
    """What a model wrote for so many clips of ten words each: every word is wrong by chance, at that rate."""
    chance = np.random.default_rng(round(1_000 * seed)).random((clips, 10))
    texts = [" ".join(wrong if one < rate / 100 else right for one in clip) for clip in chance]
    return Hypotheses([str(i) for i in range(clips)], [" ".join([right] * 10)] * clips, texts, 0.0)


def curve(clips: int, seed: int = 0) -> dict[float, Hypotheses]:
    return {share: made(rate, clips, share + seed) for share, rate in CURVE.items()}


# The rule


def test_blending_ends_at_the_weights_on_either_side(tiny):
    model = checkpoint.load_model(str(tiny))
    start = blending.weights(model)
    end = {name: tensor + 1 for name, tensor in start.items()}
    for share in (0.0, 0.5, 1.0):
        blending.blend(model, start, end, share)
        now = blending.weights(model)
        assert all(((tensor - start[name]) - share).abs().max() < 1e-5 for name, tensor in now.items())


def test_a_small_dev_set_leans_to_the_untuned_model_and_a_large_one_decides():
    """80 % is best, 60 % half a point worse: too little to be seen on 15 or 100 clips."""
    shares = {clips: [blending.smallest_safe(curve(clips, seed)) for seed in range(4)] for clips in (15, 100)}
    assert all(np.mean(some) < 0.7 for some in shares.values()) and min(map(min, shares.values())) >= 0.4
    assert blending.smallest_safe(curve(6_000)) == 0.8
    by_errors = [blending.smallest_safe(curve(15), errors=errors) for errors in (0, 1, 2, 4)]
    assert by_errors == sorted(by_errors, reverse=True) and by_errors[0] > by_errors[-1]


def test_of_shares_that_are_alike_the_smallest_is_taken():
    alike = made(10, 50, 0.5)
    assert blending.smallest_safe({1.0: alike, 0.5: alike, 0.1: made(60, 50, 0.1)}) == 0.5


def test_where_words_cannot_be_counted_the_share_goes_by_characters():
    said = ["学" * 100] * 20
    heard = {1.0: said, 0.5: ["英" * 2 + "学" * 98] * 20, 0.2: ["英" * 20 + "学" * 80] * 20}
    heard = {share: Hypotheses([str(i) for i in range(20)], said, texts, 0.0) for share, texts in heard.items()}
    assert blending.smallest_safe({share: heard[share] for share in (0.5, 0.2)}, "zh-CN") == 0.5
    assert blending.smallest_safe({share: heard[share] for share in (0.5, 0.2)}) == 0.2  # every sentence is one word


def test_the_standard_error_is_that_of_the_draws():
    ours, theirs = made(20, 100, 1), made(10, 100, 2)
    gap = scoring.difference(ours.references, ours.texts, theirs.texts)
    assert gap.error == pytest.approx(100 * np.sqrt((0.2 * 0.8 + 0.1 * 0.9) / 1_000), rel=0.15)
    assert scoring.rate(ours.references, ours.texts) == ours.scores()["wer_normalised"].value


def listener(dev: dict[float, float], heard: list, **canaries: dict[float, float]):
    """`hear` of models whose rates at 10, 20 … 100 % are linear between those given; `heard` is what it was asked."""

    def hear(split: str, share: float) -> Hypotheses:
        heard.append((split, share))
        rates = dev if split == "dev" else canaries[split]
        return made(np.interp(share, sorted(rates), [rates[one] for one in sorted(rates)]), 100, 7)

    return hear


LOCALES = {"dev": "sv-SE", "telephone": "sv-SE", "english": "en"}


def test_few_shares_are_transcribed_to_find_the_safe_one():
    for dev, share, most in (
        ({0.1: 90, 0.5: 40, 1.0: 10}, 1.0, 3),
        ({0.1: 90, 0.5: 10.5, 0.6: 10, 1.0: 10}, 0.6, 7),
        ({0.1: 10, 1.0: 10}, 0.1, 10),
        ({0.1: 90, 0.3: 40, 0.4: 12, 0.7: 9, 1.0: 20}, 0.7, 6),
        ({0.1: 90, 0.5: 10, 0.8: 10, 0.9: 25, 1.0: 10}, 0.5, 8),  # a share that is worse by chance does not end it
    ):
        heard = []
        found = blending.choose(listener(dev, heard), {}, LOCALES)
        assert len(set(heard)) == len(heard) <= most and found.share == share, (found, heard)
        assert found.share in {one for _, one in heard} and f"{100 * found.share:.0f} % has" in found.why
        assert set(found.rates["dev"]) == {one for _, one in heard}


def test_a_canary_lowers_the_share_until_it_is_no_worse():
    heard, before = [], {name: made(30, 100, 7) for name in ("telephone", "english")}
    dev = {0.1: 60, 0.8: 10, 1.0: 9.9}
    rates = {"telephone": {0.1: 30, 0.5: 30, 1.0: 50}, "english": {0.1: 20, 1.0: 25}}
    alone = blending.choose(listener(dev, []), {}, LOCALES)
    found = blending.choose(listener(dev, heard, **rates), before, LOCALES)
    assert alone.share > found.share == 0.5
    assert "Lowered for telephone." in found.why and "telephone: +0.0 points against untuned" in found.why
    assert "english: -" in found.why and "least harm" not in found.why
    assert (
        found.rates["telephone"].keys() == found.rates["english"].keys() and max(found.rates["english"]) == alone.share
    )


def test_where_every_share_is_worse_the_least_harmful_is_taken_and_said():
    """Short windows, which an untuned model cannot read, are worst at the smallest share."""
    rates = {"telephone": {0.1: 60, 0.3: 35, 1.0: 50}}
    found = blending.choose(listener({0.1: 60, 1.0: 10}, [], **rates), {"telephone": made(30, 100, 7)}, LOCALES)
    assert found.share == 0.3
    assert "At every share from 100 % down, telephone is worse than untuned" in found.why, found.why


# Canaries of a run


@pytest.mark.parametrize(
    "spec, parsed",
    [
        ("features/cv", ("", "features/cv", "test")),
        ("features/cv:dev", ("", "features/cv", "dev")),
        ("sample:out_of_domain", ("", "sample", "out_of_domain")),
        ("s3://lab/cv", ("", "s3://lab/cv", "test")),
        ("s3://lab/cv:dev", ("", "s3://lab/cv", "dev")),
        ("hopsworks://p/Resources/cv", ("", "hopsworks://p/Resources/cv", "test")),
        ("mdc:en", ("", "mdc:en", "test")),
        ("en=mdc:en:dev", ("en", "mdc:en", "dev")),
        ("hub:google/fleurs", ("", "hub:google/fleurs", "test")),
        ("hub:google/fleurs::dev", ("", "hub:google/fleurs", "dev")),
        ("en=hub:google/fleurs:en_us", ("en", "hub:google/fleurs:en_us", "test")),
        ("en-GB=hub:google/fleurs:en_us@abc:dev", ("en-GB", "hub:google/fleurs:en_us@abc", "dev")),
    ],
)
def test_what_names_a_canary(spec, parsed):
    assert canaries.parse(spec) == parsed


@pytest.fixture
def other(tmp_path):
    """A corpus of other speech: clips of the sample that are not in `features`, as a table of one's own."""
    rows = files.read_tsv(SAMPLE / "sv-SE" / "train.tsv")[100:106]
    folder = tmp_path / "telephone"
    folder.mkdir()
    lines = [(SAMPLE / "sv-SE" / "clips" / row["path"], row["sentence"]) for row in rows]
    files.write_tsv(folder / "test.tsv", ["audio", "text"], lines)
    return folder


def make_run(features, tiny, output, **options) -> runs.Run:
    settings = {"features": str(features), "model": str(tiny), "output": str(output), "max_steps": 4} | options
    return runs.Run(runs.Options(**settings), store.FeatureSet(features))


def test_canaries_of_a_run_are_heard_in_their_language_and_told_everywhere(
    features, tiny, other, tmp_path, processor, monkeypatch, capsys
):
    asked, transcribe = {}, training.Trainer.transcribe

    def noted(self, split, lengths, title, prompt=None, step=1):
        asked.setdefault(split, []).append((title, lengths, prompt, step))
        return transcribe(self, split, lengths, title, prompt, step)

    monkeypatch.setattr(training.Trainer, "transcribe", noted)
    monkeypatch.setattr(blending, "CLIPS", 3)
    run = make_run(features, tiny, tmp_path / "x", canary=(f"en={other}",), learning_rate=0.01)
    name = "telephone en test"
    assert list(run.canaries) == ["out_of_domain", name]
    run.complete()
    said = capsys.readouterr().out
    assert f"Canary out_of_domain: 8 clips.\nCanary {name}: 3 clips, one in 2 of 6.\n" in said
    english = checkpoint.prompt_ids(processor.tokenizer, "en")
    assert all(prompt == english for _, _, prompt, _ in asked[name])
    assert asked[name][0] == (f"Untuned, {name}", [3_000], english, 1)
    choosing = {split: [one for one in some if "% tuned, " in one[0]] for split, some in asked.items()}
    steps = {split: {step for *_, step in some} for split, some in choosing.items()}
    assert steps == {"dev": {3}, "out_of_domain": {3}, name: {1}, "test": set()}
    assert {tuple(lengths) for _, lengths, *_ in choosing[name]} == {tuple(run.model.config.trained_windows)}
    metrics, folder = run.metrics, run.folder
    assert set(metrics["tuned"]) == set(metrics["untuned"]) == {"dev", "test", "out_of_domain", name}
    assert set(metrics["tuned_at_30_s"]) == {"test", "out_of_domain", name}
    facts = metrics["run"]
    assert facts["canaries"][name] == {"language": "en", "clips": 3}
    assert set(facts["rates_by_share"]) == {"dev", "out_of_domain", name}
    assert f"Share of tuned weights: {100 * facts['share']:.0f} %. {facts['share_because']}" in said
    assert "Of dev, one clip in 3 chose." in said and "one clip" not in facts["share_because"].split("Of dev")[0]
    assert run.plan["canaries"] == {name: run.canaries[name].fingerprint}
    told = (folder / "README.md").read_text(encoding="utf-8")
    assert facts["share_because"].rstrip(".") in told and f"| {name} | WER, raw |" in told
    assert str(other) not in told + json.dumps(metrics)
    assert f"on {name} against untuned" in (folder / "report.html").read_text(encoding="utf-8")
    rows = [row for row in run.predictions if row["split"] == name]
    assert [row["id"] for row in rows] == run.canaries[name].split.column("id") and len(rows) == 3
    moved = shutil.copytree(other, tmp_path / "moved" / "telephone")
    assert make_run(features, tiny, folder, canary=(f"en={moved}:test",), learning_rate=0.01).finished
    with pytest.raises(LabError, match=f"canaries.{name}: .* there, None now"):
        make_run(features, tiny, folder, learning_rate=0.01)


def test_a_model_that_is_worse_on_a_canary_says_so(tmp_path):
    folder = finished.describe(tmp_path / "x", finished.plan())
    metrics, planned = (files.read_json(folder / f"{name}.json") for name in ("metrics", "plan"))
    for who in ("untuned", "tuned", "tuned_at_30_s"):
        metrics[who]["telephone"] = finished.scores(50)
    metrics["tuned_minus_untuned"]["telephone"] = {"value": 4.7, "low": 1.0, "high": 8.4}
    predictions = files.read_tsv(folder / "predictions.tsv")
    model_card.write(folder, planned, {"splits": finished.SPLITS}, metrics, predictions)
    told = (folder / "README.md").read_text(encoding="utf-8")
    assert "- Worse than the untuned model on `telephone`: +4.7 points (+1.0 to +8.4)." in told
    assert "Nothing was tuned on `telephone`" in told and "speech of any other kind" not in told
    said = card.summary(folder, metrics, predictions)
    assert "on telephone, normalised WER, paired: +4.7 points (+1.0 to +8.4): worse." in said
    assert said.index("test   ") < said.index("telephone  ")


def test_mistakes_are_one_line_before_the_training(features, tiny, other, tmp_path):
    wide, silent = shutil.copytree(features, tmp_path / "wide"), shutil.copytree(other, tmp_path / "silent")
    manifest = files.read_json(wide / "manifest.json")
    files.write_json(wide / "manifest.json", manifest | {"front_end": manifest["front_end"] | {"mels": 128}})
    files.write_tsv(silent / "test.tsv", ["audio", "text"], [(files.read_tsv(other / "test.tsv")[0]["audio"], "…")])
    for spec, said in (
        (f"{wide}:out_of_domain", "wide holds 128 mels"),
        (f"{silent}", "nobody says a word"),
        ("/nowhere", "/nowhere is not a folder or file"),
        (f"{other}:dev", "dev"),
        (f"{features}:spoken", "has no split 'spoken'"),
        (f"{features}", "8 of its clips are in test too"),
        ("sample:train", "8 of its clips are in train too"),
        (f"ky={other}", "Whisper knows no Kyrgyz"),
        (f"yue={other}", "<|yue|>"),
        (f"en={features}:out_of_domain", "that is sv-SE: leave out en="),
    ):
        with pytest.raises(LabError, match=f"--canary {re.escape(spec)}: .*{re.escape(said)}") as error:
            make_run(features, tiny, tmp_path / "x", canary=(spec,))
        assert "\n" not in str(error.value)
    assert not (tmp_path / "x").exists()
