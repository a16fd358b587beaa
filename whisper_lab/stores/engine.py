"""One callable over many jobs, on this machine's processes; `cluster.Ray` does the same on many machines."""

import concurrent.futures
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver

from .. import LabError


def workers(wanted: int | None = None) -> int:
    """Processes to use: `wanted`, or one for each core that this process may run on."""
    return wanted or len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1))


def begin() -> None:
    """Start the process that `Local` forks its workers from: a second of imports, while there is other work to do."""
    if os.name == "posix":
        # The libraries too: it looks for whisper_lab in the current folder only.
        forkserver.set_forkserver_preload(["torch", "pyarrow.parquet", "soundfile", "soxr", "whisper_lab.stores.store"])
        forkserver.ensure_running()


@dataclass(frozen=True)
class Local:
    """`processes` of this machine (one for each core if none is given), each with one library thread."""

    processes: int | None = None

    def run(self, task: Callable, jobs: Iterable) -> Iterator:
        """`task(job)` for every job, as they are done. `task` has to pickle.

        One process stays in this one, where a debugger sees it. A worker that dies (out of memory, say) ends the run.
        """
        jobs, processes = list(jobs), workers(self.processes)
        if processes == 1 or len(jobs) < 2:
            with _one_thread_for_now():
                yield from map(task, jobs)
            return
        # A fork server, because forking this process would copy the locks of its library threads, held or not.
        begin()
        context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
        with concurrent.futures.ProcessPoolExecutor(min(processes, len(jobs)), context, one_thread) as pool:
            futures = [pool.submit(task, job) for job in jobs]
            try:
                for future in concurrent.futures.as_completed(futures):
                    yield future.result()
            except concurrent.futures.process.BrokenProcessPool as error:
                raise LabError(
                    "a worker process was killed, most often for want of memory; what is finished is kept: "
                    "run again to go on, with fewer --workers"
                ) from error
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def one_thread() -> None:
    """This process's libraries use one thread from now on: there are as many processes as cores."""
    import torch

    torch.set_num_threads(1)


@contextmanager
def _one_thread_for_now():
    import torch

    before = torch.get_num_threads()
    one_thread()
    try:
        yield
    finally:
        torch.set_num_threads(before)
