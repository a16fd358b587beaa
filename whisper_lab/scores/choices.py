"""What was chosen on dev, and whether dev could tell: on few clips, the best of several may be the luckiest."""

import numpy as np

from . import scoring

EDITS = "dev_edits"  # in the log of a training: those in each clip of dev, such as "0 2 1"
MATTERS = 1.0  # points: where an interval is no wider, it does not matter what is taken


def edits(references: list[str], texts: list[str], language: str) -> str:
    """Of each clip by the headline's unit, for `EDITS`."""
    return " ".join(map(str, scoring.table(references, texts, language)[:, 0]))


def of_checkpoints(history: list[dict], references: list[str], language: str) -> dict | None:
    """The checkpoint with the lowest rate in a training's log, minus the next best of the others, paired, and from how
    many of them dev does not tell it; None where there is nothing to choose from.

    `references` are the sentences of dev.
    """
    rate = f"eval_{scoring.headline(language)}"
    scored = [entry for entry in history if rate in entry]
    if len(scored) < 2 or not all(EDITS in entry for entry in scored):  # a log of before they were kept
        return None
    sizes = scoring.table(references, references, language)[:, 1]
    tables = [np.stack([np.array(entry[EDITS].split(), int), sizes], axis=1)[None] for entry in scored]
    best = min(range(len(scored)), key=lambda i: scored[i][rate])
    gaps = {i: scoring.paired(tables[best], table) for i, table in enumerate(tables) if i != best}
    next_best = max(gaps, key=lambda i: gaps[i].value)
    return {
        "step": scored[best]["step"],
        "next_best": scored[next_best]["step"],
        **between(gaps[next_best], len(sizes)),
        "others": len(gaps),
        "others_alike": sum(gap.low <= 0 <= gap.high for gap in gaps.values()),
    }


def between(gap: scoring.Difference, clips: int) -> dict:
    """A paired difference on so many clips of dev, as study.json and metrics.json hold it."""
    return {"difference": gap.value, "low": gap.low, "high": gap.high, "clips": clips}


def undecided(choice: dict | None) -> bool:
    """Whether dev cannot tell the two, and may be wrong by more than does not matter."""
    return bool(choice) and choice["low"] <= 0 <= choice["high"] and choice["high"] - choice["low"] > MATTERS


def on_checkpoints(choice: dict | None) -> str:
    """A sentence on the choice of the checkpoint, where it was not dev's to make; else ""."""
    if not undecided(choice):
        return ""
    return (
        f"Dev has {choice['clips']:,} clips, too few to tell the checkpoint that was chosen (step {choice['step']:,}) "
        f"from {choice['others_alike']} of the {choice['others']} others: {figures(choice)} against step "
        f"{choice['next_best']:,}, the next best."
    )


def figures(choice: dict) -> str:
    """Such as "−0.7 points (95 % interval −3.1 to +1.9)"."""
    value, low, high = (signed(choice[key]) for key in ("difference", "low", "high"))
    return f"{value} points (95 % interval {low} to {high})"


def signed(points: float) -> str:
    """Such as "−0.7", and "+0.0" for what rounds to it."""
    return f"{round(points, 1) + 0.0:+.1f}".replace("-", "−")


def way_out(choice: dict) -> str:
    return (
        f"Four times as many would halve the interval (feature-pipeline.py --dev-clips {4 * choice['clips']}, out of "
        "train); --seeds 1 2 3 --average depends less on such a choice."
    )
