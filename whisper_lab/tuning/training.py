"""Fine-tuning with Seq2SeqTrainer on windows as short as the speech, on one device or many."""

import copy
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
import torch.distributed
from torch.utils.checkpoint import checkpoint as checkpointed
from torch.utils.data import DataLoader
from transformers import EarlyStoppingCallback, Seq2SeqTrainer, Seq2SeqTrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from .. import LabError, cuda
from ..scores import choices, drafts, hypotheses, scoring
from ..stores.reading import Part
from ..stores.streaming import Ahead
from ..whisper import attention, checkpoint, packing
from ..whisper.batches import Collator, Named, Parts, WindowBatches, Windowed, pieces
from . import adapters, graphs, optimizers, processes, resuming, teacher
from .monitoring import PROJECT, Meter, Progress, StopAfterStep
from .recipes import SHORT, Recipe

FEWEST = 16  # clips at SHORT that every machine has the memory for
ROWS = drafts.JUDGED  # tokens whose logits are in memory at once
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

    `at_once`: frames that are taken through the model together. A batch with more of them, one that is drawn at 30 s
    above all, goes through in pieces, one after the other, so that it takes no more memory than a batch of short
    windows. With several processes each takes a part of every batch. The losses are the same however it is divided.
    """

    def __init__(
        self,
        model,
        recipe: Recipe,
        folder: Path,
        splits: dict,
        processor,
        prompt: list[int],
        at_once: int | None = None,
        report_to: Sequence[str] = ("tensorboard",),
        augment: Callable | None = None,
        language: str = "",
    ):
        """`language`: the corpus' locale, which says what the checkpoint is chosen by."""
        self.language, self.recipe, self.splits, self.prompt = language, recipe, splits, prompt
        self.processor, self._words = processor, model.get_output_embeddings()
        self.meter, self._stop = Meter(), StopAfterStep()
        self._before, self._targets = None, {}
        self._unchecked: list[tuple[int, list[str], torch.Tensor]] = []
        packed = recipe.window == "packed"
        join = partial(packing.join, tokens=packing.Tokens.of(processor.tokenizer)) if packed else None
        end = processor.tokenizer.convert_tokens_to_ids("<|endoftext|>")
        self.collator = Collator(prompt[0], end, vocabulary=model.config.vocab_size)
        super().__init__(
            model=model,
            args=arguments(recipe, folder, report_to, scoring.headline(language)),
            train_dataset=Windowed(splits["train"], join, augment),
            eval_dataset=Windowed(splits["dev"]),
            data_collator=Named(self.collator),
            processing_class=processor,
            compute_loss_func=self._token_loss,
            callbacks=[self._stop, Progress()],
        )
        self.model_accepts_loss_kwargs = False  # its forward would hand the number of tokens on to every layer
        self.at_once = at_once or SHORT * max(FEWEST, self.args.per_device_train_batch_size)
        self.in_hand = self.args.per_device_train_batch_size, SHORT  # clips of a piece, and its window
        self.eval_batch_size = self.args.per_device_eval_batch_size
        may = graphs.possible(model, recipe, self.args.device, self.args.world_size)
        self.graphs = graphs.Graphs(model.parameters()) if may else None
        if recipe.patience:
            self.add_callback(EarlyStoppingCallback(recipe.patience))
        self.remove_callback(ProgressCallback)
        self.remove_callback(PrinterCallback)

    def follow(self, splits: dict) -> None:
        """From now on go by what a teacher, the model as it is now, made of `splits`: a teacher.Taught to train on."""
        self._before = copy.deepcopy(self._words).requires_grad_(False)
        self.splits, self.train_dataset = splits, Windowed(splits["train"])
        self.data_collator = Named(teacher.Targeted(self.collator))

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
            if self.graphs:
                self.graphs.clear()

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
        parts = Parts(batches, self.args.world_size, self.args.process_index)
        # A stream's threads are in this process: worker processes would each fetch every shard for themselves.
        workers = 4 if self.args.device.type == "cuda" and not recipe.stream else 0
        # Not prepared by accelerate, which would divide the batches among processes once more.
        return DataLoader(
            self.train_dataset,
            batch_sampler=Ahead(parts, train) if recipe.stream else parts,
            collate_fn=self.data_collator,
            num_workers=workers,
            pin_memory=self.args.device.type == "cuda",
            persistent_workers=workers > 0,
        )

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        # One process counts tokens where the batches are: for the GPU's own count it would wait every time.
        device = torch.device("cpu") if self.args.world_size == 1 else device
        return super().get_batch_samples(epoch_iterator, num_batches, device)

    @attention.without_cudnn()  # with the way back, where checkpointed activations are made again
    def training_step(self, model, inputs, num_items_in_batch=None):
        ids, speech = inputs.pop("ids"), inputs.pop("speech")
        loss, parts, step = 0.0, pieces(inputs, self.at_once), partial(super().training_step, model)
        if torch.is_tensor(num_items_in_batch):
            num_items_in_batch = num_items_in_batch.to(self.args.device, non_blocking=True)
        if self.graphs:
            step = partial(self.graphs.run, step)
        for part in parts:
            self.in_hand = part["input_features"].shape[0], part["input_features"].shape[-1]
            with nullcontext() if part is parts[-1] else self.accelerator.no_sync(model):
                loss = loss + step(part, num_items_in_batch)
        self._unchecked.append((self.state.global_step + 1, ids, torch.isfinite(loss)))
        if loss.device.type == "cpu" or len(self._unchecked) == UNCHECKED:
            self._check_losses()
        self.meter.count(len(ids) * self.args.world_size, speech * self.args.world_size)
        return loss

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        self._targets = {name: inputs.pop(name) for name in teacher.TARGETS if name in inputs}
        self.model.set_output_embeddings(torch.nn.Identity())  # the loss makes the logits, not all of them at once
        try:
            with attention.without_masks(self.model.config):
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        finally:
            self.model.set_output_embeddings(self._words)

    def _token_loss(self, outputs, labels: torch.Tensor, num_items_in_batch: torch.Tensor) -> torch.Tensor:
        """Cross entropy, or the distance from a teacher, per token of a whole step, so that accumulation, pieces and
        processes do not change it."""
        with self.accelerator.autocast():
            if self._targets:
                student = outputs.encoder_last_hidden_state, outputs.logits, self._words
                total = teacher.distance(*student, self._before, labels, self._targets)
            else:
                total = cross_entropy(outputs.logits, self._words, labels, self.recipe.label_smoothing)
        return total / num_items_in_batch

    def floating_point_ops(self, inputs) -> int:
        return 0  # nobody looks at them, and counting the weights at every step takes milliseconds

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

    def transcribe(
        self, split: str, lengths: Sequence[int], title: str, prompt: list[int] | None = None, step: int = 1
    ) -> hypotheses.Hypotheses:
        """The hypotheses of every `step`-th clip of a split, after its own `prompt` where that is not train's; every
        process transcribes its part of them and is given all."""

        def read(clips) -> hypotheses.Hypotheses:
            what = self.model, clips, self.processor.tokenizer, self.collator, prompt or self.prompt, lengths
            heard, self.eval_batch_size = hypotheses.in_memory(
                self.eval_batch_size, lambda size: hypotheses.transcribe(*what, size, title, self.recipe.precision)
            )
            return heard

        return processes.share(Part(self.splits[split], slice(None, None, step)), read)

    def evaluate(self, *_, **__) -> dict[str, float]:
        """Dev loss and rates, on windows as the model is served with."""
        self.optimizer.eval()  # schedule-free ones keep the weights to be scored and saved apart
        with self.meter.paused():
            heard = self.transcribe("dev", self.model.config.trained_windows, "Dev")
        metrics = {f"eval_{name}": score.value for name, score in heard.scores(self.language).items()}
        metrics |= {"eval_loss": heard.loss, "seconds": round(self.meter.seconds, 3)}
        self.log(metrics)
        edits = choices.edits(heard.references, heard.texts, self.language)
        self.state.log_history[-1][choices.EDITS] = edits  # not through `log`: trackers take numbers
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
        self.processing_class = None  # or the Trainer, too, would write it
        try:
            super()._save(output_dir, state_dict)
        finally:
            self.processing_class = self.processor
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


def cross_entropy(states: torch.Tensor, words: torch.nn.Module, labels: torch.Tensor, smoothing: float) -> torch.Tensor:
    """The sum over the tokens of `labels` (clips, tokens), but for −100, given the decoder's `states` (clips, tokens,
    width) and `words`, which makes logits of them. With `smoothing`, that share of the aim goes to all tokens alike
    (Szegedy et al., CVPR 2016).

    Logits are made for `ROWS` tokens at a time, and again on the way back: those of a large batch are gigabytes.
    """
    states, labels = states.flatten(0, 1), labels.flatten()
    if states.device.type == "cpu":  # a GPU would have to be waited for to say how many these are
        states, labels = states[labels != -100], labels[labels != -100]

    def some(states: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        logits = words(states).float()
        return torch.nn.functional.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="sum")

    if len(labels) <= ROWS:
        return some(states, labels)
    chunks = zip(states.split(ROWS), labels.split(ROWS))
    # Nothing is drawn in it, and the state of what is drawn cannot be asked for while a graph is captured.
    return sum(checkpointed(some, *chunk, use_reentrant=False, preserve_rng_state=False) for chunk in chunks)


class Arguments(Seq2SeqTrainingArguments):
    """With one GPU for each process. For several in one, the Trainer would wrap the model in a DataParallel, which
    divides batches and copies models in ways that ours, with the hooks of short windows, do not allow."""

    @property
    def n_gpu(self) -> int:
        return min(1, super().n_gpu)

    @property
    def device(self) -> torch.device:
        return cuda.device() if super().device.type == "cuda" else super().device


def arguments(
    recipe: Recipe,
    folder: Path,
    report_to: Sequence[str] = ("tensorboard",),
    measure: str = "wer_normalised",
) -> Seq2SeqTrainingArguments:
    """Seq2SeqTrainingArguments for `recipe`, with checkpoints and the TensorBoard log under `folder`; the best is by
    `measure`."""
    gpu = cuda.available()
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(folder / "log")  # `logging_dir` went away in transformers 5
    name = optimizers.full_name(recipe.optimizer)
    return Arguments(
        output_dir=str(folder / "checkpoints"),
        max_steps=recipe.max_steps,
        per_device_train_batch_size=max(1, recipe.batch_size // int(os.environ.get("WORLD_SIZE", 1))),
        per_device_eval_batch_size=64 if gpu else 16,
        gradient_accumulation_steps=recipe.accumulation,
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
