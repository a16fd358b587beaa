"""The optimisers by name: what transformers knows, and Muon, each with a learning rate for a model's size."""

import torch

from .. import LabError, near

# AdamW: a fortieth of the rate that OpenAI trained each size with (Radford et al. 2022, table 17), as
# vasistalodagala/whisper-finetune recommends. By the model's width.
ADAMW_RATES = {384: 3.75e-5, 512: 2.5e-5, 768: 1.25e-5, 1024: 6.25e-6, 1280: 4.375e-6}
FACTORS = {
    # It divides by the root of the sum of all squared gradients so far, not of their running mean, so its steps shrink
    # as 1/√t: over a few hundred to a few thousand steps it needs a rate ten to fifty times AdamW's.
    "adagrad": 20.0,
    "lion_32bit": 0.2,  # its steps have the size of the rate: 3 to 10 times less than AdamW's (Chen et al. 2023)
    "lion_8bit": 0.2,
}
LORA_FACTOR = 10.0  # at any rank (Schulman et al., "LoRA without regret", 2025)
SHORT_NAMES = {"adamw": "adamw_torch", "adamw_8bit": "adamw_bnb_8bit", "lion": "lion_32bit"}
MUON = "muon"


def full_name(name: str) -> str:
    """transformers' name for `--optimizer name`, or "muon". Raises LabError with the nearest names."""
    from transformers.training_args import OptimizerNames

    known = {str(member.value) for member in OptimizerNames} | {MUON}
    full = SHORT_NAMES.get(name, name)
    if full not in known:
        raise LabError(f"there is no optimiser {name!r}" + near(name, known | set(SHORT_NAMES)))
    return full


def default_rate(optimizer: str, width: int, lora: int = 0) -> float:
    """The learning rate for an optimiser, a model's width (its config's d_model) and LoRA's rank, if any."""
    nearest = min(ADAMW_RATES, key=lambda known: abs(known - width))
    factor = FACTORS.get(SHORT_NAMES.get(optimizer, optimizer), 1.0)
    return ADAMW_RATES[nearest] * factor * (LORA_FACTOR if lora else 1.0)


def check(name: str, arguments, model) -> None:
    """Raises LabError where what transformers needs for this optimiser is missing."""
    from transformers import Trainer

    try:
        Trainer.get_optimizer_cls_and_kwargs(arguments, model)
    except (ImportError, ValueError) as error:  # GaLore and others: ValueError
        why = " ".join(str(error).split())
        raise LabError(f"--optimizer {name} wants more than is here: {why}; install that, or take another") from error


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
