"""A feature set: a folder of Parquet shards and a manifest, written so that a half-written one does not exist.

    plan.json                       what the set is to hold, written first
    train-00000-of-00002.parquet …  CLIPS_PER_SHARD clips each; `datasets.load_dataset("parquet", …)` reads them too
    clips.parquet                   one row a clip and no features: who says what for how long, and in which shard
    rejected.tsv                    the clips, and the rows of tables, that are left out, and why
    survey.png                      for the eye, drawn by survey.py: no part of the set, and may be missing
    manifest.json                   what the set holds, with checksums; written last: without it, there is no set

The shard is the unit of everything: of work, of resuming, of checking. What is in it follows from the settings alone,
and its footer carries their digest and the clips that it left out, so a killed run goes on from the shards it finds.
"""

import json
import shlex
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import pyarrow
import pyarrow.compute
import pyarrow.parquet

from .. import LabError, files
from ..corpora.corpus import LeftOut
from ..speech.features import Rejected
from . import reading

SCHEMA_VERSION = 2
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
CLIPS = "clips.parquet"  # id, split, shard (file), row (in it), sentence, …, frames, and tokens: the number of labels


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
    runner,
    progress: Callable[[int], None] = lambda clips: None,
    left_out: Mapping[str, list[LeftOut]] = MappingProxyType({}),
) -> dict:
    """Make the feature set `folder` of `splits`, or what is left to make of it, by `runner`, an engine.Local or a
    cluster.Ray; its manifest. `left_out` are rows of the corpus that are no clips, as in corpus.Corpus: they are
    listed and counted with the clips that are left out.

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
    for clips in runner.run(WriteShard(extract), todo):
        progress(clips)
    return _publish(folder, plan, jobs, left_out)


def _jobs(folder: Path, split: str, clips: list[dict], mark: str) -> list[Job]:
    parts = [clips[i : i + CLIPS_PER_SHARD] for i in range(0, len(clips), CLIPS_PER_SHARD)]
    return [Job(folder / f"{split}-{i:05d}-of-{len(parts):05d}.parquet", part, mark) for i, part in enumerate(parts)]


def _intact(folder: Path, mark: str) -> Callable[[Path], bool]:
    """Whether a shard is as it should be: made with these settings and, if the set was complete, unchanged since."""
    place = folder / "manifest.json"
    listed = files.read_json(place)["splits"] if place.is_file() else {}
    known = {shard["file"]: shard["sha256"] for split in listed.values() for shard in split["shards"]}
    return lambda path: _notes(path).get("settings") == mark and known.get(path.name) in (None, files.file_digest(path))


def _publish(folder: Path, plan: dict, jobs: dict[str, list[Job]], left_out: Mapping[str, list[LeftOut]]) -> dict:
    """Read what the shards say of themselves, and write rejected.tsv, clips.parquet and, last, manifest.json."""
    splits, tables = {}, []
    rejected = [(split, *row) for split, rows in left_out.items() for row in rows]
    for split, shards in jobs.items():
        entries, reasons = [], Counter(reason for _, reason, _ in left_out.get(split, ()))
        for job in shards:
            table = _clips(job.path, split)
            tables.append(table)
            for clip, reason, detail in _notes(job.path)["rejected"]:
                reasons[reason] += 1
                rejected.append((split, clip, reason, detail))
            seconds = round(sum(table["seconds"].to_pylist()), 3)
            entries.append(_listed(job.path, len(table)) | {"seconds": seconds})
        total = {key: sum(entry[key] for entry in entries) for key in ("rows", "seconds", "bytes")}
        splits[split] = total | {"rejected": dict(sorted(reasons.items())), "shards": entries}
    files.write_tsv(folder / "rejected.tsv", ["split", "clip", "reason", "detail"], rejected)
    empty = [split for split, entry in splits.items() if not entry["rows"]]
    if empty:
        raise LabError(f"no clip of {empty[0]} could be used; {folder / 'rejected.tsv'} says why")
    with files.replacing(folder / CLIPS) as beside:
        clips = pyarrow.concat_tables(tables, promote_options="default")  # a shard without rows has columns of nulls
        pyarrow.parquet.write_table(clips, beside, compression="zstd")
    manifest = {**plan, "splits": splits, "clips": _listed(folder / CLIPS, len(clips))}
    if rows := left_out.get(""):
        manifest["rejected"] = dict(sorted(Counter(reason for _, reason, _ in rows).items()))  # of no split
    files.write_json(folder / "manifest.json", manifest)
    return manifest


def _listed(path: Path, rows: int) -> dict:
    return {"file": path.name, "rows": rows, "bytes": path.stat().st_size, "sha256": files.file_digest(path)}


def _clips(shard: Path, split: str) -> pyarrow.Table:
    """The rows of clips.parquet that are about `shard`."""
    columns = [name for name in COLUMNS.names if name != "features"]
    kept = dict(zip(columns, pyarrow.parquet.read_table(shard, columns=columns).itercolumns(), strict=True))
    tokens = pyarrow.compute.list_value_length(kept.pop("labels"))
    count = len(tokens)
    place = {"split": [split] * count, "shard": [shard.name] * count, "row": pyarrow.array(range(count), "int32")}
    return pyarrow.table({"id": kept["id"], **place, **kept, "tokens": tokens})


class FeatureSet:
    """A complete feature set on this disk. Its shards are checked when it is opened."""

    def __init__(self, folder: str | Path, elsewhere: Collection[str] = ()):
        """Raises LabError for a folder that is no complete set, and for one with a shard missing or damaged.

        `elsewhere` names the splits whose shards need not be there.
        """
        self.folder = Path(folder)
        place = self.folder / "manifest.json"
        if not place.is_file():
            what = "an unfinished feature set" if (self.folder / "plan.json").is_file() else "no feature set"
            raise LabError(
                f"{self.folder} holds {what}: there is no manifest.json; run feature-pipeline.py --store "
                f"{shlex.quote(str(folder))}"
            )
        self.manifest = files.read_json(place)
        if self.manifest["schema_version"] != SCHEMA_VERSION:
            raise LabError(
                f"{self.folder} has schema version {self.manifest['schema_version']}, this program reads "
                f"{SCHEMA_VERSION}; make it again"
            )
        self.fingerprint = files.file_digest(place)
        here = [split for name, split in self.manifest["splits"].items() if name not in elsewhere]
        shards = [shard for split in here for shard in split["shards"]]
        for entry in [*shards, self.manifest["clips"]]:
            path = self.folder / entry["file"]
            if not path.is_file() or files.file_digest(path) != entry["sha256"]:
                state = "damaged" if path.is_file() else "missing"
                raise LabError(f"{path} is {state}; run feature-pipeline.py again as before, it makes that file anew")

    @property
    def mels(self) -> int:
        return self.manifest["front_end"]["mels"]

    @property
    def splits(self) -> list[str]:
        return list(self.manifest["splits"])

    def clips(self, split: str) -> pyarrow.Table:
        """The rows of clips.parquet of one split, in the split's order: `split` without features, labels or cost."""
        self._known(split)
        return pyarrow.parquet.read_table(self.folder / CLIPS, filters=[("split", "=", split)])

    def split(self, name: str) -> reading.Split:
        self._known(name)
        cache = files.cache_folder() / "features" / self.fingerprint[:16]
        return reading.Split(self.folder, self.manifest, name, cache)

    def _known(self, name: str) -> None:
        if name not in self.splits:
            raise LabError(
                f"{self.folder} has no split {name!r} (it has: {', '.join(self.splits)}); "
                "choose --splits in feature-pipeline.py"
            )
