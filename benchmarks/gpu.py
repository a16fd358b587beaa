"""On a GPU: what this lab promises there, beside the original recipe as good as we can make it, and the goals.

    python benchmarks/gpu.py [--features features/sample] [--only rates race command serving] [--output gpu.json]
    python benchmarks/gpu.py --tiny      # to try the script, on whatever there is: its figures say nothing

Training: clips a second, memory, and the share of the time that the GPU computes. Whisper small with random weights, on
random features of clips as long as Common Voice's: gamma distributed with the mean of cv-corpus-11.0's Swedish, 3.96 s,
and shape 9 (our assumption: a standard deviation of 1.3 s), cut to 1 to 12 s; 4 tokens of text a second, as in the
sample. Ours: mixed windows, bf16; the batch that training-pipeline.py takes by default for
cv-corpus-11.0 on this card, and batches of 144. The original: see `race.py`; batches of 16, its default, and of 144.

Race (needs --features): see `race.py`. Scoring, of --model tuned by our side of the race, on dev as often as fills the
time: ours as in training; the original in batches of 8, 30 s windows, `generate` to 225 tokens, all in fp16.

Command: training-pipeline.py on --features with its defaults, from its start to its report.

Serving: five minutes of the sample's speech, ours with its defaults and faster-whisper's batched pipeline in float16,
both in a second pass, and both only where CTranslate2 finds a GPU; ours by transformers besides.

The original attends by the backends that ours does: cuDNN's would plan anew for every length of a text. "Computes": the
share of the time that kernels cover, by the profiler, which slows down what launches them. "In use": NVML's figure,
without that, for the time in which any kernel ran. A step that fails leaves the others' figures.
"""

import argparse
import contextlib
import copy
import gc
import json
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from meters import CUDA, SKIPPED, Clips, Enough, Predictions, Rate, Repeated, now, peak_bytes, reset_peak
from race import PRECISION, Padded, original, ours, race, said
from transformers import WhisperConfig, WhisperForConditionalGeneration

from whisper_lab import command, cuda
from whisper_lab.tuning import recipes
from whisper_lab.whisper import backends, checkpoint, windows
from whisper_lab.whisper.attention import without_cudnn

PARTS = ("training", "race", "scoring", "command", "serving")
COMMON_VOICE = 7_308  # clips of train in cv-corpus-11.0, Swedish, which the original lab had


@dataclass(frozen=True)
class Scale:
    """How much is measured, of what model."""

    width: int
    layers: int
    heads: int
    seconds: float  # of each rate
    race_seconds: float
    equal: int  # clips in a batch of both sides
    clips: int
    skipped: int  # steps before the clock
    captured: int  # and of ours, whose graphs are captured until then
    profiled: int  # steps after it
    minutes: float  # of sound to serve

    def model(self, folder: Path) -> WhisperForConditionalGeneration:
        """Random weights; special tokens and generation as in `folder`'s model."""
        sides = {
            f"{side}_{part}": value
            for side in ("encoder", "decoder")
            for part, value in (
                ("layers", self.layers),
                ("attention_heads", self.heads),
                ("ffn_dim", 4 * self.width),
            )
        }
        config = WhisperConfig.from_pretrained(folder, d_model=self.width, num_hidden_layers=self.layers, **sides)
        torch.manual_seed(0)
        model = WhisperForConditionalGeneration(config)
        model.generation_config = transformers.GenerationConfig.from_pretrained(folder)
        checkpoint.set_language(model, "sv")
        return model


SMALL = Scale(768, 12, 12, 10.0, 12.0, 144, 8_192, SKIPPED, 80, 12, 5)
TINY = Scale(32, 1, 2, 0.1, 0.3, 4, 96, 1, 1, 2, 0.1)


def ours_scores(tuned, seconds: float) -> dict:
    """Clips a second of `tuned` (a race.Tuned), over about so many seconds."""

    def spent(times: int) -> float:
        began = now()
        tuned.heard(Repeated(tuned.splits["dev"], times))
        return now() - began

    spent(4)  # kernels are planned
    times = int(np.clip(4 * seconds / spent(4), 4, 400))
    took = spent(times)
    return {"clips_per_second": times * len(tuned.splits["dev"]) / took, "seconds": took}


def original_scores(tuned, seconds: float) -> dict:
    predictions = Predictions(seconds)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = original(tuned.model, tuned.splits, tuned.processor, scratch)
        trainer.add_callback(predictions)
        with contextlib.suppress(Enough), without_cudnn(), torch.autocast("cuda", torch.float16, enabled=CUDA):
            trainer.evaluate(Padded(Repeated(tuned.splits["dev"], 400)))
    return predictions.found


class Report:
    """What was found so far, in a file after every step, so that a step that fails leaves the others' figures."""

    def __init__(self, place: str | None):
        self.place, self.found, self.failed = place, {part: {} for part in PARTS}, False

    @contextlib.contextmanager
    def step(self, section: str, name: str):
        """A dict to fill with the figures."""
        gc.collect()  # a Trainer and its model hold each other
        torch.cuda.empty_cache()
        reset_peak()
        began, figures = time.perf_counter(), {}
        try:
            yield figures
        except Exception:
            self.failed = True
            traceback.print_exc()
        if figures:
            self.found[section][name] = figures | {"peak_bytes": peak_bytes()}
        print(f"[{time.perf_counter() - began:4.0f} s] {section}, {name}: {json.dumps(figures)}", flush=True)
        self.write()

    def write(self) -> None:
        if self.place:
            Path(self.place).write_text(json.dumps(self.found, indent=1) + "\n", encoding="utf-8")


def rates(report: Report, scale: Scale, model: str) -> None:
    folder, processor = Path(checkpoint.locate(model)), checkpoint.load_processor(model)
    prompt, start = checkpoint.prompt_ids(processor.tokenizer, "sv"), scale.model(folder)
    clips = Clips(scale.clips, start.config.num_mel_bins, prompt, start.config.eos_token_id)
    splits = {"train": clips, "dev": clips}
    default = recipes.resolve(recipes.Options(precision=PRECISION), start, COMMON_VOICE, 1)
    size = default.batch_size if CUDA else scale.equal

    def side(name: str, make, size: int, **choices) -> None:
        with tempfile.TemporaryDirectory() as scratch, report.step("training", name) as figures:
            trainer = make(windows.allow(copy.deepcopy(start)), splits, processor, scratch, **choices)
            skipped = scale.captured if make is ours else scale.skipped
            trainer.add_callback(Rate(size, scale.seconds, skipped, scale.profiled, figures))
            with without_cudnn():
                trainer.train()
            figures["batch_size"] = size

    usual = min(16, scale.equal)
    side("original, default", original, usual, per_device_train_batch_size=usual)
    side("ours, default", ours, size, batch_size=size)
    side("ours, equal", ours, scale.equal, batch_size=scale.equal)
    side("original, equal", original, scale.equal, per_device_train_batch_size=scale.equal)


def command_line(report: Report, args) -> None:
    with report.step("command", "training-pipeline.py") as figures, tempfile.TemporaryDirectory() as folder:
        given = ["--features", args.features, "--model", args.model, "--output", f"{folder}/run"]
        steps = ["--max-steps", "2"] if args.tiny else []
        began = time.perf_counter()
        script = Path(__file__).parent.parent / "training-pipeline.py"
        subprocess.run([sys.executable, script, *given, *steps], check=True, timeout=180)
        figures["seconds"] = time.perf_counter() - began


def serving(report: Report, scale: Scale, model: str) -> None:
    """Real time factors, seconds of sound a second."""
    from transcription import talk

    from whisper_lab.serving.transcription import Transcriber

    def rate(read) -> float:
        times = []
        for _ in range(2):
            began = now()
            read()
            times.append(now() - began)
        return scale.minutes * 60 / min(times)

    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "talk.wav"
        talk(scale.minutes, path)
        for engine in ("ctranslate2", "transformers"):
            with report.step("serving", f"ours, {engine}") as figures:
                ours = Transcriber(model, engine)
                figures["times_real_time"] = rate(lambda ours=ours: list(ours.segments(path)))
                figures["engine"] = ours.facts()["engine"]
        with report.step("serving", "faster-whisper, batched") as figures:
            from faster_whisper import BatchedInferencePipeline, WhisperModel

            kind = {"device": "cuda", "compute_type": "float16"} if CUDA else {"device": "cpu", "compute_type": "int8"}
            weights = backends.convert(checkpoint.folder(model)[0], kind["compute_type"])
            theirs = BatchedInferencePipeline(WhisperModel(str(weights), **kind))
            given = {"language": "sv", "batch_size": 16}
            figures["times_real_time"] = rate(lambda: list(theirs.transcribe(str(path), **given)[0]))


def table(found: dict) -> str:
    """For the eye and the README: a row for each side, and a line for each goal."""
    lines = ["| | clips/s | GPU computes | in use | peak, GB |", "| --- | --- | --- | --- | --- |"]
    for section in ("training", "scoring"):
        for name, one in found[section].items():
            shares = [f"{one[key]:.0%}" if key in one else "" for key in ("computes", "in_use")]
            what = f"{section}, {name}" + (f", batches of {one['batch_size']}" if "batch_size" in one else "")
            cells = [what, f"{one['clips_per_second']:,.1f}", *shares, f"{one['peak_bytes'] / 1e9:.1f}"]
            lines.append(f"| {' | '.join(cells)} |")
    lines += [said(race) for race in found["race"].values()]
    lines += [f"{what}: {value:.4g} (goal: {goal})" for what, value, goal in goals(found)]
    return "\n".join(lines)


def goals(found: dict) -> list[tuple[str, float, str]]:
    """What is measured, how much it came to, and what it is to reach; without what has no figures."""

    def value(section: str, name: str, figure: str = "clips_per_second") -> float:
        return found[section].get(name, {}).get(figure, float("nan"))

    fastest = value("training", "ours, equal")
    race = next(iter(found["race"].values()), {})
    best, there = race.get("original_best"), race.get("ours_there")
    rows = [
        (
            "training by default, over the original's default",
            value("training", "ours, default") / value("training", "original, default"),
            "6 times",
        ),
        ("training in equal batches, over the original", fastest / value("training", "original, equal"), "8 times"),
        ("training in equal batches, clips/s", fastest, "1,000"),
        (
            "peak memory in equal batches, over the original's",
            value("training", "ours, equal", "peak_bytes") / value("training", "original, equal", "peak_bytes"),
            "at most 1.2 times",
        ),
        ("share of the time that kernels cover, by default", value("training", "ours, default", "computes"), "0.85"),
        ("scoring, over the original", value("scoring", "ours") / value("scoring", "original"), "10 times"),
        (
            "seconds to the original's best dev WER, over ours",
            best["seconds"] / there["seconds"] if best and there else float("nan"),
            "3 times",
        ),
        ("training-pipeline.py, start to report, s", value("command", "training-pipeline.py", "seconds"), "at most 60"),
        (
            "serving, over faster-whisper's batched pipeline",
            value("serving", "ours, ctranslate2", "times_real_time")
            / value("serving", "faster-whisper, batched", "times_real_time"),
            "1 time or more",
        ),
    ]
    return [row for row in rows if row[1] == row[1]]


def machine() -> dict:
    card = torch.cuda.get_device_properties(cuda.card()) if CUDA else None
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "device": card.name if card else f"{torch.get_num_threads()} CPU threads",
        "memory": f"{card.total_memory / 1e9:.0f} GB" if card else "no GPU",
        "torch": f"torch {torch.__version__}",
        "transformers": f"transformers {transformers.__version__}",
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sample", help="a folder, a Hub id or sample (Whisper base)")
    parser.add_argument("--features", help="a folder of features of --model's mels: runs the race, too")
    parts = ("rates", "race", "command", "serving")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    parser.add_argument("--output", help="a JSON file, written anew after every figure")
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    if not (CUDA or args.tiny):
        print("No GPU here, nothing to measure; --tiny tries the script", file=sys.stderr)
        return 0
    scale, report = TINY if args.tiny else SMALL, Report(args.output)
    report.found["machine"] = machine()
    if "rates" in args.only:
        rates(report, scale, args.model)
    if "race" in args.only and args.features:
        tuned = None
        with report.step("race", "both") as figures:
            found, tuned = race(args.model, args.features, scale.race_seconds)
            figures |= found
        for scores in (ours_scores, original_scores) if tuned else ():
            with report.step("scoring", scores.__name__.split("_")[0]) as figures:
                figures |= scores(tuned, scale.seconds)
    if "command" in args.only and args.features:
        command_line(report, args)
    if "serving" in args.only:
        serving(report, scale, args.model)
    report.found["goals"] = goals(report.found)
    report.write()
    print("\n" + ", ".join(report.found["machine"].values()), table(report.found), sep="\n\n")
    return int(report.failed)


if __name__ == "__main__":
    command.run(main)
