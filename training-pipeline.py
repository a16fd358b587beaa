#!/usr/bin/env python3
"""Features → a fine-tuned Whisper, its scores, its card.

    python training-pipeline.py                                   the sample: a few minutes on a laptop
    python training-pipeline.py --features features/cv17 --model openai/whisper-small --output models/small
    python training-pipeline.py … --preset 16gb                   on a free GPU; also 24gb, 80gb, several
    python training-pipeline.py … --lora 32 --freeze encoder      a part of the weights, for little memory
    python training-pipeline.py … --window packed                 for long sound and timestamps
    python training-pipeline.py … --window full --blend 1         the classic recipe: every clip padded to 30 s
    python training-pipeline.py … --canary en=hub:google/fleurs:en_us
                                                                  and English must not get worse
    python training-pipeline.py … --adapt-windows                 short windows for any Whisper, without sentences
    python training-pipeline.py … --optimizer adamw adagrad --seeds 1 2 3
                                                                  a study: which is better, and is it shown?
    python training-pipeline.py … --seeds 1 2 3 --average         three runs, and one model out of them
    torchrun --nproc-per-node 4 training-pipeline.py …            on four GPUs (or: accelerate launch …)
    python training-pipeline.py --features s3://lab/cv17 --stream --registry hopsworks://lab/swedish
                                                                  features and model in stores, not on this machine

Windows are as short as the speech (--window), so a step costs a fraction of the usual one. The checkpoint is chosen
on dev, by normalised word error rate (character error rate in languages written without spaces); test is scored once,
at the end, beside the untuned model. Ctrl-C stops after the step at hand and leaves a checkpoint that loads like any
model; the same command again goes on from it, as after a kill, to the same losses. --output then holds the model,
README.md (its card), report.html (every clip, word by word), metrics.json, predictions.tsv, curves.png, plan.json, and
a TensorBoard log: tensorboard --logdir models
"""

import argparse

from whisper_lab import command
from whisper_lab.tuning import recipes
from whisper_lab.whisper import precision


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    # fmt: off
    add = parser.add_argument_group("from what to what").add_argument
    add("--features", type=command.path, default="features/sample", metavar="FOLDER|URL",
        help="what feature-pipeline.py made (default features/sample); what is at a URL is fetched, once")
    add("--stream", action="store_true",
        help="leave the features of train where they are and read them from there while training, a few shards at a "
        "time, for corpora larger than this machine; batches are drawn from those shards, so losses differ a little")
    add("--model", type=command.path, default="sample",
        help="where to start: 'sample' (the embedded Whisper base, default), a folder or a Hub id")
    add("--output", type=command.path, metavar="FOLDER",
        help="where the model goes (default models/ and the name of the features' folder); another run's folder is "
        "never touched")
    add("--registry", metavar="URL",
        help="put the finished model there too: hopsworks://PROJECT/NAME, the project's model registry, with its "
        "scores, or any URL that feature-pipeline.py --store takes. What holds sentences or sound of the corpus stays")
    add("--push-to-hub", metavar="NAME", help="put the finished model on the Hugging Face Hub; NAME or USER/NAME")
    add("--formats", nargs="+", choices=("ctranslate2", "ggml"), default=(), help="push it in these too")
    seen = parser.add_mutually_exclusive_group()
    seen.add_argument("--private", action="store_true", default=None,
        help="on the Hub; the default where its data is not free")
    seen.add_argument("--public", dest="private", action="store_false", help="on the Hub, whatever its data")
    add("--resume", action="store_true",
        help="only go on with what --output holds, and begin nothing; without it, the same command goes on too")
    of_several = "optimisers: of several values each combination is trained, and compared"
    add = parser.add_argument_group(of_several).add_argument
    add("--optimizer", nargs="+", default=["adamw"],
        help="adamw (default), adagrad, adafactor, or others of transformers")
    add("--learning-rate", nargs="+", type=command.positive, metavar="RATE",
        help="default: by model size and optimiser; with more than 16 clips a step, times the root of clips / 16")
    add("--seeds", "--seed", nargs="+", type=int, default=[1], metavar="N", help="of the order of clips (default 1)")
    add("--average", action="store_true",
        help="make one model out of the runs with several --seeds, in --output/average: the mean of their tuned "
        "weights, blended and scored as each run's are. Of several optimisers and rates, it is of those that are best "
        "on dev. Given to a finished study, it only makes this")
    add("--label-smoothing", type=command.share, default=0.0, metavar="SHARE",
        help="of the aim, for all tokens alike (default 0)")
    recipe = parser.add_argument_group("steps")
    steps = recipe.add_mutually_exclusive_group()
    steps.add_argument("--max-steps", type=command.count, metavar="N",
        help="steps of the optimiser, instead of --epochs")
    steps.add_argument("--epochs", type=command.positive, default=4, metavar="N", help="passes over train (default 4)")
    add = recipe.add_argument
    add("--patience", type=command.count, metavar="N",
        help="stop when dev has not improved in so many scorings (default: go on)")
    add("--batch-size", type=command.count, metavar="N",
        help="clips a step and device (default 16, or 8 below 2,000 clips; on a GPU the most that fits its memory "
        "and leaves 400 steps)")
    add("--accumulation", type=command.count, default=1, metavar="N",
        help="batches a step: memory of one, gradient of all")
    add = parser.add_argument_group("what the model is shown").add_argument
    add("--window", choices=("mixed", "short", "full", "packed"), default="mixed",
        help="mixed (default): as short as the speech, longer now and then; short: always; full: 30 s always, the "
        "classic recipe; packed: mixed, and clips joined to 30 s with timestamps, which keeps Whisper good at it")
    add("--adapt-windows", action="store_true",
        help="tune nothing but the windows: to be on short ones as the untuned model is at 30 s, which is the teacher. "
        "No sentences are needed, and none used; --blend is then 1, and 400 steps are the most by default")
    add("--masks", action="store_true", help="SpecAugment, on the speech alone")
    add("--perturb", nargs="+", choices=("speed", "noise", "room", "gain"), default=(),
        help="the sound, each time anew")
    add("--audio", type=command.path, metavar="SOURCE",
        help="the corpus with the sound, for --perturb and report.html (default: where the features came from)")
    add("--columns", nargs="+", type=command.pair, default=(), metavar="KEY=NAME",
        help="of --audio, as feature-pipeline.py was given them")
    add("--bpe-dropout", type=command.share, default=0.0, metavar="SHARE",
        help="of merges left out in spelling labels (default 0)")
    add = parser.add_argument_group("what is trained, and with how much memory").add_argument
    add("--preset", choices=(*recipes.PRESETS,),
        help="batch size, LoRA and activations for a machine, by the model's size")
    add("--lora", type=command.whole, metavar="RANK",
        help="train narrow matrices beside the model's own, merged at the end")
    add("--lora-targets", nargs="+", default=(), metavar="NAME", help="those of q_proj k_proj v_proj out_proj fc1 fc2")
    add("--freeze", nargs="+", default=(), metavar="PART", help="encoder, embeddings, encoder.0-3, decoder.2, …")
    add("--activation-checkpointing", action="store_true", default=None, help="a third slower, a third of the memory")
    add("--precision", choices=precision.NAMES, default="auto", help=f"{precision.HELP}. Weights stay float32")
    add("--blend", type=command.share_or_auto, default="auto", metavar="SHARE",
        help="share of tuned weights in the final average with the untuned ones, against forgetting: 0 to 1, or auto "
        "(default): the smallest of 10, 20 … 100 %% that is not shown to be worse than the best on dev, and is at most "
        "one standard error worse than the untuned model on any canary")
    add("--canary", action="extend", nargs="+", type=command.path, default=[], metavar="SOURCE",
        help="speech that must not get worse, scored before and after; --blend auto lowers the share for it. A feature "
        "set (a folder or URL), or what feature-pipeline.py --corpus takes; SOURCE:SPLIT where it is not test, "
        "LOCALE=SOURCE where a corpus is not in the language of --features: en=hub:google/fleurs:en_us. Of more than "
        "400 clips, every n-th. The features' own split out_of_domain is always one")
    add("--replay", type=command.path, metavar="FOLDER|URL",
        help="other features, in any language of the model, whose train is learnt along, against forgetting: of every "
        "three clips at most one")
    add("--report-to", nargs="+", default=("tensorboard",), help="tensorboard (default), wandb, trackio, none")
    # fmt: on
    return parser.parse_args(argv)


def main() -> int | None:
    options = vars(parse_args())
    from whisper_lab.scores import card
    from whisper_lab.stores import streaming
    from whisper_lab.tuning import outcome, processes, runs, study

    chosen = study.expand(options)
    if len(chosen) > 1:
        return study.Study(chosen).complete()
    features = processes.in_turn(lambda: streaming.open_features(options["features"], options["stream"]))
    run = runs.Run(chosen[0], features)
    if run.finished and processes.first():
        print(f"{run.folder} holds this very run, finished; delete that folder to train again.")
    try:
        run.complete()
    except KeyboardInterrupt:
        return processes.stopped(run.progress(), run.options.command_line())
    if not processes.first():
        return None
    print(card.summary(run.folder, run.metrics, run.predictions, run.locale))
    outcome.hand_on(run.folder, run.options)
    print(run.next_command())
    return None


if __name__ == "__main__":
    command.run(main)
