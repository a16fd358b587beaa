"""Whether matrices are multiplied in float32 or in bf16, half as many bits, which some processors do twice as fast.

Only some: without instructions for it, bf16 is slower than float32. So `auto` goes by what the processor has, and where
that does not tell, by a short trial. Weights stay in float32, and so do sums, by torch's autocast. Logits are rounded
too: in float32 they brought scores no nearer to float32's, as the decoder's states are rounded before.
"""

import platform
import re
import sys
import time
from pathlib import Path

from .. import LabError, files

NAMES = ("auto", "float32", "bf16")  # what is asked for; "float16" is auto's alone, for a GPU without bf16
HELP = "auto (default), bf16 where the processor or the GPU is faster with it; float32; bf16"
UNCLEAR = ("avx512_bf16", "bf16", "sve_bf16")  # instructions, of x86 and ARM, that may be faster or not
CLEARLY = 1.2  # times as fast in the trial; below that, the rest of a step eats up the gain


def choose(asked: str, device: str) -> str:
    """What `asked`, one of `NAMES` or "float16", comes to on `device` ("cpu", "cuda", …): float32, bf16 or float16.

    Raises LabError where the device has it not.
    """
    if asked != "auto":
        if not possible(asked, device):
            raise LabError(f"--precision {asked}: {processor(device)} has no {asked}; leave out --precision")
        return asked
    if device == "cuda":
        return "bf16" if possible("bf16", device) else "float16"
    return "bf16" if device == "cpu" and _faster() else "float32"


def of_old(device: str) -> str:
    """Of what was begun before a precision was chosen: bf16, or float16, on GPUs alone."""
    return choose("auto", device) if device == "cuda" else "float32"


def possible(precision: str, device: str) -> bool:
    """Whether `device` computes in it: a CPU does in bf16, at whatever pace, and does not train in float16."""
    import torch

    if precision == "bf16" and device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return precision != "float16" or device == "cuda"


def gone_on_with(precision: str, asked: str, where: str | None, device: str) -> str:
    """A line for who goes on with what was begun in `precision` on the processor `where` (None: not written down); ""
    where it would be begun so here. Raises LabError where the device cannot."""
    here = processor(device)
    if not possible(precision, device):
        raise LabError(
            f"begun in {precision} on {where or 'another machine'}, and {here} has no {precision}; go on there, or "
            "begin anew in another --output"
        )
    moved = where not in (None, here)
    better = choose("auto", device) if asked == "auto" else precision
    if not moved and better == precision:
        return ""
    begun, faster = f" on {where}" * moved, f", where {better} would be faster" * (better != precision)
    differ = "; the losses may differ in the last digits" * moved
    return f"Begun in {precision}{begun}; goes on in {precision} here, on {here}{faster}{differ}."


def autocast(device: str, precision: str):
    """torch's, for what is computed on `device` in a block: in "bf16" or "float16", or not at all."""
    import torch

    dtype = {"bf16": torch.bfloat16, "float16": torch.float16}.get(precision)
    return torch.autocast(device, dtype, enabled=dtype is not None)


def processor(device: str = "cpu") -> str:
    """The name of the processor, or of the GPU where `device` is "cuda"."""
    if device == "cuda":
        import torch

        return torch.cuda.get_device_name()
    place = Path("/proc/cpuinfo")
    text = place.read_text(encoding="utf-8", errors="replace") if place.is_file() else ""
    named = dict(re.findall(r"^(model name|CPU part)\s*:\s*(.+)$", text, re.MULTILINE))
    return named.get("model name") or f"{platform.machine()} {named.get('CPU part', '')}".strip()  # ARM: by number


def _faster() -> bool:
    import torch

    has = torch.cpu.get_capabilities()
    if has.get("amx_bf16") or not any(map(has.get, UNCLEAR)):
        return bool(has.get("amx_bf16"))
    place, name = files.cache_folder() / "precision.json", processor()
    known = files.read_json(place) if place.is_file() else {}
    key = f"{name}, torch {torch.__version__}"
    if key not in known:
        known[key] = round(_trial(), 2)
        place.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(place, known)
        said = f"A short trial, once: {name} is {known[key]:.1f} times as fast in bf16 as in float32"
        print(f"{said}; {'bf16' if known[key] >= CLEARLY else 'float32'} is taken.", file=sys.stderr, flush=True)
    return known[key] >= CLEARLY


def _trial() -> float:
    """How many times as fast bf16 is: 3 s of two clips through a layer of Whisper base's encoder, and back.

    In one thread, by its own time on the processor, so that it is short and says the same while others work here.
    """
    import torch

    with torch.random.fork_rng(devices=[]):  # a run draws the same afterwards, whether there was a trial or not
        layer = torch.nn.TransformerEncoderLayer(512, 8, 2048, 0.0, "gelu", batch_first=True, norm_first=True)
        sound = torch.randn(2, 150, 512)
    threads, best = torch.get_num_threads(), {"float32": float("inf"), "bf16": float("inf")}
    torch.set_num_threads(1)
    start = time.thread_time()
    for _ in range(4):  # in the first, kernels are planned
        for name in best:
            began = time.thread_time()
            with autocast("cpu", name):
                loss = layer(sound).sum()
            loss.backward()
            best[name] = min(best[name], time.thread_time() - began)
        if time.thread_time() - start > 1:  # a slow processor, or one that is very slow in bf16
            break
    torch.set_num_threads(threads)
    return best["float32"] / best["bf16"]
