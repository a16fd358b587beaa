"""What a finished run leaves in its folder, and where else its model goes."""

import statistics
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from .. import LabError, files
from ..corpora import corpus
from ..scores import card, choices, report, scoring, sources
from ..sharing import model_card, pushing, registry
from ..stores.store import FeatureSet
from ..whisper import checkpoint, precision
from . import processes
from .recipes import Options


def write(run) -> None:
    """Of a runs.Run that is trained and scored: the model and all that is said of it. metrics.json, which marks the run
    as finished, comes last."""
    run.model.config.use_cache = True  # the Trainer had switched it off
    checkpoint.save(run.model, run.processor, run.folder)
    history = run.trainer.state.log_history
    files.write_json(run.folder / "history.json", history)
    measure = scoring.headline(run.locale)
    card.curves(history, run.folder / "curves.png", measure)
    rows = [
        (split, *line)
        for split, h in run.tuned.items()
        for line in zip(h.ids, h.references, run.untuned[split].texts, h.texts)
    ]
    files.write_tsv(run.folder / "predictions.tsv", ["split", "id", "sentence", "untuned", "tuned"], rows)
    metrics = {
        name: {split: scoring.as_json(h.scores(run.locales[split])) for split, h in heard.items()}
        for name, heard in (("untuned", run.untuned), ("tuned", run.tuned), ("tuned_at_30_s", run.tuned_at_30))
    }
    metrics["tuned_minus_untuned"] = {
        split: asdict(scoring.difference(h.references, h.texts, run.untuned[split].texts, run.locales[split]))
        for split, h in run.tuned.items()
    }
    metrics["headline"] = measure
    metrics["checkpoint"] = choices.of_checkpoints(history, run.tuned["dev"].references, run.locale)
    if "unlabelled" in run.features.manifest:
        metrics["unlabelled"] = True  # the rates are against the untuned model's own text
    metrics["run"] = _facts(run, history, measure)
    planned = files.read_json(run.folder / "plan.json")
    model_card.write(run.folder, planned, run.features.manifest, metrics, run.predictions)
    _report(run, planned["plan"], metrics)
    files.write_json(run.folder / "metrics.json", metrics)


def sounds(
    audio: str | None, features: FeatureSet, columns: dict[str, str] | None = None
) -> Callable[[str], corpus.Clip | None] | None:
    """A clip of test by its id, for the report: in the corpus that --audio names (and its --columns), or in the sample.

    Raises LabError where `audio` names none, or one without these clips: before the training, not after it.
    """
    found = features.manifest["corpus"]
    source = audio or ("sample" if corpus.bundled(found) else None)
    if not source:
        return None
    sound = sources.sounds(corpus.read(source, found["language"], ["test"], columns=columns))
    ids = features.clips("test")["id"].to_pylist()
    absent = [id for id in ids if not (sound(id) and Path(sound(id).path).is_file())]
    if audio and absent:
        said = f"{audio}: {len(absent):,} of the {len(ids):,} clips of test are not in it, such as {absent[0]}"
        if len(absent) == len(ids):
            raise LabError(f"{said}; --audio takes the corpus that the features were made of")
        print(f"{said}; report.html will not play those", flush=True)
    return sound


def _report(run, plan: dict, metrics: dict) -> None:
    found = plan["corpus"]
    facts = {"corpus": f"{found['name']} {found['version']}, {found['language']}", "split": "test"}
    facts |= {f"on {name} against untuned": card.signed(gap) for name, gap in card.of_canaries(metrics).items()}
    report.write(
        run.folder / "report.html",
        run.folder.name,
        [
            clip | {"sentence": said}
            for clip, said in zip(run.features.clips("test").to_pylist(), run.tuned["test"].references)
        ],
        {"tuned": run.tuned["test"].texts, "untuned": run.untuned["test"].texts},
        facts,
        run.sounds,
        run.locale,
    )


def _facts(run, history: list[dict], measure: str) -> dict:
    scored = [entry for entry in history if f"eval_{measure}" in entry and not run.averaged]
    speeds = [entry for entry in history if "clips_per_second" in entry]
    gpu = run.model.device.type == "cuda"
    name = precision.processor(run.model.device.type)
    device = name if gpu else f"{torch.get_num_threads()} CPU cores ({name})"
    facts = {
        "best_step": min(scored, key=lambda entry: entry[f"eval_{measure}"])["step"] if scored else None,
        "share": run.choice.share,
        "share_because": run.choice.why,  # and the headline rate of dev and canaries at each share that was tried
        "rates_by_share": run.choice.rates,
        "canaries": {name: {"language": one.locale, "clips": len(one.split)} for name, one in run.canaries.items()},
        **({"average_of": [folder.name for folder in run.averaged]} if run.averaged else {}),
        "resumed_at_step": run.resumed_at,
        "train_seconds": round(run.train_seconds, 1),  # without scoring, and of all parts of an interrupted run
        "clips_per_second": round(statistics.mean(entry["clips_per_second"] for entry in speeds), 3),
        "hours_per_second": round(statistics.mean(entry["hours_per_second"] for entry in speeds), 6),
        "optimizer_state_bytes": run.optimizer_state_bytes,
        "trainable_parameters": run.trained_weights,
        "parameters": run.all_weights,
        "processes": processes.count(),
        "precision": run.recipe.precision,
        "device": device,
    }
    if gpu:
        facts["peak_gpu_bytes"] = torch.cuda.max_memory_allocated()
    if run.energy_kwh is not None:
        facts["energy_kwh"] = run.energy_kwh  # of the GPU, since the last start
    return facts


def check_ways_out(options: Options) -> None:
    """Raises LabError where the finished model could not be handed on as the options ask."""
    if options.registry:
        registry.check(options.registry)
    if options.push_to_hub:
        pushing.check(options.push_to_hub)


def hand_on(folder: Path, options: Options) -> None:
    """The finished model in `folder`, to the registry and the Hub that the options name."""
    if options.registry:
        print(f"Registered: {registry.register(folder, options.registry)}")
    if options.push_to_hub:
        address = pushing.push(folder, options.push_to_hub, private=options.private, formats=options.formats)
        print(f"Pushed: {address}")
