"""One training run in its folder: what is decided, the steps in order, and what each leaves for a later resume."""

import gc
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from .. import LabError, cuda, files
from ..scores import hypotheses, sources
from ..scores.hypotheses import Hypotheses
from ..speech.features import FRAMES
from ..stores.places import is_url
from ..stores.store import FeatureSet
from ..text import normalise
from ..whisper import checkpoint, windows
from . import (
    adapters,
    augmentation,
    blending,
    canaries,
    folders,
    monitoring,
    optimizers,
    outcome,
    processes,
    recipes,
    replay,
    resuming,
    teacher,
    training,
)
from .recipes import Options

SCORED = ("dev", "test")  # what is scored beside the canaries


class Run:
    """A run is its plan: the same plan gives the same model. Every step can be called again after a kill."""

    averaged = ()  # folders of the runs that it is the average of

    def __init__(self, options: Options, features: FeatureSet):
        """Load the model and claim the output folder.

        Raises LabError for an unknown optimiser or registry, for features of another front-end or vocabulary than the
        model's, for a canary or a replay that cannot be one, for sound that is not where --audio says, for an output
        folder that holds another run, for a precision that the GPU has not, and for --resume with nothing to resume.
        """
        optimizers.full_name(options.optimizer)
        monitoring.check_trackers(options.report_to)
        self.options, self.features, self.taught = options, features, None
        outcome.check_ways_out(options)  # now, not after hours of training
        url = re.sub(r"/v\d+$", "", options.features.rstrip("/")) if is_url(options.features) else ""
        self.folder = Path(options.output or Path("models") / Path(url or features.folder.resolve()).name)
        if options.resume and not (self.folder / "plan.json").is_file():
            raise LabError(f"nothing to resume: {self.folder} holds no run; leave out --resume to begin one")
        self.processor = processes.in_turn(lambda: checkpoint.load_processor(options.model))
        if wrong := sources.misfit(options.model, self.processor, features):
            raise LabError(
                f"{features.folder} holds {wrong}; make features for this model with feature-pipeline.py --model, or "
                "choose another --model"
            )
        recipes.check_adapting(options, "unlabelled" in features.manifest)
        self.language = features.manifest["language"]  # what Whisper is told; the locale is the corpus' own
        self.locale = features.manifest["corpus"]["language"]
        self.prompt = checkpoint.prompt_ids(self.processor.tokenizer, self.language)
        self.splits = {name: features.split(name) for name in ("train", *SCORED)}
        self.canaries = processes.in_turn(
            lambda: canaries.find(options.canary, features, self.processor, options.model)
        )
        self.splits |= {name: canary.split for name, canary in self.canaries.items()}
        self.replay = processes.in_turn(lambda: replay.find(options, features, self.canaries, self.processor))
        if self.replay:
            self.splits["train"] = replay.Joined(self.splits["train"], self.replay.split)
        self.locales = dict.fromkeys(SCORED, self.locale) | {name: c.locale for name, c in self.canaries.items()}
        self.model = checkpoint.load_model(options.model)
        begun = processes.of_the_first(lambda: folders.as_begun(self.folder, options))
        self.recipe = recipes.resolve(begun, self.model, len(self.splits["train"]), processes.count())
        self.plan = {
            "model": checkpoint.plain(options.model),
            "revision": getattr(self.model.config, "_commit_hash", None),
            "features": features.fingerprint,
            "corpus": features.manifest["corpus"],
            "language": self.language,
            "recipe": asdict(self.recipe),
            "canaries": canaries.marks(self.canaries),
            **({"replay": self.replay.mark} if self.replay else {}),
            **({"average_of": [folder.name for folder in self.averaged]} if self.averaged else {}),
        }
        optimizers.check(options.optimizer, training.arguments(self.recipe, self.folder), self.model)
        self.augmentation = augmentation.build(
            features,
            self.processor.tokenizer,
            self.recipe.masks,
            self.recipe.perturb,
            self.recipe.bpe_dropout,
            options.audio,
            options.named_columns,
        )
        self._prepare()
        if processes.first():
            self.sounds = outcome.sounds(options.audio, features, options.named_columns)
            folders.check_length(self.folder, self.plan, options)
            self.begun = not folders.claim(self.folder, self.plan)  # after all that may be refused
        processes.together()
        self._begin()

    def _prepare(self) -> None:
        """The model as its training starts."""
        checkpoint.set_language(self.model, self.language)
        self._set_windows()
        self.start = blending.weights(self.model)
        adapters.prepare(self.model, self.recipe)
        self.trained_weights, self.all_weights = adapters.count(self.model)

    def _set_windows(self) -> None:
        frames = (self.taught or self.splits)["train"].column("frames")
        lengths = windows.trained_lengths(frames, self.recipe.window)
        if self.recipe.adapt_windows and lengths == [FRAMES]:
            raise LabError(
                f"too little to learn from: among {len(frames):,} clips, no {windows.SEEN} fill a window of one length "
                "below 30 s; --adapt-windows takes more sound, or more --max-steps"
            )
        self.model.config.trained_windows = lengths  # who serves the model reads it there

    @cuda.explained("loading the model")
    def _begin(self, at_once: int | None = None) -> None:
        """A trainer that takes `at_once` frames through the model together, or what it finds right."""
        self.trainer = training.Trainer(
            self.model,
            self.recipe,
            self.folder,
            self.splits,
            self.processor,
            self.prompt,
            at_once,
            self.options.report_to,
            self.augmentation,
            self.locale,
        )
        if self.taught:
            self.trainer.follow(self.taught)

    @property
    def finished(self) -> bool:
        return (self.folder / "metrics.json").is_file()

    @property
    def metrics(self) -> dict:
        return files.read_json(self.folder / "metrics.json")

    @property
    def predictions(self) -> list[dict]:
        return files.read_tsv(self.folder / "predictions.tsv")

    @cuda.explained("training and scoring")
    def complete(self) -> None:
        """Every step of a run in order, each of which goes on where a kill left it; none where it is finished.

        Raises LabError where another process is at it.
        """
        if self.finished:
            return
        with folders.alone(self.folder):
            if self.finished:  # by whoever was at it until now
                return
            if processes.first() and self.begun:
                last = resuming.last_checkpoint(self.folder)
                at = f"{last.name} of {self.recipe.max_steps:,} steps" if last else "the start, before any checkpoint"
                print(f"Going on from {at}, in {self.folder}.", flush=True)
                folders.say_moved(self.folder, self.options.precision, self.recipe.precision)
            self.score_untuned()
            self.teach()
            self.train()
            self.blend()
            self.score_tuned()
            self.save()

    def score_untuned(self) -> None:
        """At 30 s windows, the only length that an untuned Whisper is made for. Kept for a later resume."""
        place = self.folder / "untuned.json"
        if not place.is_file():
            for name, canary in self.canaries.items() if processes.first() else ():
                print(f"Canary {name}: {canary.note}.", flush=True)
            if self.replay and processes.first():
                print(f"Replayed: {self.replay.note}.", flush=True)
            heard = {split: self._transcribe(split, [FRAMES], "Untuned") for split in self.locales}
            processes.together()  # before the first writes, all have seen that it was not there
            if processes.first():
                files.write_json(place, {split: asdict(h) for split, h in heard.items()})
            processes.together()
        self.untuned = {split: Hypotheses(**h) for split, h in files.read_json(place).items()}
        if "unlabelled" in self.features.manifest:  # then its own text is what others are scored against
            for split in SCORED:
                self.untuned[split] = replace(self.untuned[split], references=self.untuned[split].texts)
                if not any(map(normalise, self.untuned[split].texts)):
                    raise LabError(f"the untuned model hears no word in {split}: there is nothing to adapt on")

    def teach(self) -> None:
        """With --adapt-windows: let the untuned model hear the clips of train at 30 s, and learn from that; from now on
        dev is scored against its text, too. Kept for a later resume, until the run is finished."""
        if not self.recipe.adapt_windows:
            return
        train, place, recipe = self.splits["train"], self.folder / "teacher", self.recipe
        seen = min(len(train), recipe.max_steps * recipe.batch_size * recipe.accumulation)
        clips = sorted(np.random.default_rng(recipe.seed).permutation(len(train))[:seen].tolist())
        hears = teacher.Teacher(self.model, self.prompt, recipe.precision)
        size = self.trainer.eval_batch_size
        processes.in_turn(
            lambda: (
                place.is_dir()
                or hypotheses.in_memory(size, lambda size: teacher.teach(hears, train, clips, size, place))
            )
        )
        taught = teacher.Taught(train, place)
        if left := seen - len(taught):
            print(f"{left:,} of {seen:,} clips are left out: the untuned model repeats itself there.", flush=True)
        self.taught = {"train": taught}
        for split, heard in self.untuned.items():
            labels = checkpoint.label_ids(self.processor.tokenizer, heard.texts, self.language)
            self.taught[split] = teacher.Rewritten(self.splits[split], heard.texts, labels)
        self._set_windows()
        self.trainer.follow(self.taught)

    def _transcribe(self, split: str, lengths: list[int], title: str, step: int = 1) -> Hypotheses:
        prompt = self.canaries[split].prompt if split in self.canaries else None
        heard = self.trainer.transcribe(split, lengths, f"{title}, {split}", prompt, step)
        if self.taught:  # scored in the end against the corpus' sentences, where it has some
            heard = replace(heard, references=self.untuned[split].every(step).references)
        return heard

    def train(self) -> None:
        """To the best checkpoint on dev. After Ctrl-C, KeyboardInterrupt is raised once the checkpoint is written."""
        last = resuming.last_checkpoint(self.folder)
        if not last:
            # While the third checkpoint is written two are there: 4 bytes a weight, and 8 of state if it is trained.
            resuming.check_room(self.folder, 3 * (4 * self.all_weights + 8 * self.trained_weights))
        self.resumed_at = resuming.step_of(last) if last else 0
        energy = monitoring.gpu_joules()
        try:
            while not self._train_from(last):
                last = resuming.last_checkpoint(self.folder)
        finally:
            if self.recipe.stream:
                self.splits["train"].close()
        self.train_seconds = self.trainer.meter.seconds
        self.energy_kwh = monitoring.kwh(energy, monitoring.gpu_joules())
        if self.trainer.stopped:
            raise KeyboardInterrupt

    def _train_from(self, last: Path | None) -> bool:
        """False where the GPU's memory did not hold a piece of a batch: the next time it is halved."""
        try:
            self.trainer.train(resume_from_checkpoint=str(last) if last else None)
            return True
        except torch.OutOfMemoryError:
            clips, window = self.trainer.in_hand
        if processes.count() > 1:
            each = self.trainer.args.per_device_train_batch_size
            way_out = f"--batch-size {max(1, each // 2)} --accumulation {2 * self.recipe.accumulation}"
            raise LabError(f"out of GPU memory on one of several: start again with {way_out} and another --output")
        if clips == 1:
            raise cuda.no_room("training on one clip at a time", "add --activation-checkpointing or --lora 32")
        # Out of the except clause, whose traceback would hold the memory that is to be freed.
        self.trainer = self.model = None
        gc.collect()
        torch.cuda.empty_cache()
        print(
            f"\nOut of GPU memory with {clips} clips of {window / 100:g} s: from now on half of that at a time, for "
            "the same steps, somewhat slower.",
            flush=True,
        )
        self.model = checkpoint.load_model(self.options.model)
        self._prepare()
        self._begin(clips * window // 2)
        return False

    def blend(self) -> None:
        """Average the tuned weights with those it started from."""
        self.optimizer_state_bytes = self.trainer.optimizer_state_bytes
        adapters.merge(self.model)
        end = blending.weights(self.model)
        self.choice = self._choose(end) if self.recipe.blend == "auto" else blending.Choice(self.recipe.blend)
        blending.blend(self.model, self.start, end, self.choice.share)

    def _choose(self, end: dict) -> blending.Choice:
        """How much of `end`, the tuned weights, is safe."""
        steps = {split: blending.step(len(self.splits[split])) for split in ("dev", *self.canaries)}

        def hear(split: str, share: float) -> Hypotheses:
            blending.blend(self.model, self.start, end, share)
            lengths, title = self.model.config.trained_windows, f"{share:.0%} tuned"
            return self._transcribe(split, lengths, title, steps[split])

        untuned = {name: self.untuned[name].every(steps[name]) for name in self.canaries}
        choice = blending.choose(hear, untuned, self.locales)
        few = "".join(f" Of {split}, one clip in {step} chose." for split, step in steps.items() if step > 1)
        if processes.first():
            print(f"Share of tuned weights: {blending.percent(choice.share)}. {choice.why}{few}", flush=True)
        return replace(choice, why=choice.why + few)

    def score_tuned(self) -> None:
        """As it is served; test and canaries also at 30 s, where every other program will run it."""
        served, after = self.model.config.trained_windows, [split for split in self.locales if split != "dev"]
        self.tuned = {split: self._transcribe(split, served, "Tuned") for split in self.locales}
        self.tuned_at_30 = {split: self._transcribe(split, [FRAMES], "Tuned at 30 s") for split in after}

    def save(self) -> None:
        """The model and all that is said of it."""
        if processes.first():
            outcome.write(self)
            shutil.rmtree(self.folder / "teacher", ignore_errors=True)
        processes.together()

    def progress(self) -> str:
        """What there is of an unfinished run."""
        last = resuming.last_checkpoint(self.folder)
        return f"{last} is a checkpoint that loads like any model" if last else "no checkpoint was written yet"

    def next_command(self) -> str:
        """What to try next: the model; then, unless it learnt no more than windows, the same from the other of the two
        optimisers that the lab began with."""
        talk = f"Next, talk to it: {shlex.join(['python', 'app.py', '--model', str(self.folder)])}"
        if self.recipe.adapt_windows:
            return talk
        other = "adamw" if self.options.optimizer == "adagrad" else "adagrad"
        where = {"output": f"{self.folder}-{other}", "registry": None, "push_to_hub": None}
        changed = replace(self.options, optimizer=other, learning_rate=None, resume=False, **where)
        return f"{talk}\nNext, another optimiser: {changed.command_line()}"


def beside(options: Options, features: FeatureSet, make: Callable[..., Run] = Run) -> Run:
    """The run of `options`, which name its folder, begun or gone on with (`resume` is a study's word), by `make`. The
    untuned scores are those of any run in the folders beside it, which have the same start and the same clips to score.
    """
    gc.collect()  # a Trainer is full of cycles, so the model of an earlier run would stay beside this one's
    torch.cuda.empty_cache()
    folder = Path(options.output)
    run = make(replace(options, resume=False), features)
    scored = next(folder.parent.glob("*/untuned.json"), None)
    if processes.first() and scored and not (folder / "untuned.json").is_file():
        files.write_text(folder / "untuned.json", scored.read_text(encoding="utf-8"))
    processes.together()
    return run
