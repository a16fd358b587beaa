"""A release of Mozilla Common Voice since 7.0, unpacked or as .tar.gz, or the bundled sample in the same layout.

cv-corpus-17.0-2024-03-15/sv-SE/clips/*.mp3, train.tsv, dev.tsv, test.tsv, validated.tsv, clip_durations.tsv, …
sps-corpus-1.0-2025-09-05-sv-SE/audios/*.mp3, ss-corpus-sv-SE.tsv, …       Spontaneous Speech: see spontaneous.py
"""

import gzip
import os
import re
import shutil
import sys
import tarfile
import zlib
from collections import Counter
from pathlib import Path, PurePosixPath

from filelock import FileLock
from tqdm import tqdm

from .. import LabError, files
from . import drawing, parsing, rows, spontaneous
from .corpus import SAMPLE, Corpus, LeftOut, joined, unused
from .recordings import Recordings

ARCHIVES = (".tar.gz", ".tgz")
UNPACKED_SHARE = 1.1  # of the archive's bytes: MP3 hardly compresses; clips of 25 kB end in half-empty blocks of 4 kB
IN_ARCHIVE = re.compile(r"(?:.*?([^/]+)/)?([^/]+)/(clips/[^/.][^/]*|[^/.][^/]*\.tsv)")  # release, language, file
SPONTANEOUS = re.compile(r"(?:(?:.*/)?([^/]+)/)?(audios/[^/.][^/]*|ss-[^/]+\.tsv)")  # release with language, file

COLUMNS = {  # what each kind of rows.COLUMNS is called
    "audio": "path", "text": "sentence", "speaker": "client_id", "age": "age", "gender": "gender", "accents": "accents",
    "down_votes": "down_votes",
}  # fmt: skip
NO_SPLITS = {"clip_durations", "validated_sentences", "unvalidated_sentences", "reported"}  # TSVs of other things
RENAMED = {"accent": "accents"}  # releases before 8.0
APPROVED = "validated"
OUT_OF_DOMAIN = "out_of_domain"  # a split of other speech, that nothing is tuned on; of Common Voice, no release has it


def read(path: Path, language: str, splits: list[str] | None = None, limit: int | None = None) -> Corpus:
    """The release at `path` (its folder, its language's folder, or its .tar.gz), at most `limit` clips a split.

    An archive is unpacked once, into the cache. `splits` None stands for train, dev and test, and for
    `out_of_domain` where there is one. Where a release has none of the three, as the deltas, they are drawn from what
    listeners approved. Raises LabError where there is no release, the archive is damaged or does not fit on the disk,
    a split or a needed column is missing, or no row of a split can be used.
    """
    folder = _unpacked(path, language) if path.name.endswith(ARCHIVES) and not path.is_dir() else path
    if spontaneous.holds(folder):
        return spontaneous.read(folder, language, splits, limit)
    root = _language_folder(folder, language)
    wanted = splits or [*drawing.USUAL, *([OUT_OF_DOMAIN] if (root / f"{OUT_OF_DOMAIN}.tsv").is_file() else [])]
    there = {p.stem for p in root.glob("*.tsv")} - NO_SPLITS
    drawn = [split for split in wanted if split in drawing.USUAL] if not there & set(drawing.USUAL) else []
    drawn = drawn if APPROVED in there else []
    if missing := [split for split in wanted if split not in {*there, *drawn}]:
        found = ", ".join(sorted(there)) or "none"
        raise LabError(f"{root} has no {missing[0]}.tsv (splits found: {found}); choose with --splits")
    entries, left_out = {}, {}
    seconds, recordings = _durations(root / "clip_durations.tsv"), Recordings(root, ("clips", ""))
    for split in dict.fromkeys(APPROVED if split in drawn else split for split in wanted):
        entries[split], left_out[split] = _entries(root, split, seconds, recordings)
    clips, again = rows.clips(entries)
    left_out = joined(left_out, again)
    if drawn:
        print(f"{root} has no train, dev and test: they are drawn from {APPROVED}.tsv", file=sys.stderr)
        clips |= drawing.draw(clips[APPROVED])
    for split in wanted:
        if not clips[split]:
            source = APPROVED if split in drawn else split
            raise LabError(f"{root / source}.tsv has too few rows for {split}{unused(left_out)}")
    left_out = {split if split in wanted else "": found for split, found in left_out.items() if found}
    name, version = _named(root)
    return Corpus(name, version, root.name, {split: clips[split][:limit] for split in wanted}, left_out=left_out)


def _named(root: Path) -> tuple[str, str]:
    """The name and version of the release with the language's folder `root`. Only the sample is called so."""
    release = root.resolve().parent.name.removeprefix("cv-corpus-")
    if release[:1].isdigit():
        return "Common Voice", release
    name, version = re.fullmatch(r"(.+?)(?:-(\d.*))?", release).groups("")
    return (
        (release, "") if name == "sample" and not root.resolve().is_relative_to(SAMPLE.resolve()) else (name, version)
    )


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
                _unpack(archive, language, partial, stem)
                os.sync()  # or after a power cut the folder is there, and the clips in it are empty
                partial.rename(folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return folder


def _unpack(archive: Path, language: str, folder: Path, stem: str) -> None:
    """TSVs and clips of `language` into `folder`/RELEASE/LANGUAGE, of Spontaneous Speech into `folder`/RELEASE; `stem`
    is for an archive that does not say which it is."""
    languages, release = set(), stem.removesuffix(f"-{language}")
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
                if member.isreg() and (match := SPONTANEOUS.fullmatch(str(name))):
                    inside = member.replace(name=f"{match[1] or stem}/{match[2]}", deep=False)
                    tar.extract(inside, folder, set_attrs=False, filter="data")
                elif member.isreg() and (match := IN_ARCHIVE.fullmatch(str(name))):
                    languages.add(match[2])
                    if match[2] == language:
                        inside = member.replace(name=f"{match[1] or release}/{language}/{match[3]}", deep=False)
                        tar.extract(inside, folder, set_attrs=False, filter="data")
            _read_end(tar)
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise LabError(f"{archive} is damaged or was cut short ({error}); delete it and download it again") from error
    if not (any(folder.glob(f"*/{language}/clips")) or spontaneous.holds(folder)):
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


def _table(path: Path, columns: dict[str, str], needed: tuple[str, ...]) -> parsing.Table:
    """The table `path`, with those of `columns` that it has; without rows if it is empty. Raises LabError where a
    column that is `needed` is missing."""

    def match(found: list[str]) -> dict[str, str]:
        theirs = {RENAMED.get(name, name): name for name in found}
        if absent := [name for name in needed if name not in theirs]:
            raise LabError(f"{path} has no column {absent[0]!r}; its columns are: {', '.join(found) or 'none'}")
        return {kind: theirs[name] for kind, name in columns.items() if name in theirs}

    return parsing.parse(path, match)


def _entries(
    root: Path, split: str, seconds: dict[str, str], recordings: Recordings
) -> tuple[list[rows.Entry], list[LeftOut]]:
    """The rows of a split, and those that cannot be used. Raises LabError where it is empty."""
    path = root / f"{split}.tsv"
    table = _table(path, COLUMNS, ("path", "sentence"))
    if not (table.rows or table.left_out):
        whole = root / f"{APPROVED}.tsv"
        anew = f"train, dev and test can be drawn anew from all that listeners approved: --corpus {whole}"
        way_out = anew if whole.is_file() and split != APPROVED else "choose with --splits, or another release"
        raise LabError(f"{path} is empty: no clip is in it; {way_out}")
    named, left_out, entries = table.named | {"seconds": "duration[ms]"}, [*table.left_out], []
    ((locale, _),) = Counter(row.get("locale") for _, row in table.rows).most_common(1) or [(None, 0)]
    for place, row in table.rows:
        name = row[named["audio"]].strip()
        if not name or row.get("locale") != locale:  # or its cells are those of other columns
            what = "no name of a recording" if not name else "another locale"
            left_out.append((place, what, f"{name}: {row.get('locale')}"))
            continue
        file, _ = recordings.find(name)
        row = row | {"duration[ms]": seconds.get(name, "")}
        entries.append(rows.Entry(row, named, file, name, place))
    return entries, left_out


def _durations(path: Path) -> dict[str, str]:
    """Milliseconds of each clip, by file name; empty for the older releases, which do not say."""
    if not path.is_file():
        return {}
    table = _table(path, {"audio": "clip", "seconds": "duration[ms]"}, ("clip", "duration[ms]"))
    return {row["clip"]: row["duration[ms]"] for _, row in table.rows}
