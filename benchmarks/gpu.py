"""On a GPU: clips a second of training, memory, and the share of the time that the GPU computes, ours against the
original recipe; and, from real weights, dev WER against seconds of training (`race.py`), and clips a second of scoring.

    python benchmarks/gpu.py [--features features/sample] [--only rates|race] [--output gpu.json]
    python benchmarks/gpu.py --tiny      # to try the script, on whatever there is: its figures say nothing

Training: Whisper small with random weights, on random features of clips as long as Common Voice's: gamma distributed
with the mean of cv-corpus-11.0's Swedish, 3.96 s, and shape 9 (our assumption: a standard deviation of 1.3 s), cut to 1
to 12 s; 4 tokens of text a second, as in the sample. Ours: mixed windows, bf16, batches of 16 as the original's, of 64,
and of what fills the card at 30 s. The original: see `race.py`; also with batches as large as ours.

Scoring: --model tuned by our side of the race, on dev as often as fills the time. Ours as in training; the original in
batches of 8, 30 s windows, `generate` to 225 tokens, all in fp16.

What is planned once per shape comes before the clock. "Computes": the share of the time that kernels cover, by the
profiler, which slows down what launches them. "In use": NVML's figure, without that, for the time in which any kernel
ran. Of --model, the race (which needs --features) reads the weights, the rest the tokenizer and the special tokens.
"""

import argparse
import contextlib
import copy
import gc
import json
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from meters import CUDA, Clips, Enough, Predictions, Rate, Repeated, now, peak_bytes, reset_peak
from race import FRAMES, Padded, original, ours, race, said, warm_up
from transformers import WhisperConfig, WhisperForConditionalGeneration

from whisper_lab import command
from whisper_lab.whisper import checkpoint, windows

PARTS = ("card", "training", "race", "scoring")


@dataclass(frozen=True)
class Scale:
    """How much is measured, of what model."""

    width: int
    layers: int
    heads: int
    seconds: float  # of each rate
    race_seconds: float
    batches: tuple[int, ...]  # ours, beside the one that fills the card
    clips: int
    profiled: int  # steps

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


SMALL = Scale(768, 12, 12, 20.0, 40.0, (16, 64), 8_192, 16)
TINY = Scale(32, 1, 2, 0.3, 0.5, (4,), 64, 2)


def filling(trainer) -> int:
    """Clips in a batch of ours that take four fifths of the card at 30 s, reckoned from batches of 8 and 16."""
    peaks = []
    for size in (8, 16):
        reset_peak()
        warm_up(trainer, size, [FRAMES])
        peaks.append(peak_bytes())
    per_clip, adam = (peaks[1] - peaks[0]) / 8, 8 * sum(weights.numel() for weights in trainer.model.parameters())
    room = 0.8 * torch.cuda.get_device_properties(0).total_memory - adam - (peaks[0] - 8 * per_clip)
    return max(16, min(256, int(room / per_clip) // 16 * 16))


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
        with contextlib.suppress(Enough), torch.autocast("cuda", torch.float16, enabled=CUDA):
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
    end, mels = start.config.eos_token_id, start.config.num_mel_bins
    clips = Clips(scale.clips, mels, prompt, end)
    splits, largest, first = {"train": clips, "dev": clips}, max(scale.batches), min(scale.batches)

    def side(make, size: int, **choices) -> None:
        with tempfile.TemporaryDirectory() as scratch, report.step("training", f"{make.__name__}, {size}") as figures:
            trainer = make(windows.allow(copy.deepcopy(start)), splits, processor, scratch, **choices)
            warm_up(trainer, size)
            reset_peak()  # the original checkpoints no activations before it trains
            trainer.add_callback(Rate(size, scale.seconds, scale.profiled, figures))
            trainer.train()

    if CUDA:
        with tempfile.TemporaryDirectory() as scratch, report.step("card", "filled at 30 s") as figures:
            trainer = ours(windows.allow(copy.deepcopy(start)), splits, processor, scratch)
            figures["batch_size"] = largest = filling(trainer)
            trainer = None  # or it would stay on the card
    side(original, first, per_device_train_batch_size=first)
    for size in sorted({*scale.batches, largest}):
        side(ours, size, batch_size=size)
    if largest > first:
        side(original, largest, per_device_train_batch_size=largest)


def table(found: dict) -> str:
    """For the eye and the README: a row for each side, and what follows."""
    lines = ["| | clips/s | GPU computes | in use | peak, GB |", "| --- | --- | --- | --- | --- |"]
    for section in ("training", "scoring"):
        for name, one in found[section].items():
            shares = [f"{one[key]:.0%}" if key in one else "" for key in ("computes", "in_use")]
            cells = [f"{section}, {name}", f"{one['clips_per_second']:,.1f}", *shares, f"{one['peak_bytes'] / 1e9:.1f}"]
            lines.append(f"| {' | '.join(cells)} |")
    for name, ratio in found.get("ratios", {}).items():
        lines.append(f"{name}: {ratio:.1f} times the original's clips a second")
    lines += [said(race) for race in found["race"].values()]
    return "\n".join(lines)


def ratios(found: dict) -> dict:
    """Ours at its fastest and at the original's batch size, over the original; what has no figures is left out."""
    speed = {name: one["clips_per_second"] for part in ("training", "scoring") for name, one in found[part].items()}
    sizes = {who: [name for name in found["training"] if name.startswith(who)] for who in ("ours", "original")}
    pairs = {}
    if all(sizes.values()):
        smallest = {who: min(names, key=lambda name: int(name.split()[1])) for who, names in sizes.items()}
        fastest = max(sizes["ours"], key=speed.get)
        pairs = {f"training, {name}": (name, smallest["original"]) for name in (fastest, smallest["ours"])}
    if len(found["scoring"]) == 2:
        pairs["scoring"] = ("ours", "original")
    return {name: speed[one] / speed[other] for name, (one, other) in pairs.items()}


def machine() -> dict:
    card = torch.cuda.get_device_properties(0) if CUDA else None
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
    parser.add_argument("--only", choices=("rates", "race"))
    parser.add_argument("--output", help="a JSON file, written anew after every figure")
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    if not (CUDA or args.tiny):
        print("No GPU here, nothing to measure; --tiny tries the script", file=sys.stderr)
        return 0
    scale, report = TINY if args.tiny else SMALL, Report(args.output)
    report.found["machine"] = machine()
    if args.only != "race":
        rates(report, scale, args.model)
    if args.only != "rates" and args.features:
        with report.step("race", "both") as figures:
            found, tuned = race(args.model, args.features, scale.race_seconds)
            figures |= found
        for scores in (ours_scores, original_scores):
            with report.step("scoring", scores.__name__.split("_")[0]) as figures:
                figures |= scores(tuned, scale.seconds)
    report.found["ratios"] = ratios(report.found)
    report.write()
    print("\n" + ", ".join(report.found["machine"].values()), table(report.found), sep="\n\n")
    return int(report.failed)


if __name__ == "__main__":
    command.run(main)
