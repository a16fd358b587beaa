"""A folder of peft's that holds an adapter (LoRA, DoRA, …) alone, as a whole Whisper: merged into its base model.

That is done once, into the cache, so that everything that takes a model's folder takes an adapter's.
"""

import importlib
import shutil
import sys
from pathlib import Path

from .. import LabError, files
from . import backends, checkpoint, damage, weights

SETTINGS = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


def whole(folder: Path, name: str) -> Path | None:
    """The folder of what the adapter in `folder` makes of its base model; None where there is no adapter.

    `name`: what the user calls it. Raises LabError where there is a whole model, too (which is meant?), where the base
    model cannot be had, and where peft cannot merge all of the adapter.
    """
    if not (folder / SETTINGS).is_file():
        return None
    if both := [one for one in damage.WEIGHTS if (folder / one).is_file()]:
        raise LabError(
            f"{folder} holds a whole model ({both[0]}) and an adapter ({SETTINGS}); move one of them to another folder"
        )
    damage.check(map(folder.joinpath, (SETTINGS, *WEIGHTS)))
    own = next(filter(Path.is_file, map(folder.joinpath, WEIGHTS)), None)
    settings = damage.parsed(folder / SETTINGS)
    base, revision = settings.get("base_model_name_or_path"), settings.get("revision")
    if not own or not base:
        lacking = f"names no base model in {SETTINGS}" if own else f"has no {WEIGHTS[0]}"
        raise LabError(f"{name} is an adapter, but {lacking}; save the whole model instead (peft: merge_and_unload)")
    try:
        start, _ = checkpoint.folder(f"{base}@{revision}" if revision else base)
    except LabError as error:
        raise LabError(f"{name} is an adapter for {base}, which is not to be had: {error}") from error
    content = [files.file_digest(path) for path in (own, folder / SETTINGS)]
    target = files.cache_folder() / "merged" / files.digest([*content, backends.weights_digest(start)])[:16]
    if not target.is_dir():
        model = checkpoint.load_model(str(start))
        print(f"{name} is an adapter: merging it into {base} (once) …", file=sys.stderr, flush=True)
        model = _merge(model, folder, name)
        with files.making(target) as new:
            checkpoint.save(model, checkpoint.load_processor(str(start)), new)
            if (folder / "README.md").is_file():  # its licence
                shutil.copyfile(folder / "README.md", new / "README.md")
    return target


def _merge(model, folder: Path, name: str):
    peft = importlib.import_module("peft")  # no import statement: a space, whose model is whole, can do without it
    try:
        adapted = peft.PeftModel(model, peft.PeftConfig.from_pretrained(str(folder)))
        report = adapted.load_adapter(str(folder), "default", torch_device="cpu")
        if lost := [*report.missing_keys, *report.unexpected_keys]:
            raise LabError(f"{len(lost)} weights of the adapter are missing or unknown ({weights.some(lost)})")
        model = adapted.merge_and_unload(safe_merge=True)  # raises where a sum is not finite
    except Exception as error:  # peft's, for whatever it cannot do
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise LabError(
            f"{name} could not be merged into its base model: {reason}; merge it where it was tuned"
        ) from error
    return model
