"""What is said of a trained model: its scores in a table, its curves, and the summary at the end of a run."""

from pathlib import Path

from . import choices
from .scoring import Score, because, headline, ordered, short

CURVES = {
    "wer_normalised": ("wer_normalised", "wer", "cer"),
    "cer_normalised": ("cer_normalised", "cer"),
}  # what is drawn where one of them is the headline
NAMES = {"wer": "WER, raw", "wer_normalised": "WER, normalised", "cer": "CER, raw", "cer_normalised": "CER, normalised"}


def curves(history: list[dict], path: Path, measure: str = "wer_normalised") -> None:
    """Training and dev loss, dev error rates and learning rate over steps (a Trainer's log history), as a PNG.

    `measure` is the rate that the checkpoint was chosen by.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    def series(key: str) -> tuple[list, list]:
        points = [(entry["step"], entry[key]) for entry in history if key in entry]
        return [step for step, _ in points], [value for _, value in points]

    figure, panels = pyplot.subplots(1, 3, figsize=(13, 3.8), constrained_layout=True)
    plots = (
        ("Loss per token", {"training": "loss", "dev": "eval_loss"}),
        ("Error rate on dev, %", {NAMES[one]: f"eval_{one}" for one in CURVES[measure]}),
        ("Learning rate", {"": "learning_rate"}),
    )
    for panel, (title, lines) in zip(panels, plots):
        for label, key in lines.items():
            panel.plot(*series(key), marker="o" if key.startswith("eval") else None, label=label)
        panel.set_title(title, loc="left")
        panel.set_xlabel("step")
        panel.set_ylim(bottom=0)
        panel.spines[["top", "right"]].set_visible(False)
        if len(lines) > 1:
            panel.legend(frameon=False)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def headline_of(metrics: dict) -> str:
    """Which rate a run went by, of its metrics.json."""
    return metrics.get("headline", "wer_normalised")  # runs that do not say so went by WER in every language


def of_canaries(metrics: dict) -> dict[str, Score]:
    """Of a run's metrics.json, for each canary: tuned minus untuned by its headline rate, in points, paired."""
    gaps = metrics["tuned_minus_untuned"]
    return {split: Score(**gap) for split, gap in gaps.items() if split not in ("dev", "test")}


def signed(gap: Score) -> str:
    return f"{gap.value:+.1f} points ({gap.low:+.1f} to {gap.high:+.1f})"


def table(metrics: dict) -> list[list[str]]:
    """Rows of [split, measure, untuned, tuned, tuned at 30 s] from a run's metrics.json, test first, canaries last."""
    at_30 = metrics.get("tuned_at_30_s", {})
    rows, usual = [], [split for split in ("test", "dev") if split in metrics["tuned"]]
    for split in dict.fromkeys([*usual, *metrics["tuned"]]):
        for measure in ordered(headline_of(metrics)):
            cells = [metrics[who].get(split) for who in ("untuned", "tuned")] + [at_30.get(split)]
            rows.append([split, NAMES[measure], *(str(Score(**cell[measure])) if cell else "" for cell in cells)])
    return rows


HEAD = ["split", "% (95 % interval)", "untuned, 30 s", "tuned", "tuned, at 30 s"]


def markdown(rows: list[list[str]]) -> str:
    lines = [HEAD, ["---"] * len(HEAD), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def plain(rows: list[list[str]]) -> str:
    """The table for a terminal, a blank line between splits."""
    widths = [max(len(row[i]) for row in [HEAD, *rows]) for i in range(len(HEAD))]
    lines, before = [HEAD, ["─" * width for width in widths]], None
    for row in rows:
        lines += [[""]] if before not in (None, row[0]) else []
        lines.append([row[0] if row[0] != before else "", *row[1:]])
        before = row[0]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)


def examples(predictions: list[dict], count: int = 3) -> list[dict]:
    """The first, the middle and the last clip of test: chosen before anyone has looked."""
    test = [row for row in predictions if row["split"] == "test"]
    places = sorted({round(i * (len(test) - 1) / max(1, count - 1)) for i in range(count)})
    return [{who: _shortened(text) for who, text in test[i].items()} for i in places]


def _shortened(text: str, length: int = 120) -> str:
    """A hypothesis that rambles need not be shown to its end; predictions.tsv holds all of it."""
    return text if len(text) <= length else f"{text[:length].rsplit(' ', 1)[0]} …"


def summary(folder: Path, metrics: dict, predictions: list[dict], language: str = "") -> str:
    """The end of a run, for the terminal."""
    sentences = "\n".join(
        f"  said     {row['sentence']}\n  untuned  {row['untuned']}\n  tuned    {row['tuned']}\n"
        for row in examples(predictions)
    )
    run = metrics["run"]
    measures = {name: headline(one["language"]) for name, one in run.get("canaries", {}).items()}
    gains, said = {"test": Score(**metrics["tuned_minus_untuned"]["test"])} | of_canaries(metrics), ""
    if "unlabelled" in metrics:
        said = "There are no sentences: the rates are what differs from the untuned model's own text at 30 s.\n"
        del gains["test"]
    verdicts = said + "".join(
        f"Tuned minus untuned on {split}, normalised {short(measures.get(split, headline_of(metrics)))}, paired: "
        f"{signed(gain)}: {'better' if gain.high < 0 else 'worse' if gain.low > 0 else 'no difference shown'}.\n"
        for split, gain in gains.items()
    )
    why = f"{because(language)}\n" * bool(because(language))
    how = f"Trained and scored in {run['precision']} on {run['device']}.\n" if "precision" in run else ""
    choice = metrics.get("checkpoint")
    doubt = f"{few} {choices.way_out(choice)}\n" if (few := choices.on_checkpoints(choice)) else ""
    return (
        f"\n{plain(table(metrics))}\n\n"
        f"{verdicts}{doubt}{why}{how}\n{sentences}\n"
        f"  model   {folder}\n  card    {folder / 'README.md'}\n  curves  {folder / 'curves.png'}\n"
        f"  report, word by word  {folder / 'report.html'}\n"
        f"  every hypothesis  {folder / 'predictions.tsv'}\n  scores  {folder / 'metrics.json'}"
    )
