"""One callable over many jobs, on this machine's processes."""

import concurrent.futures
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator

from . import LabError


def workers(wanted: int | None = None) -> int:
    """Processes to use: `wanted`, or one for each core that this process may run on."""
    return wanted or len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1))


def run(task: Callable, jobs: Iterable, processes: int) -> Iterator:
    """`task(job)` for every job, as they are done. `task` has to pickle; each process uses one library thread.

    One process stays in this one, where a debugger sees it. A worker that dies (out of memory, say) ends the run.
    """
    jobs = list(jobs)
    if processes == 1 or len(jobs) < 2:
        yield from map(task, jobs)
        return
    # A fork server, because forking this process would copy the locks of its library threads, held or not.
    context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
    if os.name == "posix":
        context.set_forkserver_preload([type(task).__module__])
    with concurrent.futures.ProcessPoolExecutor(min(processes, len(jobs)), context, _one_thread) as pool:
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


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)
