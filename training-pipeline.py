#!/usr/bin/env python3
"""Features → a fine-tuned Whisper, its scores, its card.

    python training-pipeline.py                                   the sample: a few minutes on a laptop
    python training-pipeline.py --features features/cv17 --model openai/whisper-small --output models/small
    python training-pipeline.py … --optimizer adagrad             Adagrad, at its own learning rate
    python training-pipeline.py … --window full --blend 1         the classic recipe: every clip padded to 30 s
    python training-pipeline.py … --resume                        go on with a run that was killed or stopped
    python training-pipeline.py --features s3://lab/cv17 --stream --registry hopsworks://lab/swedish
                                                                  features and model in stores, not on this machine

Windows are as short as the speech (--window), so a step costs a fraction of the usual one. The checkpoint is chosen
on dev, by normalised word error rate; test is scored once, at the end, beside the untuned model. Ctrl-C stops after
the step at hand and leaves a checkpoint that loads like any model. --output then holds the model, README.md (its
card), metrics.json, predictions.tsv, curves.png, plan.json, and a TensorBoard log: tensorboard --logdir models
"""

import argparse

from whisper_lab import command


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument_group("from what to what").add_argument
    add(
        "--features",
        default="features/sample",
        metavar="FOLDER|URL",
        help="what feature-pipeline.py made (default features/sample); what is at a URL is fetched, once",
    )
    add(
        "--stream",
        action="store_true",
        help="leave the features of train where they are and read them from there while training, a few shards at a "
        "time, for corpora larger than this machine; batches are drawn from those shards, so losses differ a little",
    )
    add(
        "--model",
        default="sample",
        help="where to start: 'sample' (the embedded Whisper base, default), a folder or a Hub id",
    )
    add(
        "--output",
        metavar="FOLDER",
        help="where the model goes (default models/ and the name of the features' folder); another run's folder is "
        "never touched",
    )
    add(
        "--registry",
        metavar="URL",
        help="put the finished model there too: hopsworks://PROJECT/NAME, the project's model registry, with its "
        "scores, or any URL that feature-pipeline.py --store takes",
    )
    add(
        "--resume",
        action="store_true",
        help="go on with the run in --output, from its last checkpoint, to the same losses",
    )
    recipe = parser.add_argument_group("recipe")
    add = recipe.add_argument
    add("--optimizer", default="adamw", help="adamw (default), adagrad, adafactor, or any name transformers knows")
    add(
        "--learning-rate",
        type=float,
        metavar="RATE",
        help="default: by model size and optimiser; lower it where the corpus is small and forgetting costs more than "
        "learning gains",
    )
    steps = recipe.add_mutually_exclusive_group()
    steps.add_argument("--max-steps", type=int, metavar="N", help="steps of the optimiser, instead of --epochs")
    steps.add_argument("--epochs", type=float, default=4, metavar="N", help="passes over train (default 4)")
    add(
        "--batch-size",
        type=int,
        metavar="N",
        help="clips a step and device (default 16; 8 below 2,000 clips, for more steps)",
    )
    add(
        "--accumulation",
        type=int,
        default=1,
        metavar="N",
        help="batches a step: memory of one, gradient of all (default 1)",
    )
    add(
        "--window",
        choices=("mixed", "short", "full"),
        default="mixed",
        help="mixed (default): as short as the speech, longer now and then; short: always; full: 30 s always, the "
        "classic recipe",
    )
    add(
        "--blend",
        type=share,
        default="auto",
        metavar="SHARE",
        help="share of tuned weights in the final average with the untuned ones, against forgetting: 0 to 1, or auto "
        "(default): the smallest that keeps 95 %% of what was gained on dev",
    )
    add("--seed", type=int, default=1, help="of the order of clips (default 1)")
    args = parser.parse_args(argv)
    for name in ("max_steps", "batch_size", "accumulation", "epochs", "learning_rate"):
        if (value := getattr(args, name)) is not None and value <= 0:
            parser.error(f"--{name.replace('_', '-')} is a number above 0")
    return args


def share(text: str) -> str | float:
    if text == "auto" or 0 <= float(text) <= 1:
        return text if text == "auto" else float(text)
    raise ValueError(text)


def main() -> int | None:
    options = vars(parse_args())
    from whisper_lab import card, registry, runs, streaming

    run = runs.Run(runs.Options(**options), streaming.open_features(options["features"], options["stream"]))
    if run.finished:
        print(f"{run.folder} holds this very run, finished; delete that folder to train again.")
    else:
        try:
            run.score_untuned()
            run.train()
            run.blend()
            run.score_tuned()
            run.save()
        except KeyboardInterrupt:
            print(f"Stopped; {run.progress()}. To go on: {run.options.command_line('--resume')}")
            return 130
    print(card.summary(run.folder, run.metrics, run.predictions))
    if options["registry"]:
        print(f"Registered: {registry.register(run.folder, options['registry'])}")
    print(run.next_command())
    return None


if __name__ == "__main__":
    command.run(main)
