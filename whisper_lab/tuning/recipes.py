"""What a training run is decided by: the command line, the recipe that it stands for, presets for machines."""

import math
import os
import shlex
from dataclasses import dataclass, fields

from .. import LabError

SMALL = 2_000  # clips: below, batches are halved, so that there are steps enough to learn in
USUAL = 16  # clips a step that the learning rates are for, and the original lab's
SHORT = 600  # frames: the memory that a batch takes at this window is what it may take at any
STEPS = 400  # that a GPU's larger batches leave at least
ADAPTED = 400  # steps after which --adapt-windows ends, however many clips there are


@dataclass(frozen=True)
class Options:
    """What the command line of training-pipeline.py decides; None stands for a default that depends on the data."""

    features: str = "features/sample"
    stream: bool = False
    audio: str | None = None
    columns: tuple[str, ...] = ()
    model: str = "sample"
    output: str | None = None
    registry: str | None = None
    push_to_hub: str | None = None
    formats: tuple[str, ...] = ()
    private: bool | None = None
    resume: bool = False
    adapt_windows: bool = False
    preset: str | None = None
    optimizer: str = "adamw"
    learning_rate: float | None = None
    max_steps: int | None = None
    epochs: float = 4
    patience: int | None = None
    batch_size: int | None = None
    accumulation: int = 1
    window: str = "mixed"
    masks: bool = False
    perturb: tuple[str, ...] = ()
    bpe_dropout: float = 0.0
    label_smoothing: float = 0.0
    lora: int | None = None
    lora_targets: tuple[str, ...] = ()
    freeze: tuple[str, ...] = ()
    activation_checkpointing: bool | None = None
    precision: str = "auto"
    blend: str | float = "auto"
    canary: tuple[str, ...] = ()
    replay: str | None = None
    average: bool = False
    report_to: tuple[str, ...] = ("tensorboard",)
    seed: int = 1

    @property
    def named_columns(self) -> dict[str, str]:
        """Of `columns`, KEY=NAME, as corpus.read takes them."""
        return dict(pair.split("=", 1) for pair in self.columns)

    def command_line(self, *more: str) -> str:
        """The command that has these options, without --resume, with `more` at its end; under torchrun, by torchrun."""
        given = []
        for f in fields(self):
            value = getattr(self, f.name)
            if value != f.default and f.name != "resume":
                name = f.name.replace("_", "-")
                if value is False:
                    name = "public" if name == "private" else f"no-{name}"
                values = (
                    [] if isinstance(value, bool) else map(str, value) if isinstance(value, tuple) else [str(value)]
                )
                given += [f"--{name}", *values]
        several = "LOCAL_WORLD_SIZE" in os.environ
        start = ["torchrun", "--nproc-per-node", os.environ["LOCAL_WORLD_SIZE"]] if several else ["python"]
        return shlex.join([*start, "training-pipeline.py", *given, *more])


@dataclass(frozen=True)
class Recipe:
    """Every decision that the trained weights depend on, but for the data and the model that it starts from."""

    optimizer: str
    learning_rate: float
    max_steps: int
    batch_size: int  # clips that are accumulated once, over all processes
    accumulation: int
    warmup_steps: int
    weight_decay: float
    window: str
    eval_steps: int
    blend: str | float
    seed: int
    schedule: str = "linear"  # of the learning rate after the warm-up: linear, down to 0, or constant
    stream: bool = False
    adapt_windows: bool = False  # to follow the untuned model at 30 s, instead of labels
    patience: int | None = None  # evaluations without a better rate on dev after which training stops
    label_smoothing: float = 0.0
    masks: bool = False  # SpecAugment
    perturb: tuple[str, ...] = ()  # of the sound: speed, noise, room, gain
    bpe_dropout: float = 0.0
    lora: int = 0  # rank; 0: all weights are trained
    lora_targets: tuple[str, ...] = ()
    freeze: tuple[str, ...] = ()
    activation_checkpointing: bool = False
    precision: str = "float32"  # or bf16 or float16, of the matrices that are multiplied


# Machines by the memory of a GPU, in GB, and clips a step for each. What the memory holds is decided by `fitted`.
PRESETS = {
    "16gb": (16, 16),  # a free T4 on Colab or Kaggle: 16 clips, as the original lab had there
    "24gb": (24, 32),  # one RTX 3090, 4090, A10 or L4
    "80gb": (80, 64),  # one A100 or H100: on short windows a smaller step would leave it idle
    "several": (80, 32),  # such cards under torchrun or accelerate: clips for each, so that a step stays small enough
}


def fitted(preset: str, parameters: int) -> dict:
    """What `--preset` stands for with a model of so many weights: options, where none are given.

    Training every weight with AdamW takes 16 bytes for each: weight, gradient and two means. Where those leave less
    than 40 % of the memory to activations, LoRA trains instead, whose weights take no more than 4.
    """
    memory, batch_size = PRESETS[preset]
    share = 16 * parameters / (memory * 1e9)
    return {
        "batch_size": batch_size,
        "lora": 0 if share < 0.6 else 32,
        "activation_checkpointing": share > 0.3,  # a third slower, a third of the memory
    }


def filling(memory: float, model, seen: float) -> int:
    """Clips a step, a power of two from 8 to 256, for a GPU of so many bytes and `seen` clips in all.

    The most that leaves `STEPS` steps and fits the memory at windows of `SHORT`. As measured on an H200, a clip takes
    52 bytes in bf16 for each position, layer and column of the encoder, the decoder's share included.
    """
    config = model.config
    clip = 52 * config.d_model * config.encoder_layers * SHORT / 2 * 1.25
    room = 0.8 * memory - 16 * model.num_parameters()
    most = max(8, min(256, room / clip, seen / STEPS))
    return 2 ** int(math.log2(most))


def resolve(options: Options, model, clips: int, processes: int) -> Recipe:
    """The recipe that `options`, with a precision that is not auto, stand for with this model and so many clips to
    train on."""
    from .. import cuda
    from . import optimizers  # torch: not for a command line's --help

    fitted_ = fitted(options.preset, model.num_parameters()) if options.preset else {}

    def chosen(name: str, default):
        return next((v for v in (getattr(options, name), fitted_.get(name)) if v is not None), default)

    seen, memory = options.epochs * clips / options.accumulation, cuda.smallest_memory()
    usual = USUAL if clips >= SMALL else USUAL // 2
    batch_size = chosen("batch_size", filling(memory, model, seen / processes) if memory else usual) * processes
    steps = options.max_steps or math.ceil(options.epochs * clips / (batch_size * options.accumulation))
    if options.adapt_windows and not options.max_steps:
        steps = min(steps, ADAPTED)
    lora = chosen("lora", 0)
    decided = {
        # As the root of the clips a step (Malladi et al., "On the SDEs and scaling rules for adaptive gradient
        # algorithms", NeurIPS 2022).
        "learning_rate": options.learning_rate
        or optimizers.default_rate(options.optimizer, model.config.d_model, lora)
        * math.sqrt(max(1, batch_size * options.accumulation / USUAL)),
        "max_steps": steps,
        "batch_size": batch_size,
        "warmup_steps": min(500, math.ceil(steps / 10)),
        "weight_decay": 0.01,
        # Schedule-free ones warm up by themselves, and average the weights where others let the rate fall.
        "schedule": "constant" if options.optimizer.startswith("schedule_free") else "linear",
        # With a share of weights that know no short windows, none would be left of what is learnt here.
        "blend": 1.0 if options.adapt_windows and options.blend == "auto" else options.blend,
        "eval_steps": min(1_000, math.ceil(steps / 4)),
        "lora": lora,
        "activation_checkpointing": chosen("activation_checkpointing", False),
    }
    given = {field.name: getattr(options, field.name) for field in fields(Recipe) if field.name not in decided}
    return Recipe(**given, **decided)


def check_adapting(options: Options, unlabelled: bool) -> None:
    """Raises LabError where `options` ask for what goes with no --adapt-windows, or, on features without sentences, for
    no --adapt-windows."""
    if unlabelled and not options.adapt_windows:
        raise LabError(f"{options.features} holds no sentences, so only --adapt-windows can learn from it; add that")
    if not options.adapt_windows:
        return
    if options.window not in ("mixed", "short"):
        raise LabError(f"--adapt-windows is for short windows; leave out --window {options.window}")
    for name in ("stream", "masks", "perturb", "bpe_dropout", "label_smoothing"):
        if getattr(options, name):
            flag = name.replace("_", "-")
            raise LabError(f"--adapt-windows follows the untuned model on the sound as it is; leave out --{flag}")
