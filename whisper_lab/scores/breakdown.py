"""The tables of the report, as HTML: scores, who and what is read well, and the words that go wrong."""

import html
from collections import Counter
from collections.abc import Sequence

import numpy as np

from ..text import unspaced
from . import scoring

FEWEST = 5  # clips of a speaker, an age, an accent with a line of its own: below, a rate says little
MOST = 15  # lines of a table
EDGES = (0, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30)  # seconds
UNSAID, FEW = "(not said)", f"(those of fewer than {FEWEST} clips)"
AGES = "teens twenties thirties fourties fifties sixties seventies eighties nineties".split()  # Common Voice's spelling
HEADS = {"wer_normalised": "WER", "cer_normalised": "CER", "wer": "WER, raw", "cer": "CER, raw"}


def headline(rates: dict[str, dict[str, scoring.Score]], language: str = "") -> str:
    measure, unit = scoring.headline(language), "character" if unspaced(language) else "word"
    boxes = [
        f"<div><span>{html.escape(name)}</span><b>{s[measure].value:.1f} %</b>"
        f"<span>{unit} error rate, 95 % interval {s[measure].low:.1f}–{s[measure].high:.1f}</span>"
        "</div>"
        for name, s in list(rates.items())[:4]
    ]
    return f'<div class="headline">{"".join(boxes)}</div>'


def models(rates: dict[str, dict[str, scoring.Score]], verdicts: list[str], language: str = "") -> str:
    measure = scoring.headline(language)
    heads = {m: HEADS[m] for m in sorted(HEADS, key=lambda m: m != measure)}
    top = max(score[measure].high for score in rates.values())
    rows = [
        f'<tr><th scope="row">{_key(i)}{html.escape(name)}</th>'
        + "".join(f'<td class="number{_wide(m)}">{_cell(s[m])}</td>' for m in heads)
        + f'<td class="bar wide">{_bar(s[measure], top, i)}</td></tr>'
        for i, (name, s) in enumerate(rates.items())
    ]
    head = "".join(f'<th class="number{_wide(m)}">{name}</th>' for m, name in heads.items())
    said = filter(None, [*verdicts, scoring.because(language)])
    said = "".join(f"<li>{html.escape(one)}</li>" for one in said)
    return (
        f'<h2>Scores</h2><div class="scroll"><table><thead><tr><th></th>{head}<th class="wide"></th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div><ul class='plain'>{said}</ul>"
        '<p class="soft">Percent, with 95 % intervals (bootstrap over clips). WER and CER without case and punctuation,'
        " raw with them. Differences are paired: both are scored on the same draws of clips, by "
        f"{scoring.short(measure)}.</p>"
    )


def _wide(measure: str) -> str:
    """A class for what a phone leaves out."""
    return "" if "normalised" in measure else " wide"


def _cell(score: scoring.Score | None) -> str:
    return f"{score.value:.1f} <small>({score.low:.1f}–{score.high:.1f})</small>" if score else "–"


def _key(index: int) -> str:
    return f'<span class="key{" ours" * (index == 0)}"></span>'


def _bar(score: scoring.Score, top: float, index: int) -> str:
    """A bar of the rate, and a line over its interval, on a scale that ends at `top`."""
    value, low, high = (100 * min(1, rate / max(top, 1e-9)) for rate in (score.value, score.low, score.high))
    kind = "theirs" if index else "ours"
    return (
        '<svg viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true"><rect class="track" width="100" y="3" '
        f'height="2"/><rect class="{kind}" width="{value:.1f}" y="1" height="6"/><line class="range" x1="{low:.1f}" '
        f'x2="{high:.1f}" y1="4" y2="4" vector-effect="non-scaling-stroke"/></svg>'
    )


def groups(clips: Sequence[dict], tables: dict[str, np.ndarray]) -> str:
    by = {
        "Length": [_length(clip.get("seconds")) for clip in clips],
        "Age": [clip.get("age") or UNSAID for clip in clips],
        "Gender": [clip.get("gender") or UNSAID for clip in clips],
        "Accent": [clip.get("accents") or UNSAID for clip in clips],
        "Speaker": [(clip.get("client_id") or UNSAID)[:12] for clip in clips],
    }
    told = {name: values for name, values in by.items() if set(values) != {UNSAID}}
    silent = [name.lower() for name in by if name not in told]
    parts = [_group(name, values, tables) for name, values in told.items()]
    note = f'<p class="soft">The release does not tell: {", ".join(silent)}.</p>' if silent else ""
    return f"<h2>Who and what is read well</h2>{note}{''.join(parts)}"


def _length(seconds: float | None) -> str:
    if not seconds:
        return UNSAID
    place = min(int(np.searchsorted(EDGES, seconds, side="right")), len(EDGES) - 1)
    return f"{EDGES[place - 1]} to {EDGES[place]} s"


def _group(title: str, values: list[str], tables: dict[str, np.ndarray]) -> str:
    """A table of the rates by value: lengths and ages in their order, others from the most clips to the fewest."""
    counts = Counter(values)
    merged = [value if title == "Length" or value == UNSAID or counts[value] >= FEWEST else FEW for value in values]
    counts = Counter(merged)
    known = [value for value, _ in counts.most_common() if value not in (UNSAID, FEW)]
    left = len(known) - MOST
    known = known[:MOST]
    if title == "Length":
        known.sort(key=lambda value: float(value.split()[0]))
    elif set(known) <= set(AGES):
        known.sort(key=AGES.index)
    shown = [*known, *(value for value in (FEW, UNSAID) if counts[value])]
    groups = {value: [i for i, one in enumerate(merged) if one == value] for value in shown}
    rates = {value: [_rate(table[some]) for table in tables.values()] for value, some in groups.items()}
    top = max(score.high for each in rates.values() for score in each if score) if any(map(any, rates.values())) else 1
    rows = [
        f'<tr><th scope="row">{html.escape(value)}</th><td class="number">{len(groups[value]):,}</td>'
        + "".join(f'<td class="number">{_cell(score)}</td>' for score in each)
        + f'<td class="bar">{"".join(_bar(s, top, i) for i, s in enumerate(each) if s)}</td></tr>'
        for value, each in rates.items()
    ]
    names = "".join(f'<th class="number">{_key(i)}{html.escape(name)}</th>' for i, name in enumerate(tables))
    note = f'<p class="soft">{left} more with at least {FEWEST} clips are left out.</p>' if left > 0 else ""
    return (
        f'<h3 style="margin-top:24px">{title}</h3><div class="scroll"><table><thead><tr><th></th>'
        f'<th class="number">clips</th>{names}<th></th></tr></thead><tbody>{"".join(rows)}</tbody></table></div>{note}'
    )


def _rate(table: np.ndarray) -> scoring.Score | None:
    """Of (clips, 2) errors and words or characters; None where nothing was said."""
    wrong, total = table.sum(axis=0)
    if not total:
        return None
    low, high = np.percentile(scoring.bootstrap(table), (2.5, 97.5))
    return scoring.Score(100 * float(wrong / total), float(low), float(high))


def confusions(lines: list[list[tuple[str, str, str]]], name: str, language: str = "") -> str:
    found: dict[str, Counter] = {"substitute": Counter(), "delete": Counter(), "insert": Counter()}
    for kind, said, written in (step for steps in lines for step in steps if step[0] != "equal"):
        found[kind][said, written] += 1
    titles = {"substitute": "Taken for another", "delete": "Left out", "insert": "Made up"}
    parts = []
    for kind, title in titles.items():
        rows = []
        for (said, written), count in found[kind].most_common(MOST):
            text = " → ".join(html.escape(word) for word in (said, written) if word)
            word = html.escape(said or written, quote=True)
            rows.append(
                f'<tr><td><button type="button" data-find="{word}">{text}</button></td>'
                f'<td class="number">{count}</td></tr>'
            )
        shown = f"<table><tbody>{''.join(rows)}</tbody></table>" if rows else '<p class="soft">none</p>'
        parts.append(f'<div><h3>{title} <span class="soft">{found[kind].total():,}</span></h3>{shown}</div>')
    lead = f"Of {html.escape(name)}, from the most frequent; a click shows the clips."
    what = "Characters" if unspaced(language) else "Words"
    return f'<h2>{what}</h2><p class="soft">{lead}</p><div class="three">{"".join(parts)}</div>'
