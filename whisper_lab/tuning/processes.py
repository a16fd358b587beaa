"""One process among those that `torchrun` or `accelerate launch` started; alone, without either."""

import os
from collections.abc import Callable
from datetime import timedelta

from .. import LabError, cuda, faults
from ..scores.hypotheses import Hypotheses
from ..stores.reading import Part


def without_gpu() -> bool:
    """Whether there are several and no GPU. Unless told so, accelerate takes each of them for the only one."""
    return "LOCAL_RANK" in os.environ and not cuda.available()


def _state():
    from accelerate import PartialState

    return PartialState(cpu=without_gpu())


def first() -> bool:
    """Whether this process is the one that writes and speaks for all."""
    return _state().is_main_process


def count() -> int:
    return _state().num_processes


def device() -> str:
    """What is trained on: "cuda", "cpu" or another's name."""
    return _state().device.type


def of_the_first(decide: Callable):
    """`decide()`, in the first process alone, for all: machines that differ would decide otherwise."""
    state = _state()
    decided = [decide() if state.is_main_process else None]
    if state.num_processes > 1:
        import torch.distributed

        _wait(lambda: torch.distributed.broadcast_object_list(decided))
    return decided[0]


def together() -> None:
    """Wait until every process is here."""
    _wait(_state().wait_for_everyone)


def _wait(barrier: Callable) -> None:
    try:
        barrier()
    except RuntimeError as error:
        raise LabError(f"another process ended before ({faults.in_a_line(error)}); see what it said") from error


def in_turn(act: Callable):
    """`act()`, in one process of each machine first; then in the others, which find here what that one fetched."""
    state = _state()
    if state.num_processes == 1:
        return act()
    import torch.distributed

    # Of its own, as the usual one, of the GPUs, loses patience after 10 minutes.
    group = torch.distributed.new_group(backend="gloo", timeout=timedelta(days=7))
    if not state.is_local_main_process:
        _wait(lambda: torch.distributed.barrier(group))
    done = act()
    if state.is_local_main_process:
        _wait(lambda: torch.distributed.barrier(group))
    torch.distributed.destroy_process_group(group)
    return done


def stopped(progress: str, command: str) -> int:
    """Say how far a run or a study has come and the `command` that goes on; Ctrl-C's exit status, for the shell."""
    if first():
        print(f"Stopped; {progress}. To go on: {command}")
    return 130


def share(split, read: Callable[[object], Hypotheses]) -> Hypotheses:
    """`read(split)`; with several processes each reads its part of the clips, and all are given the whole."""
    state = _state()
    if state.num_processes == 1:
        return read(split)
    import torch.distributed

    parts: list[Hypotheses | None] = [None] * state.num_processes
    mine = Part(split, slice(state.process_index, None, state.num_processes))
    heard = read(mine) if len(mine) else Hypotheses([], [], [], 0.0)
    torch.distributed.all_gather_object(parts, heard)
    ids, references, texts = [], [], []
    for i in range(len(split)):
        part, place = parts[i % len(parts)], i // len(parts)
        ids.append(part.ids[place])
        references.append(part.references[place])
        texts.append(part.texts[place])
    tokens = sum(part.tokens for part in parts)
    return Hypotheses(ids, references, texts, sum(part.loss * part.tokens for part in parts) / max(tokens, 1), tokens)
