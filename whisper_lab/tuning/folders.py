"""The folder of a run or a study: whose it is, and that one process at a time trains into it."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from filelock import FileLock, Timeout

from .. import LabError, files
from ..whisper import checkpoint, precision
from . import processes
from .recipes import Options

PATIENCE = 10  # seconds: helpers of a process that was killed end a little later, and hold its lock until then
LENGTH = ("max_steps", "warmup_steps", "eval_steps")  # of a recipe: how long, and what follows from it


def claim(folder: Path, plan: dict) -> bool:
    """Whether `folder` is new, and from now on of this plan; False where it is of this plan already.

    Raises LabError, naming what differs, where it is anything else's.
    """
    return files.claim(folder, plan, "--output", _as_now, processor=precision.processor(processes.device()))


def _as_now(plan: dict) -> dict:
    """A plan as it would be written today: earlier ones name the model's folder as it was typed, no precision and no
    canaries, were not adapted, and say whether layers were compiled. Others' stay."""
    if "model" not in plan:
        return plan
    recipe = {"adapt_windows": False} | plan.get("recipe", {})
    recipe.pop("compile", None)
    if "precision" not in recipe:
        recipe["precision"] = precision.of_old(processes.device())
    return {"canaries": {}} | plan | {"model": checkpoint.plain(plan["model"]), "recipe": recipe}


def as_begun(folder: Path, options: Options) -> Options:
    """`options` for the run or study in `folder`. What they leave to the machine (batch, rate, precision) is as it
    was where the run was begun, whatever this machine is. The precision is always named."""
    place, device = folder / "plan.json", processes.device()
    begun = _as_now(files.read_json(place)["plan"]).get("recipe", {}) if place.is_file() else {}
    changes = {}
    if options.learning_rate is None and "learning_rate" in begun:
        changes["learning_rate"] = begun["learning_rate"]
    if options.batch_size is None and options.preset is None and "batch_size" in begun:
        changes["batch_size"] = max(1, begun["batch_size"] // processes.count())
    there = begun.get("precision") if options.precision == "auto" else None
    changes["precision"] = there or precision.choose(options.precision, device)
    return replace(options, **changes)


def say_moved(folder: Path, asked: str, settled: str) -> None:
    """Print a line where what is in `folder` was begun on another kind of processor, or would go faster otherwise."""
    where = files.read_json(folder / "plan.json").get("processor")
    if said := precision.gone_on_with(settled, asked, where, processes.device()):
        print(said, flush=True)


def check_length(folder: Path, plan: dict, options: Options) -> None:
    """Raises LabError, with the command for it, where `plan` wants more steps of a finished run in `folder`."""
    place = folder / "plan.json"
    if not ((folder / "metrics.json").is_file() and place.is_file()):
        return
    there = _as_now(files.read_json(place)["plan"])
    recipe = there.get("recipe", {})
    done, wanted = recipe.get("max_steps", math.inf), plan["recipe"]["max_steps"]
    longer = there | {"recipe": recipe | {name: plan["recipe"][name] for name in LENGTH}}
    if wanted > done and files.digest(longer) == files.digest(plan):
        steps = {"max_steps": wanted - done, "epochs": Options.epochs}
        on = replace(options, model=str(folder), output=f"{folder}-{wanted}", **steps)
        raise LabError(
            f"{folder} is finished, after {done:,} steps; for {wanted - done:,} more, begin from its model: "
            f"{on.command_line()}"
        )


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Nobody else trains into `folder` while the block runs. Raises LabError where another process does.

    The lock is the operating system's: it goes with its process, however that ends. With several processes, the first
    holds it for all.
    """
    lock = FileLock(folder / ".lock")
    if processes.first():
        try:
            lock.acquire(timeout=PATIENCE)
        except Timeout as error:
            raise LabError(
                f"another process is training into {folder}; wait until it ends, or choose another --output"
            ) from error
        except OSError as error:  # of file systems without locks
            print(f"{folder} cannot be locked ({error.strerror}): start nothing else there meanwhile", flush=True)
    processes.together()
    try:
        yield
    finally:
        lock.release()
