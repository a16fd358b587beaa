"""Datasets of the Hugging Face Hub that hold sound and text, and local folders of the same Parquet files, or of what
`datasets` saved with save_to_disk.

`datasets` finds the files of each split; pyarrow reads them. `load_dataset` itself would copy the sound twice more,
read every split for the sake of one, and asks for torchcodec wherever the files are not Parquet.
"""

import json
import posixpath
import re
import sys
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from .. import LabError, files
from . import drawing, rows, tables, unpacking
from .corpus import Corpus

CONVERTED = "refs/convert/parquet"  # the Hub's own Parquet copy, of up to 5 GB a split
PAGE = "https://huggingface.co/datasets/"
FOUND = "origin.json"


@dataclass(frozen=True)
class Origin:
    """One configuration: Parquet files of each split, whose sound is written to `folder`; or, without, a folder of
    tables and sound as `tables` reads it."""

    name: str
    version: str
    folder: Path
    splits: dict[str, list[str]]
    licence: str | None = None


def read(
    source: str,
    language: str,
    splits: list[str] | None = None,
    limit: int | None = None,
    columns: dict[str, str] | None = None,
) -> Corpus:
    """The corpus `hub:NAME[:CONFIG][@REVISION]`, or that of a local folder with Parquet files, `limit` clips a split.

    The sound of the wanted splits is written once, as it is, into the cache folder; with a `limit`, no more than that.
    The version is the first 12 digits of the commit; as REVISION, they need no network for what is on disk.
    Raises LabError where the dataset, configuration, split or column is not there, or the Hub refuses it.
    """
    with _refusals(source):
        origin = _remote(source) if source.startswith("hub:") else _local(Path(source))
        if not origin.splits:
            corpus = tables.read(origin.folder, language, splits, limit, columns)
            return replace(corpus, name=origin.name, version=origin.version, licence=origin.licence)
        there = origin.splits
        absent = [split for split in splits or () if split not in there]
        if absent and not (list(there) == ["train"] and set(absent) <= {"dev", "test"}):  # they are drawn from train
            raise LabError(
                f"{source} has no split {absent[0]} (splits found: {', '.join(there)}); choose with --splits"
            )
        wanted = [split for split in splits or drawing.USUAL if split in there] or list(there)
        entries = {split: _entries(origin, split, limit, columns or {}) for split in wanted}
    clips, left_out = drawing.settle(*rows.clips(entries), splits, limit, source)
    return Corpus(origin.name, origin.version, language, clips, origin.licence, left_out)


def holds(folder: Path) -> bool:
    """Whether a local folder has Parquet files as `datasets` and the Hub lay them out, or what it saved."""
    return bool(unpacking.saved(folder)) or any(
        any(folder.glob(pattern)) for pattern in ("*.parquet", "*/*.parquet", "*/*/*.parquet")
    )


def _remote(source: str) -> Origin:
    parts = re.fullmatch(r"hub:([\w.-]+(?:/[\w.-]+)?)(?::([^:@]+))?(?:@(.+))?", source)
    if not parts:
        raise LabError(f"{source} is no name; write hub:NAME[:CONFIG][@REVISION], as in hub:google/fleurs:sv_se")
    name, config, revision = parts.groups()
    title = f"{name}:{config}" if config else name
    kept = _cache(f"{title}-{revision[:12]}") if re.fullmatch("[0-9a-f]{12,40}", revision or "") else None
    if kept and (kept / FOUND).is_file():
        return Origin(title, revision[:12], kept, **files.read_json(kept / FOUND))
    commit, paths, configs, licence = _commit(name, revision)
    if f"{name.rpartition('/')[2]}.py" in paths:
        return _converted(name, config, revision, "needs a script, which is not run here")
    options = _options(source, paths, configs, config)
    kind, splits = _data_files(name, commit, options)
    if kind == "parquet":
        origin = Origin(title, commit[:12], _cache(f"{title}-{commit[:12]}"), splits, licence)
        origin.folder.mkdir(parents=True, exist_ok=True)
        files.write_json(origin.folder / FOUND, {"splits": splits, "licence": licence})
        for split in (split for split, there in splits.items() if any("/partial-" in address for address in there)):
            print(f"{title}: the Hub's Parquet copy holds only the beginning of {split}", file=sys.stderr)
        return origin
    if any(PurePosixPath(path).suffix.lower() in tables.SOUND for path in paths):
        from huggingface_hub import snapshot_download

        inside = options.get("data_dir", "")
        if "name" in options:
            inside = posixpath.commonpath([at.partition(f"@{commit}/")[2] for there in splits.values() for at in there])
        wanted = [f"{inside}/*"] if inside else None
        folder = Path(snapshot_download(name, repo_type="dataset", revision=commit, allow_patterns=wanted)) / inside
        folder = folder / "data" if (folder / "data").is_dir() and not tables.holds(folder) else folder
        return Origin(title, commit[:12], folder, {}, licence)
    return _converted(name, config, revision, f"keeps its sound in {kind} files, which are not read here")


def _converted(name: str, config: str | None, revision: str | None, reason: str) -> Origin:
    from huggingface_hub.errors import RevisionNotFoundError

    instead = f"hub:{name}{':' + config if config else ''}@{CONVERTED}"
    if revision:
        raise LabError(f"{name}@{revision} {reason}; the Hub's Parquet copy may do: {instead}")
    print(f"{name} {reason}; reading the Hub's Parquet copy of it, @{CONVERTED}", file=sys.stderr)
    try:
        return _remote(instead)
    except RevisionNotFoundError as error:
        raise LabError(
            f"{name} {reason}, and the Hub keeps no Parquet copy of it; take another dataset, or a table of your own"
        ) from error


def _local(folder: Path) -> Origin:
    from huggingface_hub import DatasetCard

    if splits := unpacking.saved(folder):
        paths = [Path(address) for addresses in splits.values() for address in addresses]
        return Origin(folder.resolve().name, "", _cache_of(folder, paths), splits)
    paths = sorted(folder.rglob("*.parquet"))
    card = DatasetCard.load(folder / "README.md").data.to_dict() if (folder / "README.md").is_file() else {}
    options = _options(folder, [path.relative_to(folder).as_posix() for path in paths], card.get("configs") or [])
    _, splits = _data_files(str(folder), None, options)
    return Origin(folder.resolve().name, "", _cache_of(folder, paths), splits, stated_licence(card))


def _cache_of(folder: Path, paths: list[Path]) -> Path:
    """For what is in the files `paths` of a local folder, as they are now."""
    state = [[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in paths]
    return _cache(f"{folder.resolve().name}-{files.digest(state)[:12]}")


def _cache(name: str) -> Path:
    return files.cache_folder() / "corpora" / f"hub-{re.sub('[/:]', '--', name)}"


def _commit(name: str, revision: str | None) -> tuple[str, list[str], list[dict], str | None]:
    """The commit's sha, the paths in it, the configurations that its card lists, and the licence."""
    from huggingface_hub import HfApi

    info = HfApi().dataset_info(name, revision=revision)
    if info.gated:
        HfApi().auth_check(name, repo_type="dataset")  # anyone may list the files
    card = info.card_data.to_dict() if info.card_data else {}
    if revision == CONVERTED and (main := HfApi().dataset_info(name)).card_data:  # the copy has no card of its own
        card = {"license": main.card_data.license}
    return info.sha, [file.rfilename for file in info.siblings], card.get("configs") or [], stated_licence(card)


def stated_licence(card: dict) -> str | None:
    """The one that the head of a dataset's or model's card states; of several, each may hold for a part."""
    stated = card.get("license")
    stated = [stated] if isinstance(stated, str) else stated or []
    return stated[0] if len(stated) == 1 else None


def _options(source, paths: list[str], listed: list[dict], config: str | None = None) -> dict[str, str]:
    """What tells `datasets` the configuration: one that the card lists, or a folder, as in the Hub's Parquet copies."""
    names = [entry["config_name"] for entry in listed]
    parts = [path.split("/") for path in paths if path.endswith(".parquet")]
    folders = [] if names else sorted({part[0] for part in parts if len(part) == 3})
    if config in (names or folders):
        return {"name": config} if names else {"data_dir": config}
    if config and any(path.startswith(f"{config}/") for path in paths):
        return {"data_dir": config}
    default = len(names or folders) < 2 or "default" in names or any(entry.get("default") for entry in listed)
    if config or not default:
        what = f"has no configuration {config}" if config else "has several configurations"
        known = ", ".join((names or folders)[:12]) + (", …" if len(names or folders) > 12 else "") or "none"
        way = "name one: hub:NAME:CONFIG" if str(source).startswith("hub:") else "give the folder of one"
        raise LabError(f"{source} {what} (there are: {known}); {way}")
    return {}


def _data_files(name: str, commit: str | None, options: dict[str, str]) -> tuple[str, dict[str, list[str]]]:
    """The kind of files ("parquet", "audiofolder", …) and their addresses or paths by split."""
    import datasets

    try:
        builder = datasets.load_dataset_builder(
            name, revision=commit, cache_dir=str(files.cache_folder() / "datasets"), **options
        )
    except (ValueError, FileNotFoundError) as error:
        raise LabError(f"{name}: {' '.join(str(error).split())}") from error
    splits: dict[str, list[str]] = {}
    for split, addresses in (builder.config.data_files or {}).items():
        splits.setdefault(drawing.split_name(str(split)), []).extend(map(str, addresses))
    return builder.name, splits


def _entries(origin: Origin, split: str, limit: int | None, columns: dict[str, str]) -> list[rows.Entry]:
    """What `rows.clips` takes, of the first `limit` rows."""
    from tqdm import tqdm

    entries: list[rows.Entry] = []
    with tqdm(desc=f"{origin.name} {split}", unit=" clips", disable=None) as bar:
        for address in origin.splits[split]:
            left = None if limit is None else limit - len(entries)
            if left == 0:
                break
            folder = unpacking.written(address, origin.folder, left, columns, origin.name, bar.update)
            lines = (folder / unpacking.LISTING).read_text(encoding="utf-8").split("\n")
            named: dict[str, str] = {}
            for number, clip in enumerate(map(json.loads, filter(None, lines[:left])), 1):
                row = clip["row"] | {"audio": clip["name"]}
                named = named or rows.match(list(row), columns | {"audio": "audio"}, origin.name)
                # What is inside is the clip: where it was cut from is no part of it.
                ours = {kind: column for kind, column in named.items() if kind not in ("start", "end")}
                name = f"{split}/{folder.name}/{Path(clip['file']).stem}/{clip['name']}"
                place = f"{PurePosixPath(address).name}, row {number}"
                entries.append(rows.Entry(row, ours, str(folder / clip["file"]), name, place))
    return rows.copies_as_one(entries)


@contextmanager
def _refusals(source: str):
    """What the Hub and the network refuse, as one line with the way out."""
    import httpx2
    from huggingface_hub import errors

    name = re.split("[:@]", source.removeprefix("hub:"))[0]
    try:
        yield
    except errors.GatedRepoError as error:
        raise LabError(
            f"{name} asks for its terms to be accepted: do that on {PAGE}{name}, then log in here with `hf auth login`"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise LabError(f"{source}: no such revision of {name}, see {PAGE}{name}/tree/main") from error
    except errors.RepositoryNotFoundError as error:
        raise LabError(
            f"the Hub has no dataset {name}, or it is private: look on {PAGE}{name}, or log in with `hf auth login`"
        ) from error
    except errors.OfflineModeIsEnabled as error:
        raise LabError(f"{source} is not on this disk and HF_HUB_OFFLINE is set; unset it to fetch {name}") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "no answer"
        raise LabError(f"{source}: the Hub answers {status}; run the same command again later to go on") from error
    except (httpx2.TransportError, ConnectionError, TimeoutError) as error:
        raise LabError(
            f"{source}: the Hub cannot be reached ({type(error).__name__}); what is finished is kept, "
            "run the same command again to go on"
        ) from error
