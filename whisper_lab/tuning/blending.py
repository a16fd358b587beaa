"""Averages of the tuned weights with those that the tuning started from, against forgetting.

They keep what the untuned model knew of other speech, at little cost on the speech tuned for (Wortsman et al., "Robust
fine-tuning of zero-shot models", CVPR 2022). On the sample, an average forgot less of human speech than a run at a
lower rate that reached the same error rate.
"""

import torch

from ..scores import scoring

SHARES = (0.5, 0.6, 0.7, 0.8, 0.9)
KEPT = 0.95  # of what tuning gained on dev has to be left after averaging


def blend(model, start: dict, end: dict, share: float) -> None:
    """Give `model` the weights `start` + `share` · (`end` − `start`), both state dicts."""
    mixed = {
        name: torch.lerp(start[name], end[name], share) if end[name].is_floating_point() else end[name] for name in end
    }
    model.load_state_dict(mixed)


def choose_share(trainer, start: dict, end: dict, untuned: float, language: str = "") -> float:
    """The smallest of `SHARES` that keeps `KEPT` of what tuning gained on dev, in the headline rate; otherwise 1.

    `untuned` is the untuned model's on dev, in percent; `language` the corpus' locale.
    """

    def dev(share: float) -> float:
        blend(trainer.model, start, end, share)
        heard = trainer.transcribe("dev", trainer.model.config.trained_windows, f"Dev, {share:.0%} tuned")
        return rate(heard, language)

    tuned = dev(1.0)
    enough = tuned + (1 - KEPT) * max(0.0, untuned - tuned)
    return next((share for share in SHARES if dev(share) <= enough), 1.0)


def rate(heard, language: str) -> float:
    """The headline rate of hypotheses.Hypotheses, in percent."""
    return heard.scores(language)[scoring.headline(language)].value


def weights(model) -> dict:
    """A copy of the model's state dict in main memory."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in model.state_dict().items()}
