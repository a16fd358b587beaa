"""What a study says, in words a careful author would use: README.md in its folder, and the same for a terminal."""

from pathlib import Path

from .. import files
from ..corpora.corpus import bundled
from ..scores import choices, scoring
from ..scores.scoring import Score
from . import study_picture
from .study_results import AVERAGE, results

NAMES = {"adamw": "AdamW", "adamw_8bit": "AdamW 8-bit", "adagrad": "Adagrad", "adafactor": "Adafactor", "sgd": "SGD"}


def write(folder: Path, names: list[str], command: str) -> dict:
    """README.md, study.png and study.json in `folder`, from its finished runs `names`; what study.json holds."""
    study = {"command": command} | results(folder, names)
    study_picture.draw(study, {name: called(name) for name in study["optimizers"]}, folder / "study.png")
    files.write_text(folder / "README.md", markdown(study))
    files.write_json(folder / "study.json", study)
    return study


def called(optimizer: str) -> str:
    return NAMES.get(optimizer, optimizer)


def markdown(study: dict) -> str:
    names = [called(name) for name in study["optimizers"]]
    start, corpus = study["start"], study["corpus"]
    untuned, rate = Score(**study["untuned"]["test"][study["headline"]]), _unit(study)
    data = f"{corpus['name']} {corpus['version']}".strip()
    why = f" {_because(study)}".rstrip()
    return f"""# {_listed(names)} on {data}

{_counted(len(study["runs"]), "run")} of {start["steps"]:,} steps of {_counted(start["clips_per_step"], "clip")} from \
`{study["model"]}`, all with the same budget; those of one seed read the same clips in the same order. {rate} is in
percent, normalised (lower case, no punctuation), with its 95 % interval over clips. Untuned, read at 30 s windows, the
model has {untuned} on test.{why}

## What it shows

{_bullets([*verdicts(study), *doubts(study), *set_aside(study)])}

{_markdown(*chosen(study))}

Each learning rate was chosen on dev, by its mean over seeds. Test was scored for every run, at its end, and is in the
table below; it chose nothing, and only the chosen rates are compared on it.

{_averaged(study)}## Every run

{_markdown(*table(study))}

{_level(study)}

![{rate} on dev over steps and over seconds, training loss and dev loss, a line for each run](study.png)

## What it cannot show

{_bullets(limits(study))}

Made by `{study["command"]}`; all numbers are in `study.json`, and each run's model, card and hypotheses in its folder.
"""


def summary(folder: Path, study: dict) -> str:
    """The end of a study, for the terminal."""
    return (
        f"\n{_plain(*table(study))}\n\n{_level(study)}\n\n{_plain(*chosen(study))}\n\n"
        + (f"{_plain(*average(study))}\n\n" if study["average"] else "")
        + "\n".join(filter(None, [*verdicts(study), *doubts(study), *set_aside(study), _because(study)]))
        + f"\n\n  report   {folder / 'README.md'}\n  picture  {folder / 'study.png'}\n"
        f"  numbers  {folder / 'study.json'}\n  lowest {_unit(study)} on dev  {folder / study['best']}"
        + (f"\n  average  {folder / AVERAGE}" if study["average"] else "")
    )


def verdicts(study: dict) -> list[str]:
    """A sentence for each pair of optimisers, and what has to be known with it."""
    pairs = study["comparisons"]
    if not pairs:
        return ["One optimiser: there is nothing to compare it with; its learning rate was chosen on dev."]
    said = [verdict(pair, len(pairs)) for pair in pairs]
    if len(pairs) > 1:
        said.append(
            f"There are {len(pairs)} pairs, so p is Holm's (1979) for all of them, and a difference counts as shown "
            "below 0.05; each interval is for its pair alone."
        )
    seeds = len(next(iter(study["optimizers"].values()))["seeds"])
    if seeds == 1:
        said.append("One seed: the intervals hold the choice of clips only, and another seed may turn them round.")
    else:
        few = "; two seeds say little of how seeds vary, hence their width" if seeds == 2 else ""
        said.append(f"The intervals hold the choice of clips and of {seeds} seeds{few}.")
    if not all(pair["shown"] for pair in pairs):
        said.append("No difference shown does not mean none: the interval says how large it may be.")
    return said


def doubts(study: dict) -> list[str]:
    """A sentence for each choice that dev had too few clips for."""
    return [
        f"Dev has {one['clips']:,} clips, too few to tell {_whose(one)} {one['chosen']}, which was chosen, from "
        f"{one['next_best']}, the next best: {choices.figures(one)}."
        for one in study["choices"]
        if choices.undecided(one)
    ]


def _whose(choice: dict) -> str:
    return f"{called(choice['optimizer'])}'s rate" if "optimizer" in choice else "the run"


def set_aside(study: dict) -> list[str]:
    """A sentence for each run that diverged."""
    return [
        f"{called(run['optimizer'])} at rate {run['learning_rate']:g} is left out, with all its seeds: with seed "
        f"{run['seed']} the loss was no number at step {run['step']:,} (clips {', '.join(run['clips'])})."
        for run in study["diverged"]
    ]


def verdict(pair: dict, pairs: int) -> str:
    """Such as "AdamW and Adagrad: no difference shown (AdamW minus Adagrad +0.5 points, 95 % interval −2.5 to +3.6)."""
    first, second = called(pair["first"]), called(pair["second"])
    difference, low, high = (choices.signed(pair[key]) for key in ("difference", "low", "high"))
    numbers = f"({first} minus {second} {difference} points, 95 % interval {low} to {high}"
    numbers += f", p {pair['p_holm']:.3f})" if pairs > 1 else ")"
    if not pair["shown"]:
        return f"{first} and {second}: no difference shown {numbers}."
    better, worse = (first, second) if pair["difference"] < 0 else (second, first)
    least, most = sorted((abs(pair["low"]), abs(pair["high"])))
    return f"{better} is better than {worse} by {least:.1f} to {most:.1f} points {numbers}."


def limits(study: dict) -> list[str]:
    optimizers, runs, start = study["optimizers"], study["runs"], study["start"]
    edges = [called(name) for name, one in optimizers.items() if one["at_edge"]]
    untried = [called(name) for name, one in optimizers.items() if len(one["tried"]) == 1]
    resumed = [f"{run['name']} at step {run['resumed_at_step']:,}" for run in runs if run["resumed_at_step"]]
    said = [
        "What holds on other speech, for other models, or for longer: this is one corpus, one model and one budget of "
        f"{start['steps']:,} steps, and an optimiser that begins slowly may end well.",
    ]
    if bundled(study["corpus"]):
        said.append("How good the Swedish is: the sample's voices are synthetic.")
    if untried:
        said.append(
            f"What {_listed(untried)} can do at another learning rate: one was tried. `--learning-rate` takes a list."
        )
    if edges:
        said.append(
            f"The best learning rate of {_listed(edges)}: the chosen one is the lowest or highest that was tried, so a "
            "better one may lie beyond."
        )
    if any(run["share"] != 1 for run in runs):
        said.append(
            "The optimisers alone: each model is an average of its tuned and the untuned weights, of a share chosen on "
            "dev, which brings them nearer to each other. `--blend 1` compares without."
        )
    said.append(
        f"Speed elsewhere: seconds are of training alone, on {_listed(sorted({run['device'] for run in runs}))}, with "
        "whatever else it did meanwhile." + (f" Resumed were {_listed(resumed)}." if resumed else "")
    )
    if len(study["versions"]) > 1:
        said.append("One set of libraries: versions changed between the runs; see `versions` in study.json.")
    return said


def table(study: dict) -> tuple[list[str], list[list[str]]]:
    """Head and rows, one for each run."""
    level, rate = f"{study['level']:.1f} %", _unit(study)
    head = ["optimiser", "rate", "seed", f"dev {rate}", f"test {rate}", "best step"]
    head += [f"steps to {level}", f"s to {level}", "s in all", "clips/s", "optimiser state"]
    rows = [
        [
            called(run["optimizer"]),
            f"{run['learning_rate']:g}",
            str(run["seed"]),
            *(str(Score(**run["scores"][split][study["headline"]])) for split in ("dev", "test")),
            _number(run["best_step"]),
            _number(run["steps_to_level"]),
            _number(run["seconds_to_level"]),
            _number(run["seconds"]),
            f"{run['clips_per_second']:.2f}",
            _bytes(run["optimizer_state_bytes"]),
        ]
        for run in study["runs"]
    ]
    return head, rows


def chosen(study: dict) -> tuple[list[str], list[list[str]]]:
    """Head and rows, one for each optimiser at its chosen rate, in the mean over seeds."""
    rate = _unit(study)
    head = ["optimiser", "rate chosen", f"of those tried (mean dev {rate})", f"dev {rate}", f"test {rate}"]
    head += ["its SD over seeds"]
    rows = [
        [
            called(name),
            f"{one['learning_rate']:g}",
            ", ".join(f"{each['learning_rate']:g} ({each['dev']:.1f})" for each in one["tried"]),
            f"{one['dev']:.1f}",
            f"{one['test']:.1f}",
            "–" if one["test_sd"] is None else f"{one['test_sd']:.1f}",
        ]
        for name, one in study["optimizers"].items()
    ]
    return head, rows


def average(study: dict) -> tuple[list[str], list[list[str]]]:
    """Head and rows: the runs that were averaged, their average, and it minus them, a column for each split."""
    one, measures = study["average"], study["average"]["headlines"]
    runs = [run for run in study["runs"] if run["name"] in one["of"]]
    scored = {"untuned, 30 s": study["untuned"]}
    scored |= {f"{run['name']}, {run['share']:.0%} tuned": run["scores"] for run in runs}
    scored |= {f"their average, {one['share']:.0%} tuned": one["scores"]}
    rows = [
        [name, *(str(Score(**each[split][measure])) for split, measure in measures.items())]
        for name, each in scored.items()
    ]
    minus = [
        f"{choices.signed(d['value'])} ({choices.signed(d['low'])} to {choices.signed(d['high'])})"
        for d in one["minus_runs"].values()
    ]
    head = ["", *(f"{split} {scoring.short(measure)}" for split, measure in measures.items())]
    return head, [*rows, ["average minus the runs' mean, in points", *minus]]


def _averaged(study: dict) -> str:
    """The section of the average; "" where there is none."""
    if not study["average"]:
        return ""
    return f"""## Their average

{_markdown(*average(study))}

The average is one model, in `{AVERAGE}`: the mean of the tuned weights of these runs, blended with the untuned ones as
each of them is. Minus the runs' mean it is paired, with the choice of clips and of the single runs' seeds in the
interval; other seeds would also give another average.

"""


def _level(study: dict) -> str:
    every = _counted(study["runs"][0]["dev"][0]["step"], "step")
    return (
        f"Steps and seconds (s) are to the first score on dev at or below {study['level']:.1f} % {_unit(study)}, the "
        "lowest that every run at a chosen rate reached; – where that was never scored. Dev was scored every "
        f"{every}: they are no finer."
    )


def _because(study: dict) -> str:
    return scoring.because(study["corpus"].get("language", ""))


def _unit(study: dict) -> str:
    return scoring.short(study["headline"])


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *rows])


def _plain(head: list[str], rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(head, *rows)]
    lines = [head, ["─" * width for width in widths], *rows]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)


def _bullets(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _listed(words: list[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else words[0]


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _bytes(count: int | None) -> str:
    if count is None:
        return "–"
    size, unit = next(((s, u) for s, u in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if count >= s), (1, "B"))
    return f"{count / size:,.1f} {unit}" if size > 1 else f"{count} B"
