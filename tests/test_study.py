import contextlib
import gc
import io
import json
import math
import shutil
import signal
from itertools import product

import numpy as np
import pytest
import torch
from conftest import inside

from whisper_lab import LabError, files
from whisper_lab.scores import scoring
from whisper_lab.tuning import (
    averaging,
    folders,
    optimizers,
    recipes,
    resuming,
    study,
    study_report,
    study_results,
    training,
)
from whisper_lab.whisper import checkpoint

WORDS = [f"ord{i}" for i in range(8)]
TEST = [" ".join(WORDS)] * 60  # sentences of the invented studies


def wrong(sentences: list[str], counts) -> list[str]:
    """`sentences` with so many words wrong in each."""
    return [" ".join(["fel"] * n + s.split()[n:]) for s, n in zip(sentences, counts)]


# What the numbers mean


def simulated(rng, seeds: int, between_clips: float, between_seeds: float, gain: float = 0.0) -> list[np.ndarray]:
    """Two recipes' (seeds, clips, 2) tables whose expected difference is `gain` (a share of the words)."""
    sizes, base = rng.integers(4, 14, 60), rng.beta(4, 8, 60)
    shift = rng.normal(0, between_clips, 60)

    def table(offset):
        chance = np.clip(base + offset + rng.normal(0, between_seeds), 0, 1)
        return np.stack([rng.binomial(sizes, chance), sizes], axis=1)

    return [np.stack([table(sign * (shift + gain) / 2) for _ in range(seeds)]) for sign in (1, -1)]


@pytest.mark.parametrize("seeds, between_clips, between_seeds", [(1, 0.1, 0), (3, 0.1, 0.02), (5, 0, 0.02)])
def test_the_interval_covers_no_difference_about_95_times_in_100(seeds, between_clips, between_seeds):
    rng = np.random.default_rng(1)
    found = [scoring.paired(*simulated(rng, seeds, between_clips, between_seeds), seed=i) for i in range(100)]
    assert 88 <= sum(one.low <= 0 <= one.high for one in found) <= 99
    assert all((one.p < 0.05) == (not one.low <= 0 <= one.high) or 0.04 < one.p < 0.06 for one in found)


def test_seeds_that_differ_widen_the_interval_and_more_of_them_narrow_it():
    ours, theirs = simulated(np.random.default_rng(2), 12, 0.05, 0.1)
    width = {k: (one := scoring.paired(ours[:k], theirs[:k])).high - one.low for k in (1, 4, 12)}
    assert width[1] < width[4] and width[12] < width[4]


def test_seeds_that_agree_narrow_the_interval():
    ours, theirs = simulated(np.random.default_rng(3), 12, 0, 0)
    one, twelve = (scoring.paired(ours[:k], theirs[:k]) for k in (1, 12))
    assert twelve.high - twelve.low < 0.6 * (one.high - one.low)


def test_the_sign_says_who_is_better_and_turns_with_the_order():
    ours, theirs = simulated(np.random.default_rng(4), 3, 0.02, 0.005, gain=0.15)
    one, other = scoring.paired(ours, theirs), scoring.paired(theirs, ours)
    assert one.low > 5 and one.p < 0.05 and other.value == -one.value
    assert other.low == pytest.approx(-one.high, abs=1) and other.p < 0.05


def test_the_same_hypotheses_differ_by_nothing():
    texts = wrong(TEST, range(0, 8)) * 2
    one = scoring.compare(TEST[:16], [texts, texts[::-1]], [texts, texts[::-1]])
    assert (one.value, one.low, one.high, one.p) == (0, 0, 0, 1)
    assert scoring.difference(TEST[:16], texts, texts) == scoring.Score(0, 0, 0)


def test_holm():
    p = [0.01, 0.04, 0.03, 0.005]
    assert scoring.holm(p) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # worked by hand
    assert scoring.holm([0.2]) == [0.2] and scoring.holm([]) == []
    rng = np.random.default_rng(5)
    for _ in range(50):
        p = rng.random(rng.integers(1, 8)).tolist()
        adjusted = scoring.holm(p)
        assert all(raw <= held <= min(1, len(p) * raw) for raw, held in zip(p, adjusted))
        assert [adjusted[i] for i in np.argsort(p)] == sorted(adjusted)


# What is asked for


def test_every_combination_once_in_the_order_given():
    values = {"optimizer": ["adamw", "adagrad", "adamw"], "learning_rate": [1e-5, 2e-5], "seeds": [3, 1], "blend": 1.0}
    options = study.expand(values)
    found = [(one.seed, one.optimizer, one.learning_rate) for one in options]
    assert found == list(product([3, 1], ["adamw", "adagrad"], [1e-5, 2e-5]))
    assert {one.blend for one in options} == {1.0}


def test_one_of_each_is_one_run():
    assert study.expand({"optimizer": "adagrad", "max_steps": 9}) == [recipes.Options(optimizer="adagrad", max_steps=9)]
    assert study.expand({"optimizer": ["adagrad"], "learning_rate": None, "seeds": None, "seed": 4}) == [
        recipes.Options(optimizer="adagrad", seed=4)
    ]


# What is said, of invented runs


def invent(folder, optimizer, rate, seed, dev, test, **changed) -> str:
    """A finished run's folder; `dev` are its WERs at steps 10, 20, …, `test` its errors in each clip of TEST."""
    name = f"{optimizer}-{rate:g}-seed{seed}"
    (folder / name).mkdir(parents=True)
    recipe = {"optimizer": optimizer, "learning_rate": rate, "seed": seed, "max_steps": 10 * len(dev)}
    recipe |= {"batch_size": 8, "accumulation": 1, "window": "mixed"} | changed
    plan = {"model": "sample", "revision": None, "features": "abc", "corpus": {"name": "sample", "version": "2.0"}}
    files.write_json(folder / name / "plan.json", {"plan": plan | {"recipe": recipe}, "versions": {"torch": "2"}})
    history = []
    for i, wer in enumerate(dev, 1):
        at = {"step": 10 * i, "seconds": 4.5 * i * (1 + seed / 20) * (0.8 if optimizer == "adagrad" else 1)}
        history += [
            at | {"loss": wer / 20 + 0.3 * math.cos(5 * i)},
            at | {"eval_wer_normalised": wer, "eval_loss": wer / 25},
        ]
    files.write_json(folder / name / "history.json", history)
    written = enumerate(zip(TEST, wrong(TEST, test)))
    rows = [(split, i, said, "", heard) for i, (said, heard) in written for split in ("test", "dev")]
    files.write_tsv(folder / name / "predictions.tsv", ["split", "id", "sentence", "untuned", "tuned"], rows)
    scored = scoring.as_json(scoring.scores(TEST, wrong(TEST, test)))
    tuned = {
        "test": scored,
        "dev": scored | {"wer_normalised": {"value": min(dev), "low": min(dev) - 3, "high": min(dev) + 4}},
    }
    facts = {
        "best_step": 10 * (1 + dev.index(min(dev))),
        "share": 1.0,
        "resumed_at_step": 0,
        "train_seconds": 4.5 * len(dev),
    }
    facts |= {"clips_per_second": 17.8, "device": "2 CPU cores", "optimizer_state_bytes": 580_813_312}
    files.write_json(folder / name / "metrics.json", {"untuned": tuned, "tuned": tuned, "run": facts})
    return name


def errors(rate: float, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).binomial(8, rate, len(TEST)).tolist()


def test_the_rate_is_chosen_on_dev_and_only_the_chosen_are_compared(tmp_path):
    names = [
        invent(tmp_path, "adamw", 1e-5, 1, [50, 40.04, 41], errors(0.5)),
        invent(tmp_path, "adamw", 2e-5, 1, [60, 45, 44], errors(0.1)),  # better on test, where nobody may look
        invent(tmp_path, "adagrad", 1e-5, 1, [70, 60, 50], errors(0.1)),
        invent(tmp_path, "adagrad", 2e-5, 1, [39, 38, 37], errors(0.5)),
    ]
    found = study_report.write(tmp_path, names, "python training-pipeline.py …")
    assert {name: one["learning_rate"] for name, one in found["optimizers"].items()} == {"adamw": 1e-5, "adagrad": 2e-5}
    assert found["comparisons"][0]["difference"] == 0 and not found["comparisons"][0]["shown"]
    assert [run["name"] for run in found["runs"] if run["chosen"]] == [names[0], names[3]]
    assert found["best"] == names[3]
    assert found["level"] == 40.1  # where both chosen runs have been, rounded up
    assert [run["steps_to_level"] for run in found["runs"]] == [20, None, None, 10]
    assert found["runs"][0]["seconds_to_level"] == pytest.approx(9.45)
    assert json.loads((tmp_path / "study.json").read_text()) == found
    report = (tmp_path / "README.md").read_text()
    assert (
        "AdamW and Adagrad: no difference shown (AdamW minus Adagrad +0.0 points, 95 % interval +0.0 to +0.0)" in report
    )
    assert "One seed" in report and "lowest or highest that was tried" in report and "580.8 MB" in report
    assert (tmp_path / "study.png").read_bytes()[:4] == b"\x89PNG"
    rows = [line for line in report.splitlines() if line.startswith(("| AdamW |", "| Adagrad |"))]
    assert len(rows) == 2 + 4 and rows[2].count("|") == 12


def test_who_is_better_is_said_with_its_interval(tmp_path):
    good, bad = errors(0.2), errors(0.4)
    names = [invent(tmp_path, "adamw", 1e-5, seed, [30, 29], bad) for seed in (1, 2, 3)]
    names += [invent(tmp_path, "adagrad", 5e-4, seed, [25, 24], good) for seed in (1, 2, 3)]
    found = study_report.write(tmp_path, names, "x")
    one = found["comparisons"][0]
    assert one["first"] == "adamw" and one["shown"] and one["low"] > 0
    sentence = study_report.verdicts(found)[0]
    assert sentence.startswith(
        f"Adagrad is better than AdamW by {one['low']:.1f} to {one['high']:.1f} points (AdamW minus"
    )
    assert "of 3 seeds" in (tmp_path / "README.md").read_text()
    assert found["optimizers"]["adamw"]["test_sd"] == 0


def test_what_dev_is_too_small_to_choose_is_said(tmp_path):
    """Of 60 clips: rates that differ by a word in all, then by one in each clip; a run that is best by as little."""
    base, luckier, better = [3] * 60, [2] * 3 + [4] * 2 + [3] * 55, [2] * 60
    names = [invent(tmp_path, "adamw", rate, 1, [30 + rate], wrong) for rate, wrong in ((1, luckier), (2, base))]
    said = study_report.doubts(study_results.results(tmp_path, names))
    assert len(said) == 1 and said[0].startswith("Dev has 60 clips, too few to tell AdamW's rate 1, which was chosen, ")
    assert "from 2, the next best: −0.2 points (95 % interval −" in said[0]
    names += [invent(tmp_path, "adagrad", rate, 1, [40 + rate], wrong) for rate, wrong in ((1, better), (2, base))]
    found = study_report.write(tmp_path, names, "x")
    said = study_report.doubts(found)
    assert len(said) == 1, "Adagrad's rate, and the best run, are shown"
    assert said[0] in (tmp_path / "README.md").read_text() and said[0] in study_report.summary(tmp_path, found)


def test_of_several_pairs_a_difference_has_to_be_clearer(tmp_path):
    base = [4] * 60
    slightly = [3] * 9 + [5] * 2 + [4] * 49  # p is 0.03 or so
    names = [invent(tmp_path, "adamw", 1e-5, 1, [30], base), invent(tmp_path, "adagrad", 1e-5, 1, [30], slightly)]
    alone = study_results.results(tmp_path, names)["comparisons"]
    names += [invent(tmp_path, optimizer, 1e-5, 1, [30], base) for optimizer in ("adafactor", "sgd")]
    among = study_results.results(tmp_path, names)["comparisons"]
    assert len(among) == 6 and alone[0]["p"] == among[0]["p"]
    assert alone[0]["shown"] and not among[0]["shown"] and among[0]["p_holm"] > 0.05
    said = study_report.verdicts(study_results.results(tmp_path, names))
    assert "no difference shown" in said[0] and any("Holm" in line for line in said)


def test_one_optimiser_has_nobody_to_be_compared_with(tmp_path):
    names = [invent(tmp_path, "adamw", rate, 1, [50, 40], errors(0.3)) for rate in (1e-5, 2e-5)]
    found = study_results.results(tmp_path, names)
    assert found["comparisons"] == [] and "nothing to compare" in study_report.markdown(found | {"command": "x"})
    assert found["optimizers"]["adamw"]["learning_rate"] == 1e-5  # the gentler of two alike


def test_a_rate_at_which_a_run_diverged_is_left_out(tmp_path):
    names = [invent(tmp_path, "adamw", rate, seed, [40], [2] * 60) for rate in (1e-5, 2e-5) for seed in (1, 2)]
    names += [invent(tmp_path, "sgd", 1, 1, [30], [1] * 60)]
    names += [invent(tmp_path, "adagrad", 1, seed, [30], [1] * 60) for seed in (1, 2)]
    files.write_json(tmp_path / names[3] / "diverged.json", {"step": 7, "clips": ["a.mp3", "b.mp3"]})
    files.write_json(tmp_path / names[4] / "diverged.json", {"step": 2, "clips": ["c.mp3"]})
    for name in names[3:5]:
        (tmp_path / name / "metrics.json").unlink()
    found = study_report.write(tmp_path, names, "x")
    assert [run["name"] for run in found["runs"]] == [*names[:2], *names[5:]]
    assert [(pair["first"], pair["second"]) for pair in found["comparisons"]] == [("adamw", "adagrad")]
    report = (tmp_path / "README.md").read_text()
    assert "with seed 2 the loss was no number at step 7 (clips a.mp3, b.mp3)" in report
    assert "SGD at rate 1 is left out" in report
    with pytest.raises(LabError, match="at every --learning-rate a run diverged"):
        study_results.results(tmp_path, names[2:5])


def test_runs_of_another_budget_are_not_compared(tmp_path):
    names = [
        invent(tmp_path, "adamw", 1e-5, 1, [50], [1] * 60),
        invent(tmp_path, "adagrad", 1e-5, 1, [50, 40], [1] * 60),
    ]
    with pytest.raises(LabError, match="not of one study.*steps: 10 and 20"):
        study_results.results(tmp_path, names)


def test_where_words_cannot_be_counted_a_study_goes_by_characters(tmp_path):
    """At 1e-5 fewer sentences have errors on dev; at 2e-5 fewer characters, and that is chosen."""
    names = [invent(tmp_path, "adamw", rate, 1, [50, wer], errors(0.3)) for rate, wer in ((1e-5, 40), (2e-5, 45))]
    for name, cer in zip(names, (20, 10)):
        place = tmp_path / name
        planned, metrics = files.read_json(place / "plan.json"), files.read_json(place / "metrics.json")
        planned["plan"]["corpus"]["language"] = "zh-CN"
        metrics["tuned"]["dev"]["cer_normalised"]["value"] = cer
        history = files.read_json(place / "history.json")
        history = [line | {"eval_cer_normalised": cer} if "eval_loss" in line else line for line in history]
        for file, value in (("plan", planned), ("metrics", metrics), ("history", history)):
            files.write_json(place / f"{file}.json", value)
    found = study_report.write(tmp_path, names, "x")
    assert found["headline"] == "cer_normalised" and found["best"] == names[1] and found["level"] == 10
    report = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "Chinese is written without spaces" in report and "dev CER" in report and "WER" not in report


# A study as it is made


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """The sample's first 4 clips of each split."""
    folder = tmp_path_factory.mktemp("features") / "small"
    inside("feature-pipeline.py", "--store", folder, "--limit", "4", cwd=folder.parent)
    return folder


def asked(features, tiny, folder, **changed) -> dict:
    """What the command line of a study gives."""
    values = {"features": str(features), "model": str(tiny), "output": str(folder), "max_steps": 5, "blend": 1.0}
    values |= {"optimizer": ["adamw", "adagrad"], "learning_rate": [0.01], "precision": "float32", "window": "short"}
    return values | changed


def make_study(features, tiny, folder, **changed) -> study.Study:
    return study.Study(study.expand(asked(features, tiny, folder, **changed)), folder)


@pytest.fixture(scope="module")
def whole(features, tiny, tmp_path_factory):
    """An uninterrupted study of two optimisers, finished, what it printed and `titles` of all it transcribed."""
    one, one.titles = make_study(features, tiny, tmp_path_factory.mktemp("studies") / "whole"), []
    transcribe = training.Trainer.transcribe
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.Trainer, "transcribe", lambda *args: (one.titles.append(args[3]), transcribe(*args))[1])
        with contextlib.redirect_stdout(io.StringIO()) as out:
            assert one.complete() is None
    one.printed = out.getvalue()
    return one


def models() -> int:
    """How many Whispers there are in memory."""
    gc.collect()
    return sum(type(thing).__name__ == "WhisperForConditionalGeneration" for thing in gc.get_objects())


TIMES = {"seconds", "seconds_to_level", "clips_per_second", "resumed_at_step", "command"}


def numbers(value):
    """study.json without what is timed, or says where it is."""
    if isinstance(value, dict):
        return {key: numbers(inner) for key, inner in value.items() if key not in TIMES}
    return [numbers(inner) for inner in value] if isinstance(value, list) else value


def test_what_a_study_leaves(whole):
    found = json.loads((whole.folder / "study.json").read_text())
    assert [run["name"] for run in found["runs"]] == ["adamw-0.01-seed1", "adagrad-0.01-seed1"]
    for run in found["runs"]:
        metrics = json.loads((whole.folder / run["name"] / "metrics.json").read_text())
        assert run["scores"] == metrics["tuned"] and run["steps"] == 5
        assert not (whole.folder / run["name"] / "checkpoints").exists()
        assert (whole.folder / run["name"] / "model.safetensors").is_file()
    assert found["runs"][0]["dev"] != found["runs"][1]["dev"]
    assert whole.titles.count("Untuned, test") == 1 and whole.titles.count("Tuned, test") == 2
    assert whole.best.name == found["best"]
    report = (whole.folder / "README.md").read_text()
    assert (
        "synthetic" in report and study_report.verdicts(found)[0] in report and report.count("\n| Adagrad | 0.01") == 2
    )
    assert study_report.verdicts(found)[0] in whole.printed and str(whole.folder / "study.png") in whole.printed
    assert "--optimizer adamw adagrad --learning-rate 0.01 --seeds 1`" in report


def test_a_study_stopped_and_cut_off_resumes_to_the_same_numbers(whole, features, tiny, tmp_path, monkeypatch, capsys):
    folder, before, evaluate = tmp_path / "stopped", models(), training.Trainer.evaluate
    with monkeypatch.context() as patch:
        patch.setattr(
            training.Trainer, "evaluate", lambda *a, **b: (evaluate(*a, **b), signal.raise_signal(signal.SIGINT))[0]
        )
        stopped = make_study(features, tiny, folder)
        assert stopped.complete() == 130
    said = capsys.readouterr().out
    assert "0 of 2 runs are finished" in said and said.endswith(f"To go on: {stopped.command_line()}\n")
    assert f"--output {folder} " in said and said.endswith(" --seeds 1\n")
    with folders.alone(folder), pytest.raises(LabError, match=f"another process is training into {folder};"):
        monkeypatch.setattr(folders, "PATIENCE", 0.01)
        make_study(features, tiny, folder).complete()

    def cut(trainer, **_):
        if trainer.recipe.optimizer == "adagrad" and trainer.state.global_step == 4:
            raise ConnectionAbortedError("the power is cut")
        return evaluate(trainer)

    with monkeypatch.context() as patch, pytest.raises(ConnectionAbortedError):
        patch.setattr(training.Trainer, "evaluate", cut)
        make_study(features, tiny, folder, resume=True).complete()
    assert resuming.last_checkpoint(folder / "adagrad-0.01-seed1").name == "checkpoint-2"
    done = folder / "adamw-0.01-seed1" / "metrics.json"
    then = done.stat().st_mtime_ns

    with pytest.raises(LabError, match=r"seeds: \[1\] there, \[1, 2\] now"):
        make_study(features, tiny, folder, resume=True, seeds=[1, 2])
    capsys.readouterr()
    resumed = make_study(features, tiny, folder)
    assert resumed.complete() is None
    assert "Run 1 of 2" not in (said := capsys.readouterr().out) and "Run 2 of 2: adagrad-0.01-seed1" in said
    assert said.startswith(f"Going on: 1 of 2 runs are finished, in {folder}.\n")
    assert f"Going on from checkpoint-2 of 5 steps, in {folder / 'adagrad-0.01-seed1'}.\n" in said
    assert done.stat().st_mtime_ns == then
    assert numbers(resumed.results) == numbers(whole.results)
    stopped = resumed = None
    assert models() == before


def test_a_run_that_diverges_is_passed_over(features, tiny, tmp_path, capsys):
    asked_for = {"optimizer": ["adamw"], "learning_rate": [1e30, 0.01], "max_steps": 3}
    one = make_study(features, tiny, tmp_path / "x", **asked_for)
    assert one.complete() is None
    said, folder = capsys.readouterr().out, one.folder / "adamw-1e+30-seed1"
    assert f"Set aside: {folder.name} diverged at step " in said and f"delete {folder} to try it again" in said
    assert "AdamW at rate 1e+30 is left out" in said and one.best.name == "adamw-0.01-seed1"
    left = {path.name for path in folder.iterdir() if path.is_file()}
    assert left - {".lock"} == {"plan.json", "untuned.json", "diverged.json"}
    assert make_study(features, tiny, one.folder, **asked_for).finished


def test_a_finished_study_is_said_again_and_another_refused(whole, features, tiny):
    again = make_study(features, tiny, whole.folder)
    then = {path: path.stat().st_mtime_ns for path in whole.folder.glob("*/*")}
    assert again.finished
    assert again.complete() is None
    assert again.results == whole.results
    assert then == {path: path.stat().st_mtime_ns for path in whole.folder.glob("*/*")}
    with pytest.raises(LabError, match="recipe.max_steps: 5 there, 6 now.*--output"):
        make_study(features, tiny, whole.folder, max_steps=6)


def test_without_a_rate_each_optimiser_has_its_own(features, tiny, tmp_path):
    one = make_study(features, tiny, tmp_path / "x", learning_rate=None, seeds=[1, 2])
    rates = {name: f"{optimizers.default_rate(name, 32):g}" for name in ("adamw", "adagrad")}
    assert list(one.runs) == [f"{name}-{rates[name]}-seed{seed}" for seed in (1, 2) for name in rates]
    assert "--optimizer adamw adagrad --seeds 1 2" in one.command_line() and "--learning-rate" not in one.command_line()


def test_what_cannot_be_begun(features, tiny, tmp_path):
    with pytest.raises(LabError, match="nothing to resume"):
        make_study(features, tiny, tmp_path / "x", resume=True)
    with pytest.raises(LabError, match="no optimiser 'adagrd'.*adagrad"):
        make_study(features, tiny, tmp_path / "x", optimizer=["adamw", "adagrd"])
    assert not (tmp_path / "x").exists()


# One model out of several

TWO_SEEDS = {"seeds": [1, 2], "optimizer": ["adamw"], "max_steps": 3, "batch_size": 2, "blend": 0.5}


@pytest.fixture(scope="module")
def averaged(features, tiny, tmp_path_factory):
    """A study of two seeds, finished, then given --average."""
    folder = tmp_path_factory.mktemp("studies") / "averaged"
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as out:
        patch.setattr(training.Trainer, "_load_best_model", lambda trainer: None)  # at the first step nothing is learnt
        first = make_study(features, tiny, folder, **TWO_SEEDS)
        assert first.complete() is None and first.results["average"] is None
        then = {path: path.stat().st_mtime_ns for path in folder.glob("*-seed*/*")}
        one = make_study(features, tiny, folder, average=True, **TWO_SEEDS)
        assert not one.finished and one.complete() is None and one.finished
    assert then == {path: path.stat().st_mtime_ns for path in folder.glob("*-seed*/*")}, "nothing is trained again"
    one.printed = out.getvalue()
    return one


def weights(folder) -> dict:
    return checkpoint.load_model(str(folder)).state_dict()


def test_an_average_is_the_mean_of_what_its_runs_learnt(averaged, tiny, tmp_path):
    names = averaged.results["average"]["of"]
    assert names == ["adamw-0.01-seed1", "adamw-0.01-seed2"]
    one, other, both = (weights(averaged.folder / name) for name in (*names, "average"))
    assert max((one[key] - other[key]).abs().max() for key in one) > 1e-3, "the runs differ"
    for key in both:  # at one share for all, the mean of what was saved
        assert torch.allclose(both[key], (one[key] + other[key]) / 2, atol=1e-5), key
    start = weights(tiny)
    for name, share in zip(names, (0.25, 0)):  # as if these had been kept
        shutil.copytree(averaged.folder / name, tmp_path / name)
        files.write_json(tmp_path / name / "metrics.json", {"run": {"share": share}})
    mean = averaging.mean(start, [tmp_path / name for name in names])
    for key in start:
        assert torch.allclose(mean[key], ((4 * one[key] - 3 * start[key]) + other[key]) / 2, atol=1e-5), key


def test_an_average_is_scored_beside_its_runs_and_is_a_model_like_theirs(averaged):
    found, folder = averaged.results["average"], averaged.folder / "average"
    metrics = files.read_json(folder / "metrics.json")
    assert metrics["run"]["average_of"] == found["of"] and metrics["run"]["share"] == 0.5
    for split, one in found["minus_runs"].items():
        references, ours = study_results.heard(folder, split)
        theirs = [study_results.heard(averaged.folder / name, split)[1] for name in found["of"]]
        runs = [scoring.scores(references, texts)["wer_normalised"].value for texts in theirs]
        value = scoring.scores(references, ours)["wer_normalised"].value
        assert one["value"] == pytest.approx(value - sum(runs) / 2, abs=0.01) and one["low"] <= one["high"]
    assert list(found["minus_runs"]) == list(metrics["tuned"])
    report, card = ((place / "README.md").read_text() for place in (averaged.folder, folder))
    assert "## Their average" in report and "| their average, 50% tuned |" in report and " --average" in report
    assert f"average  {folder}" in averaged.printed
    assert "50% tuned (the mean of 2 runs)" in card and f"| seed | {', '.join(found['of'])} |" in card
    files_of = [{path.name for path in place.iterdir()} for place in (folder, averaged.folder / found["of"][0])]
    assert files_of[0] | {"log"} == files_of[1] | {"log"}


def test_an_average_goes_on_after_a_kill(averaged, features, tiny, tmp_path):
    folder = shutil.copytree(averaged.folder, tmp_path / "again")
    for name in ("metrics.json", "model.safetensors", "predictions.tsv"):
        (folder / "average" / name).unlink()
    one = make_study(features, tiny, folder, average=True, **TWO_SEEDS)
    assert not one.finished and one.complete() is None
    assert numbers(one.results) == numbers(averaged.results)
    before, now = ((place / "average" / "model.safetensors").read_bytes() for place in (averaged.folder, folder))
    assert before == now


def test_averaged_are_the_seeds_that_are_best_on_dev(tmp_path):
    names = [invent(tmp_path, "adamw", 1e-5, seed, [40], errors(0.1)) for seed in (1, 2)]
    names += [invent(tmp_path, "adagrad", rate, seed, [rate], errors(0.3)) for rate in (30, 20) for seed in (1, 2)]
    assert study_results.to_average(tmp_path, names) == names[4:]


def test_an_average_of_one_seed_is_refused():
    with pytest.raises(LabError, match="--average is of runs with several seeds; add --seeds 1 2 3"):
        study.expand({"average": True, "seeds": [2, 2], "optimizer": ["adamw", "adagrad"]})


def test_the_runs_logs_become_one_in_the_mean():
    logs = [[{"step": 1, "loss": 2.0, "note": "x"}, {"step": 2, "eval_loss": 1.0}], [{"step": 1, "loss": 4.0}]]
    assert averaging.history(logs) == [{"step": 1, "loss": 3.0}, {"step": 2, "eval_loss": 1.0}]
