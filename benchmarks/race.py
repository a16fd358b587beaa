"""Dev WER against seconds of training, from the same real weights, by our recipe and by the original one.

    python benchmarks/gpu.py --only race [--model sample] [--features features/sample]

Both with our learning rate and schedule, for as many passes, so that what differs is the windows, the batches and how a
step is computed. The original, otherwise the recipe of the Hugging Face course: 30 s windows, fp16, gradient
checkpointing, batches of 16, Seq2SeqTrainer's defaults; its features come from memory, not from a data set on disk, and
it attends by the backends that ours does, which only helps it. Ours: what training-pipeline.py does with these clips.
Both are scored at the same seconds by the same code, ours at its windows, the original at 30 s; scoring is not counted,
nor what is planned once per shape.
"""

import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from meters import CUDA, now  # noqa: E402
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, TrainerCallback  # noqa: E402

from whisper_lab.scores import hypotheses, scoring  # noqa: E402
from whisper_lab.speech.features import FRAMES, pad  # noqa: E402
from whisper_lab.text import normalise  # noqa: E402
from whisper_lab.tuning import monitoring, optimizers, recipes, training  # noqa: E402
from whisper_lab.whisper import checkpoint, precision, windows  # noqa: E402
from whisper_lab.whisper.attention import without_cudnn  # noqa: E402
from whisper_lab.whisper.batches import Example  # noqa: E402

PRECISION = precision.choose("auto", "cuda") if CUDA else "float32"  # ours
SHARES = (0.025, 0.05, 0.075, 0.125, 0.2, 0.3, 0.45, 0.65, 1.0)  # of the seconds, after which dev is scored


@dataclass(frozen=True)
class Padded:
    """A split as the original's data set: float32, 30 s."""

    split: object

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, i: int) -> dict:
        row = self.split[i]
        return {"input_features": pad(row["features"], FRAMES), "labels": row["labels"]}


def collate(rows: list[dict]) -> dict[str, torch.Tensor]:
    labels = torch.nn.utils.rnn.pad_sequence([torch.tensor(row["labels"]) for row in rows], True, -100)
    return {"input_features": torch.from_numpy(np.stack([row["input_features"] for row in rows])), "labels": labels}


def ours(model, splits: dict, processor, folder: str, **choices) -> training.Trainer:
    """Our trainer, which neither scores nor saves by itself."""
    recipe = {
        "optimizer": "adamw",
        "learning_rate": optimizers.default_rate("adamw", model.config.d_model),
        "max_steps": 100_000,
        "batch_size": 16,
        "accumulation": 1,
        "warmup_steps": 500,
        "weight_decay": 0.01,
        "window": "mixed",
        "eval_steps": 1_000,
        "blend": 1.0,
        "seed": 1,
        "precision": PRECISION,
    }
    prompt = checkpoint.prompt_ids(processor.tokenizer, "sv")
    trainer = training.Trainer(model, recipes.Recipe(**recipe | choices), Path(folder), splits, processor, prompt)
    trainer.args.save_strategy = trainer.args.eval_strategy = "no"
    trainer.args.load_best_model_at_end = False
    trainer.remove_callback(monitoring.Progress)
    return trainer


def original(model, splits: dict, processor, folder: str, **choices) -> Seq2SeqTrainer:
    processor.tokenizer.pad_token = (
        processor.tokenizer.eos_token
    )  # as OpenAI's; up to 5.17 the Trainer gives it to model
    arguments = {
        "output_dir": folder,
        "max_steps": 4_000,
        "per_device_train_batch_size": 16,
        "per_device_eval_batch_size": 8,
        "learning_rate": 1e-5,
        "warmup_steps": 500,
        "gradient_checkpointing": True,
        "fp16": CUDA,
        "predict_with_generate": True,
        "generation_max_length": 225,
        "save_strategy": "no",
        "report_to": [],
        "remove_unused_columns": False,
        "disable_tqdm": True,
    }
    return Seq2SeqTrainer(
        model,
        Seq2SeqTrainingArguments(**arguments | choices),
        train_dataset=Padded(splits["train"]),
        eval_dataset=Padded(splits["dev"]),
        data_collator=collate,
        processing_class=processor,
    )


def warm_up(trainer, size: int, lengths=windows.LENGTHS) -> None:
    """Forward and backward of `size` clips once at every window that is to come, the longest first."""
    rows, own = trainer.train_dataset, isinstance(trainer, training.Trainer)
    frames = np.asarray(rows.split.column("frames"))
    for window in sorted(lengths, reverse=True) if own else [FRAMES]:
        if not (frames <= window).any():
            continue
        chosen = [int(i) for i in np.resize(np.flatnonzero(frames <= window), size)]
        batch = (
            trainer.collator([rows[Example((i,), window)] for i in chosen])
            if own
            else collate([rows[i] for i in chosen])
        )
        with torch.autocast("cuda", torch.bfloat16 if trainer.args.bf16 else torch.float16, enabled=CUDA):
            trainer.model(**{name: value.to(trainer.model.device) for name, value in batch.items()}).loss.backward()
    trainer.model.zero_grad()


class Scored(TrainerCallback):
    """Calls `score` when each of `marks`, in seconds of training, has passed; ends the training after the last.

    `points` are {"seconds", "step", "wer", "low", "high"}.
    """

    def __init__(self, marks: list[float], score):
        self.marks, self.score, self.points = marks, score, []

    def on_train_begin(self, args, state, control, **_):
        self.began = now()

    def on_step_end(self, args, state, control, **_):
        if time.perf_counter() - self.began < self.marks[0] and state.global_step < state.max_steps:
            return
        spent = now() - self.began
        self.points.append({"seconds": spent, "step": state.global_step} | self.score())
        self.began = now() - spent
        self.marks = [mark for mark in self.marks if mark > spent]
        control.should_training_stop |= not self.marks


@dataclass(frozen=True)
class Tuned:
    """A model, and the windows that it is read at."""

    model: object
    splits: dict
    processor: object
    lengths: list[int]

    def heard(self, split) -> hypotheses.Hypotheses:
        tokenizer, size = self.processor.tokenizer, 64 if CUDA else 16
        collator = training.Collator(*tokenizer.convert_tokens_to_ids(["<|startoftranscript|>", "<|endoftext|>"]))
        prompt = checkpoint.prompt_ids(tokenizer, "sv")
        what = self.model, split, tokenizer, collator, prompt, self.lengths
        return hypotheses.transcribe(*what, size, "Dev", PRECISION)

    def dev(self) -> dict:
        """Normalised WER in percent with its 95 % interval. By jiwer alone, without `evaluate`'s wrapping."""
        heard = self.heard(self.splits["dev"])
        table = scoring.counts([normalise(t) for t in heard.references], [normalise(t) for t in heard.texts], "word")
        low, high = np.percentile(scoring.bootstrap(table), (2.5, 97.5))
        wrong, words = table.sum(axis=0)
        return {"wer": float(100 * wrong / words), "low": float(low), "high": float(high)}


def race(model: str, features: str, seconds: float) -> tuple[dict, Tuned]:
    """What was found, {"untuned", "sides": {name: points}, "original_best", "ours_there"}, the last two points of
    curves; and what ours tuned."""
    from whisper_lab.stores import store

    held = store.FeatureSet(features)
    splits, processor = {name: held.split(name) for name in ("train", "dev")}, checkpoint.load_processor(model)
    frames = splits["train"].column("frames")
    options = recipes.Options(features=features, model=model, precision=PRECISION, blend=1.0)
    sizes = checkpoint.load_model(model)  # recipes depend on them
    default = recipes.resolve(options, sizes, len(frames), 1)
    classic = recipes.resolve(replace(options, batch_size=16), sizes, len(frames), 1)
    same = {name: getattr(classic, name) for name in ("learning_rate", "max_steps", "warmup_steps")}
    served, found = windows.trained_lengths(frames, default.window), {"sides": {}, "batch_size": default.batch_size}
    for name, make, lengths, size, choices in (
        ("original", original, [FRAMES], 16, same),
        ("ours", ours, served, default.batch_size, asdict(default)),
    ):
        weights = checkpoint.load_model(model)
        checkpoint.set_language(weights, "sv")
        tuned = Tuned(weights, splits, processor, lengths)
        with tempfile.TemporaryDirectory() as folder:
            trainer = make(weights, splits, processor, folder, **choices)
            found.setdefault("untuned", tuned.dev())
            warm_up(trainer, size)
            scored = Scored([share * seconds for share in SHARES], tuned.dev)
            trainer.add_callback(scored)
            with without_cudnn():
                trainer.train()
        found["sides"][name] = scored.points
        for point in scored.points:
            print(
                f"{name:20} {point['seconds']:6.1f} s  step {point['step']:5,}  dev WER {point['wer']:5.1f} %",
                flush=True,
            )
    best = found["original_best"] = min(found["sides"]["original"], key=lambda point: point["wer"])
    found["ours_there"] = next((point for point in found["sides"]["ours"] if point["wer"] <= best["wer"]), None)
    again = checkpoint.load_model(model).to(weights.device)  # accelerate leaves its own forward on what it trained
    again.load_state_dict(weights.state_dict())
    checkpoint.set_language(again, "sv")
    return found, replace(tuned, model=again)


def said(found: dict) -> str:
    best, there = found["original_best"], found["ours_there"]
    reached = "ours did not get there"
    if there:
        times = best["seconds"] / there["seconds"]
        reached = f"ours was at {there['wer']:.1f} % after {there['seconds']:.1f} s, {times:.1f} times sooner"
    best = f"the original's best {best['wer']:.1f} % after {best['seconds']:.1f} s"
    return f"untuned {found['untuned']['wer']:.1f} %; {best}; {reached}"
