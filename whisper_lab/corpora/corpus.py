"""What a corpus is, and which module reads it from where."""

import hashlib
import json
from dataclasses import astuple, dataclass
from pathlib import Path

from .. import LabError, files, text

SAMPLE = files.ROOT / "sample" / "cv-corpus-sample-1.0"


@dataclass(frozen=True)
class Clip:
    """One recorded sentence: a file on this disk. `seconds` is the corpus' own measure, where it gives one.

    The sentence is as `text.cleaned` has it, whatever it is made of.
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

    def __post_init__(self):
        object.__setattr__(self, "sentence", text.cleaned(self.sentence))


@dataclass(frozen=True)
class Corpus:
    """A release: its name and version, its language as it writes it, the clips of each split, and its licence by the
    Hub's name, where it states one."""

    name: str
    version: str
    language: str
    splits: dict[str, list[Clip]]
    licence: str | None = None

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
                digest.update(json.dumps([clip.id, *astuple(clip)[2:]], ensure_ascii=False).encode())
        return digest.hexdigest()


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
    from . import collective, commonvoice, hub, tables

    if source == "sample":
        return commonvoice.read(SAMPLE, language, splits, limit)
    if source.startswith("mdc:"):
        return commonvoice.read(collective.fetch(source.removeprefix("mdc:"), language), language, splits, limit)
    if source.endswith(commonvoice.ARCHIVES):
        return commonvoice.read(Path(source), language, splits, limit)
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
