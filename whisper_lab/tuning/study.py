"""A study of optimisers: a run for every combination of optimiser, learning rate and seed, and what they show.

All start from the same weights and have the same budget; those of one seed read the same clips in the same order.
"""

import itertools
import re
import shutil
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path

from .. import LabError, files
from ..stores import streaming
from ..whisper import checkpoint
from . import (
    averaging,
    canaries,
    folders,
    optimizers,
    outcome,
    processes,
    recipes,
    replay,
    runs,
    study_report,
    study_results,
    training,
)
from .recipes import Options
from .study_results import AVERAGE, DIVERGED, VARIED


def expand(values: dict) -> list[Options]:
    """One Options for each combination of what `values` lists as optimizer, learning_rate, and seed or seeds.

    Each may be one value as well; what is listed twice counts once. Without a learning rate, every optimiser has its
    own default. Raises LabError where an average is wanted of one seed.
    """
    values = asdict(Options()) | values
    values["seed"] = values.pop("seeds", None) or values["seed"]
    lists = [value if isinstance(value, list | tuple) else [value] for value in map(values.get, VARIED)]
    shared = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    if values["average"] and len(set(lists[VARIED.index("seed")])) == 1:
        raise LabError("--average is of runs with several seeds; add --seeds 1 2 3, or leave it out")
    chosen = itertools.product(*(dict.fromkeys(several or [None]) for several in lists))
    return [Options(**shared | dict(zip(VARIED, one))) for one in chosen]


class Study:
    """A study is its plan, as a run is. Each of its runs is in a folder of its own, OPTIMIZER-RATE-seedSEED."""

    def __init__(self, options: list[Options], folder: str | Path | None = None):
        """Claim the folder: `folder`, else the options' output, else models/ and the features' name with -study.

        `options` are those of `expand`. Raises LabError for an unknown optimiser or registry, for a folder that holds
        anything else, and for --resume with nothing to resume.
        """
        self.options, first = options, options[0]
        name = Path(re.sub(r"/v\d+$", "", first.features.rstrip("/"))).resolve().name
        self.folder = Path(folder or first.output or Path("models") / f"{name}-study")
        for one in options:
            optimizers.full_name(one.optimizer)  # now, not after the runs before it
        outcome.check_ways_out(first)
        if first.resume and not (self.folder / "plan.json").is_file():
            raise LabError(f"nothing to resume: {self.folder} holds no study; leave out --resume to begin one")
        self.features = processes.in_turn(lambda: streaming.open_features(first.features, first.stream))
        self.runs, plan = self._resolve()
        if processes.first():
            self.begun = not folders.claim(self.folder, plan)
        processes.together()

    def _resolve(self) -> tuple[dict[str, Options], dict]:
        """Each run's options by its name, and the study's plan."""
        first, name = self.options[0], self.options[0].model
        _, revision = processes.in_turn(lambda: checkpoint.folder(name))
        processor = checkpoint.load_processor(name)  # what is not whole is refused now, before the folder is claimed
        heard = processes.in_turn(lambda: canaries.find(first.canary, self.features, processor, name))
        other = processes.in_turn(lambda: replay.find(first, self.features, heard, processor))
        sizes = checkpoint.load_model(name)  # recipes depend on them
        clips = self.features.manifest["splits"]["train"]["rows"] + (len(other.split) if other else 0)
        found, rates = {}, {one.optimizer: [] for one in self.options}
        for one in self.options:  # of all runs the same, wherever they are gone on with
            one = processes.of_the_first(lambda one=one: folders.as_begun(self.folder, one))
            recipe = recipes.resolve(one, sizes, clips, processes.count())
            rate = recipe.learning_rate
            name = f"{one.optimizer}-{rate:g}-seed{one.seed}"
            own = {"output": str(self.folder / name), "registry": None, "push_to_hub": None, "average": False}
            found[name] = replace(one, learning_rate=rate, **own)
            rates[one.optimizer] += [rate] if rate not in rates[one.optimizer] else []
        return found, {
            "model": checkpoint.plain(first.model),
            "revision": revision,
            "features": self.features.fingerprint,
            "learning_rates": rates,
            "seeds": list(dict.fromkeys(one.seed for one in self.options)),
            "recipe": {key: value for key, value in asdict(recipe).items() if key not in VARIED},
            "canaries": canaries.marks(heard),
            **({"replay": other.mark} if other else {}),
        }

    @property
    def finished(self) -> bool:
        return all(map(self._finished, [*self.runs, *[AVERAGE] * self.options[0].average]))

    def _finished(self, name: str) -> bool:
        return any((self.folder / name / there).is_file() for there in ("metrics.json", DIVERGED))

    def complete(self) -> int | None:
        """Train what is left, write the report and print it; 130 after Ctrl-C, for the shell.

        Raises LabError where another process is at it.
        """
        with folders.alone(self.folder):
            if processes.first() and self.begun and not self.finished:
                print(f"Going on: {self.progress()}.", flush=True)
                folders.say_moved(self.folder, self.options[0].precision, next(iter(self.runs.values())).precision)
            try:
                self.train()
                if self.options[0].average:
                    self.average()
            except KeyboardInterrupt:
                return processes.stopped(self.progress(), self.command_line())
            if processes.first():
                self.report()
                print(study_report.summary(self.folder, self.results))
        if processes.first():
            outcome.hand_on(self.folder / AVERAGE if self.options[0].average else self.best, self.options[0])
        return None

    def train(self) -> None:
        """Every run that is not finished, one after the other. After Ctrl-C, KeyboardInterrupt, as from a run.

        A finished run keeps its model; its checkpoints go, which with the optimiser's state are several times as large.
        One that diverges is marked and passed over: that is a result, too.
        """
        for number, (name, options) in enumerate(self.runs.items(), 1):
            if not self._finished(name):
                if processes.first():
                    print(f"Run {number} of {len(self.runs)}: {name}", flush=True)
                self._train(options)
            if processes.first():
                shutil.rmtree(self.folder / name / "checkpoints", ignore_errors=True)

    def _train(self, options: Options) -> None:
        folder = Path(options.output)
        try:
            runs.beside(options, self.features).complete()
        except training.Diverged as error:
            if processes.first():
                files.write_json(folder / DIVERGED, {"step": error.step, "clips": error.clips})
                print(f"Set aside: {folder.name} diverged at step {error.step:,}; delete {folder} to try it again")
            if processes.count() > 1:  # the others wait for this one's gradients
                raise

    def average(self) -> None:
        """The average of the seeds that did best on dev in the mean, as a model beside theirs."""
        names = processes.of_the_first(lambda: study_results.to_average(self.folder, list(self.runs)))
        options = replace(self.runs[names[0]], output=str(self.folder / AVERAGE))
        make = partial(averaging.Average, averaged=[self.folder / name for name in names])
        runs.beside(options, self.features, make).complete()
        if processes.first():
            shutil.rmtree(self.folder / AVERAGE / "checkpoints", ignore_errors=True)  # an empty folder

    def report(self) -> None:
        """README.md, study.png and study.json of a study whose runs are all finished."""
        self.results = study_report.write(self.folder, list(self.runs), self.command_line())

    @property
    def best(self) -> Path:
        """The folder of the model with the lowest rate on dev of those at a chosen rate, once there is a report."""
        return self.folder / self.results["best"]

    def progress(self) -> str:
        """What there is of an unfinished study."""
        return f"{sum(map(self._finished, self.runs))} of {len(self.runs)} runs are finished, in {self.folder}"

    def command_line(self, *more: str) -> str:
        """The command of this study, without --resume, with `more` at its end."""
        defaults = {field.name: field.default for field in fields(Options) if field.name in VARIED}
        lists = {
            "--optimizer": [one.optimizer for one in self.options],
            "--learning-rate": [one.learning_rate for one in self.options if one.learning_rate],
            "--seeds": [one.seed for one in self.options],
        }
        given = [[flag, *map(str, dict.fromkeys(values))] for flag, values in lists.items() if values]
        first = replace(self.options[0], output=str(self.folder), **defaults)
        return first.command_line(*itertools.chain(*given), *more)
