"""Do masks, other sounds, other spellings and a softer aim make the model better?

    python benchmarks/recipes.py [--seeds 1 2 3] [--only masks …]

Trains on the sample with each of them, and without any, with the same seeds, and prints the normalised word error
rates on test (unknown voices and sentences of the same synthesiser) and out_of_domain (another one, with longer
sentences), and the difference of each to the plain recipe, paired over clips and seeds. All else is the default. A run
takes six minutes on two cores; those that are there are not repeated, so the command can be stopped, and given more
seeds."""

import argparse
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from whisper_lab import command  # noqa: E402
from whisper_lab.scores import scoring  # noqa: E402
from whisper_lab.stores import store  # noqa: E402
from whisper_lab.tuning import recipes, runs, study_results  # noqa: E402

CHANGES = {
    "plain": {},
    "masks": {"masks": True},
    "perturb": {"perturb": ("speed", "noise", "room", "gain")},
    "bpe-dropout": {"bpe_dropout": 0.1},
    "label-smoothing": {"label_smoothing": 0.1},
}


def train(options: recipes.Options, features: store.FeatureSet) -> None:
    run = runs.beside(options, features)
    if not run.finished:
        run.complete()
        shutil.rmtree(run.folder / "checkpoints")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", default="features/sample", metavar="FOLDER")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], metavar="N")
    parser.add_argument("--only", nargs="+", choices=[*CHANGES][1:], default=[*CHANGES][1:], help="default: all")
    parser.add_argument("--output", type=Path, default=Path("models/recipes"), metavar="FOLDER")
    args = parser.parse_args()
    command.quiet_libraries()

    features, texts = store.FeatureSet(args.features), {}
    for seed in args.seeds:
        for name in ("plain", *args.only):
            folder = args.output / f"{name}-seed{seed}"
            print(f"{name}, seed {seed}", flush=True)
            train(recipes.Options(args.features, output=str(folder), seed=seed, **CHANGES[name]), features)
            for split in ("test", "out_of_domain"):
                said, written = study_results.heard(folder, split)
                texts.setdefault((name, split), []).append(written)
                texts["said", split] = said
    head = f"{'':16} {'test':>6} {'minus plain':20} {'out_of_domain':>13} minus plain"
    print(f"\nseeds {', '.join(map(str, args.seeds))}\n{head}")
    for name in ("plain", *args.only):
        cells = []
        for split in ("test", "out_of_domain"):
            said, written = texts["said", split], texts[name, split]
            rate = sum(scoring.scores(said, one)["wer_normalised"].value for one in written) / len(written)
            less = scoring.compare(said, written, texts["plain", split])
            cells.append(f"{rate:6.1f} {less!s:27}")
        print(f"{name:16}", *cells)


if __name__ == "__main__":
    main()
