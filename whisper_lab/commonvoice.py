"""A release of Mozilla Common Voice, unpacked, or the bundled sample in the same layout.

cv-corpus-17.0-2024-03-15/sv-SE/clips/*.mp3, train.tsv, dev.tsv, test.tsv, validated.tsv, clip_durations.tsv, …
"""

import csv
import re
from pathlib import Path

from . import LabError
from .corpus import Clip, Corpus

NEEDED = ("path", "sentence")
SPEAKER = ("client_id", "age", "gender", "accents")
NO_SPLITS = {"clip_durations", "validated_sentences", "unvalidated_sentences", "reported"}  # TSVs of other things
RENAMED = {"accent": "accents"}  # releases before 8.0


def read(folder: Path, language: str, splits: list[str] | None = None, limit: int | None = None) -> Corpus:
    """The release in `folder` (the release, or its language's folder), at most `limit` clips a split.

    `splits` None stands for train, dev and test, and for the sample's `aside`. Raises LabError where the folder is no
    release, a split or a needed column is missing.
    """
    root = _language_folder(folder, language)
    wanted = splits or [s for s in ("train", "dev", "test", "aside") if s != "aside" or (root / "aside.tsv").is_file()]
    missing = [split for split in wanted if not (root / f"{split}.tsv").is_file()]
    if missing:
        found = ", ".join(sorted({p.stem for p in root.glob("*.tsv")} - NO_SPLITS)) or "none"
        raise LabError(f"{root} has no {missing[0]}.tsv (splits found: {found}); choose with --splits")
    seconds = _durations(root / "clip_durations.tsv")
    release = root.resolve().parent.name.removeprefix("cv-corpus-")
    name, version = (
        ("Common Voice", release) if release[:1].isdigit() else re.fullmatch(r"(.+?)(?:-(\d.*))?", release).groups("")
    )
    clips = {split: _clips(root, split, seconds)[:limit] for split in wanted}
    return Corpus(name=name, version=version, language=root.name, splits=clips)


def _language_folder(folder: Path, language: str) -> Path:
    """The folder with the TSV files: `folder` itself, `folder/sv-SE`, or `folder/cv-corpus-…/sv-SE`."""
    if not folder.is_dir():
        raise LabError(f"{folder} is not a folder; --corpus takes 'sample' or the folder of a Common Voice release")
    if (folder / "clips").is_dir():
        if re.fullmatch(r"[a-z]{2,3}(-[A-Z]\w*)?", folder.resolve().name) and folder.resolve().name != language:
            raise LabError(
                f"{folder} is named for another language than {language}; say --language {folder.resolve().name}"
            )
        return folder
    candidates = [folder / language, *sorted(folder.glob(f"cv-corpus-*/{language}"))]
    found = [path for path in candidates if (path / "clips").is_dir()]
    if len(found) == 1:
        return found[0]
    if found:
        raise LabError(f"{folder} holds several releases ({', '.join(p.parent.name for p in found)}); name one of them")
    languages = sorted(p.parent.name for p in [*folder.glob("*/clips"), *folder.glob("cv-corpus-*/*/clips")])
    if languages:
        raise LabError(f"{folder} has no {language} (languages found: {', '.join(languages)}); choose with --language")
    inside = sorted(p.name for p in folder.iterdir())
    raise LabError(
        f"{folder} is no Common Voice release: looked for clips/ and *.tsv in it, in {language}/ and in "
        f"cv-corpus-…/{language}/; found {', '.join(inside[:6]) + (', …' if len(inside) > 6 else '') or 'nothing'}"
    )


def _rows(path: Path, needed: tuple[str, ...]) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)  # sentences hold bare quotation marks
        columns = [RENAMED.get(name, name) for name in reader.fieldnames or []]
        absent = [name for name in needed if name not in columns]
        if absent:
            raise LabError(f"{path} has no column {absent[0]!r}; its columns are: {', '.join(columns) or 'none'}")
        reader.fieldnames = columns
        return list(reader)


def _clips(root: Path, split: str, seconds: dict[str, float]) -> list[Clip]:
    return [
        Clip(
            id=Path(row["path"]).stem,
            path=str(root / "clips" / row["path"]),
            sentence=(row["sentence"] or "").strip(),
            **{name: row.get(name) or "" for name in SPEAKER},
            seconds=seconds.get(row["path"]),
            down_votes=int(row.get("down_votes") or 0),
        )
        for row in _rows(root / f"{split}.tsv", NEEDED)
    ]


def _durations(path: Path) -> dict[str, float]:
    """Seconds of each clip, by file name; empty for the older releases, which do not say."""
    if not path.is_file():
        return {}
    return {row["clip"]: float(row["duration[ms]"]) / 1000 for row in _rows(path, ("clip", "duration[ms]"))}
