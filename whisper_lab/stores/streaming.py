"""A split read from where it is published while it trains: a few shards are on this disk, never all.

The batches say some time ahead which clips they will want, threads fetch the shards of those, and what no batch to come
wants makes room. Batches are drawn from a few shards at a time (`batches.GROUP`), so a pass fetches every shard once.
"""

import atexit
import itertools
import shutil
import tempfile
import threading
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow
from filelock import FileLock, Timeout

from .. import LabError, files
from ..whisper.batches import GROUP, Example, Parts, WindowBatches
from . import publishing, reading, transfers
from .places import Place, is_url, open_place
from .store import FeatureSet

KEPT = 2 * GROUP + 4  # shards on this disk: those that batches are drawn from now, and those after them


def open_features(source: str, stream: bool = False) -> FeatureSet:
    """The feature set that `--features source` names, a folder or a URL: whole, or with `stream` all but train.

    Raises LabError where there is none, or what came of it is damaged.
    """
    folder = Path(source)
    if is_url(source):
        source = publishing.listing(source)["url"]  # of one version, whatever is published meanwhile
        with publishing.shown("Fetching") as progress:
            folder = publishing.fetch(source, progress, lambda name: not (stream and name.startswith("train-")))
    return StreamedSet(folder, open_place(source)) if stream else FeatureSet(folder)


class StreamedSet(FeatureSet):
    """A feature set of which `folder` holds all but the shards of train; those stay at `place`."""

    def __init__(self, folder: Path, place: Place):
        super().__init__(folder, elsewhere=("train",))
        self.place = place

    def split(self, name: str) -> reading.Split:
        return Streamed(self, name, self.place) if name == "train" else super().split(name)


class Streamed(reading.Split):
    """Rows as `reading.Split` has them, with at most `kept` shards on this disk; for one thread to read from.

    Shards are mapped into memory from a folder of this object's own. It is made when the first row is asked for, and
    removed by close() and at exit; what a killed process left there is removed by the next.
    """

    def __init__(self, features: FeatureSet, name: str, place: Place, kept: int = KEPT):
        super().__init__(features.folder, features.manifest, name, files.cache_folder() / "streams")
        self._clips, self._place, self._kept = features.clips(name), place, kept
        self._threads: list[threading.Thread] = []
        self._closed = threading.Event()
        self._changed = threading.Condition()  # of what follows, and of self._mapped
        self._coming: Counter[int] = Counter()  # shard → batches to come that want it, in order of the first of them
        self._awaited: int | None = None
        self._fetching: set[int] = set()
        self._failed: dict[int, Exception] = {}

    def column(self, name: str) -> list:
        """Of those in clips.parquet: all but `labels` and `features`."""
        return self._clips[name].to_pylist()

    @property
    def shard_of_clip(self) -> np.ndarray:
        return np.repeat(np.arange(len(self.shards)), [shard["rows"] for shard in self.shards])

    def expect(self, shards: set[int]) -> None:
        """A batch to come wants these."""
        with self._changed:
            self._coming.update(shards)
            self._changed.notify_all()

    def expect_no_more(self, shards: set[int]) -> None:
        """That batch was read, or will not be."""
        with self._changed:
            self._coming.subtract(shards)
            self._coming = +self._coming
            self._changed.notify_all()

    def close(self) -> None:
        """Remove what is on this disk; no row can be read any more."""
        with self._changed:
            self._closed.set()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(5)  # a transfer that takes longer finds no folder to write to
        self._mapped.clear()
        if self._threads:
            self._lock.release()
            shutil.rmtree(self._scratch, ignore_errors=True)
        atexit.unregister(self.close)

    def _shard(self, number: int) -> pyarrow.RecordBatch:
        if self._closed.is_set():
            raise ValueError(f"the stream of {self._place.url} is closed")
        if not self._threads:
            self._begin()
        with self._changed:
            if number not in self._mapped:
                self._failed.pop(number, None)  # ahead of time; now it may come
                self._awaited = number
                self._changed.notify_all()
                self._changed.wait_for(lambda: number in self._mapped or number in self._failed)
                self._awaited = None
            if number in self._failed:
                raise self._failed[number]
            self._mapped[number] = self._mapped.pop(number)  # the one used last comes last
            return self._mapped[number]

    def _begin(self) -> None:
        self._scratch, self._lock = scratch(self._cache)
        atexit.register(self.close)
        self._threads = [threading.Thread(target=self._fetch_all, daemon=True) for _ in range(transfers.TRANSFERS)]
        for thread in self._threads:
            thread.start()

    def _fetch_all(self) -> None:
        while True:
            with self._changed:
                if self._closed.is_set():
                    return
                number = self._next()
                if number is None:
                    self._changed.wait()
                    continue
                self._fetching.add(number)
            try:
                outcome, value = self._mapped, self._fetch(self.shards[number])
            except Exception as error:  # raised where a row of the shard is asked for
                outcome, value = self._failed, error
            with self._changed:
                self._fetching.discard(number)
                outcome[number] = value
                self._changed.notify_all()

    def _next(self) -> int | None:
        """The shard to fetch now, once there is room for it."""
        wanted = [*([] if self._awaited is None else [self._awaited]), *self._coming]
        here = self._mapped.keys() | self._fetching | self._failed.keys()
        number = next((one for one in wanted if one not in here), None)
        if number is None or len(self._mapped) + len(self._fetching) < self._kept:
            return number
        spare = [one for one in self._mapped if one not in wanted]
        if number == self._awaited:
            spare += [one for one in reversed(wanted) if one in self._mapped]
        if not spare:
            return None
        del self._mapped[spare[0]]
        self._arrow(self.shards[spare[0]]).unlink(missing_ok=True)
        return number

    def _arrow(self, shard: dict) -> Path:
        return (self._scratch / shard["file"]).with_suffix(".arrow")

    def _fetch(self, shard: dict) -> pyarrow.RecordBatch:
        file = self._scratch / shard["file"]
        try:
            transfers.ask(self._place.url, lambda: self._get(shard, file), self._closed)
            reading.write_arrow(file, self._arrow(shard))
        finally:
            file.unlink(missing_ok=True)
        return reading.map_arrow(self._arrow(shard))

    def _get(self, shard: dict, file: Path) -> None:
        where = f"{self._place.url}/{shard['file']}"
        try:
            self._place.get(shard["file"], file)
        except FileNotFoundError as error:
            raise LabError(f"{where} is gone; publish the feature set again, as before") from error
        if file.stat().st_size != shard["bytes"]:
            raise ConnectionError(f"{where} came cut short")
        if files.file_digest(file) != shard["sha256"]:
            raise LabError(
                f"{where} is damaged (its checksum differs); delete it there, then publish the set again, as before"
            )


def scratch(parent: Path) -> tuple[Path, FileLock]:
    """A new folder in `parent`, and the lock that says its process lives. Folders of processes that do not, go."""
    parent.mkdir(parents=True, exist_ok=True)
    with FileLock(parent / ".lock"):
        for left in parent.glob("*/.lock"):
            try:
                with FileLock(left, timeout=0):
                    shutil.rmtree(left.parent, ignore_errors=True)
            except Timeout:
                pass
        folder = Path(tempfile.mkdtemp(dir=parent))
        lock = FileLock(folder / ".lock", thread_local=False)
        lock.acquire()
    return folder, lock


@dataclass(frozen=True)
class Ahead:
    """`batches` as they are; `split` is told of each as early as batches from the next shards can come.

    Nothing is fetched before the first row is asked for, so batches that are skipped on resuming cost nothing.
    """

    batches: WindowBatches | Parts
    split: Streamed

    @property
    def batch_size(self) -> int:
        return self.batches.batch_size

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Example]]:
        shard_of_clip = self.split.shard_of_clip.tolist()
        ahead = GROUP * len(self.split) // len(self.split.shards) // self.batch_size + 1
        coming: deque[tuple[list, set[int]]] = deque()
        try:
            for batch in itertools.chain(self.batches, [None] * ahead):
                if batch:
                    shards = {shard_of_clip[clip] for example in batch for clip in example.read}
                    coming.append((batch, shards))
                    self.split.expect(shards)
                if coming and (len(coming) > ahead or not batch):
                    yield coming[0][0]
                    self.split.expect_no_more(coming.popleft()[1])
        finally:
            for _, shards in coming:
                self.split.expect_no_more(shards)
