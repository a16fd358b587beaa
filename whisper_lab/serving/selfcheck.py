"""The question that the original lab left open, why a hosted copy was worse than the laptop's: a bundled clip, what the
model hears in it, and all that may differ between two copies."""

from dataclasses import asdict
from functools import cache
from pathlib import Path

from .. import files
from ..corpora import corpus
from ..scores import scoring
from ..speech import audio
from . import captions
from .transcription import Transcriber

SPLIT = corpus.SAMPLE / "sv-SE" / "test.tsv"


@cache
def example() -> tuple[Path, str]:
    """The bundled clip, and what is said in it."""
    head, *rows = (line.split("\t") for line in SPLIT.read_text(encoding="utf-8").splitlines())
    row = dict(zip(head, rows[0]))
    return SPLIT.parent / "clips" / row["path"], row["sentence"]


def check(transcriber: Transcriber, last: audio.Received | None = None) -> dict:
    """Facts to lay side by side with another copy's: expected and actual text, word error rate, the clip as decoded,
    the visitor's last recording as it arrived, the model with its revision, the platform and the libraries."""
    path, expected = example()
    actual = captions.write(list(transcriber.segments(path)), "txt").strip()
    score = scoring.scores([expected], [actual or " "])["wer_normalised"].value
    return {
        "expected": expected,
        "actual": actual,
        "wer": score,
        "clip": asdict(audio.describe(path)),
        "last": asdict(last) if last else None,
        **transcriber.facts(),
        "platform": files.platform_name(),
    }
