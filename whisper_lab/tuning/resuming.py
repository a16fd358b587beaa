"""Checkpoints that are either whole, on disk for good, or not there: what a killed run goes on from.

The Trainer writes a checkpoint file by file, so a kill leaves half of one, and a power cut may leave all of its names
with nothing inside. So each is flushed to the disk and then sealed by `complete.json`, which names the size of every
file; only then do older ones go.
"""

import os
import shutil
from pathlib import Path

from .. import LabError, files

SEAL = "complete.json"


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint of the run in `folder`."""
    found = [seal.parent for seal in (folder / "checkpoints").glob(f"checkpoint-*/{SEAL}") if _whole(seal)]
    return max(found, key=step_of, default=None)


def _whole(seal: Path) -> bool:
    try:
        sizes = files.read_json(seal)
        return all((seal.parent / name).stat().st_size == size for name, size in sizes.items())
    except (ValueError, OSError):
        return False


def seconds_spent(checkpoint: Path) -> float:
    """Of training, up to `checkpoint`."""
    history = files.read_json(checkpoint / "trainer_state.json")["log_history"]
    return max((entry.get("seconds", 0.0) for entry in history), default=0.0)


def seal(checkpoint: Path) -> None:
    """Flush every file of `checkpoint`, then say that it is complete."""
    written = sorted(path for path in checkpoint.iterdir() if path.is_file() and path.name != SEAL)
    for path in written:
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    files.write_json(checkpoint / SEAL, {path.name: path.stat().st_size for path in written})
    _flush_names(checkpoint)
    _flush_names(checkpoint.parent)


def _flush_names(folder: Path) -> None:
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def keep_only(kept: set[Path]) -> None:
    """Remove the checkpoints beside those `kept`."""
    for parent in {path.parent for path in kept}:
        for other in set(parent.glob("checkpoint-*")) - kept:
            shutil.rmtree(other, ignore_errors=True)


def check_room(folder: Path, needed: int) -> None:
    """Raises LabError where `folder`'s disk has less than `needed` bytes left."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise LabError(
            f"{folder} has room for {free / 1e9:.1f} GB, but this run's checkpoints and model take up to "
            f"{needed / 1e9:.1f} GB; free some, or choose another --output"
        )


def no_room(folder: Path, error: Exception) -> bool:
    """Whether `error`, of whatever library wrote into `folder`, says that the disk is full. torch does not say why."""
    full = any(words in str(error) for words in ("No space left", "Disk quota", "os error 28", "os error 122"))
    return full or ("writing file" in str(error) and shutil.disk_usage(folder).free < 1 << 20)
