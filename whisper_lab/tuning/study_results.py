"""What the runs of a study show, in numbers: everything that its report says, from the folders of its runs."""

import math
import statistics
from collections.abc import Iterator
from dataclasses import asdict
from itertools import combinations
from pathlib import Path

from .. import LabError, files
from ..scores import choices, scoring
from ..whisper import checkpoint

VARIED = ("seed", "optimizer", "learning_rate")  # in this order, so that all are met before any is repeated
AVERAGE = "average"  # the folder of the average, in the study's
DIVERGED = "diverged.json"  # in the folder of a run whose loss was no number: at which step, and on which clips


def results(folder: Path, names: list[str]) -> dict:
    """study.json of the finished runs `names` in `folder`. Rates in percent, of its `headline` (scoring.headline).

    Each optimiser's learning rate is chosen by its mean over seeds on dev; on test, only the chosen are compared. A
    rate at which any seed diverged is out of it. Raises LabError where all are, and where two runs differ in where they
    started, what they read, or for how long.
    """
    plans = {name: files.read_json(folder / name / "plan.json") for name in names}
    plan = plans[names[0]]["plan"]
    language = plan["corpus"].get("language", "")
    measure = scoring.headline(language)
    unit = scoring.short(measure).lower()
    _check_alike(folder, {name: _start(each["plan"]) for name, each in plans.items()})
    recipes = {name: each["plan"]["recipe"] for name, each in plans.items()}
    marks = {name: folder / name / DIVERGED for name in names}
    diverged = [_varied(recipes[name]) | files.read_json(mark) for name, mark in marks.items() if mark.is_file()]
    out = {(one["optimizer"], one["learning_rate"]) for one in diverged}
    sound = [name for name in names if (recipes[name]["optimizer"], recipes[name]["learning_rate"]) not in out]
    if not sound:
        raise LabError(f"nothing to compare in {folder}: at every --learning-rate a run diverged; try lower ones")
    rows = [_row(folder / name, recipes[name], measure) for name in sound]
    order = list(dict.fromkeys(row["optimizer"] for row in rows))
    rows.sort(key=lambda row: (order.index(row["optimizer"]), row["learning_rate"], row["seed"]))
    optimizers = {name: _optimizer(_named(rows, name), measure) for name in order}
    for row in rows:
        row["chosen"] = row["learning_rate"] == optimizers[row["optimizer"]]["learning_rate"]
    chosen = [row for row in rows if row["chosen"]]
    reached = max(min(point[unit] for point in row["dev"]) for row in chosen)
    level = math.ceil(10 * reached - 1e-9) / 10
    for row in rows:
        there = next((point for point in row["dev"] if point[unit] <= level), {})
        row["steps_to_level"], row["seconds_to_level"] = there.get("step"), there.get("seconds")
    return {
        "model": plan["model"],
        "corpus": plan["corpus"],
        "headline": measure,
        "start": _start(plan),
        "versions": list({files.digest(each["versions"]): each["versions"] for each in plans.values()}.values()),
        "untuned": files.read_json(folder / sound[0] / "metrics.json")["untuned"],
        "level": level,
        "optimizers": optimizers,
        "comparisons": _comparisons(folder, {name: _named(chosen, name) for name in order}, language),
        "best": min(chosen, key=lambda row: _rate(row, "dev", measure))["name"],
        "choices": list(_choices(folder, rows, optimizers, measure, language)),
        "average": _average(folder, language),
        "diverged": diverged,
        "runs": rows,
    }


def to_average(folder: Path, names: list[str]) -> list[str]:
    """Of the finished runs `names` in `folder`, those of the optimiser that is best on dev, at its chosen rate.

    Raises LabError as `results` does.
    """
    study = results(folder, names)
    best = min(study["optimizers"], key=lambda name: study["optimizers"][name]["dev"])
    return [run["name"] for run in study["runs"] if run["chosen"] and run["optimizer"] == best]


def _average(folder: Path, language: str) -> dict | None:
    """The average in a study's `folder`, if there is one, and how it does on each split against the runs `of` which it
    is, in their mean, paired over clips and seeds."""
    place = folder / AVERAGE
    if not (place / "metrics.json").is_file():
        return None
    metrics = files.read_json(place / "metrics.json")
    run, scores = metrics["run"], metrics["tuned"]
    languages = dict.fromkeys(scores, language) | {name: one["language"] for name, one in run["canaries"].items()}
    minus_runs = {}
    for split in scores:
        references, ours = heard(place, split)
        theirs = [heard(folder / name, split)[1] for name in run["average_of"]]
        minus_runs[split] = asdict(scoring.compare(references, [ours] * len(theirs), theirs, languages[split]))
    return {
        "of": run["average_of"],
        "share": run["share"],
        "headlines": {split: scoring.headline(languages[split]) for split in scores},
        "scores": scores,
        "minus_runs": minus_runs,
    }


def _start(plan: dict) -> dict:
    """What all runs of a study have in common."""
    recipe = plan["recipe"]
    return {
        "model": checkpoint.plain(plan["model"]),
        "revision": plan["revision"],
        "features": plan["features"],
        "steps": recipe["max_steps"],
        "clips_per_step": recipe["batch_size"] * recipe["accumulation"],
        "window": recipe["window"],
    }


def _check_alike(folder: Path, starts: dict[str, dict]) -> None:
    (first, start), *others = starts.items()
    for name, other in others:
        for key in start:
            if other[key] != start[key]:
                raise LabError(
                    f"{folder / first} and {folder / name} are not of one study ({key}: {start[key]} and "
                    f"{other[key]}); delete the wrong one, then run the same command again"
                )


def _varied(recipe: dict) -> dict:
    """What the runs of a study differ in."""
    return {key: recipe[key] for key in VARIED}


def _row(folder: Path, recipe: dict, measure: str) -> dict:
    """One run. `dev` are its scores while it trained; `scores` those of the model that it left."""
    history, metrics = (files.read_json(folder / name) for name in ("history.json", "metrics.json"))
    facts = metrics["run"]
    return {
        "name": folder.name,
        **_varied(recipe),
        "scores": metrics["tuned"],
        "best_step": facts["best_step"],
        "share": facts["share"],
        "steps": max(entry["step"] for entry in history),
        "seconds": facts["train_seconds"],
        "clips_per_second": facts["clips_per_second"],
        "optimizer_state_bytes": facts["optimizer_state_bytes"],
        "resumed_at_step": facts["resumed_at_step"],
        "device": facts["device"],
        "dev": [
            {
                "step": entry["step"],
                "seconds": entry["seconds"],
                scoring.short(measure).lower(): entry[f"eval_{measure}"],
                "loss": entry["eval_loss"],
            }
            for entry in history
            if f"eval_{measure}" in entry
        ],
        "loss": [{"step": entry["step"], "loss": entry["loss"]} for entry in history if "loss" in entry],
    }


def _rate(row: dict, split: str, measure: str) -> float:
    return row["scores"][split][measure]["value"]


def _named(rows: list[dict], optimizer: str) -> list[dict]:
    return [row for row in rows if row["optimizer"] == optimizer]


def _optimizer(rows: list[dict], measure: str) -> dict:
    """The rate with the lowest mean on dev, the lower of two alike, and what its runs have in the mean."""
    by_rate = {row["learning_rate"]: [r for r in rows if r["learning_rate"] == row["learning_rate"]] for row in rows}
    dev = {rate: statistics.fmean(_rate(r, "dev", measure) for r in some) for rate, some in by_rate.items()}
    best = min(dev, key=lambda rate: (dev[rate], rate))
    test = [_rate(row, "test", measure) for row in by_rate[best]]
    return {
        "learning_rate": best,
        "at_edge": len(dev) > 1 and best in (min(dev), max(dev)),
        "tried": [{"learning_rate": rate, "dev": round(value, 3)} for rate, value in dev.items()],
        "dev": round(dev[best], 3),
        "test": round(statistics.fmean(test), 3),
        "test_sd": round(statistics.stdev(test), 3) if len(test) > 1 else None,
        "seeds": [row["seed"] for row in by_rate[best]],
    }


def _comparisons(folder: Path, chosen: dict[str, list[dict]], language: str) -> list[dict]:
    """For each pair of optimisers on test: the first minus the second, paired over clips and seeds."""
    written = {name: [heard(folder / row["name"], "test") for row in rows] for name, rows in chosen.items()}
    found = []
    for a, b in combinations(written, 2):
        references = written[a][0][0]
        ours, theirs = ([texts for _, texts in written[name]] for name in (a, b))
        one = scoring.compare(references, ours, theirs, language)
        found.append({"first": a, "second": b, "difference": one.value, "low": one.low, "high": one.high, "p": one.p})
    for one, adjusted in zip(found, scoring.holm([one["p"] for one in found])):
        one["p_holm"] = round(adjusted, 4)
        one["shown"] = adjusted < 0.05 and not one["low"] <= 0 <= one["high"]
    return found


def _choices(folder: Path, rows: list[dict], optimizers: dict, measure: str, language: str) -> Iterator[dict]:
    """What was chosen on dev, minus the next best, paired there: each optimiser's rate, and the run that is best."""

    def between(ours: list[dict], theirs: list[dict]) -> dict:
        (references, _), *_ = written = [heard(folder / row["name"], "dev") for row in ours]
        others = [heard(folder / row["name"], "dev")[1] for row in theirs]
        gap = scoring.compare(references, [texts for _, texts in written], others, language)
        return choices.between(gap, len(references))

    for name, one in optimizers.items():
        rates = sorted(one["tried"], key=lambda tried: (tried["dev"], tried["learning_rate"]))
        if len(rates) > 1:
            best, following = (tried["learning_rate"] for tried in rates[:2])
            each = ([row for row in _named(rows, name) if row["learning_rate"] == rate] for rate in (best, following))
            yield {"optimizer": name, "chosen": best, "next_best": following, **between(*each)}
    chosen = sorted((row for row in rows if row["chosen"]), key=lambda row: _rate(row, "dev", measure))
    if len(chosen) > 1:
        best, following = chosen[:2]
        yield {"chosen": best["name"], "next_best": following["name"], **between([best], [following])}


def heard(folder: Path, split: str) -> tuple[list[str], list[str]]:
    """Sentences of a split, and what the tuned model of the run in `folder` wrote for them."""
    rows = [row for row in files.read_tsv(folder / "predictions.tsv") if row["split"] == split]
    return [row["sentence"] for row in rows], [row["tuned"] for row in rows]
