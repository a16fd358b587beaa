"""A folder as training-pipeline.py leaves it, without the training."""

import shutil
from pathlib import Path

from whisper_lab import files
from whisper_lab.sharing import model_card

SAMPLE = {"name": "sample", "version": "2.0", "language": "sv-SE", "fingerprint": "e" * 64}
COMMON_VOICE = SAMPLE | {"name": "Common Voice", "version": "17.0-2024-03-15"}
OWN = SAMPLE | {"name": "möten", "version": ""}
RECIPE = {
    "optimizer": "adamw", "learning_rate": 1e-5, "max_steps": 110, "batch_size": 8, "accumulation": 1,
    "warmup_steps": 11, "weight_decay": 0.01, "schedule": "linear", "window": "mixed", "eval_steps": 28,
    "blend": "auto", "seed": 1,
}  # fmt: skip
RUN = {
    "best_step": 84, "share": 0.8, "resumed_at_step": 0, "train_seconds": 304.7, "clips_per_second": 2.888,
    "device": "2 CPU cores",
}  # fmt: skip
SPLITS = {"train": {"rows": 220, "seconds": 875.6}, "test": {"rows": 50, "seconds": 216.1}}


def scores(value: float) -> dict:
    measures = ("wer", "wer_normalised", "cer", "cer_normalised")
    return {
        one: {"value": value + i / 4, "low": value - 1, "high": value + 1 + i / 4} for i, one in enumerate(measures)
    }


def plan(corpus: dict = SAMPLE, model: str = "sample", **recipe) -> dict:
    kept = {"model": model, "revision": None, "features": "a" * 64, "corpus": corpus, "language": "sv"}
    return kept | {"recipe": RECIPE | recipe}


def describe(folder: Path, planned: dict, run: dict = RUN, **more_scores) -> Path:
    """All that is said of a run beside its model: plan.json, metrics.json, predictions.tsv, curves.png, README.md."""
    folder.mkdir(parents=True, exist_ok=True)
    planned = {"plan": planned, "versions": {"python": "3.11.7"}}
    metrics = {"untuned": {"test": scores(90)}, "tuned": {"test": scores(11)}, "tuned_at_30_s": {"test": scores(14)}}
    metrics |= more_scores | {"tuned_minus_untuned": {"test": {"value": -79, "low": -80, "high": -78}}, "run": run}
    said = {"split": "test", "id": "1", "sentence": "Åsa åt | sex kex.", "untuned": "Åsa odd.", "tuned": "Åsa åt sex."}
    files.write_json(folder / "plan.json", planned)
    files.write_json(folder / "metrics.json", metrics)
    files.write_tsv(folder / "predictions.tsv", list(said), [said.values()])
    (folder / "curves.png").write_bytes(b"\x89PNG")
    model_card.write(folder, planned, {"splits": SPLITS}, metrics, [said])
    return folder


def run(tiny: Path, folder: Path, planned: dict, lengths: tuple[int, ...] = (3000,)) -> Path:
    """A finished run whose model is `tiny`, and all that a run leaves beside it."""
    shutil.copytree(tiny, folder)
    _write(folder, STAYS)
    for name, more in {
        "generation_config.json": {"language": "<|sv|>", "task": "transcribe"},
        "config.json": {"trained_windows": list(lengths)},
    }.items():
        files.write_json(folder / name, files.read_json(folder / name) | more)
    return describe(folder, planned)


MODEL = (
    "added_tokens.json", "config.json", "generation_config.json", "merges.txt", "model.safetensors",
    "preprocessor_config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json", "vocab.json",
)  # fmt: skip


LEAVES = {*MODEL, "README.md", "metrics.json", "curves.png"}  # this machine, and nothing else does
STAYS = (
    "untuned.json", "history.json", "report.html", ".lock", "log/events",
    "checkpoints/checkpoint-84/model.safetensors",
)  # fmt: skip


def _write(folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode() * (999 if name in ("model.safetensors", "tokenizer.json") else 1))


def husk(folder: Path, planned: dict) -> Path:
    """A finished run by the names of its files, and all that a run leaves beside it; no file holds what it should."""
    _write(folder, (*MODEL, *STAYS))
    return describe(folder, planned)
