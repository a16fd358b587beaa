"""The GPU that a process computes on: whether there is one, which, and what is said where it cannot be used."""

import importlib
import os
import re
import sys
from contextlib import contextmanager, suppress
from functools import cache
from glob import glob

import torch
import torch.distributed

from . import LabError, faults

WITHOUT = "CUDA_VISIBLE_DEVICES= goes on without the GPU"
INSTALL = "pip install torch --index-url https://download.pytorch.org/whl/cuXYZ, with XYZ from https://pytorch.org"
FULL = ("out of memory", "alloc_failed")  # CUDA's and CTranslate2's words, cuBLAS' and cuDNN's


def available() -> bool:
    """Whether torch can use a GPU here. Where there is one that it cannot use, one line says why, the first time."""
    if torch.cuda.is_available():
        return True
    say(_why_not())
    return False


def device() -> torch.device:
    """What this process computes on: the processor, or the GPU that is its own, then this thread's current one, too."""
    if not available():
        return torch.device("cpu")
    torch.cuda.set_device(card())
    return torch.device("cuda", card())


@cache
def say(line: str) -> None:
    """Print `line` to stderr, once; of several processes, the first speaks for all."""
    if line and os.environ.get("LOCAL_RANK", "0") == "0":
        print(line, file=sys.stderr, flush=True)


@cache
def _why_not() -> str:
    """Why torch uses no GPU on a machine that has one, and what helps; "" where there is none or none is wanted."""
    wanted, count = os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip(), _cards()
    if not count or wanted in ("", "-1", "NoDevFiles"):
        return ""
    closed = [path for path in glob("/dev/nvidia[0-9]*") if not os.access(path, os.R_OK | os.W_OK)]
    why = f"torch {torch.__version__} was installed without CUDA: {INSTALL}"
    if closed:
        why = f"this user may not open {closed[0]}: join its group (ls -l {closed[0]}), or start the container with it"
    elif torch.backends.cuda.is_built():
        try:
            torch.cuda.init()
            return ""
        except RuntimeError as error:
            why = f"{faults.in_a_line(error)}; see if nvidia-smi lists it, and restart after an update of its driver"
    if found := re.search(r"driver .* too old \(found version (\d+)\)", why):
        knows = f"{int(found[1]) // 1000}.{int(found[1]) % 1000 // 10}"
        why = (
            f"its driver is too old, for CUDA {knows}, and this torch for {torch.version.cuda}: update the driver, or "
            f"take a torch for CUDA {int(found[1]) // 1000} ({INSTALL})"
        )
    elif "No CUDA GPUs are available" in why and wanted != "all":
        why = f"CUDA_VISIBLE_DEVICES={wanted} names none of the {count} that are here, from 0 to {count - 1}"
    return f"The GPU is not used: {why}. CUDA_VISIBLE_DEVICES= leaves it out and stops this message."


def _cards() -> int:
    """NVIDIA's cards in this machine, whatever torch makes of them."""
    try:
        library = importlib.import_module("pynvml")  # no import statement: a space can do without it
        library.nvmlInit()
        return library.nvmlDeviceGetCount()
    except Exception:  # no pynvml, no driver, or one that does not answer
        return len(glob("/dev/nvidia[0-9]*"))


@cache
def card() -> int:
    """The number of the GPU that this process uses, the same for as long as it lives. Of several processes of torchrun
    each has its own; one alone takes the GPU with the most memory free, and says so."""
    count = torch.cuda.device_count()
    if "LOCAL_RANK" in os.environ:
        return int(os.environ["LOCAL_RANK"]) % count  # as accelerate counts
    if count == 1:
        return 0
    best = max(range(count), key=_free)
    say(
        f"There are {count} GPUs, and one process uses one: number {best}, which has the most memory free. "
        f"CUDA_VISIBLE_DEVICES=N takes another; torchrun --nproc-per-node {count} training-pipeline.py … trains on all."
    )
    return best


def _free(index: int) -> int:
    """Bytes that are free on torch's GPU `index`; all that it has, where NVML does not say."""
    try:
        library, handle = nvml(index)  # torch would take room on every card to ask
        return library.nvmlDeviceGetMemoryInfo(handle).free
    except Exception:
        return memory(index)


def nvml(index: int):
    """pynvml, and its handle of torch's GPU `index`. Raises what pynvml, the driver or torch raise."""
    library = importlib.import_module("pynvml")
    library.nvmlInit()
    return library, library.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(index).uuid}")


def memory(index: int | None = None) -> int:
    """Bytes that torch's GPU `index` has, by default this process's."""
    return torch.cuda.get_device_properties(card() if index is None else index).total_memory


def smallest_memory() -> int:
    """Bytes of the smallest GPU among those of all processes of torchrun, which have to call it together; 0 without."""
    mine = memory() if available() else 0
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return mine
    found = [0] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, mine)
    return min(found)


def full(error: BaseException) -> bool:
    """Whether an error of torch or CTranslate2 says that the GPU has no room."""
    said = str(error).lower() if isinstance(error, RuntimeError) else ""
    return isinstance(error, torch.OutOfMemoryError) or any(word in said for word in FULL)


def no_room(doing: str, way_out: str = "") -> LabError:
    """The error for a GPU that was full while `doing` something: what is free, who holds the rest, what can be done."""
    state, others = _state()
    ways = [way_out, "wait for the others" if others else "", "CUDA_VISIBLE_DEVICES=N takes another GPU", WITHOUT]
    return LabError(f"out of GPU memory while {doing}{state}: {', '.join(filter(None, ways))}")


def _state() -> tuple[str, str]:
    """How full this process's GPU is, in brackets, and the other processes on it; as far as the driver tells."""
    free = others = ""
    with suppress(Exception):  # without room for torch itself, it cannot tell
        left, whole = torch.cuda.mem_get_info(card())
        free = f"{left / 1e9:.1f} of {whole / 1e9:.1f} GB are free"
    with suppress(Exception):  # of pynvml, or a driver that does not say who
        library, handle = nvml(card())
        found = library.nvmlDeviceGetMemoryInfo(handle)
        free = free or f"{found.free / 1e9:.1f} of {found.total / 1e9:.1f} GB are free"
        others = ", ".join(
            f"process {one.pid} holds {one.usedGpuMemory / 1e9:.1f} GB" if one.usedGpuMemory else f"process {one.pid}"
            for one in library.nvmlDeviceGetComputeRunningProcesses(handle)
            if one.pid != os.getpid()
        )
    return f" ({'; '.join(filter(None, [free, others]))})" if free or others else "", others


@contextmanager
def explained(doing: str):
    """Turn what a GPU refuses while `doing` something into a LabError with the ways out."""
    try:
        yield
    except RuntimeError as error:
        if full(error):
            raise no_room(doing) from error
        if "busy or unavailable" in str(error):
            raise LabError(
                f"another process has the GPU to itself{_state()[0]}: wait for it, CUDA_VISIBLE_DEVICES=N takes "
                f"another, {WITHOUT}"
            ) from error
        if "no kernel image" in str(error):
            raise LabError(
                f"torch {torch.__version__} knows no GPU of this age or kind: take one that does ({INSTALL}), {WITHOUT}"
            ) from error
        raise
