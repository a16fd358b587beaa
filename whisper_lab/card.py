"""What is said of a trained model: its card, its curves, and the summary at the end of a run."""

from pathlib import Path

import yaml

from .scoring import MEASURES, Score

NAMES = {"wer": "WER, raw", "wer_normalised": "WER, normalised", "cer": "CER, raw", "cer_normalised": "CER, normalised"}


def curves(history: list[dict], path: Path) -> None:
    """Training and dev loss, dev error rates and learning rate over steps (a Trainer's log history), as a PNG."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    def series(key: str) -> tuple[list, list]:
        points = [(entry["step"], entry[key]) for entry in history if key in entry]
        return [step for step, _ in points], [value for _, value in points]

    figure, panels = pyplot.subplots(1, 3, figsize=(13, 3.8), constrained_layout=True)
    plots = (
        ("Loss per token", {"training": "loss", "dev": "eval_loss"}),
        (
            "Error rate on dev, %",
            {"WER, normalised": "eval_wer_normalised", "WER, raw": "eval_wer", "CER, raw": "eval_cer"},
        ),
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


def table(metrics: dict, splits: tuple[str, ...] = ("test", "dev", "aside")) -> list[list[str]]:
    """Rows of [split, measure, untuned, tuned, tuned at 30 s] from a run's metrics.json, test first."""
    at_30 = metrics.get("tuned_at_30_s", {})
    rows = []
    for split in splits:
        for measure in MEASURES if split in metrics["tuned"] else ():
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


def summary(folder: Path, metrics: dict, predictions: list[dict]) -> str:
    """The end of a run, for the terminal."""
    sentences = "\n".join(
        f"  said     {row['sentence']}\n  untuned  {row['untuned']}\n  tuned    {row['tuned']}\n"
        for row in examples(predictions)
    )
    gain = Score(**metrics["tuned_minus_untuned"]["test"])
    verdict = "better" if gain.high < 0 else "worse" if gain.low > 0 else "no difference shown"
    return (
        f"\n{plain(table(metrics))}\n\n"
        f"Tuned minus untuned on test, normalised WER, paired: {gain.value:+.1f} points "
        f"({gain.low:+.1f} to {gain.high:+.1f}): {verdict}.\n\n{sentences}\n"
        f"  model   {folder}\n  card    {folder / 'README.md'}\n  curves  {folder / 'curves.png'}\n"
        f"  every hypothesis  {folder / 'predictions.tsv'}\n  scores  {folder / 'metrics.json'}"
    )


ASIDE = "`aside` is other speech that nothing was tuned on: it shows what was forgotten. "
SYNTHETIC = (
    "\n**The voices are synthetic.** These numbers show that the pipeline learns, not how good the Swedish is.\n"
)


def write(folder: Path, planned: dict, manifest: dict, metrics: dict, predictions: list[dict]) -> None:
    """The model card (README.md in the Hub's form) of the model in `folder`; `planned` is its plan.json."""
    plan, versions = planned["plan"], planned["versions"]
    corpus, recipe = plan["corpus"], plan["recipe"]
    name = f"{corpus['name']} {corpus['version']}".strip()
    start = "OpenAI's Whisper base" if plan["model"] == "sample" else f"`{plan['model']}`"
    served = "30 s windows" if recipe["window"] == "full" else "windows as short as the speech, of lengths trained on"
    columns = ("sentence", "untuned", "tuned")
    said = "\n".join(f"| {' | '.join(row[c].replace('|', '∣') for c in columns)} |" for row in examples(predictions))
    facts = "\n".join(f"| {what} | {fact} |" for what, fact in _facts(plan, versions, manifest, metrics["run"]).items())
    text = f"""---
{_front_matter(folder, plan, name, metrics["tuned"]["test"])}
---

# {folder.name}

{start}, fine-tuned on {name} ({corpus["language"]}).
{SYNTHETIC if corpus["name"] == "sample" else ""}
## Scores

{markdown(table(metrics))}

Greedy decoding; the checkpoint was chosen on dev, test was scored once. Tuned: {served}; the untuned model at 30 s,
the only length it was made for. Intervals: bootstrap over clips. Normalised: lower case, no punctuation, numbers as
they stand. {ASIDE if "aside" in metrics["tuned"] else ""}Common Voice draws its splits anew in each release:
compare scores within one only.

| said | untuned | tuned |
| --- | --- | --- |
{said}

![Loss, error rates and learning rate over the steps](curves.png)

## How it was made

| | |
| --- | --- |
{facts}
"""
    (folder / "README.md").write_text(text, encoding="utf-8")


def _front_matter(folder: Path, plan: dict, name: str, test: dict) -> str:
    """What the Hub reads: language, base model, and the scores on test."""
    head = {"language": plan["language"], "library_name": "transformers", "tags": ["whisper"]}
    head["pipeline_tag"] = "automatic-speech-recognition"
    if plan["model"] == "sample":
        head |= {"license": "mit", "base_model": "openai/whisper-base"}
    elif not Path(plan["model"]).is_dir():
        head["base_model"] = plan["model"]
    scored = [{"type": m.split("_")[0], "name": NAMES[m], "value": test[m]["value"]} for m in MEASURES]
    result = {
        "task": {"type": "automatic-speech-recognition"},
        "dataset": {"name": name, "type": plan["corpus"]["name"].lower().replace(" ", "_"), "split": "test"},
        "metrics": scored,
    }
    head["model-index"] = [{"name": folder.name, "results": [result]}]
    return yaml.safe_dump(head, sort_keys=False, allow_unicode=True).strip()


def _facts(plan: dict, versions: dict, manifest: dict, run: dict) -> dict[str, str]:
    recipe = plan["recipe"]
    splits = (f"{k} {v['rows']:,} clips, {v['seconds'] / 3600:.2f} h" for k, v in manifest["splits"].items())
    return {
        "data": "; ".join(splits) + f"; fingerprint `{plan['features'][:16]}`",
        "optimiser": f"{recipe['optimizer']}, learning rate {recipe['learning_rate']:g}, linear, "
        f"{recipe['warmup_steps']} steps of warm-up, weight decay {recipe['weight_decay']:g}",
        "steps": f"{recipe['max_steps']:,} of {recipe['batch_size'] * recipe['accumulation']} clips; "
        f"best on dev at step {run['best_step']}",
        "windows": recipe["window"],
        "weights": f"{run['share']:.0%} tuned, {1 - run['share']:.0%} untuned, averaged against forgetting",
        "took": f"{run['train_seconds']:,.0f} s on {run['device']}, {run['clips_per_second']:.2f} clips a second"
        + (f", after resuming at step {run['resumed_at_step']}" if run["resumed_at_step"] else ""),
        "seed": str(recipe["seed"]),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
