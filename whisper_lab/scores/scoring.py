"""Word and character error rates with their uncertainty, and whether A is really better than B.

Counting is jiwer's, behind `evaluate`'s metric interface, without fetching a metric script from the Hub. Intervals
come from the bootstrap over clips (Bisani and Ney, "Bootstrap estimates for confidence intervals in ASR performance
evaluation", ICASSP 2004): clips are drawn with replacement, and the corpus' rate is computed anew each time.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache

import numpy as np

from ..text import normalise, unspaced

DRAWS = 2_000  # bootstrap samples; the ends of a 95 % interval then vary by about 2 % of its width
MEASURES = ("wer", "wer_normalised", "cer", "cer_normalised")


def headline(language: str) -> str:
    """Which of `MEASURES` models are chosen, compared and judged by in a language (its locale, code or name)."""
    return "cer_normalised" if unspaced(language) else "wer_normalised"


def short(measure: str) -> str:
    """WER or CER."""
    return measure[:3].upper()


def ordered(headline: str) -> tuple[str, ...]:
    """`MEASURES` with those of the headline's unit first."""
    return tuple(sorted(MEASURES, key=lambda measure: short(measure) != short(headline)))


def because(language: str) -> str:
    """Why that measure is not WER, as a sentence; "" where it is."""
    if name := unspaced(language):
        return f"By character error rate, normalised: {name} is written without spaces, so there are no words to count."
    return ""


@dataclass(frozen=True)
class Score:
    """A rate in percent, with the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def error(self) -> float:
        """The standard error, of which a 95 % interval holds 1.96 on either side."""
        return (self.high - self.low) / 3.92

    def __str__(self) -> str:
        return f"{self.value:.1f} ({self.low:.1f}–{self.high:.1f})"


@dataclass(frozen=True)
class Difference(Score):
    """A difference of two rates in points, with its 95 % interval, and the two-sided p of there being none."""

    p: float

    def __str__(self) -> str:
        return f"{self.value:+.1f} ({self.low:+.1f} to {self.high:+.1f})"


@cache
def metric(unit: str):
    """An `evaluate.Metric` for `unit` "word" or "character": compute(predictions=, references=) → {"wer"|"cer": …}."""
    import datasets
    import evaluate

    class ErrorRate(evaluate.Metric):
        def _info(self):
            strings = datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            )
            return evaluate.MetricInfo(
                description=f"{unit} error rate: substitutions, deletions and insertions over the reference's {unit}s",
                citation="jiwer, https://github.com/jitsi/jiwer",
                inputs_description="predictions and references: lists of str",
                features=strings,
            )

        def _compute(self, predictions, references):
            wrong, total = counts(references, predictions, unit).sum(axis=0)
            return {"wer" if unit == "word" else "cer": float(wrong / total)}

    return ErrorRate(keep_in_memory=True)


def counts(references: list[str], hypotheses: list[str], unit: str) -> np.ndarray:
    """(clips, 2) int: edits, and units in the reference, of each clip. An empty reference counts every insertion."""
    import jiwer

    process = jiwer.process_words if unit == "word" else jiwer.process_characters
    table = np.zeros((len(references), 2), int)
    for row, reference, hypothesis in zip(table, references, hypotheses, strict=True):
        size = len(reference.split()) if unit == "word" else len(reference)
        if reference.strip() and hypothesis.strip():
            out = process(reference, hypothesis)
            row[:] = out.substitutions + out.deletions + out.insertions, out.hits + out.substitutions + out.deletions
        elif reference.strip():  # nothing was heard: all of it is missing
            row[:] = size, size
        else:  # nothing was said: all of it is invented
            row[:] = len(hypothesis.split()) if unit == "word" else len(hypothesis), 0
    return table


def bootstrap(table: np.ndarray, seed: int = 0) -> np.ndarray:
    """(DRAWS,) rates in percent of clips drawn with replacement from `table`, (clips, 2) edits and sizes."""
    wrong, total = (_draws(len(table), seed) @ table).T
    return 100 * wrong / np.maximum(total, 1)


def _draws(clips: int, seed: int) -> np.ndarray:
    """(DRAWS, clips) int: how often each draw holds each clip."""
    return np.random.default_rng(seed).multinomial(clips, np.full(clips, 1 / clips), size=DRAWS)


def scores(references: list[str], hypotheses: list[str], language: str = "") -> dict[str, Score]:
    """All four `MEASURES`, texts of `language`. Clips whose normalised reference is empty are scored raw only.

    Raises ValueError when there is nothing to score.
    """
    result, normalised = {}, _normalised(references, hypotheses, language)
    for name, texts in (("", (references, hypotheses)), ("_normalised", normalised)):
        for short, unit in (("wer", "word"), ("cer", "character")):
            table = counts(*texts, unit)
            if not len(table) or not table[:, 1].any():
                raise ValueError("no words to score: every reference is empty")
            value = 100 * metric(unit).compute(predictions=texts[1], references=texts[0])[short]
            low, high = np.percentile(bootstrap(table), (2.5, 97.5))
            result[short + name] = Score(round(value, 3), round(float(low), 3), round(float(high), 3))
    return {measure: result[measure] for measure in MEASURES}


def rate(references: list[str], hypotheses: list[str], language: str = "") -> float:
    """The `headline` rate alone, in percent, at a hundredth of the cost of its interval."""
    wrong, total = table(references, hypotheses, language).sum(axis=0)
    return round(100 * float(wrong / total), 3)


def _normalised(references: list[str], hypotheses: list[str], language: str) -> tuple[list[str], list[str]]:
    pairs = [(normalise(r, language), normalise(h, language)) for r, h in zip(references, hypotheses, strict=True)]
    pairs = [(r, h) for r, h in pairs if r]
    return [r for r, _ in pairs], [h for _, h in pairs]


def difference(references: list[str], ours: list[str], theirs: list[str], language: str = "") -> Score:
    """The `headline` rate of `ours` minus that of `theirs`, in points, paired: both are drawn on the same clips.

    Below zero throughout, ours is better; an interval that holds zero shows no difference.
    """
    found = compare(references, [ours], [theirs], language)
    return Score(found.value, found.low, found.high)


def compare(references: list[str], ours: list[list[str]], theirs: list[list[str]], language: str = "") -> Difference:
    """`difference` of two recipes, each given as its hypotheses with the same one or more seeds: of their means."""
    both = (np.stack([table(references, texts, language) for texts in hypotheses]) for hypotheses in (ours, theirs))
    return paired(*both)


def table(references: list[str], texts: list[str], language: str = "") -> np.ndarray:
    """`counts` by the `headline` of a language, of the clips that it scores."""
    return counts(*_normalised(references, texts, language), "character" if unspaced(language) else "word")


def paired(ours: np.ndarray, theirs: np.ndarray, seed: int = 0) -> Difference:
    """Mean rate over seeds of `ours` minus that of `theirs`, each (seeds, clips, 2) edits and sizes.

    Clips are drawn once for all seeds and both sides, and the difference is averaged over the seeds within each draw.
    With several seeds, their choice is in the interval too: the variance between them, with Student's t, as drawing
    two or three of them with replacement gives too little of it. What seeds and clips do together is in that variance
    and in the clips' draws (Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 1(2), 2007), so it is taken
    out of the draws. Of 300 simulated studies each with 2, 3 or 5 seeds and more or less variation of both kinds, 93
    to 98 % had the truth in the interval; with seeds drawn with replacement, 81 to 100 %.
    """
    tables = np.concatenate([ours, theirs])
    wrong, total = np.moveaxis(_draws(tables.shape[1], seed) @ tables, 2, 0)  # (2 · seeds, DRAWS) each
    rates = 100 * wrong / np.maximum(total, 1)
    drawn = rates[: len(ours)] - rates[len(ours) :]
    edits, sizes = tables.sum(axis=1).T
    by_seed = np.subtract(*np.split(100 * edits / sizes, 2))
    value, spread = by_seed.mean(), drawn.mean(axis=0)
    if len(ours) > 1:
        between = by_seed.var(ddof=1)
        together, alone = max(0.0, drawn.var(axis=0, ddof=1).mean() - between) / len(ours), spread.var()
        left = 1 - together / alone if together < alone else 0.0
        t = np.random.default_rng(seed + 1).standard_t(len(ours) - 1, DRAWS)
        spread = value + np.sqrt(left) * (spread - value) + t * np.sqrt(between / len(ours))
    low, high = np.percentile(spread, (2.5, 97.5))
    p = min(1.0, 2 * (1 + min((spread <= 0).sum(), (spread >= 0).sum())) / (DRAWS + 1))
    return Difference(*(round(float(number), 3) for number in (value, low, high)), round(float(p), 4))


def holm(p: Sequence[float]) -> list[float]:
    """p of several tests → p with which each may be called shown, at one risk in 20 for all of them together.

    Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6, 1979.
    """
    adjusted, worst = [0.0] * len(p), 0.0
    for place, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        worst = adjusted[i] = max(worst, min(1.0, (len(p) - place) * p[i]))
    return adjusted


def as_json(table: dict[str, Score]) -> dict[str, dict[str, float]]:
    return {measure: asdict(score) for measure, score in table.items()}
