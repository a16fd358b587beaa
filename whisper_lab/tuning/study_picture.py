"""The picture of a study: error rates and losses, a colour for each optimiser, a line for each run."""

from pathlib import Path

from ..scores.scoring import short

# Told apart by readers with any colour vision (Okabe and Ito, "Color universal design", 2008).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("--", ":", "-.")


def draw(study: dict, names: dict[str, str], path: Path) -> None:
    """`study` is what study.json holds, `names` how each optimiser is called; a PNG."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot, ticker

    figure, panels = pyplot.subplots(2, 2, figsize=(12, 8), layout="constrained")
    unit = short(study["headline"])
    plots = (
        (f"{unit} on dev, normalised, %", "step", "dev", "step", unit.lower()),
        (f"{unit} on dev, normalised, %", "seconds of training", "dev", "seconds", unit.lower()),
        ("Training loss per token", "step", "loss", "step", "loss"),
        ("Dev loss per token", "step", "dev", "step", "loss"),
    )
    styles = _styles(study, names)
    for panel, (title, across, series, x, y) in zip(panels.flat, plots):
        labelled = set()
        for run in sorted(study["runs"], key=lambda run: run["chosen"]):  # the chosen on top
            style = styles[run["optimizer"], run["learning_rate"]]
            points = [(point[x], point[y]) for point in run[series] if point[x] is not None]
            if style["label"] in labelled:
                style = style | {"label": None}
            labelled.add(style["label"])
            marker = {"marker": "o", "markersize": 4} if series == "dev" else {}
            panel.plot(*zip(*points), **style, **marker) if points else None
        if y == unit.lower():
            panel.axhline(study["level"], color="0.6", linewidth=0.8, zorder=0)
            panel.annotate(
                f"{study['level']:.1f} %",
                (0.01, study["level"]),
                xycoords=("axes fraction", "data"),
                xytext=(0, 3),
                textcoords="offset points",
                color="0.4",
                fontsize=9,
            )
        panel.set_title(title, loc="left", fontsize=11)
        panel.set_xlabel(across)
        panel.set_xlim(left=0)
        panel.grid(axis="y", color="0.92", linewidth=0.8)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
        panel.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
        panel.xaxis.set_major_locator(ticker.MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    found = dict(zip(*reversed(panels[0, 0].get_legend_handles_labels())))
    labels = [style["label"] for style in styles.values()]
    columns = min(4, len(names))  # filled one after the other: with as many rates each, a column for each optimiser
    figure.legend([found[label] for label in labels], labels, loc="outside upper left", ncols=columns, frameon=False)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _styles(study: dict, names: dict[str, str]) -> dict[tuple[str, float], dict]:
    """How the lines of each optimiser and rate look: the chosen rate drawn through, others broken and paler."""
    styles = {}
    for colour, (name, one) in zip(COLOURS * len(study["optimizers"]), study["optimizers"].items()):
        others = [each["learning_rate"] for each in one["tried"] if each["learning_rate"] != one["learning_rate"]]
        for rate in (one["learning_rate"], *others):
            chosen = rate == one["learning_rate"]
            styles[name, rate] = {
                "label": f"{names[name]}, rate {rate:g}" + (", chosen" if chosen and others else ""),
                "color": colour,
                "linewidth": 1.8 if chosen else 1.2,
                "alpha": 0.9 if chosen else 0.5,
                "linestyle": "-" if chosen else DASHES[others.index(rate) % len(DASHES)],
            }
    return styles
