"""What of a finished run may leave this machine, by name. Everything else stays, whatever it is called.

For the sentences of predictions.tsv and report.html, and the recordings in the latter, are the corpus'; plan.json names
folders of this machine; checkpoints, the log, untuned.json and history.json are of no use to others.
"""

from fnmatch import fnmatch
from pathlib import Path

MODEL = "config generation_config preprocessor_config processor_config tokenizer tokenizer_config vocab added_tokens"
MODEL = (*(f"{name}.json" for name in MODEL.split()), "merges.txt", "*.safetensors*")  # what a page needs to serve it
SAID = ("README.md", "metrics.json", "curves.png")  # its card, scores and curves


def files(folder: Path, names: tuple[str, ...] = (*MODEL, *SAID)) -> dict[str, Path]:
    """Those of `names` (patterns) that are in `folder`, by their names; hidden ones are not."""
    return {path.name: path for path in sorted(folder.iterdir()) if path.is_file() and may(path.name, names)}


def may(name: str, names: tuple[str, ...] = (*MODEL, *SAID)) -> bool:
    """Whether the file `name` of a model's folder is one of `names`."""
    return not name.startswith(".") and "/" not in name and any(fnmatch(name, one) for one in names)
