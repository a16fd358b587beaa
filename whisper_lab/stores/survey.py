"""What a feature set holds: clips, hours, lengths, and who speaks how much, as a table and as a picture."""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.parquet

from .. import files
from .store import CLIPS

WHO = ("gender", "age", "accents")
UNSAID, OTHERS = "(not said)", "(others)"  # in brackets, as a corpus may have the value "other"
AGES = "teens twenties thirties fourties fifties sixties seventies eighties nineties".split()  # Common Voice's spelling


def report(folder: Path, manifest: dict, kept_out: dict[str, int]) -> str:
    """The end of a run, for the terminal: what the set in `folder` holds and what it does not. Draws survey.png there.

    The picture is no part of the set: it is not in the manifest, as its bytes change with the version of matplotlib.
    """
    clips = pyarrow.parquet.read_table(folder / CLIPS)
    corpus = manifest["corpus"]
    title = f"{corpus['name']} {corpus['version']}".strip() + f", {corpus['language']}"
    picture(clips, title, folder / "survey.png")
    lost = [("kept", "train", reason, count) for reason, count in sorted(kept_out.items())] + [
        ("left", split, reason, count)
        for split, entry in manifest["splits"].items()
        for reason, count in entry["rejected"].items()
    ]
    lines = [f"  {verb} out of {split}: {n:,} clip{'s' * (n > 1)}, {reason}" for verb, split, reason, n in lost]
    unread = manifest.get("rejected", {})
    lines += [f"  left out, of no split: {n:,} row{'s' * (n > 1)}, {reason}" for reason, n in unread.items()]
    if unread or any(entry["rejected"] for entry in manifest["splits"].values()):
        lines.append(f"  which ones: {folder / 'rejected.tsv'}")
    head = f"\n{title}, fingerprint {corpus['fingerprint'][:16]} → {folder}"
    return "\n".join([head, table(clips, manifest["splits"]), *lines, f"  picture: {folder / 'survey.png'}"])


def table(clips: pyarrow.Table, splits: dict[str, dict]) -> str:
    """Lines for the terminal: a column for each split, shares in percent of its clips.

    `clips` are the rows of clips.parquet, `splits` the manifest's.
    """
    parts = _parts(clips)
    seconds = [np.asarray(part["seconds"]) for part in parts.values()]
    lines = [
        ("", list(parts)),
        ("clips", [f"{len(lengths):,}" for lengths in seconds]),
        ("hours", [f"{lengths.sum() / 3600:,.2f}" for lengths in seconds]),
        ("speakers", [f"{len(_clips_of_speakers(part)):,}" for part in parts.values()]),
        ("seconds a clip, median", [f"{np.median(lengths):.1f}" for lengths in seconds]),
        ("seconds a clip, 95 % are under", [f"{np.percentile(lengths, 95):.1f}" for lengths in seconds]),
        ("kB a clip", [f"{splits[name]['bytes'] / splits[name]['rows'] / 1e3:.1f}" for name in parts]),
    ]
    unsaid = []
    for column in WHO:
        counts = [_counts(part[column]) for part in parts.values()]
        names = _names(sum(counts, Counter()), 3)
        if names == [UNSAID]:
            unsaid.append(column)
            continue
        shares = zip(*(_percent(count, names) for count in counts))
        for i, (name, row) in enumerate(zip(names, shares)):
            lines.append((f"{'' if i else column:8} {_cut(name, 22)}", [f"{share:.0f} %" for share in row]))
    if unsaid:
        lines.append((f"{', '.join(unsaid)} {UNSAID}", []))
    widths = [max(10, len(name) + 2) for name in parts]
    return "\n".join(f"  {label:32}{''.join(map(str.rjust, cells, widths))}".rstrip() for label, cells in lines)


def picture(clips: pyarrow.Table, title: str, path: Path) -> None:
    """Lengths and clips by speaker of all splits, ages and accents of train where the corpus says them, as a PNG."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    parts = _parts(clips)
    of = "train" if "train" in parts else next(iter(parts))
    ages, accents = _counts(parts[of]["age"]), _counts(parts[of]["accents"])
    rows = 1 if {*ages, *accents} == {UNSAID} else 2
    figure, panels = pyplot.subplots(rows, 2, figsize=(11, 3.7 * rows), layout="constrained", squeeze=False)
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1, wspace=0.04, hspace=0.04)
    figure.suptitle(title, x=0.01, ha="left", weight="bold")
    _lengths(panels[0, 0], parts)
    _inequality(panels[0, 1], parts)
    if rows == 2:
        _bars(panels[1, 0], f"Age, % of the clips of {of}", ages, 10)
        _bars(panels[1, 1], f"Accent, % of the clips of {of}", accents, 8)
    for panel in panels.flat:
        panel.spines[["top", "right"]].set_visible(False)
    with files.replacing(path) as beside:
        figure.savefig(beside, dpi=110)
    pyplot.close(figure)


def _lengths(panel, parts: dict[str, dict]) -> None:
    longest = max(max(part["seconds"]) for part in parts.values())
    edges = np.arange(0, longest + 1, 0.5 if longest < 20 else 1)
    for name, part in parts.items():
        share = 100 * np.histogram(part["seconds"], edges)[0] / len(part["seconds"])
        first, last = np.flatnonzero(share)[[0, -1]]
        label = f"{name}, {sum(part['seconds']) / 3600:,.2f} h"
        panel.stairs(share[first : last + 1], edges[first : last + 2], label=label, linewidth=1.5)
    panel.set_title("Length of a clip, % of the split's", loc="left")
    panel.set_xlabel("seconds")
    panel.set_xlim(0)
    panel.legend(frameon=False)


def _inequality(panel, parts: dict[str, dict]) -> None:
    """Lorenz curves from the busiest speaker on; all alike would be the diagonal."""
    panel.set_title("Clips by speaker, the busiest first", loc="left")
    panel.plot([0, 100], [0, 100], color="0.7", linestyle=":", label="all alike")
    for name, part in parts.items():
        counts = np.sort(_clips_of_speakers(part))[::-1]
        if len(counts):
            share = 100 * np.concatenate([[0], np.cumsum(counts)]) / counts.sum()
            panel.plot(np.linspace(0, 100, len(share)), share, label=f"{name}, {len(counts):,} speakers")
    panel.set_xlabel("% of the speakers")
    panel.set_ylabel("% of the clips")
    panel.set_xlim(0, 100)
    panel.set_ylim(0, 101)
    panel.legend(frameon=False, loc="lower right")


def _bars(panel, title: str, counts: Counter, most: int) -> None:
    panel.set_title(title, loc="left")
    names = _names(counts, most)[::-1]
    if names == [UNSAID]:
        panel.text(0.5, 0.5, "the corpus does not say", transform=panel.transAxes, ha="center", color="0.4")
        panel.set_axis_off()
        return
    shares = _percent(counts, names)
    colors = ["0.75" if name in (OTHERS, UNSAID) else "C0" for name in names]
    bars = panel.barh(range(len(names)), shares, color=colors)
    panel.set_yticks(range(len(names)), [_cut(name, 28) for name in names])
    panel.bar_label(bars, fmt="%.0f", padding=3)
    panel.set_xlim(0, 1.1 * max(shares))
    panel.set_xticks([])
    panel.spines["bottom"].set_visible(False)
    panel.tick_params(axis="y", length=0)


def _parts(clips: pyarrow.Table) -> dict[str, dict[str, list]]:
    """The columns of each split, in the order that the set has them."""
    columns = clips.select(["seconds", "client_id", *WHO])
    return {
        split: columns.filter(pyarrow.compute.equal(clips["split"], split)).to_pydict()
        for split in clips["split"].unique().to_pylist()
    }


def _clips_of_speakers(part: dict[str, list]) -> list[int]:
    """How many clips each speaker has that the corpus names."""
    return list(Counter(speaker for speaker in part["client_id"] if speaker).values())


def _counts(values: list[str]) -> Counter:
    return Counter(value.strip() or UNSAID for value in values)


def _names(counts: Counter, most: int) -> list[str]:
    """The `most` frequent values, ages in their order; then OTHERS for the rest, and UNSAID if it is among them."""
    said = [value for value, _ in counts.most_common() if value != UNSAID]
    names = said[:most]
    if set(names) <= set(AGES):
        names.sort(key=AGES.index)
    return names + [OTHERS] * (len(said) > most) + [UNSAID] * (UNSAID in counts)


def _percent(counts: Counter, names: list[str]) -> list[float]:
    """What each of `names` has of all clips; OTHERS what the rest leave."""
    named = {name: counts[name] for name in names}
    if OTHERS in named:
        named[OTHERS] = counts.total() - sum(named.values())
    return [100 * count / counts.total() for count in named.values()]


def _cut(text: str, characters: int) -> str:
    return text if len(text) <= characters else text[: characters - 2].rstrip() + " …"
