"""Fine-tuning with Seq2SeqTrainer on windows as short as the speech."""

import contextlib
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from . import checkpoint, files, hypotheses
from .batches import Collator, WindowBatches, Windowed
from .recipes import Recipe, optimizer_name
from .streaming import Ahead


class Trainer(Seq2SeqTrainer):
    """Seq2SeqTrainer with batches of one window length, and a dev score by our own fast decoding."""

    def __init__(self, model, recipe: Recipe, folder: Path, splits: dict, processor, prompt: list[int]):
        self.recipe, self.splits, self.prompt, self.processor = recipe, splits, prompt, processor
        self._stop = StopAfterStep()
        super().__init__(
            model=model,
            args=arguments(recipe, folder),
            train_dataset=Windowed(splits["train"]),
            eval_dataset=Windowed(splits["dev"]),
            data_collator=Collator(prompt[0], processor.tokenizer.convert_tokens_to_ids("<|endoftext|>")),
            processing_class=processor,
            callbacks=[self._stop, Progress()],
        )
        self.remove_callback(ProgressCallback)
        self.remove_callback(PrinterCallback)

    @property
    def stopped(self) -> bool:
        """Whether Ctrl-C ended the training."""
        return self._stop.asked

    def train(self, *args, **options):
        try:
            return super().train(*args, **options)
        finally:
            self._stop.restore()  # here, as callbacks hear nothing of a training that ends in an error

    def get_train_dataloader(self) -> DataLoader:
        # All passes are one long "epoch" to the Trainer, so that the place where a run resumes is one number.
        train, stream = self.splits["train"], self.recipe.stream
        sampler = WindowBatches(
            train.column("frames"),
            self.recipe.batch_size,
            self.recipe.max_steps * self.recipe.accumulation,
            self.recipe.window,
            self.recipe.seed,
            train.shard_of_clip if stream else None,
        )
        # A stream's threads are in this process: worker processes would each fetch every shard for themselves.
        workers = 2 if self.args.device.type == "cuda" and not stream else 0
        loader = DataLoader(
            self.train_dataset,
            batch_sampler=Ahead(sampler, train) if stream else sampler,
            collate_fn=self.data_collator,
            num_workers=workers,
            pin_memory=self.args.device.type == "cuda",
            persistent_workers=workers > 0,
        )
        return self.accelerator.prepare(loader)

    def transcribe(self, split: str, lengths: Sequence[int], title: str) -> hypotheses.Hypotheses:
        batch_size = self.args.per_device_eval_batch_size
        tokenizer = self.processor.tokenizer
        return hypotheses.transcribe(
            self.model, self.splits[split], tokenizer, self.data_collator, self.prompt, lengths, batch_size, title
        )

    def evaluate(self, *_, **__) -> dict[str, float]:
        """Dev loss and rates, on windows as the model is served with."""
        heard = self.transcribe("dev", self.model.config.trained_windows, "Dev")
        metrics = {f"eval_{name}": score.value for name, score in heard.scores().items()} | {"eval_loss": heard.loss}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _save(self, output_dir=None, state_dict=None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            checkpoint.save_processor(self.processor, output_dir or self.args.output_dir)


class Progress(TrainerCallback):
    """A bar over the steps with the latest loss, and a line for each score on dev."""

    def on_train_begin(self, args, state, control, **_):
        self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc="Training", unit="step")

    def on_step_end(self, args, state, control, **_):
        self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args, state, control, logs, **_):
        if "loss" in logs:
            self.bar.set_postfix(loss=f"{float(logs['loss']):.3f}")

    def on_evaluate(self, args, state, control, metrics, **_):
        self.bar.write(
            f"Step {state.global_step:,}: dev WER {metrics['eval_wer_normalised']:.1f} % normalised, "
            f"{metrics['eval_wer']:.1f} % raw, loss {metrics['eval_loss']:.3f}"
        )

    def on_train_end(self, args, state, control, **_):
        self.bar.close()


class StopAfterStep(TrainerCallback):
    """Ctrl-C ends the run after the step at hand, with a checkpoint; a second one ends it at once."""

    def __init__(self):
        self.asked, self._before = False, None

    def on_train_begin(self, args, state, control, **_):
        def ask(*_):
            self.asked = True
            signal.signal(signal.SIGINT, signal.default_int_handler)
            print("\nStopping after this step, with a checkpoint (Ctrl-C again: at once, without).", flush=True)

        with contextlib.suppress(ValueError):  # not in the main thread: nobody presses Ctrl-C there
            self._before = signal.signal(signal.SIGINT, ask)

    def on_step_end(self, args, state, control, **_):
        if self.asked:
            control.should_training_stop = control.should_save = True
            control.should_evaluate = False

    def restore(self) -> None:
        """Ctrl-C does what it did before the training."""
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)


def arguments(recipe: Recipe, folder: Path) -> Seq2SeqTrainingArguments:
    """Seq2SeqTrainingArguments for `recipe`, with checkpoints and the TensorBoard log under `folder`."""
    gpu = torch.cuda.is_available()
    bf16 = gpu and torch.cuda.is_bf16_supported()
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(folder / "log")  # `logging_dir` went away in transformers 5
    return Seq2SeqTrainingArguments(
        output_dir=str(folder / "checkpoints"),
        max_steps=recipe.max_steps,
        per_device_train_batch_size=recipe.batch_size,
        per_device_eval_batch_size=64 if gpu else 16,
        gradient_accumulation_steps=recipe.accumulation,
        learning_rate=recipe.learning_rate,
        warmup_steps=recipe.warmup_steps,
        weight_decay=recipe.weight_decay,
        lr_scheduler_type="linear",
        optim=optimizer_name(recipe.optimizer),
        bf16=bf16,
        fp16=gpu and not bf16,
        eval_strategy="steps",
        eval_steps=recipe.eval_steps,
        save_strategy="steps",
        save_steps=recipe.eval_steps,
        save_total_limit=2,  # the best and the last
        load_best_model_at_end=True,
        metric_for_best_model="eval_wer_normalised",
        greater_is_better=False,
        logging_steps=max(1, recipe.eval_steps // 10),
        report_to=["tensorboard"],
        remove_unused_columns=False,
        label_names=["labels"],
        seed=recipe.seed,
        disable_tqdm=False,
    )


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint under `folder`: the Trainer writes its trainer_state.json last."""

    def complete(state: Path) -> bool:
        try:
            return "global_step" in files.read_json(state)
        except ValueError:  # cut short
            return False

    found = [
        state.parent for state in (folder / "checkpoints").glob("checkpoint-*/trainer_state.json") if complete(state)
    ]
    return max(found, key=lambda path: int(path.name.split("-")[1]), default=None)
