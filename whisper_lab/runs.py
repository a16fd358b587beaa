"""One training run in its folder: what is decided, the steps in order, and what each leaves for a later resume."""

import math
import re
import shlex
import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch

from . import LabError, blending, card, checkpoint, files, recipes, registry, scoring, training, windows
from .features import FRAMES
from .hypotheses import Hypotheses
from .places import is_url
from .store import FeatureSet

SCORED = ("dev", "test", "aside")  # what is scored, where the feature set has it
SMALL = 2_000  # clips: below, batches are halved, so that there are steps enough to learn in


@dataclass(frozen=True)
class Options:
    """What the command line of training-pipeline.py decides; None stands for a default that depends on the data."""

    features: str = "features/sample"
    stream: bool = False
    model: str = "sample"
    output: str | None = None
    registry: str | None = None
    resume: bool = False
    optimizer: str = "adamw"
    learning_rate: float | None = None
    max_steps: int | None = None
    epochs: float = 4
    batch_size: int | None = None
    accumulation: int = 1
    window: str = "mixed"
    blend: str | float = "auto"
    seed: int = 1

    def command_line(self, *more: str) -> str:
        """The command that has these options, without --resume, with `more` at its end."""
        given = []
        for f in fields(self):
            value = getattr(self, f.name)
            if value != f.default and f.name != "resume":
                given += [f"--{f.name.replace('_', '-')}", *([] if value is True else [str(value)])]
        return shlex.join(["python", "training-pipeline.py", *given, *more])


class Run:
    """A run is its plan: the same plan gives the same model. Every step can be called again after a kill."""

    def __init__(self, options: Options, features: FeatureSet):
        """Load the model and claim the output folder.

        Raises LabError for an unknown optimiser or registry, for features of another front-end or vocabulary than the
        model's, for an output folder that holds another run, and for --resume with nothing to resume.
        """
        recipes.optimizer_name(options.optimizer)
        self.options, self.features = options, features
        if options.registry:
            registry.check(options.registry)  # now, not after hours of training
        url = re.sub(r"/v\d+$", "", options.features.rstrip("/")) if is_url(options.features) else ""
        self.folder = Path(options.output or Path("models") / Path(url or features.folder.resolve()).name)
        if options.resume and not (self.folder / "plan.json").is_file():
            raise LabError(f"nothing to resume: {self.folder} holds no run; leave out --resume to begin one")
        self.processor = checkpoint.load_processor(options.model)
        self._check_features()
        self.model = checkpoint.load_model(options.model)
        self.language = features.manifest["language"]
        self.prompt = checkpoint.prompt_ids(self.processor.tokenizer, self.language)
        checkpoint.set_language(self.model, self.language)
        self.splits = {
            name: features.split(name)
            for name in ("train", *SCORED)
            if name in {"train", "dev", "test", *features.splits}
        }
        self.recipe = self._recipe()
        lengths = windows.trained_lengths(self.splits["train"].column("frames"), self.recipe.window)
        self.model.config.trained_windows = lengths  # who serves the model reads it there
        self.plan = {
            "model": options.model,
            "revision": getattr(self.model.config, "_commit_hash", None),
            "features": features.fingerprint,
            "corpus": features.manifest["corpus"],
            "language": self.language,
            "recipe": asdict(self.recipe),
        }
        self._claim()
        self.trainer = training.Trainer(self.model, self.recipe, self.folder, self.splits, self.processor, self.prompt)

    def _check_features(self) -> None:
        extractor, tokenizer = self.processor.feature_extractor, self.processor.tokenizer
        again = "make features for this model with feature-pipeline.py --model, or choose another --model"
        if extractor.feature_size != self.features.mels:
            raise LabError(
                f"{self.features.folder} holds {self.features.mels} mels, {self.options.model} takes "
                f"{extractor.feature_size}; {again}"
            )
        if checkpoint.tokenizer_fingerprint(tokenizer) != self.features.manifest["tokenizer"]:
            raise LabError(
                f"the labels in {self.features.folder} were made with another vocabulary than {self.options.model}'s; "
                f"{again}"
            )

    def _recipe(self) -> recipes.Recipe:
        options, clips = self.options, len(self.splits["train"])
        batch_size = options.batch_size or (16 if clips >= SMALL else 8)
        steps = options.max_steps or math.ceil(options.epochs * clips / (batch_size * options.accumulation))
        return recipes.Recipe(
            optimizer=options.optimizer,
            learning_rate=options.learning_rate or recipes.default_rate(options.optimizer, self.model.config.d_model),
            max_steps=steps,
            batch_size=batch_size,
            accumulation=options.accumulation,
            warmup_steps=min(500, math.ceil(steps / 10)),
            weight_decay=0.01,
            window=options.window,
            eval_steps=min(1_000, math.ceil(steps / 4)),
            blend=options.blend,
            seed=options.seed,
            stream=options.stream,
        )

    def _claim(self) -> None:
        new = files.claim(self.folder, self.plan, "--output")
        if not (new or self.options.resume or self.finished):
            raise LabError(
                f"{self.folder} holds an unfinished run of this plan; go on with --resume, or choose another --output"
            )

    @property
    def finished(self) -> bool:
        return (self.folder / "metrics.json").is_file()

    @property
    def metrics(self) -> dict:
        return files.read_json(self.folder / "metrics.json")

    @property
    def predictions(self) -> list[dict]:
        lines = (self.folder / "predictions.tsv").read_text(encoding="utf-8").splitlines()
        head, *rows = (line.split("\t") for line in lines)
        return [dict(zip(head, row)) for row in rows]

    def score_untuned(self) -> None:
        """At 30 s windows, the only length that an untuned Whisper is made for. Kept for a later resume."""
        place = self.folder / "untuned.json"
        if not place.is_file():
            heard = self._transcribe([FRAMES], "Untuned", SCORED)
            files.write_json(place, {split: asdict(h) for split, h in heard.items()})
        self.untuned = {split: Hypotheses(**h) for split, h in files.read_json(place).items()}

    def _transcribe(self, lengths: list[int], title: str, splits: tuple[str, ...]) -> dict[str, Hypotheses]:
        present = [split for split in splits if split in self.splits]
        return {split: self.trainer.transcribe(split, lengths, f"{title}, {split}") for split in present}

    def train(self) -> None:
        """To the best checkpoint on dev. After Ctrl-C, KeyboardInterrupt is raised once the checkpoint is written."""
        last = training.last_checkpoint(self.folder) if self.options.resume else None
        self.start = blending.weights(self.model)
        self.resumed_at = int(last.name.split("-")[1]) if last else 0
        began = time.monotonic()
        try:
            self.trainer.train(resume_from_checkpoint=str(last) if last else None)
        except ImportError as error:
            raise LabError(
                f"--optimizer {self.options.optimizer} needs a library that is not installed: {error}"
            ) from error
        finally:
            if self.recipe.stream:
                self.splits["train"].close()
        self.train_seconds = time.monotonic() - began
        if self.trainer.stopped:
            raise KeyboardInterrupt

    def blend(self) -> None:
        """Average the tuned weights with those it started from."""
        end = blending.weights(self.model)
        self.share = self.recipe.blend
        if self.share == "auto":
            untuned = self.untuned["dev"].scores()["wer_normalised"].value
            self.share = blending.choose_share(self.trainer, self.start, end, untuned)
        blending.blend(self.model, self.start, end, self.share)

    def score_tuned(self) -> None:
        """As it is served; test and aside also at 30 s, where every other program will run it."""
        self.tuned = self._transcribe(self.model.config.trained_windows, "Tuned", SCORED)
        self.tuned_at_30 = self._transcribe([FRAMES], "Tuned at 30 s", SCORED[1:])

    def save(self) -> None:
        """The model and all that is said of it; metrics.json, which marks the run as finished, last."""
        self.model.config.use_cache = True  # the Trainer had switched it off
        checkpoint.save(self.model, self.processor, self.folder)
        history = self.trainer.state.log_history
        files.write_json(self.folder / "history.json", history)
        card.curves(history, self.folder / "curves.png")
        rows = [
            (split, *line)
            for split, h in self.tuned.items()
            for line in zip(h.ids, h.references, self.untuned[split].texts, h.texts)
        ]
        files.write_tsv(self.folder / "predictions.tsv", ["split", "id", "sentence", "untuned", "tuned"], rows)
        metrics = {
            name: {split: scoring.as_json(h.scores()) for split, h in heard.items()}
            for name, heard in (("untuned", self.untuned), ("tuned", self.tuned), ("tuned_at_30_s", self.tuned_at_30))
        }
        metrics["tuned_minus_untuned"] = {
            split: asdict(scoring.difference(h.references, h.texts, self.untuned[split].texts))
            for split, h in self.tuned.items()
        }
        metrics["run"] = self._facts(history)
        planned = files.read_json(self.folder / "plan.json")
        card.write(self.folder, planned, self.features.manifest, metrics, self.predictions)
        files.write_json(self.folder / "metrics.json", metrics)

    def _facts(self, history: list[dict]) -> dict:
        steps = self.recipe.max_steps - self.resumed_at
        scored = [entry for entry in history if "eval_wer_normalised" in entry]
        device = (
            torch.cuda.get_device_name() if self.model.device.type == "cuda" else f"{torch.get_num_threads()} CPU cores"
        )
        return {
            "best_step": min(scored, key=lambda entry: entry["eval_wer_normalised"])["step"] if scored else None,
            "share": self.share,
            "resumed_at_step": self.resumed_at,  # seconds and speed are of the steps after it
            "train_seconds": round(self.train_seconds, 1),
            "clips_per_second": round(
                steps * self.recipe.batch_size * self.recipe.accumulation / self.train_seconds, 3
            ),
            "device": device,
        }

    def progress(self) -> str:
        """What there is of an unfinished run."""
        last = training.last_checkpoint(self.folder)
        return f"{last} is a checkpoint that loads like any model" if last else "no checkpoint was written yet"

    def next_command(self) -> str:
        """What to try next: the same from the other of the two optimisers that the lab began with."""
        other = "adamw" if self.options.optimizer == "adagrad" else "adagrad"
        where = {"output": f"{self.folder}-{other}", "registry": None}
        changed = replace(self.options, optimizer=other, learning_rate=None, resume=False, **where)
        return f"Next, another optimiser: {changed.command_line()}"
