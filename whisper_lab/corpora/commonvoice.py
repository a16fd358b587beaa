"""A release of Mozilla Common Voice since 7.0, unpacked or as .tar.gz, or the bundled sample in the same layout.

cv-corpus-17.0-2024-03-15/sv-SE/clips/*.mp3, train.tsv, dev.tsv, test.tsv, validated.tsv, clip_durations.tsv, …
"""

import csv
import gzip
import os
import re
import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath

from filelock import FileLock
from tqdm import tqdm

from .. import LabError, files
from .corpus import Clip, Corpus

ARCHIVES = (".tar.gz", ".tgz")
UNPACKED_SHARE = 1.1  # of the archive's bytes: MP3 hardly compresses; clips of 25 kB end in half-empty blocks of 4 kB
IN_ARCHIVE = re.compile(r"(?:.*?([^/]+)/)?([^/]+)/(clips/[^/.][^/]*|[^/.][^/]*\.tsv)")  # release, language, file

NEEDED = ("path", "sentence")
SPEAKER = ("client_id", "age", "gender", "accents")
NO_SPLITS = {"clip_durations", "validated_sentences", "unvalidated_sentences", "reported"}  # TSVs of other things
RENAMED = {"accent": "accents"}  # releases before 8.0


def read(path: Path, language: str, splits: list[str] | None = None, limit: int | None = None) -> Corpus:
    """The release at `path` (its folder, its language's folder, or its .tar.gz), at most `limit` clips a split.

    An archive is unpacked once, into the cache. `splits` None stands for train, dev and test, and for the sample's
    `aside`. Raises LabError where there is no release, the archive is damaged or does not fit on the disk, a split or a
    needed column is missing.
    """
    folder = _unpacked(path, language) if path.name.endswith(ARCHIVES) and not path.is_dir() else path
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


def check_room(folder: Path, needed_bytes: float, what: str) -> None:
    """Raise LabError if the disk of `folder` has not `needed_bytes` left for `what`."""
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise LabError(
            f"{what} takes about {needed_bytes / 1e9:.2f} GB, and {folder} has {free_bytes / 1e9:.2f} GB left; "
            "free some, or set WHISPER_LAB_CACHE to a folder with room"
        )


def _unpacked(archive: Path, language: str) -> Path:
    """The folder in the cache with the release in `archive`; made now, if it has not been: whole, or not there."""
    if not archive.is_file():
        raise LabError(f"{archive} is not there; --corpus takes the .tar.gz or the folder of a Common Voice release")
    facts = archive.stat()
    stem = archive.name.removesuffix(".tgz").removesuffix(".tar.gz")
    key = files.digest([archive.name, facts.st_size, facts.st_mtime_ns, language])[:12]
    folder = files.cache_folder() / "corpora" / f"{stem}-{key}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".partial-{folder.name}")
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if not folder.is_dir():
            shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
            check_room(folder.parent, UNPACKED_SHARE * facts.st_size, f"unpacking {archive.name}")
            try:
                _unpack(archive, language, partial, release=stem.removesuffix(f"-{language}"))
                os.sync()  # or after a power cut the folder is there, and the clips in it are empty
                partial.rename(folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return folder


def _unpack(archive: Path, language: str, folder: Path, release: str) -> None:
    """TSVs and clips of `language` into `folder`/RELEASE/LANGUAGE; `release` is for an archive that does not say."""
    languages = set()
    size = {"total": archive.stat().st_size, "unit": "B", "unit_scale": True, "unit_divisor": 1024}
    try:
        with (
            open(archive, "rb") as file,
            tqdm.wrapattr(file, "read", desc="Unpacking", **size) as counted,
            gzip.GzipFile(fileobj=counted) as plain,  # compares checksums; tarfile's own "r|gz" does not
            tarfile.open(fileobj=plain, mode="r|") as tar,
        ):
            for member in tar:
                name = PurePosixPath(member.name)
                if name.is_absolute() or ".." in name.parts or not (member.isreg() or member.isdir()):
                    raise LabError(
                        f"{archive} is no Common Voice release, and may not be safe: {member.name!r} in it is a link, "
                        "a device, or leads out of the folder; take one from https://mozilladatacollective.com"
                    )
                if member.isreg() and (match := IN_ARCHIVE.fullmatch(str(name))):
                    languages.add(match[2])
                    if match[2] == language:
                        inside = member.replace(name=f"{match[1] or release}/{language}/{match[3]}", deep=False)
                        tar.extract(inside, folder, set_attrs=False, filter="data")
            _read_end(tar)
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise LabError(f"{archive} is damaged or was cut short ({error}); delete it and download it again") from error
    if not any(folder.glob(f"*/{language}/clips")):
        found = f"languages found: {', '.join(sorted(languages))}" if languages else "it holds no Common Voice release"
        raise LabError(f"{archive} has no clips of {language} ({found}); choose with --language")


def _read_end(tar: tarfile.TarFile) -> None:
    """Read to the end of the archive, zeros only. tarfile takes a damaged header for the end, and says nothing."""
    whole = False
    while block := tar.fileobj.read(1 << 20):
        if block.strip(b"\0"):
            raise tarfile.ReadError("a header in it cannot be read")
        whole = True
    if not whole:
        raise tarfile.ReadError("it has no end")


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
            down_votes=int(float(row.get("down_votes") or 0)),
        )
        for row in _rows(root / f"{split}.tsv", NEEDED)
    ]


def _durations(path: Path) -> dict[str, float]:
    """Seconds of each clip, by file name; empty for the older releases, which do not say."""
    if not path.is_file():
        return {}
    return {row["clip"]: float(row["duration[ms]"]) / 1000 for row in _rows(path, ("clip", "duration[ms]"))}
