"""Averages of the tuned weights with those that the tuning started from, against forgetting.

They keep what the untuned model knew of other speech, at little cost on the speech tuned for (Wortsman et al., "Robust
fine-tuning of zero-shot models", CVPR 2022). On the sample, an average forgot less of human speech than a run at a
lower rate that reached the same error rate.

Of the shares that are not shown to be worse than the best on dev, by a paired interval of 95 %, the smallest is taken.
So a small dev set, which tells little, leans to the untuned model, and a large one decides sharply. (By one standard
error, as Breiman et al. prune trees, three seeds of the sample with 40 clips of dev took 60, 70 and 100 %, and human
speech got worse; by the interval all took 50 %, and it got better.) Canaries, speech that must not get worse, are
judged more strictly: each may be at most one standard error above the untuned model. To allow there too what is not
shown to be worse would let the most harm pass where there is the least evidence, and to ask for proof of no harm would
let a small canary allow nothing.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

from ..scores import scoring
from ..scores.hypotheses import Hypotheses

SHARES = tuple(tenths / 10 for tenths in range(10, 0, -1))
SHOWN = 1.96  # standard errors of a difference above which a rate is shown to be worse
ALLOWED = 1.0  # those up to which a canary may be above untuned
CLIPS = 400  # of a split that choose: each share that is tried transcribes them


def step(clips: int) -> int:
    """Every how many of so many clips choose."""
    return max(1, -(-clips // CLIPS))


def blend(model, start: dict, end: dict, share: float) -> None:
    """Give `model` the weights `start` + `share` · (`end` − `start`), both state dicts."""
    mixed = {
        name: torch.lerp(start[name], end[name], share) if end[name].is_floating_point() else end[name] for name in end
    }
    model.load_state_dict(mixed)


def weights(model) -> dict:
    """A copy of the model's state dict in main memory."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in model.state_dict().items()}


@dataclass(frozen=True)
class Choice:
    """A share, why it was taken, in sentences for people, and the headline rate of each split at each share tried."""

    share: float
    why: str = ""
    rates: dict[str, dict[float, float]] = field(default_factory=dict)


def choose(hear: Callable[[str, float], Hypotheses], untuned: dict[str, Hypotheses], locales: dict[str, str]) -> Choice:
    """The smallest share that is safe on dev, lowered until no canary is worse than `untuned` (canary → hypotheses).

    `hear(split, share)` transcribes the same clips at every share; `locales` are those of the splits. Where each share
    is worse for some canary, the least harmful of them is taken, and `why` says so.
    """
    dev: dict[float, Hypotheses] = {}
    worse = 0  # in a row
    for share in SHARES:
        dev[share] = hear("dev", share)
        gap = above(dev[share], dev[_best(dev, locales["dev"])], locales["dev"])
        worse = 0 if within(SHOWN, gap) else worse + 1
        if worse == 2:  # one may be chance; below two, all are worse still
            break
    safe, rates = smallest_safe(dev, locales["dev"]), {"dev": _rates(dev, locales["dev"])}
    heard: dict[str, dict[float, Hypotheses]] = {name: {} for name in untuned}
    gaps: dict[float, dict[str, scoring.Score]] = {}
    for share in SHARES[SHARES.index(safe) :]:
        for name in untuned:
            heard[name][share] = hear(name, share)
        gaps[share] = {name: above(heard[name][share], one, locales[name]) for name, one in untuned.items()}
        if all(within(ALLOWED, gap) for gap in gaps[share].values()):
            break
    else:
        share = min(gaps, key=lambda share: max(gap.value - ALLOWED * gap.error for gap in gaps[share].values()))
    rates |= {name: _rates(some, locales[name]) for name, some in heard.items()}
    return Choice(share, " ".join(_why(dev, safe, share, gaps, rates, locales["dev"])), rates)


def smallest_safe(heard: dict[float, Hypotheses], language: str = "", errors: float = SHOWN) -> float:
    """The smallest of the shares in `heard`, all of the same clips, that is not shown to be worse than the best."""
    best = _best(heard, language)
    return min(share for share, one in heard.items() if within(errors, above(one, heard[best], language)))


def within(errors: float, gap: scoring.Score) -> bool:
    """Whether a rate is at most so many standard errors above another; `gap` is their difference, paired."""
    return gap.value <= errors * gap.error


def above(ours: Hypotheses, theirs: Hypotheses, language: str = "") -> scoring.Score:
    """How far the headline rate of `ours` is above that of `theirs`, of the same clips, in points."""
    return scoring.difference(ours.references, ours.texts, theirs.texts, language)


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _best(heard: dict[float, Hypotheses], language: str) -> float:
    rates = _rates(heard, language)
    return min(sorted(rates), key=rates.get)


def _rates(heard: dict[float, Hypotheses], language: str) -> dict[float, float]:
    """The headline rate at each share, in percent."""
    return {share: scoring.rate(one.references, one.texts, language) for share, one in heard.items()}


def _why(
    dev: dict[float, Hypotheses],
    safe: float,
    share: float,
    gaps: dict[float, dict[str, scoring.Score]],
    rates: dict[str, dict[float, float]],
    language: str,
) -> Iterator[str]:
    """Sentences: `safe` is what dev alone would have, `gaps` how far each canary is above the untuned model."""
    best = _best(dev, language)
    said = f"On dev {percent(safe)} has {rates['dev'][safe]:.1f} %"
    if safe == best:
        yield f"{said}, the best of those tried."
    else:
        gap, least = above(dev[safe], dev[best], language), f"{rates['dev'][best]:.1f} % of {percent(best)}"
        yield f"{said}, not shown to be worse than the {least} (standard error {gap.error:.1f} points)."
    worse = dict.fromkeys(name for each in gaps.values() for name, gap in each.items() if not within(ALLOWED, gap))
    if share < safe:
        yield f"Lowered for {', '.join(worse)}."
    for name, gap in gaps[share].items():
        yield f"{name}: {gap.value:+.1f} points against untuned, standard error {gap.error:.1f}."
    if not all(within(ALLOWED, gap) for gap in gaps[share].values()):
        yield (
            f"At every share from {percent(safe)} down, {' or '.join(worse)} is worse than untuned by more than one "
            "standard error: this share does the least harm."
        )
