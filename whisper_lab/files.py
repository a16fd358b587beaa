"""Files that are either whole or not there, and folders that hold one run's work only."""

import hashlib
import importlib.metadata
import json
import os
import platform
import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

from . import LabError

ROOT = Path(__file__).parent.parent  # of the checkout, or of a hosted copy of it


def cache_folder() -> Path:
    """Where this project keeps what it can make again: $WHISPER_LAB_CACHE, or whisper-lab in the user's cache."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "whisper-lab"
    return Path(os.environ.get("WHISPER_LAB_CACHE") or default)


@contextmanager
def replacing(path: Path):
    """A path to write beside `path`; renamed over it, on disk for good, only if the block ends well."""
    handle, beside = tempfile.mkstemp(prefix=".partial-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    try:
        yield Path(beside)
        with open(beside, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(beside, 0o644)  # mkstemp's files are the owner's alone
        os.replace(beside, path)
    finally:
        Path(beside).unlink(missing_ok=True)


@contextmanager
def making(folder: Path):
    """A path to make a folder at; it becomes `folder` if the block ends well and no other process was first."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".partial-") as scratch:
        new = Path(scratch) / "new"
        yield new
        try:
            os.rename(new, folder)
        except OSError:
            if not folder.is_dir():
                raise


def write_text(path: Path, text: str) -> None:
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(path: Path, value) -> None:
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def read_json(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def write_tsv(path: Path, columns: list[str], rows) -> None:
    """Unquoted, so tabs and line ends inside a cell become spaces."""
    lines = [columns, *rows]
    write_text(path, "".join("\t".join(" ".join(str(cell).split()) for cell in line) + "\n" for line in lines))


def read_tsv(path: Path) -> list[dict[str, str]]:
    """The rows of what `write_tsv` wrote, by column."""
    head, *rows = (line.split("\t") for line in path.read_text(encoding="utf-8").rstrip("\n").split("\n"))
    return [dict(zip(head, row)) for row in rows]


def digest(value) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def state(path: Path) -> str:
    """What changes where the file does; a digest takes longer."""
    found = path.stat()
    return f"{path.resolve()} {found.st_size} {found.st_mtime_ns} {found.st_ino}"


def file_digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


LIBRARIES = ("torch", "transformers", "accelerate", "tokenizers", "numpy", "soundfile", "soxr", "pyarrow")


def platform_name() -> str:
    """Such as "Linux-6.1-x86_64, Python 3.11.7"."""
    return f"{platform.platform(terse=True)}-{platform.machine()}, Python {platform.python_version()}"


def versions() -> dict[str, str]:
    """Of Python and of the libraries that the numbers depend on."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in LIBRARIES}


def claim(folder: Path, plan: dict, flag: str, as_now: Callable[[dict], dict] = lambda plan: plan, **beside) -> bool:
    """Write `plan` and the libraries' versions into plan.json of a new `folder`; False if they are there already.

    `as_now` gives a plan of an earlier version the form that it would have today; what is written `beside` it need not
    be the same. Raises LabError, naming what differs and the `flag` that chooses another folder, where anything else is
    there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / "plan.json"
    if place.is_file():
        there = _flat(as_now(read_json(place)["plan"]))
        now = _flat(json.loads(json.dumps(plan)))
        differing = [
            f"{key}: {there.get(key)} there, {now.get(key)} now"
            for key in now | there
            if there.get(key) != now.get(key)
        ]
        if differing:
            more = f"; and {len(differing) - 3} more" if len(differing) > 3 else ""
            raise LabError(
                f"{folder} was made with other settings ({'; '.join(differing[:3])}{more}); "
                f"choose another {flag}, or delete that folder"
            )
        return False
    if any(not path.name.startswith(".partial-") for path in folder.iterdir()):
        raise LabError(f"{folder} is not empty and was not made by this program; choose another {flag}")
    write_json(place, {"plan": plan, "versions": versions(), **beside})
    return True


def _flat(value: dict, prefix: str = "") -> dict:
    """{"a": {"b": 1}} → {"a.b": 1}, so that what differs can be named."""
    flat = {}
    for key, inner in value.items():
        flat |= _flat(inner, f"{prefix}{key}.") if isinstance(inner, dict) else {prefix + key: inner}
    return flat
