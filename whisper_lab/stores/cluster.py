"""One callable over many jobs on Ray Data: on the machines of a Ray cluster, or on a Ray started here for the run.

The jobs go out from here and the workers write each one's file themselves, so the folder of the features and that of
the clips have to be on a file system that every machine sees under the same path. Each worker makes sure of that, and
of its libraries' versions, before it touches a job: a clip that one machine cannot see would else pass for missing.

A worker or a machine that is lost takes nothing along: Ray does its jobs anew. Only the machine that started the run
and the cluster's head are needed to the end; without them the run stops, and started again it goes on from the finished
files. The bytes are those of `engine.Local` as long as all processors are of one kind.
"""

import contextlib
import functools
import logging
import os
import pickle
import secrets
import socket
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .. import LabError, files
from . import engine

CONNECT_SECONDS = 10
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # of a gRPC client: RFC 9113, 3.4
VISIBLE_SECONDS = 90  # NFS clients believe for up to 60 s (acdirmax) that a file is not there


@dataclass(frozen=True)
class Ray:
    """The Ray cluster at `address` (host:port as `ray start` prints it), or one started here for the run.

    `workers` jobs at a time, each on one core with one library thread; None: as many as there are cores.
    """

    address: str | None = None
    workers: int | None = None

    def run(self, task: Callable, jobs: Iterable) -> Iterator:
        """`task(job)` for every job, as they are done. The task pickles, and writes job.path; all paths share a folder.

        An error of the task ends the run and is raised here as it is, with its traceback as a note. Raises LabError
        where Ray is missing, not reachable or out of order, and where a machine does not see what it has to.
        """
        jobs = list(jobs)
        if not jobs:
            return
        folder = jobs[0].path.parent
        with (
            _connected(self.address, self.workers) as ray,
            tempfile.NamedTemporaryFile(prefix=".partial-", dir=folder) as mark,
        ):
            work = functools.partial(_work, task, os.getcwd(), tuple(files.versions().items()))
            rows = [{"job": pickle.dumps(job), "seen": [os.path.abspath(mark.name), *_first_clip(job)]} for job in jobs]
            dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
                work, num_cpus=1, compute=ray.data.TaskPoolStrategy(self.workers)
            )
            try:
                for block in dataset.iter_batches(batch_size=None, prefetch_batches=0, batch_format="pyarrow"):
                    for outcome in block["outcome"].to_pylist():
                        result, error = pickle.loads(outcome)
                        if error is not None:
                            raise error
                        yield result
            except ray.data.exceptions.ExecutionTimeoutError as error:
                raise LabError(
                    f"Ray has finished nothing for {dataset.context.execution_no_progress_timeout_s:g} seconds: no "
                    "machine is left, or a clip kills each worker that reads it; run again to go on"
                ) from error
            except ray.exceptions.RayError as error:
                raise LabError(f"Ray gave up: {_line(error)}; what is finished is kept: run again to go on") from error
        _wait_for([job.path for job in jobs])
        for stray in folder.glob(".partial-*"):  # what a killed worker was writing
            stray.unlink(missing_ok=True)


def _first_clip(job) -> list[str]:
    """The path of the first clip of a job that is there; none for a job without clips."""
    paths = (clip["path"] for clip in getattr(job, "clips", []))
    return next(([path] for path in paths if os.path.exists(path)), [])


def _work(task: Callable, folder: str, versions: tuple, row: dict) -> dict:
    """A job on a worker: {"outcome": the pickled pair of its result and its error}, one of which is None."""
    try:
        with contextlib.suppress(OSError):  # relative paths are relative to the folder the run was started in
            os.chdir(folder)
        engine.one_thread()
        _same_versions(versions)
        for path in row["seen"]:
            if not os.path.exists(path):
                raise LabError(
                    f"{socket.gethostname()} does not see {path}; features and corpus have to be on a file system that "
                    "every machine of the cluster sees under the same path"
                )
        outcome = task(pickle.loads(row["job"])), None
    except Exception as error:
        if not isinstance(error, LabError):
            error.add_note(f"on {socket.gethostname()}:\n{traceback.format_exc()}")
        outcome = None, error
    return {"outcome": pickle.dumps(outcome)}


@functools.cache
def _same_versions(wanted: tuple) -> None:
    """Raise LabError for a machine whose libraries might compute other features."""
    here = files.versions()
    other = [f"{name} {here[name]} instead of {version}" for name, version in wanted if here[name] != version]
    if other:
        raise LabError(
            f"{socket.gethostname()} has {', '.join(other)}; install the same requirements.txt on every machine"
        )


@contextlib.contextmanager
def _connected(address: str | None, workers: int | None):
    """The module ray, connected; disconnected, and stopped if it was started here, when the block ends."""
    loud = bool(os.environ.get("WHISPER_LAB_VERBOSE"))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # or Ray warns that this will be so
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise LabError('--engine ray needs Ray: pip install "ray[data]==2.60.0"') from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = loud
    level = logging.INFO if loud else logging.CRITICAL
    logging.getLogger("ray.data").setLevel(level)
    ray._private.worker._worker_logs_enabled = loud  # pages on lost nodes come whatever log_to_driver says
    package = {"py_modules": [str(files.ROOT / "whisper_lab")]}  # it has no installer, so it travels to the workers
    with contextlib.ExitStack() as stack:
        options = stack.enter_context(_started_here(workers)) if address is None else _joined(address)
        stack.callback(ray.shutdown)
        try:
            ray.init(**options, runtime_env=package, logging_level=level, log_to_driver=loud)
        except Exception as error:
            raise LabError(_no_cluster(address, _line(error))) from error
        yield ray


@contextlib.contextmanager
def _started_here(workers: int | None) -> Iterator[dict]:
    """Options of ray.init for a Ray of our own, with a token and a folder that end with the run."""
    # Otherwise Ray leaves a token in ~/.ray, and each `ray start` on this machine would ask for it from then on.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    # Not $TMPDIR, which may be long: Ray's sockets lie in the folder, and a socket's path has 107 bytes at most.
    place = "/tmp" if os.name == "posix" else None
    with tempfile.TemporaryDirectory(prefix="ray-", dir=place, ignore_cleanup_errors=True) as folder:
        yield {
            "address": "local",
            "num_cpus": engine.workers(workers),
            "include_dashboard": False,
            "_temp_dir": folder,
        }


def _joined(address: str) -> dict:
    """Options of ray.init for a cluster that runs already."""
    host, _, port = address.rpartition(":")
    try:  # because ray.init tries for 13 minutes, whatever answers there
        with socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS) as line:
            line.sendall(HELLO)
            if line.recv(9)[3:4] != b"\x04":  # a gRPC server's first frame is its settings
                raise OSError("what answers there is not Ray")
    except (OSError, ValueError) as error:
        raise LabError(_no_cluster(address, str(error))) from error
    return {"address": address}


def _no_cluster(address: str | None, why: str) -> str:
    if address is None:
        return f"Ray does not start on this machine: {why}"
    return (
        f"no Ray cluster can be reached at {address} from this machine ({why}); on the first machine run "
        "`ray start --head`, on the others, this one among them, `ray start --address=HOST:6379`"
    )


def _line(error: Exception) -> str:
    """The last line of Ray's message: the others are tracebacks."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()


def _wait_for(paths: list[Path]) -> None:
    """Until this machine sees what the others have written."""
    late = time.monotonic() + VISIBLE_SECONDS
    for path in paths:
        while not path.exists():
            if time.monotonic() > late:
                raise LabError(f"a worker wrote {path}, but this machine does not see it; run again to go on")
            time.sleep(1)
