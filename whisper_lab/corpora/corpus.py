"""What a corpus is, and which module reads it from where."""

import hashlib
import json
from dataclasses import astuple, dataclass, field
from pathlib import Path

from .. import LabError, files, text

SAMPLE = files.ROOT / "sample" / "cv-corpus-sample-2.0"
SHEETS = (".xlsx", ".xls", ".ods")

LeftOut = tuple[str, str, str]  # a clip's id or a row's place, the reason in words that can be counted, and details


@dataclass(frozen=True)
class Clip:
    """One recorded sentence: a file on this disk, or what is between `start` and `end` (seconds; None: its end) of it.

    `seconds` is the corpus' own measure of the clip, where it gives one. The sentence is as `text.cleaned` has it,
    whatever it is made of.
    """

    id: str
    path: str
    sentence: str
    client_id: str = ""
    age: str = ""
    gender: str = ""
    accents: str = ""
    seconds: float | None = None
    down_votes: int = 0
    start: float = 0.0
    end: float | None = None

    @property
    def part(self) -> tuple[float, float | None] | None:
        """Where in the file it is, if it is not the whole."""
        return (self.start, self.end) if self.start or self.end is not None else None

    def __post_init__(self):
        object.__setattr__(self, "sentence", text.cleaned(self.sentence))


@dataclass(frozen=True)
class Corpus:
    """A release: its name and version, its language as it writes it, the clips of each split, its licence by the Hub's
    name, where it states one, and the rows that are no clips: of each split, and of "" where the split is not known."""

    name: str
    version: str
    language: str
    splits: dict[str, list[Clip]]
    licence: str | None = None
    left_out: dict[str, list[LeftOut]] = field(default_factory=dict)

    def identity(self) -> dict[str, str]:
        """What says which data a feature set or a model is made of."""
        keys = ("name", "version", "language", "fingerprint")
        stated = {"licence": self.licence} if self.licence else {}
        return {key: getattr(self, key) for key in keys} | stated

    @property
    def fingerprint(self) -> str:
        """Of what is said in which clip and split. Folders do not enter, so a copy elsewhere is the same corpus."""
        digest = hashlib.sha256()
        for split, clips in self.splits.items():
            digest.update(f"{split}\n".encode())
            for clip in clips:
                told = [clip.id, *astuple(clip)[2:-2], *(clip.part or ())]
                digest.update(json.dumps(told, ensure_ascii=False).encode())
        return digest.hexdigest()


def joined(*parts: dict[str, list[LeftOut]]) -> dict[str, list[LeftOut]]:
    """What is left out of each split, of several kinds."""
    return {split: [row for part in parts for row in part.get(split, ())] for part in parts for split in part}


def unused(left_out: dict[str, list[LeftOut]]) -> str:
    """How many rows are left out, and why the first is, for a message; "" if there are none."""
    rows = [row for rows in left_out.values() for row in rows]
    first = " ".join(": ".join(rows[0]).split()) if rows else ""
    return f"; left out: {len(rows)} rows, such as {first}" if rows else ""


def bundled(corpus: dict) -> bool:
    """Whether the identity of a corpus is the sample's: commonvoice gives it to what lies where the sample does only,
    and to a set of its clips too, whatever they are."""
    return (corpus["name"], corpus["version"]) == ("sample", "2.0")


def read(
    source: str,
    language: str,
    splits: list[str] | None = None,
    limit: int | None = None,
    columns: dict[str, str] | None = None,
) -> Corpus:
    """The corpus that `--corpus source` names, at most `limit` clips a split; `splits` None stands for all usual ones.

    `columns` names those of a table that are not named as usual: {"audio": "file", "text": "transcription"}.
    Raises LabError where there is no such corpus, or it lacks a split or a column.
    """
    from . import collective, commonvoice, hub, spontaneous, tables

    if source == "sample":
        return commonvoice.read(SAMPLE, language, splits, limit)
    if source.startswith("mdc:"):
        return commonvoice.read(collective.fetch(source.removeprefix("mdc:"), language), language, splits, limit)
    if source.endswith(commonvoice.ARCHIVES):
        return commonvoice.read(Path(source), language, splits, limit)
    if Path(source).suffix.lower() in SHEETS and Path(source).is_file():
        raise LabError(f"{source} is a spreadsheet: open it and save it as CSV (UTF-8), then name that")
    if spontaneous.holds(Path(source)):
        return spontaneous.read(Path(source), language, splits, limit)
    if tables.holds(Path(source)):
        return tables.read(Path(source), language, splits, limit, columns)
    if source.startswith("hub:") or hub.holds(Path(source)):
        return hub.read(source, language, splits, limit, columns)
    if not Path(source).is_dir():
        raise LabError(
            f"{source} is not a folder or file that is here; --corpus takes 'sample', a Common Voice release, a table, "
            "a folder of Parquet files, mdc:… and hub:NAME"
        )
    return commonvoice.read(Path(source), language, splits, limit)
