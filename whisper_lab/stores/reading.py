"""The clips of a split, memory-mapped: what a step of training waits for costs no decoding."""

import bisect
import itertools
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.ipc
import pyarrow.parquet

from .. import LabError, files
from ..speech.features import FRAMES


class Split:
    """The clips of one split, memory-mapped: a row is read when asked for. len(), [i], and whole columns by name."""

    def __init__(self, folder: Path, manifest: dict, name: str, cache: Path):
        """Of the feature set in `folder`. `cache` is where the shards are put as they are mapped."""
        self.shards, self.mels = manifest["splits"][name]["shards"], manifest["front_end"]["mels"]
        self._folder, self._cache = folder, cache
        self._ends = list(itertools.accumulate(shard["rows"] for shard in self.shards))
        self._mapped: dict[int, pyarrow.RecordBatch] = {}

    def __getstate__(self) -> dict:
        return vars(self) | {"_mapped": {}}  # another process maps the same files

    def __len__(self) -> int:
        return self._ends[-1]

    def column(self, name: str) -> list:
        """A column of the shards, or `tokens`, the number of each clip's labels."""
        if name == "tokens":
            return [len(labels) for labels in self.column("labels")]
        filled = [number for number, shard in enumerate(self.shards) if shard["rows"]]
        return [value for number in filled for value in self._shard(number).column(name).to_pylist()]

    def __getitem__(self, index: int) -> dict:
        """The row, with `features` as (mels, frames) float16, read-only."""
        index = range(len(self))[index]
        number = bisect.bisect_right(self._ends, index)
        shard, row = self._shard(number), index - self._ends[number] + self.shards[number]["rows"]
        cells = {name: column[row] for name, column in zip(shard.schema.names, shard.columns)}
        log_mel = np.frombuffer(cells.pop("features").as_buffer(), "<f2").reshape(self.mels, -1)
        if log_mel.shape[1] > FRAMES:
            raise LabError(
                f"{cells['id']} has {log_mel.shape[1]} frames, and Whisper takes {FRAMES}; make the features again"
            )
        return {name: cell.as_py() for name, cell in cells.items()} | {"features": log_mel}

    def _shard(self, number: int) -> pyarrow.RecordBatch:
        if number not in self._mapped:
            shard = self._folder / self.shards[number]["file"]
            place = self._cache / f"{shard.stem}.arrow"
            if not place.is_file():
                self._cache.mkdir(parents=True, exist_ok=True)
                with files.replacing(place) as beside:
                    write_arrow(shard, beside)
            self._mapped[number] = map_arrow(place)
        return self._mapped[number]


class Part:
    """Some clips of a split, as a split: those at `places`, as range(len(split))[start:stop:step] names them."""

    def __init__(self, split, places: slice):
        self._split, self._slice = split, places
        self._places = range(len(split))[places]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> dict:
        return self._split[self._places[index]]

    def column(self, name: str) -> list:
        return self._split.column(name)[self._slice]


def write_arrow(shard: Path, place: Path) -> None:
    """A copy of a shard that has rows, uncompressed and in one piece, to be mapped into memory."""
    with pyarrow.parquet.ParquetFile(shard) as file:
        table = file.read().combine_chunks()
    with pyarrow.ipc.new_file(str(place), table.schema) as copy:
        copy.write_table(table)


def map_arrow(place: Path) -> pyarrow.RecordBatch:
    with pyarrow.memory_map(str(place)) as file:  # the batch holds the memory, no open file for each shard
        return pyarrow.ipc.open_file(file).get_batch(0)
