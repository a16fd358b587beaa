"""What makes a model better, in its domain and out of it? Each recipe against the classic one, 30 s windows.

    python benchmarks/recipes.py [--features features/sample] [--others SOURCE[:SPLIT] …] [--seeds 1 2 3] [--only …]
                                 [--replay FOLDER]

Every recipe trains from the same weights with the same seeds, on as many clips, at the rate and schedule that this lab
takes by default, and is blended by dev. Of test, and of the speech of --others, which chooses nothing (written as
training-pipeline.py takes --canary), the normalised word error rate in the mean over seeds, as the model is served and
at 30 s, and the difference to the classic recipe decoded alike, paired over clips and seeds; then the seconds of
training. On two cores a run of the sample takes six minutes, the classic one half an hour; those that are there are not
repeated, so the command can be stopped, and given more seeds.
"""

import argparse
import shutil
import statistics
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from whisper_lab import command, files  # noqa: E402
from whisper_lab.scores import scoring  # noqa: E402
from whisper_lab.speech.features import FRAMES  # noqa: E402
from whisper_lab.stores import store  # noqa: E402
from whisper_lab.tuning import canaries, recipes, runs  # noqa: E402
from whisper_lab.whisper import checkpoint  # noqa: E402

CHANGES = {
    "classic": {"window": "full"},
    "default": {},
    "encoder frozen": {"freeze": ("encoder",)},
    "masks": {"masks": True},
    "perturb": {"perturb": ("speed", "noise", "room", "gain")},
    "bpe-dropout": {"bpe_dropout": 0.1},
    "label-smoothing": {"label_smoothing": 0.1},
}
HEARD = "recipes.json"  # in a run's folder: what it wrote, {split: {served or 30 s: texts}}


def train(options: recipes.Options, features: store.FeatureSet, others: dict[str, canaries.Canary]) -> dict:
    """The sentences of each split, and what a finished run wrote for them, as it is served and at 30 s."""
    run = runs.beside(options, features)
    if not run.finished:
        run.complete()
        shutil.rmtree(run.folder / "checkpoints")
    place = run.folder / HEARD
    found = files.read_json(place) if place.is_file() else {}
    run.trainer.splits |= {name: other.split for name, other in others.items()}
    if {"test", *others} - found.keys():
        run.model.load_state_dict(checkpoint.load_model(str(run.folder)).state_dict())
    for split in [name for name in ("test", *others) if name not in found]:
        prompt = others[split].prompt if split in others else None
        found[split] = {"said": list(run.trainer.splits[split].column("sentence"))}
        for how, lengths in (("served", run.model.config.trained_windows), ("at 30 s", [FRAMES])):
            heard = run.trainer.transcribe(split, lengths, f"{run.folder.name}, {split}", prompt)
            found[split][how] = heard.texts
        files.write_json(place, found)
    return {split: found[split] for split in ("test", *others)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", default="features/sample", metavar="FOLDER")
    parser.add_argument("--model", default="sample")
    parser.add_argument("--others", nargs="+", default=[], metavar="SOURCE[:SPLIT]")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], metavar="N")
    parser.add_argument("--only", nargs="+", choices=[*CHANGES][1:], default=[*CHANGES][1:], help="default: all")
    parser.add_argument("--replay", metavar="FOLDER", help="features; compare a recipe that replays them, too")
    parser.add_argument("--max-steps", type=int, metavar="N", help="to try the script")
    parser.add_argument("--output", type=Path, default=Path("models/recipes"), metavar="FOLDER")
    args = parser.parse_args()
    command.quiet_libraries()

    features = store.FeatureSet(args.features)
    others = canaries.find(args.others, features, checkpoint.load_processor(args.model), args.model)
    changes = CHANGES | ({"replay": {"replay": args.replay}} if args.replay else {})
    names, heard, seconds = ["classic", *args.only, *changes.keys() - CHANGES.keys()], {}, {}
    for seed in args.seeds:
        for name in names:
            folder = args.output / f"{name.replace(' ', '-')}-seed{seed}"
            print(f"{name}, seed {seed}", flush=True)
            options = recipes.Options(args.features, model=args.model, output=str(folder), seed=seed, **changes[name])
            if args.max_steps:
                options = replace(options, max_steps=args.max_steps)
            heard[name, seed] = train(options, features, others)
            facts = files.read_json(folder / "metrics.json")["run"]
            seconds.setdefault(name, []).append(facts["train_seconds"])
    locales = {"test": features.manifest["corpus"]["language"]} | {n: other.locale for n, other in others.items()}
    print(f"\nseeds {', '.join(map(str, args.seeds))}; rates of each, and the mean minus classic's, paired")
    for split, locale in locales.items():
        for how in ("served", "at 30 s"):
            print(f"\n{split}, {how}")
            texts = {name: [heard[name, seed][split][how] for seed in args.seeds] for name in names}
            said = heard["classic", args.seeds[0]][split]["said"]
            for name in names:
                rates = [scoring.rate(said, one, locale) for one in texts[name]]
                less = scoring.compare(said, texts[name], texts["classic"], locale) if name != "classic" else ""
                each = ", ".join(f"{rate:.1f}" for rate in rates)
                print(f"  {name:16} {statistics.fmean(rates):5.1f}: {each:18} {less}".rstrip())
    print("\nseconds of training")
    for name in names:
        print(f"  {name:16} {statistics.fmean(seconds[name]):7.1f}")


if __name__ == "__main__":
    main()
