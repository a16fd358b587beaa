"""A folder published as a whole to a place, and fetched from there: what is half sent or half fetched does not exist.

    URL/v1/publishing.json      the digest of what this version is to hold; written first, it claims the number
    URL/v1/train-00000-…        the files
    URL/v1/published.json       their names, bytes and checksums; written last: without it, v1 is not published yet
    URL/v2/…                    other content, beside it: a version that is complete is never written over

Of a feature set, and of what sharing/registry.py takes of a model. No place that this works with has locks; two runs
that publish different things at the same moment are told apart by reading the claim back, and in the worst case by the
checksums.
"""

import json
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from .. import LabError, files
from . import transfers
from .places import Place, open_place

ROUNDS = 3  # of sending what has not arrived whole
CLAIM, LISTING = "publishing.json", "published.json"

Progress = Callable[[int, int], None]  # bytes since the last call (less than 0 where they have to go again), and of all


def publish(
    folder: Path, url: str, names: list[str] | None = None, progress: Progress = lambda count, total: None
) -> str:
    """Send a folder's files to a version at `url`; the version's URL, such as "s3://bucket/features/v2".

    `names` are relative to the folder; all of them by default, but for hidden ones.
    Content that is published already is not sent again, and what a killed run sent is kept. Raises LabError where only
    the user can help, or trying again has not helped.
    """
    if _named_version(url):
        raise LabError(f"{url} names one version; leave out its end, the number is given in publishing")
    folder, place = Path(folder), open_place(url)
    content = _describe(folder, names)
    entries, total = content["files"], sum(entry["bytes"] for entry in content["files"].values())
    sizes = transfers.ask(place.url, place.sizes)
    version = _version_for(place, sizes, content["digest"])

    def send(name: str, sent: Callable[[int], None]) -> None:
        place.put(folder / name, f"{version}/{name}", sent)

    def missing() -> list[str]:
        return [name for name, entry in entries.items() if sizes.get(f"{version}/{name}") != entry["bytes"]]

    progress(total - sum(entries[name]["bytes"] for name in missing()), total)
    for _ in range(ROUNDS):
        if todo := missing():
            transfers.in_parallel(place.url, send, todo, lambda count: progress(count, total))
            sizes = transfers.ask(place.url, place.sizes)
    if todo := missing():
        raise LabError(f"{place.url}/{version}/{todo[0]} does not arrive whole; run the same command again to go on")
    complete = _listing(place, version)
    if (complete or _json(place, f"{version}/{CLAIM}")).get("digest") != content["digest"]:
        raise LabError(f"{place.url}/{version} was claimed by another run; run the same command again for a new one")
    if not complete:
        _write(place, f"{version}/{LISTING}", content)
    return f"{place.url}/{version}"


@contextmanager
def shown(title: str) -> Iterator[Progress]:
    """A bar in bytes: the `progress` of `publish` and `fetch`."""
    with tqdm(desc=title, unit="B", unit_scale=True) as bar:

        def progress(count: int, total: int) -> None:
            bar.total = total
            bar.update(count)

        yield progress


def _describe(folder: Path, names: list[str] | None) -> dict:
    """What a version of the folder holds: {"digest": …, "files": {name: {"bytes": …, "sha256": …}}}."""
    if names is None:
        found = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
        shown = [path for path in found if not any(part.startswith(".") for part in path.parts)]
        names = [path.as_posix() for path in shown if path.parts[0] not in (CLAIM, LISTING)]
    if not names:
        raise LabError(f"{folder} holds nothing to publish")
    if absent := [name for name in names if not (folder / name).is_file()]:
        raise LabError(f"{folder / absent[0]} is to be published and is not there; make it again")
    paths = {name: folder / name for name in names}
    entries = {name: {"bytes": path.stat().st_size, "sha256": files.file_digest(path)} for name, path in paths.items()}
    return {"digest": files.digest(entries), "files": entries}


def _version_for(place: Place, sizes: dict[str, int], digest: str) -> str:
    """The version that holds this content, or is to hold it: one that is there, or a new one, now claimed."""
    newest = True
    for version in _versions(sizes):
        if complete := _listing(place, version):
            if complete["digest"] == digest:
                return version
            newest = False  # what was begun before a complete version would, once finished, still be the older
        elif newest and _json(place, f"{version}/{CLAIM}").get("digest") == digest:
            return version
    number = int((_versions(sizes) or ["v0"])[0][1:])
    while True:
        number += 1
        _write(place, f"v{number}/{CLAIM}", {"digest": digest})
        if _json(place, f"v{number}/{CLAIM}").get("digest") == digest:  # and not of someone who wrote at the same time
            return f"v{number}"


def listing(url: str) -> dict:
    """What the newest complete version at `url`, or the version that it names, holds.

    {"url": the version's own, "files": {name: {"bytes": …, "sha256": …}}, "digest": …}. Raises LabError if there is
    none yet.
    """
    base, version = _named_version(url) or (str(url).rstrip("/"), None)
    place = open_place(base)
    versions = _versions(transfers.ask(place.url, place.sizes))
    for one in [version] if version else versions:
        if found := _listing(place, one):
            return found | {"url": f"{place.url}/{one}"}
    begun = [one for one in versions if version in (None, one)]
    state = f"{begun[0]} is unfinished; publish it again, as before, to finish it" if begun else "publish to it first"
    raise LabError(f"{url} holds nothing that is published yet: {state}")


def fetch(
    url: str,
    progress: Progress = lambda count, total: None,
    only: Callable[[str], bool] = lambda name: True,
) -> Path:
    """The folder in the cache that holds what `listing(url)` says, of it the files whose name `only` takes.

    What is there already and has the right checksum is not fetched again; a file is there whole or not at all. Raises
    LabError if nothing is published there yet, and for a file that does not have the checksum it was published with.
    """
    found = listing(url)
    place, version = open_place(found["url"]), found["url"].rpartition("/")[2]
    folder = _local_folder(found["url"].rpartition("/")[0]) / version
    entries = {name: entry for name, entry in found["files"].items() if only(name)}
    total = sum(entry["bytes"] for entry in entries.values())

    def right(path: Path, entry: dict) -> bool:
        return path.is_file() and path.stat().st_size == entry["bytes"] and files.file_digest(path) == entry["sha256"]

    def take(name: str, got: Callable[[int], None]) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(folder / name) as beside:
            place.get(name, beside, got)
            if not right(beside, entries[name]):
                got(-beside.stat().st_size)
                place.get(name, beside, got)  # once more, as it may have been the line's fault
            if not right(beside, entries[name]):
                raise LabError(
                    f"{place.url}/{name} is not what was published there (its checksum differs); delete it there, "
                    "then publish again, as before, to send it anew"
                )

    if folder.is_dir():
        for stray in [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]:
            if stray.relative_to(folder).as_posix() not in found["files"]:
                stray.unlink()
    missing = [name for name, entry in entries.items() if not right(folder / name, entry)]
    progress(total - sum(entries[name]["bytes"] for name in missing), total)
    there = transfers.ask(place.url, place.sizes) if missing else {}
    for name in missing:
        if there.get(name) != entries[name]["bytes"]:
            state = "cut short" if name in there else "gone"
            raise LabError(
                f"{place.url}/{name} was published and is {state}; publish again, as before, to send it anew"
            )
    transfers.in_parallel(place.url, take, missing, lambda count: progress(count, total))
    return folder


def _named_version(url: str) -> tuple[str, str] | None:
    """A URL of one version, taken apart: "memory://a/v2" → ("memory://a", "v2")."""
    found = re.fullmatch(r"(.+)/(v[1-9]\d*)/*", str(url))
    return found and found.groups()


def _versions(sizes: dict[str, int]) -> list[str]:
    """The versions of which there is any file, the newest first."""
    numbers = {int(found[1]) for name in sizes if (found := re.match(r"v([1-9]\d*)/", name))}
    return [f"v{number}" for number in sorted(numbers, reverse=True)]


def _json(place: Place, name: str) -> dict:
    """What a small file says; {} if it is not there, or was cut short."""
    try:
        value = json.loads(transfers.ask(place.url, lambda: place.read(name)))
    except (FileNotFoundError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _listing(place: Place, version: str) -> dict | None:
    """What a complete version says that it holds; None if it is not complete."""
    found = _json(place, f"{version}/{LISTING}")
    if not found.get("files") or found.get("digest") != files.digest(found["files"]):
        return None
    for name in found["files"]:  # they become paths here
        if PurePosixPath(name).is_absolute() or {"..", ""} & set(name.split("/")) or "\\" in name or ":" in name:
            raise LabError(f"{place.url}/{version}/{LISTING} names a file outside its folder ({name}); do not use it")
    return found


def _write(place: Place, name: str, value: dict) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / PurePosixPath(name).name
        files.write_json(file, value)
        transfers.ask(place.url, lambda: place.put(file, name))


def _local_folder(url: str) -> Path:
    readable = re.sub(r"[^A-Za-z0-9.]+", "-", url)[-60:].strip("-.")
    return files.cache_folder() / "fetched" / f"{readable}-{files.digest(url)[:8]}"
