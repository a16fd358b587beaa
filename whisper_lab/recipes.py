"""What a training run is decided by: the recipe, the optimisers' rates, and presets for machines of several sizes."""

from dataclasses import dataclass

from . import LabError, near

# AdamW: a fortieth of the rate that OpenAI trained each size with (Radford et al. 2022, table 17), as
# vasistalodagala/whisper-finetune recommends. By the model's width.
ADAMW_RATES = {384: 3.75e-5, 512: 2.5e-5, 768: 1.25e-5, 1024: 6.25e-6, 1280: 4.375e-6}
# Adagrad divides by the root of the sum of all squared gradients so far, not of their running mean, so its steps
# shrink as 1/√t: over a few hundred to a few thousand steps it needs a rate ten to fifty times AdamW's.
FACTORS = {"adagrad": 20.0}
SHORT_NAMES = {"adamw": "adamw_torch", "adamw_8bit": "adamw_bnb_8bit"}


@dataclass(frozen=True)
class Recipe:
    """Every decision that the trained weights depend on, but for the data and the model that it starts from."""

    optimizer: str
    learning_rate: float
    max_steps: int
    batch_size: int  # clips a step and accumulation, over all processes
    accumulation: int
    warmup_steps: int
    weight_decay: float
    window: str
    eval_steps: int
    blend: str | float
    seed: int
    stream: bool = False
    patience: int | None = None  # evaluations without a better dev WER after which training stops
    label_smoothing: float = 0.0
    masks: bool = False  # SpecAugment
    perturb: tuple[str, ...] = ()  # of the sound: speed, noise, room, gain
    bpe_dropout: float = 0.0
    lora: int = 0  # rank; 0: all weights are trained
    lora_targets: tuple[str, ...] = ()
    freeze: tuple[str, ...] = ()
    activation_checkpointing: bool = False


def optimizer_name(name: str) -> str:
    """transformers' name for `--optimizer name`. Raises LabError with the nearest names."""
    from transformers.training_args import OptimizerNames

    known = {str(member.value) for member in OptimizerNames}
    full = SHORT_NAMES.get(name, name)
    if full not in known:
        raise LabError(f"there is no optimiser {name!r}" + near(name, known | set(SHORT_NAMES)))
    return full


def default_rate(optimizer: str, width: int) -> float:
    """The learning rate for an optimiser and a model's width (its config's d_model)."""
    nearest = min(ADAMW_RATES, key=lambda known: abs(known - width))
    return ADAMW_RATES[nearest] * FACTORS.get(optimizer, 1.0)
