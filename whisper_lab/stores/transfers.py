"""Requests that are made again where that may help, and several files at a time."""

import concurrent.futures
import functools
import random
import threading
from collections.abc import Callable

from .. import LabError, faults

TRANSFERS = 4  # at a time
PAUSES = (0.5, 1, 2, 4, 8, 16)  # seconds between two tries of what may pass


class Stopped(Exception):
    """Another transfer failed."""


def in_parallel(url: str, move: Callable, names: list[str], tell: Callable[[int], None]) -> None:
    """`move(name, count)` for every name, TRANSFERS at a time; the first that fails stops the others.

    `tell` hears what the moves count, one call at a time, and less than 0 for what is to be moved again.
    """
    stop, lock = threading.Event(), threading.Lock()

    def transfer(name: str) -> None:
        try:
            ask(url, functools.partial(attempt, name), stop)
        except BaseException:
            stop.set()
            raise

    def attempt(name: str) -> None:
        moved = 0

        def count(more: int) -> None:
            nonlocal moved
            if stop.is_set():
                raise Stopped
            moved += more
            with lock:
                tell(more)

        try:
            move(name, count)
        except BaseException:
            with lock:
                tell(-moved)
            raise

    with concurrent.futures.ThreadPoolExecutor(TRANSFERS) as pool:
        futures = [pool.submit(transfer, name) for name in names]
        try:
            for future in concurrent.futures.as_completed(futures):
                if not isinstance(future.exception(), Stopped):  # the one that failed is still to come
                    future.result()
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def ask(url: str, act: Callable, stop: threading.Event | None = None):
    """`act()`, again where it may help. Raises LabError once that did not, and at once where it cannot."""
    stop = stop or threading.Event()
    for pause in (*PAUSES, None):
        if stop.is_set():
            raise Stopped
        try:
            return act()
        except (LabError, FileNotFoundError):
            raise
        except Exception as error:
            again = faults.may_pass(error)
            if not again and faults.status(error) is None:
                raise
            if not again or pause is None:
                raise LabError(
                    f"{url}: {faults.in_a_line(error)}; what is finished is kept, run the same command again to go on"
                ) from error
        stop.wait(pause * random.uniform(1, 1.5))  # apart from each other
