"""The optimisers by name: what transformers knows, and Muon, each with a learning rate for a model's size."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .. import LabError, cuda, near

# AdamW: a fortieth of the rate that OpenAI trained each size with (Radford et al. 2022, table 17), as
# vasistalodagala/whisper-finetune recommends. By the model's width.
ADAMW_RATES = {384: 3.75e-5, 512: 2.5e-5, 768: 1.25e-5, 1024: 6.25e-6, 1280: 4.375e-6}
FACTORS = {
    # It divides by the root of the sum of all squared gradients so far, not of their running mean, so its steps shrink
    # as 1/√t: over a few hundred to a few thousand steps it needs a rate ten to fifty times AdamW's.
    "adagrad": 20.0,
    "lion_32bit": 0.2,  # its steps have the size of the rate: 3 to 10 times less than AdamW's (Chen et al. 2023)
    "lion_8bit": 0.2,
    "paged_lion_32bit": 0.2,
    "paged_lion_8bit": 0.2,
}
LORA_FACTOR = 10.0  # at any rank (Schulman et al., "LoRA without regret", 2025)
# AdamW in one pass over the weights: a fraction of the time, on a CPU above all.
SHORT_NAMES = {"adamw": "adamw_torch_fused", "adamw_8bit": "adamw_bnb_8bit", "lion": "lion_32bit"}
MUON = "muon"
# They step inside the backward pass: accumulation, clipping and (but for LOMO) the schedule do not reach them, and
# their state is in no checkpoint. GrokAdamW 0.1.2 keys its own by objects that are others in the next process.
UNFIT = (
    "lomo",
    "adalomo",
    "grokadamw",
    *(f"{name}_layerwise" for name in ("galore_adamw", "galore_adamw_8bit", "galore_adafactor", "apollo_adamw")),
)


def full_name(name: str) -> str:
    """transformers' name for `--optimizer name`, or "muon". Raises LabError with the nearest names, and for UNFIT."""
    from transformers.training_args import OptimizerNames

    known = {str(member.value) for member in OptimizerNames} | {MUON}
    full = SHORT_NAMES.get(name, name)
    if full not in known:
        raise LabError(f"there is no optimiser {name!r}" + near(name, known | set(SHORT_NAMES)))
    if full in UNFIT:
        raise LabError(
            f"--optimizer {name} would not give the same losses after a kill or on less memory; take adafactor, "
            "galore_adamw or --lora 32 to save memory"
        )
    return full


def default_rate(optimizer: str, width: int, lora: int = 0) -> float:
    """The learning rate for an optimiser, a model's width (its config's d_model) and LoRA's rank, if any.

    Raises LabError for plain gradient descent, whose steps are as long as the gradient: no rate fits all models.
    """
    if optimizer in ("sgd", "schedule_free_sgd"):
        raise LabError(f"--optimizer {optimizer} has no usual rate; give one with --learning-rate, 0.1 to begin with")
    nearest = min(ADAMW_RATES, key=lambda known: abs(known - width))
    factor = FACTORS.get(SHORT_NAMES.get(optimizer, optimizer), 1.0)
    return ADAMW_RATES[nearest] * factor * (LORA_FACTOR if lora else 1.0)


def check(name: str, arguments, model) -> None:
    """Raises LabError where what transformers needs for this optimiser is missing."""
    from transformers import Trainer

    if (name.startswith("paged_") or name == "galore_adamw_8bit") and not cuda.available():
        raise LabError(f"--optimizer {name} wants a GPU; take adamw_8bit, or galore_adamw")
    try:
        Trainer.get_optimizer_cls_and_kwargs(arguments, model)
    except (ImportError, ValueError) as error:  # GaLore and others: ValueError
        why = " ".join(str(error).split())
        raise LabError(f"--optimizer {name} wants more than is here: {why}; install that, or take another") from error


@contextmanager
def restored(optimizer) -> Iterator[None]:
    """While an optimiser's state is loaded. GaLore and APOLLO keep objects in it, `…Projector`: torch.load has to be
    told of their classes, and their matrices put beside the weights, as torch moves only what is a tensor itself."""
    made = vars(sys.modules[type(getattr(optimizer, "optimizer", optimizer)).__module__])
    known = [one for name, one in made.items() if name.endswith("Projector") and isinstance(one, type)]
    with torch.serialization.safe_globals(known):
        yield
    for weight, state in optimizer.state.items():
        for one in state.values():
            if isinstance(one, tuple(known)) and torch.is_tensor(one.ortho_matrix):
                one.ortho_matrix = one.ortho_matrix.to(weight.device)


def bytes_of(value) -> int:
    """Of a tensor in an optimiser's state, and of those inside a quantised one, which has its full size outside."""
    if hasattr(value, "__tensor_flatten__"):
        return sum(bytes_of(getattr(value, name)) for name in value.__tensor_flatten__()[0])
    return value.numel() * value.element_size() if torch.is_tensor(value) else 0


class Muon(torch.optim.Muon):
    """Muon on the layers' matrices (Jordan et al. 2024), and on all else AdamW, as it is meant to be used."""

    def __init__(self, model, rate: float, weight_decay: float):
        trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        matrices = [name for name, weight in trained.items() if weight.ndim == 2 and ".layers." in name]
        # Scaled so that AdamW's rate fits (Liu et al. 2025, "Muon is scalable for LLM training").
        super().__init__(
            [trained[name] for name in matrices], lr=rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
        )
        rest = [weight for name, weight in trained.items() if name not in set(matrices)]
        self.adamw = torch.optim.AdamW(rest or [torch.zeros(1)], lr=rate, weight_decay=weight_decay)
        for group in self.adamw.param_groups:
            self.param_groups.append(group | {"adamw": True})  # one list: schedule and checkpoints reach both

    @torch.no_grad()
    def step(self, closure=None):
        whole = self.param_groups
        self.param_groups = [group for group in whole if not group.get("adamw")]
        super().step(closure)
        self.param_groups = whole
        self.adamw.param_groups = [group for group in whole if group.get("adamw")]
        self.adamw.state = self.state
        self.adamw.step()
