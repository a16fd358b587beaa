"""Files of a model's folder that are not what their names say: Git LFS pointers, and empty, cut or damaged ones."""

import json
import zipfile
from collections.abc import Iterable
from pathlib import Path

from .. import LabError

POINTER = b"version https://git-lfs"  # how a file begins that Git LFS has not fetched
AGAIN = "copy or download it again"
# In the order that transformers looks for them; an index names the files of a large model.
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
SETTINGS = ("config.json", "generation_config.json")
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "added_tokens.json")
FRONT_END = ("preprocessor_config.json", "processor_config.json")  # the second since transformers 5
PROCESSOR = (*TOKENIZER, *FRONT_END, "special_tokens_map.json", "normalizer.json")
SMALL = 100_000  # bytes of a JSON file that is parsed beforehand; of a larger one, the library's failure is explained


def check(paths: Iterable[Path], thorough: bool = False) -> None:
    """Raise LabError for the first of `paths` that is there, but not whole. `thorough`: large JSON files, too."""
    for path in filter(Path.is_file, paths):
        start = _check_start(path)
        if path.suffix == ".json" and (thorough or path.stat().st_size < SMALL):
            parsed(path)
        elif path.suffix == ".safetensors":
            from safetensors import SafetensorError, safe_open

            try:
                with safe_open(path, "pt"):  # its table of tensors against its length
                    pass
            except SafetensorError as error:
                raise LabError(f"{path} is cut or damaged ({error}); {AGAIN}") from error
        elif path.suffix == ".bin" and start.startswith(b"PK") and not zipfile.is_zipfile(path):  # as torch writes it
            raise LabError(f"{path} is cut or damaged (its end is missing); {AGAIN}")


def _check_start(path: Path) -> bytes:
    with open(path, "rb") as file:
        start = file.read(len(POINTER))
    if start == POINTER:
        way_out = f"run `git lfs pull` in {path.parent}, or download it again"
        raise LabError(f"{path} is a Git LFS pointer, not the file itself; {way_out}")
    if not start.strip():
        raise LabError(f"{path} is empty; {AGAIN}")
    return start


def parsed(path: Path) -> dict:
    """The object that a JSON file of a model holds. Raises LabError."""
    _check_start(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise LabError(f"{path} is cut or damaged (no JSON: {error}); {AGAIN}") from error
    if not isinstance(value, dict):
        raise LabError(f"{path} is damaged (no JSON object); {AGAIN}")
    return value


def weights(folder: Path) -> list[Path]:
    """The files that transformers loads the weights in `folder` from; none, if there are none.

    Raises LabError where one of them is missing, or not whole.
    """
    found = list(filter(Path.is_file, map(folder.joinpath, WEIGHTS)))[:1]
    if found and (first := found[0]).suffix == ".json":
        named = parsed(first).get("weight_map") or {}
        found = [folder / str(name) for name in sorted(set(named.values()))] if isinstance(named, dict) else []
        missing = [path.name for path in found if not path.is_file()]
        if missing or not found:
            raise LabError(f"{folder} lacks {', '.join(missing) or 'weights'} by its {first.name}; {AGAIN}")
    check(found)
    return found


def some_files(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    return ", ".join(names[:6]) + (", …" if len(names) > 6 else "") if names else "nothing"
