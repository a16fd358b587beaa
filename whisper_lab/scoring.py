"""Word and character error rates with their uncertainty, and whether A is really better than B.

Counting is jiwer's, behind `evaluate`'s metric interface, without fetching a metric script from the Hub. Intervals
come from the bootstrap over clips (Bisani and Ney, "Bootstrap estimates for confidence intervals in ASR performance
evaluation", ICASSP 2004): clips are drawn with replacement, and the corpus' rate is computed anew each time.
"""

from dataclasses import asdict, dataclass
from functools import cache

import numpy as np

from .text import normalise

DRAWS = 2_000  # bootstrap samples; the ends of a 95 % interval then vary by about 2 % of its width
MEASURES = ("wer", "wer_normalised", "cer", "cer_normalised")


@dataclass(frozen=True)
class Score:
    """A rate in percent, with the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.1f} ({self.low:.1f}–{self.high:.1f})"


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
    drawn = np.random.default_rng(seed).multinomial(len(table), np.full(len(table), 1 / len(table)), size=DRAWS)
    wrong, total = (drawn @ table).T
    return 100 * wrong / np.maximum(total, 1)


def scores(references: list[str], hypotheses: list[str]) -> dict[str, Score]:
    """All four `MEASURES`. Clips whose normalised reference is empty are scored raw only.

    Raises ValueError when there is nothing to score.
    """
    result = {}
    for name, texts in (("", (references, hypotheses)), ("_normalised", _normalised(references, hypotheses))):
        for short, unit in (("wer", "word"), ("cer", "character")):
            table = counts(*texts, unit)
            if not len(table) or not table[:, 1].any():
                raise ValueError("no words to score: every reference is empty")
            value = 100 * metric(unit).compute(predictions=texts[1], references=texts[0])[short]
            low, high = np.percentile(bootstrap(table), (2.5, 97.5))
            result[short + name] = Score(round(value, 3), round(float(low), 3), round(float(high), 3))
    return {measure: result[measure] for measure in MEASURES}


def _normalised(references: list[str], hypotheses: list[str]) -> tuple[list[str], list[str]]:
    pairs = [(normalise(r), normalise(h)) for r, h in zip(references, hypotheses, strict=True)]
    pairs = [(r, h) for r, h in pairs if r]
    return [r for r, _ in pairs], [h for _, h in pairs]


def difference(references: list[str], ours: list[str], theirs: list[str]) -> Score:
    """Normalised WER of `ours` minus that of `theirs`, in points, paired: both are drawn on the same clips.

    Below zero throughout, ours is better; an interval that holds zero shows no difference.
    """
    tables = [counts(*_normalised(references, hypotheses), "word") for hypotheses in (ours, theirs)]
    drawn = bootstrap(tables[0]) - bootstrap(tables[1])  # the same seed draws the same clips
    value = [100 * table[:, 0].sum() / table[:, 1].sum() for table in tables]
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Score(round(float(value[0] - value[1]), 3), round(float(low), 3), round(float(high), 3))


def as_json(table: dict[str, Score]) -> dict[str, dict[str, float]]:
    return {measure: asdict(score) for measure, score in table.items()}
