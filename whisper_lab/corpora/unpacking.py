"""Sound inside Parquet and Arrow files → files of their own on this disk, once, beside a list of other columns."""

import json
import os
import shutil
import tempfile
import time
from functools import partial
from pathlib import Path, PurePosixPath

import pyarrow
import pyarrow.parquet

from .. import LabError, files
from . import drawing
from .rows import match

ROWS = 32  # clips in memory at a time
LISTING = "clips.jsonl"
DAY = 24 * 60 * 60  # seconds
SIGNS = {
    b"RIFF": ".wav", b"fLaC": ".flac", b"OggS": ".ogg", b"ID3": ".mp3", b"\x1aE\xdf\xa3": ".webm", b"FORM": ".aiff",
    b"\xff\xf1": ".aac", b"\xff\xf9": ".aac",
}  # fmt: skip


def suffix(sound: bytes) -> str:
    """The file suffix by what the first bytes say, which is more than names do; "" if they say nothing known."""
    if sound[4:8] == b"ftyp":
        return ".m4a"
    known = next((ending for sign, ending in SIGNS.items() if sound.startswith(sign)), "")
    return known or (".mp3" if len(sound) > 1 and sound[0] == 0xFF and sound[1] & 0xE0 == 0xE0 else "")


def saved(folder: Path) -> dict[str, list[str]]:
    """The Arrow files of each split of what Dataset.save_to_disk or DatasetDict.save_to_disk wrote; none elsewhere."""
    if (folder / "dataset_dict.json").is_file():
        parts = {split: folder / split for split in files.read_json(folder / "dataset_dict.json")["splits"]}
    elif (folder / "state.json").is_file():
        parts = {drawing.SPLITS.get(str(files.read_json(folder / "state.json").get("_split")), "train"): folder}
    else:
        return {}
    states = {split: part / "state.json" for split, part in parts.items()}
    listed = {split: files.read_json(place).get("_data_files") for split, place in states.items() if place.is_file()}
    return {
        drawing.split_name(split): [str(parts[split] / file["filename"]) for file in found]
        for split, found in listed.items()
        if found
    }


def written(address: str, into: Path, left: int | None, columns: dict[str, str], name: str, progress) -> Path:
    """The folder within `into` with the sound and listing of the Parquet or Arrow file at `address` (a path, or
    hf://…), or of its first rows if there are more than `left`; whole or not there, and made if it is not.

    The listing has a JSON object a clip: "file" (its name there), "name" (the one it came with), "row" (other columns).
    `name` is for errors; `progress(clips)` is called on the way. Raises LabError where sound or text are missing.
    """
    mark = files.digest([address, columns.get("audio")])[:8]
    whole = into / f"{PurePosixPath(address).stem}-{mark}"
    part = whole.with_name(f"{whole.name}-first-{left}")
    for folder in (whole, part):
        if folder.is_dir():
            return folder
    into.mkdir(parents=True, exist_ok=True)
    for stray in into.glob(".partial-*"):  # of runs that were killed
        if stray.stat().st_mtime < time.time() - DAY:
            shutil.rmtree(stray, ignore_errors=True)
    beside = Path(tempfile.mkdtemp(prefix=".partial-", dir=into))
    try:
        try:
            with _opened(address) as file:
                batches = _of_arrow if address.endswith(".arrow") else _of_parquet
                place = whole if _write(*batches(file), beside, left, columns, name, progress) else part
        except pyarrow.ArrowInvalid as error:
            raise LabError(f"{address} is damaged, or no Parquet or Arrow file ({error})") from error
        beside.chmod(0o755)  # mkdtemp's are the owner's alone
        try:
            os.rename(beside, place)
        except OSError:  # another process was quicker
            if not place.is_dir():
                raise
        return place
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _opened(address: str):
    if not address.startswith("hf://"):
        return open(address, "rb")
    from huggingface_hub import HfFileSystem

    return HfFileSystem().open(address, "rb")


def _of_parquet(file):
    """The schema of a Parquet file, and what gives its rows in batches with the columns that it is called with."""
    parquet = pyarrow.parquet.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False)
    return parquet.schema_arrow, partial(parquet.iter_batches, ROWS)


def _of_arrow(file):
    """The same of a stream of Arrow, as `datasets` writes it to a disk."""
    stream = pyarrow.ipc.open_stream(file)

    def batches(columns: list[str]):
        for batch in stream:
            chosen = batch.select(columns)
            yield from (chosen.slice(at, ROWS) for at in range(0, chosen.num_rows, ROWS))

    return stream.schema, batches


def _write(schema, batches, folder: Path, left: int | None, columns: dict[str, str], where: str, progress) -> bool:
    """Sound and listing of a file's batches into `folder`; False if there are more rows than `left`."""
    features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    kinds = {field.name: (features.get(field.name) or {}).get("_type") for field in schema}
    audio = _audio_column(schema, kinds, columns, where)
    light = [field.name for field in schema if not (pyarrow.types.is_nested(field.type) or _is_bytes(field.type))]
    match([*light, audio], columns | {"audio": audio}, where)  # before gigabytes are read in vain
    labels = {name: features[name]["names"] for name in light if kinds[name] == "ClassLabel"}
    count = 0
    with open(folder / LISTING, "w", encoding="utf-8") as listing:
        for batch in batches(columns=[*light, audio]):
            for row in batch.to_pylist():
                if count == left:
                    return False
                sound = row.pop(audio) or {"bytes": b""}  # an empty file is counted as such when it is read
                sound = sound if isinstance(sound, dict) else {"bytes": sound}
                if sound["bytes"] is None:
                    raise LabError(f"{where}: row {count} names {sound.get('path')}, but holds no sound")
                name = f"{count:06d}{suffix(sound['bytes'])}"
                (folder / name).write_bytes(sound["bytes"])
                for column, values in labels.items():
                    row[column] = values[row[column]] if row[column] in range(len(values)) else None
                cells = {key: "" if value is None else str(value) for key, value in row.items()}
                entry = {"file": name, "name": PurePosixPath(sound.get("path") or name).name, "row": cells}
                listing.write(json.dumps(entry, ensure_ascii=False) + "\n")
                count += 1
            progress(batch.num_rows)
    return True


def _audio_column(schema, kinds: dict[str, str | None], columns: dict[str, str], where: str) -> str:
    """The column that holds sound, as struct<bytes, path> or as bytes."""

    def holds_bytes(kind) -> bool:
        return kind.get_field_index("bytes") >= 0 if pyarrow.types.is_struct(kind) else _is_bytes(kind)

    found = [f.name for f in schema if kinds[f.name] in (None, "Audio", "Value") and holds_bytes(f.type)]
    wanted = [name for name in found if name == columns.get("audio", name)]
    if not wanted:
        called = f" called {columns['audio']}" if "audio" in columns else ""
        raise LabError(f"{where} has no column with sound{called}; its columns are: {', '.join(schema.names)}")
    if len(wanted) > 1:
        raise LabError(f"{where}: {' and '.join(wanted)} could both be the audio; choose: --columns audio=NAME")
    return wanted[0]


def _is_bytes(kind) -> bool:
    return pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)
