"""Fine-tuning with Seq2SeqTrainer on windows as short as the speech, on one device or many."""

import os
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
import torch.distributed
from torch.utils.data import DataLoader
from transformers import EarlyStoppingCallback, Seq2SeqTrainer, Seq2SeqTrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from .. import LabError
from ..scores import hypotheses, scoring
from ..stores.streaming import Ahead
from ..whisper import checkpoint, packing
from ..whisper.batches import Collator, Named, Parts, WindowBatches, Windowed
from . import adapters, optimizers, processes, resuming
from .monitoring import PROJECT, Meter, Progress, StopAfterStep
from .recipes import Recipe

UNCHECKED = 50  # losses on a GPU that are looked at together, since a look waits for all that it was given to do


class Diverged(LabError):
    """The loss was no number at `step`, on `clips` (their ids)."""

    def __init__(self, step: int, clips: list[str]):
        self.step, self.clips = step, clips
        super().__init__(
            f"the loss is not a number at step {step:,}, on the clips {', '.join(clips)}; listen to them, or lower "
            "--learning-rate; the last checkpoint is sound, and the same command goes on from it"
        )


class Trainer(adapters.Checkpoints, Seq2SeqTrainer):
    """Seq2SeqTrainer with batches of one window length, a dev score by our own fast decoding, and sealed checkpoints.

    `pieces`: a batch is taken through the model in so many, one after the other, where memory does not hold it whole;
    with several processes each takes a part of every batch. The losses are the same however it is divided.
    """

    def __init__(
        self,
        model,
        recipe: Recipe,
        folder: Path,
        splits: dict,
        processor,
        prompt: list[int],
        pieces: int = 1,
        report_to: Sequence[str] = ("tensorboard",),
        augment: Callable | None = None,
        language: str = "",
    ):
        """`language`: the corpus' locale, which says what the checkpoint is chosen by."""
        self.language = language
        self.recipe, self.splits, self.prompt, self.processor, self.pieces = recipe, splits, prompt, processor, pieces
        self.meter, self._stop = Meter(), StopAfterStep()
        self._unchecked: list[tuple[int, list[str], torch.Tensor]] = []
        packed = recipe.window == "packed"
        join = partial(packing.join, tokens=packing.Tokens.of(processor.tokenizer)) if packed else None
        end = processor.tokenizer.convert_tokens_to_ids("<|endoftext|>")
        self.collator = Collator(prompt[0], end, vocabulary=model.config.vocab_size)
        super().__init__(
            model=model,
            args=arguments(recipe, folder, pieces, report_to, scoring.headline(language)),
            train_dataset=Windowed(splits["train"], join, augment),
            eval_dataset=Windowed(splits["dev"]),
            data_collator=Named(self.collator),
            processing_class=processor,
            compute_loss_func=token_loss(recipe.label_smoothing),
            callbacks=[self._stop, Progress()],
        )
        self.eval_batch_size = self.args.per_device_eval_batch_size
        if recipe.patience:
            self.add_callback(EarlyStoppingCallback(recipe.patience))
        self.remove_callback(ProgressCallback)
        self.remove_callback(PrinterCallback)

    @property
    def stopped(self) -> bool:
        """Whether Ctrl-C ended the training."""
        return self._stop.asked

    def train(self, resume_from_checkpoint: str | None = None):
        self.meter.start(resuming.seconds_spent(Path(resume_from_checkpoint)) if resume_from_checkpoint else 0.0)
        try:
            return super().train(resume_from_checkpoint=resume_from_checkpoint)
        finally:
            self._stop.restore()  # here, as callbacks hear nothing of a training that ends in an error

    def get_train_dataloader(self) -> DataLoader:
        # All passes are one long "epoch" to the Trainer, so that the place where a run resumes is one number.
        train, recipe = self.splits["train"], self.recipe
        for_packs = ("client_id", "tokens") if recipe.window == "packed" else ()
        batches = WindowBatches(
            train.column("frames"),
            recipe.batch_size,
            recipe.max_steps * recipe.accumulation,
            recipe.window,
            recipe.seed,
            train.shard_of_clip if recipe.stream else None,
            *map(train.column, for_packs),
        )
        parts = Parts(batches, self.pieces, self.args.world_size, self.args.process_index)
        # A stream's threads are in this process: worker processes would each fetch every shard for themselves.
        workers = 2 if self.args.device.type == "cuda" and not recipe.stream else 0
        # Not prepared by accelerate, which would divide the batches among processes once more.
        return DataLoader(
            self.train_dataset,
            batch_sampler=Ahead(parts, train) if recipe.stream else parts,
            collate_fn=self.data_collator,
            num_workers=workers,
            pin_memory=self.args.device.type == "cuda",
            persistent_workers=workers > 0,
        )

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        ids, speech = inputs.pop("ids"), inputs.pop("speech")
        result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        loss = result[0] if return_outputs else result
        self._unchecked.append((self.state.global_step + 1, ids, torch.isfinite(loss)))
        if loss.device.type == "cpu" or len(self._unchecked) == UNCHECKED:
            self._check_losses()
        self.meter.count(len(ids) * self.args.world_size, speech * self.args.world_size)
        return result

    def _check_losses(self) -> None:
        """Raises Diverged for the first batch whose loss was not a number."""
        seen, self._unchecked = self._unchecked, []
        if seen and not torch.stack([finite for _, _, finite in seen]).all():
            step, ids, _ = next(one for one in seen if not one[2])
            raise Diverged(step, ids)

    def _prepare_inputs(self, inputs: dict) -> dict:
        # The Trainer's own waits for the GPU to have done all that it was given before.
        device = self.args.device
        return {k: v.to(device, non_blocking=True) if torch.is_tensor(v) else v for k, v in inputs.items()}

    def log(self, logs: dict, *args) -> None:
        self._check_losses()
        if "loss" in logs:
            logs |= self.meter.read(self.args.device)
        super().log(logs, *args)

    def transcribe(self, split: str, lengths: Sequence[int], title: str) -> hypotheses.Hypotheses:
        """The hypotheses of a split; every process reads its part of the clips and is given all."""

        def read(clips) -> hypotheses.Hypotheses:
            what = self.model, clips, self.processor.tokenizer, self.collator, self.prompt, lengths
            heard, self.eval_batch_size = hypotheses.in_memory(
                self.eval_batch_size, lambda size: hypotheses.transcribe(*what, size, title, self.recipe.precision)
            )
            return heard

        return processes.share(self.splits[split], read)

    def evaluate(self, *_, **__) -> dict[str, float]:
        """Dev loss and rates, on windows as the model is served with."""
        self.optimizer.eval()  # schedule-free ones keep the weights to be scored and saved apart
        with self.meter.paused():
            heard = self.transcribe("dev", self.model.config.trained_windows, "Dev")
        metrics = {f"eval_{name}": score.value for name, score in heard.scores(self.language).items()}
        metrics |= {"eval_loss": heard.loss, "seconds": round(self.meter.seconds, 3)}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def create_optimizer(self, model=None):
        if self.optimizer is None and self.recipe.optimizer == optimizers.MUON:
            self.optimizer = optimizers.Muon(self.model, self.recipe.learning_rate, self.recipe.weight_decay)
        return super().create_optimizer() if model is None else super().create_optimizer(model)

    @property
    def optimizer_state_bytes(self) -> int:
        """Of this process."""
        state = self.optimizer.state.values() if self.optimizer else ()
        return sum(optimizers.bytes_of(value) for one in state for value in one.values())

    def _load_optimizer_and_scheduler(self, checkpoint) -> None:
        with optimizers.restored(self.optimizer):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _save(self, output_dir=None, state_dict=None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            checkpoint.save_processor(self.processor, output_dir or self.args.output_dir)

    def _save_checkpoint(self, model, trial) -> None:
        self._check_losses()
        self.optimizer.eval()
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        try:
            super()._save_checkpoint(model, trial)
            if self.args.world_size > 1:
                torch.distributed.barrier()  # every process has written its part
            if self.args.should_save:
                resuming.seal(folder)
        except Exception as error:  # of safetensors, torch or the system
            if not resuming.no_room(folder.parent, error):
                raise
            shutil.rmtree(folder, ignore_errors=True)
            raise LabError(
                f"no room left on disk for the checkpoint at step {self.state.global_step:,}; free some, then run the "
                "same command again to go on from the one before"
            ) from error
        if self.args.should_save:
            best = self.state.best_model_checkpoint
            resuming.keep_only({folder, *([Path(best)] if best else [])})


def token_loss(smoothing: float) -> Callable:
    """Cross entropy per token of a whole step, so that accumulation and processes do not change it. With `smoothing`,
    that share of the aim goes to all tokens alike (Szegedy et al., CVPR 2016)."""

    def loss(outputs, labels: torch.Tensor, num_items_in_batch=None) -> torch.Tensor:
        total = torch.nn.functional.cross_entropy(
            outputs.logits.float().flatten(0, 1), labels.flatten(), label_smoothing=smoothing, reduction="sum"
        )
        return total / ((labels != -100).sum() if num_items_in_batch is None else num_items_in_batch)

    return loss


def arguments(
    recipe: Recipe,
    folder: Path,
    pieces: int = 1,
    report_to: Sequence[str] = ("tensorboard",),
    measure: str = "wer_normalised",
) -> Seq2SeqTrainingArguments:
    """Seq2SeqTrainingArguments for `recipe`, with checkpoints and the TensorBoard log under `folder`; the best is by
    `measure`."""
    gpu = torch.cuda.is_available()
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(folder / "log")  # `logging_dir` went away in transformers 5
    name = optimizers.full_name(recipe.optimizer)
    parts = pieces * int(os.environ.get("WORLD_SIZE", 1))
    return Seq2SeqTrainingArguments(
        output_dir=str(folder / "checkpoints"),
        max_steps=recipe.max_steps,
        per_device_train_batch_size=max(1, recipe.batch_size // parts),
        per_device_eval_batch_size=64 if gpu else 16,
        gradient_accumulation_steps=recipe.accumulation * pieces,
        learning_rate=recipe.learning_rate,
        warmup_steps=recipe.warmup_steps,
        weight_decay=recipe.weight_decay,
        lr_scheduler_type=recipe.schedule,
        optim_target_modules="all-linear",  # what GaLore and APOLLO project; others do not look at it
        optim=name if name != optimizers.MUON else "adamw_torch",  # the Trainer knows no Muon: create_optimizer does
        bf16=recipe.precision == "bf16",
        fp16=recipe.precision == "float16",
        eval_strategy="steps",
        eval_steps=recipe.eval_steps,
        save_strategy="steps",
        save_steps=recipe.eval_steps,
        load_best_model_at_end=True,
        metric_for_best_model=f"eval_{measure}",
        greater_is_better=False,
        logging_steps=max(1, recipe.eval_steps // 10),
        logging_nan_inf_filter=False,  # it would hide them
        report_to=list(report_to),
        run_name=str(folder),  # the same again after a kill, which trackio goes on with
        project=PROJECT,  # trackio's
        remove_unused_columns=False,
        label_names=["labels"],
        average_tokens_across_devices=True,
        ddp_find_unused_parameters=False,
        use_cpu=processes.device() == "cpu",  # without it, transformers takes bf16 for a GPU's
        restore_callback_states_from_checkpoint=True,  # how long dev has not improved
        seed=recipe.seed,
        disable_tqdm=False,
        log_level_replica="passive",  # the other processes keep as quiet as the first
        **adapters.activation_checkpointing(recipe),
    )
