"""Canaries: speech that nothing is tuned on, and that must not get worse. The share of tuned weights is lowered for
them (`blending`), and they are scored at the end, as dev and test are."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from .. import LabError, files
from ..corpora import corpus
from ..scores import sources
from ..stores import streaming
from ..stores.places import is_url
from ..stores.reading import Part
from ..stores.store import FeatureSet
from ..text import normalise
from ..whisper import checkpoint, languages
from .blending import step

OWN = "out_of_domain"  # the split of a feature set that is a canary unasked


@dataclass(frozen=True)
class Canary:
    """A split that is spoken in `locale`, the `prompt` that the decoder is given for it, the `fingerprint` of its
    clips, and what to say of their number."""

    split: object
    locale: str
    prompt: list[int]
    fingerprint: str
    note: str


def parse(spec: str) -> tuple[str, str, str]:
    """[LOCALE=]SOURCE[:SPLIT] → the locale or "", the source, and the split, test where none is named."""
    locale, source = re.fullmatch(r"(?:([a-z]{2,3}(?:[-_]\w+)*)=)?(.*)", spec).groups("")
    source = os.path.expanduser(source)
    own = 2 if source.startswith("hub:") else 1 if source.startswith("mdc:") or is_url(source) else 0  # colons
    if source.count(":") <= own or Path(source).exists():
        return locale, source, "test"
    source, _, split = source.rpartition(":")
    return locale, source.rstrip(":"), split


def find(specs: Iterable[str], features: FeatureSet, processor, model: str) -> dict[str, Canary]:
    """The canaries of a run on `features` that starts from `model`, by the names that they are shown under: the
    features' own, and those that `specs` name. Of these, every n-th clip, at most `blending.CLIPS`.

    Raises LabError where there is no such source or split, its features do not fit the model, the model does not know
    its language, nobody says a word, and where its clips are tuned on or judged by.
    """
    found = {OWN: _canary(features, OWN, features.split(OWN), processor)} if OWN in features.splits else {}
    for spec in specs:
        try:
            name, canary = _found(*parse(spec), features, processor, model)
            _check(canary, features)
        except LabError as error:
            raise LabError(f"--canary {spec}: {error} (it takes [LOCALE=]SOURCE[:SPLIT])") from error
        found[name if name not in found else f"{name} ({len(found)})"] = canary
    return found


def _found(locale: str, source: str, split: str, features: FeatureSet, processor, model: str) -> tuple[str, Canary]:
    own, left_out = features.manifest, ""
    if is_url(source) or any((Path(source) / name).is_file() for name in ("manifest.json", "plan.json")):
        there = streaming.open_features(source, stream=split != "train")  # whose train is not fetched
        if wrong := sources.misfit(model, processor, there):
            raise LabError(f"{there.folder} holds {wrong}; name its corpus instead, and features are made of it")
        every = there.split(split)
        clips = Part(every, slice(None, None, step(len(every))))
    else:
        told = own["language"] if locale in ("", own["corpus"]["language"]) else languages.whisper_language(locale)
        read = corpus.read(source, locale or own["corpus"]["language"], [split])
        every, left_out = read.splits[split], corpus.unused(read.left_out)
        there = sources.made(processor, replace(read, splits={split: every[:: step(len(every))]}), told)
        clips = there.split(split)
    told = there.manifest["corpus"]
    if locale not in ("", told["language"]):
        raise LabError(f"that is {told['language']}: leave out {locale}=")
    name = " ".join(filter(None, [told["name"], told["version"], told["language"], split]))
    few = f", one in {step(len(every))} of {len(every):,}" if step(len(every)) > 1 else ""
    return name, _canary(there, split, clips, processor, few + left_out)


def _canary(there: FeatureSet, split: str, clips, processor, more: str = "") -> Canary:
    told = there.manifest["corpus"]
    prompt = checkpoint.prompt_ids(processor.tokenizer, there.manifest["language"])
    mark, note = files.digest([told["fingerprint"], split]), f"{len(clips):,} clips{more}"
    return Canary(clips, told["language"], prompt, mark, note)


def _check(canary: Canary, features: FeatureSet) -> None:
    sentences = canary.split.column("sentence")
    if not any(normalise(sentence, canary.locale) for sentence in sentences):
        raise LabError("nobody says a word there: every sentence is empty; choose another split")
    clips = set(zip(canary.split.column("id"), sentences))
    for split in ("train", "dev", "test"):
        there = features.clips(split)
        if both := len(clips.intersection(zip(*(there[name].to_pylist() for name in ("id", "sentence"))))):
            raise LabError(
                f"{both:,} of its clips are in {split} too, and a canary is other speech; choose another split"
            )


def marks(canaries: dict[str, Canary]) -> dict[str, str]:
    """What a plan says of those that do not come with the features: their fingerprints by their names."""
    return {name: canary.fingerprint for name, canary in canaries.items() if name != OWN}
