"""A feature set: a folder of Parquet shards and a manifest, written so that a half-written one does not exist.

    plan.json                       what the set is to hold, written first
    train-00000-of-00002.parquet …  CLIPS_PER_SHARD clips each; `datasets.load_dataset("parquet", …)` reads them too
    rejected.tsv                    the clips left out, and why
    manifest.json                   what the set holds, with checksums; written last: without it, there is no set

The shard is the unit of everything: of work, of resuming, of checking. What is in it follows from the settings alone,
and its footer carries their digest and the clips that it left out, so a killed run goes on from the shards it finds.
"""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet

from . import LabError, engine, files
from .features import FRAMES, Rejected

SCHEMA_VERSION = 1
CLIPS_PER_SHARD = 128  # 9 MB at 4 s a clip; 98 MB if each lasts 30 s with 128 mels
KEY = b"whisper_lab"
COLUMNS = pyarrow.schema([
    ("id", pyarrow.string()),
    ("sentence", pyarrow.string()),
    ("client_id", pyarrow.string()),
    ("age", pyarrow.string()),
    ("gender", pyarrow.string()),
    ("accents", pyarrow.string()),
    ("seconds", pyarrow.float64()),
    ("frames", pyarrow.int32()),
    ("labels", pyarrow.list_(pyarrow.int32())),
    ("features", pyarrow.binary()),
])  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One shard to write: its place, the clips to go in, the digest of the settings it is made with."""

    path: Path
    clips: list[dict]
    settings: str


@dataclass(frozen=True)
class WriteShard:
    """`extract` over the clips of a job, into the shard's file. Clips that it rejects are noted in the footer."""

    extract: Callable[[dict], dict]

    def __call__(self, job: Job) -> int:
        """The number of clips that were read."""
        rows, rejected = [], []
        for clip in job.clips:
            try:
                rows.append(self.extract(clip))
            except Rejected as error:
                rejected.append([clip["id"], error.reason, error.detail])
        notes = {KEY: json.dumps({"settings": job.settings, "rejected": rejected}, ensure_ascii=False)}
        table = pyarrow.Table.from_pylist(rows, schema=COLUMNS.with_metadata(notes))
        with files.replacing(job.path) as beside:
            pyarrow.parquet.write_table(
                table,
                beside,
                compression="zstd",
                row_group_size=32,  # so that a reader in passing holds a few MB
                use_dictionary=["client_id", "age", "gender", "accents"],
                write_statistics=["seconds", "frames"],
            )
        return len(job.clips)


def _notes(path: Path) -> dict:
    """What a shard's footer says: {"settings": …, "rejected": […]}; empty if it is no shard of ours."""
    try:
        return json.loads((pyarrow.parquet.read_schema(path).metadata or {}).get(KEY, "{}"))
    except (pyarrow.ArrowInvalid, OSError):
        return {}


def build(
    folder: Path,
    settings: dict,
    splits: dict[str, list[dict]],
    extract: Callable[[dict], dict],
    processes: int,
    progress: Callable[[int], None] = lambda clips: None,
) -> dict:
    """Make the feature set `folder` of `splits`, or what is left to make of it; its manifest.

    The same settings and clips give the same bytes, however often the run was killed. Raises LabError where `folder`
    holds anything made with other settings, and where a split ends up without a clip.
    """
    plan = {"schema_version": SCHEMA_VERSION, **settings}
    files.claim(folder, plan, "--store")
    for stray in folder.glob(".partial-*"):  # what a killed run was writing
        stray.unlink()
    mark = files.digest(plan)
    jobs = {split: _jobs(folder, split, clips, mark) for split, clips in splits.items()}
    intact = _intact(folder, mark)
    todo = [job for shards in jobs.values() for job in shards if not intact(job.path)]
    if todo:  # what is there is no set until the missing shards are, and a damaged one must not outlive its checksum
        for job in todo:
            job.path.unlink(missing_ok=True)
        (folder / "manifest.json").unlink(missing_ok=True)
    progress(sum(map(len, splits.values())) - sum(len(job.clips) for job in todo))
    for clips in engine.run(WriteShard(extract), todo, processes):
        progress(clips)
    return _publish(folder, plan, jobs)


def _jobs(folder: Path, split: str, clips: list[dict], mark: str) -> list[Job]:
    parts = [clips[i : i + CLIPS_PER_SHARD] for i in range(0, len(clips), CLIPS_PER_SHARD)]
    return [Job(folder / f"{split}-{i:05d}-of-{len(parts):05d}.parquet", part, mark) for i, part in enumerate(parts)]


def _intact(folder: Path, mark: str) -> Callable[[Path], bool]:
    """Whether a shard is as it should be: made with these settings and, if the set was complete, unchanged since."""
    place = folder / "manifest.json"
    listed = files.read_json(place)["splits"] if place.is_file() else {}
    known = {shard["file"]: shard["sha256"] for split in listed.values() for shard in split["shards"]}
    return lambda path: _notes(path).get("settings") == mark and known.get(path.name) in (None, files.file_digest(path))


def _publish(folder: Path, plan: dict, jobs: dict[str, list[Job]]) -> dict:
    """Read what the shards say of themselves, and write rejected.tsv and, last, manifest.json."""
    splits, rejected = {}, []
    for split, shards in jobs.items():
        entries, reasons = [], Counter()
        for job in shards:
            seconds = pyarrow.parquet.read_table(job.path, columns=["seconds"])["seconds"].to_pylist()
            for clip, reason, detail in _notes(job.path)["rejected"]:
                reasons[reason] += 1
                rejected.append((split, clip, reason, detail))
            entries.append({
                "file": job.path.name,
                "rows": len(seconds),
                "seconds": round(sum(seconds), 3),
                "bytes": job.path.stat().st_size,
                "sha256": files.file_digest(job.path),
            })  # fmt: skip
        total = {key: sum(entry[key] for entry in entries) for key in ("rows", "seconds", "bytes")}
        splits[split] = total | {"rejected": dict(sorted(reasons.items())), "shards": entries}
    files.write_tsv(folder / "rejected.tsv", ["split", "clip", "reason", "detail"], rejected)
    empty = [split for split, entry in splits.items() if not entry["rows"]]
    if empty:
        raise LabError(f"no clip of {empty[0]} could be used; {folder / 'rejected.tsv'} says why")
    manifest = {**plan, "splits": splits}
    files.write_json(folder / "manifest.json", manifest)
    return manifest


class FeatureSet:
    """A complete feature set on this disk. Its shards are checked when it is opened."""

    def __init__(self, folder: str | Path):
        """Raises LabError for a folder that is no complete set, and for one with a shard missing or damaged."""
        self.folder = Path(folder)
        place = self.folder / "manifest.json"
        if not place.is_file():
            what = "an unfinished feature set" if (self.folder / "plan.json").is_file() else "no feature set"
            raise LabError(
                f"{self.folder} holds {what}: there is no manifest.json; run feature-pipeline.py --store {folder}"
            )
        self.manifest = files.read_json(place)
        if self.manifest["schema_version"] != SCHEMA_VERSION:
            raise LabError(
                f"{self.folder} has schema version {self.manifest['schema_version']}, this program reads "
                f"{SCHEMA_VERSION}; make it again"
            )
        self.fingerprint = files.file_digest(place)
        for split in self.manifest["splits"].values():
            for shard in split["shards"]:
                path = self.folder / shard["file"]
                if not path.is_file() or files.file_digest(path) != shard["sha256"]:
                    state = "damaged" if path.is_file() else "missing"
                    raise LabError(
                        f"shard {path} is {state}; run feature-pipeline.py again as before, it makes that shard anew"
                    )

    @property
    def mels(self) -> int:
        return self.manifest["front_end"]["mels"]

    @property
    def splits(self) -> list[str]:
        return list(self.manifest["splits"])

    def split(self, name: str) -> "Split":
        if name not in self.splits:
            raise LabError(
                f"{self.folder} has no split {name!r} (it has: {', '.join(self.splits)}); "
                "choose --splits in feature-pipeline.py"
            )
        return Split(self, name)


class Split:
    """The clips of one split, memory-mapped: a row is read when asked for. len(), [i], and whole columns by name."""

    def __init__(self, features: FeatureSet, name: str):
        import datasets

        shards = [str(features.folder / shard["file"]) for shard in features.manifest["splits"][name]["shards"]]
        self.name, self.mels = name, features.mels
        cache = files.cache_folder() / "features" / features.fingerprint[:16]  # an Arrow copy, to map into memory
        self.rows = datasets.Dataset.from_parquet(shards, split=name, cache_dir=str(cache))

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, name: str) -> list:
        return self.rows[name][:]

    def __getitem__(self, index: int) -> dict:
        """The row, with `features` as (mels, frames) float16."""
        row = self.rows[int(index)]
        log_mel = np.frombuffer(row["features"], "<f2").reshape(self.mels, row["frames"])
        assert log_mel.shape[1] <= FRAMES, row["id"]
        return row | {"features": log_mel}
