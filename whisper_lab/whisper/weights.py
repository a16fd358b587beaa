"""Whisper's weights by name, and whether what was loaded is all of them."""

import re
from collections import Counter

from .. import LabError

LAYER = {  # transformers' names within a layer → OpenAI's, which whisper.cpp uses
    "self_attn.": "attn.",
    "encoder_attn.": "cross_attn.",
    "self_attn_layer_norm.": "attn_ln.",
    "encoder_attn_layer_norm.": "cross_attn_ln.",
    "final_layer_norm.": "mlp_ln.",
    "fc1.": "mlp.0.",
    "fc2.": "mlp.2.",
    "q_proj.": "query.",
    "k_proj.": "key.",
    "v_proj.": "value.",
    "out_proj.": "out.",
}
OUTSIDE = {
    "encoder.layer_norm.": "encoder.ln_post.",
    "decoder.layer_norm.": "decoder.ln.",
    "embed_positions.weight": "positional_embedding",
    "embed_tokens.": "token_embedding.",
}
POSITIONS = "model.encoder.embed_positions.weight"  # sinusoids: a model that is made has them, file or no file
# What torch.compile, FSDP and activation checkpointing put into names, anywhere; other prefixes come before the side.
WRAPPERS = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|module)\.")
BARE = re.compile(r"(?<![^.])(encoder|decoder|proj_out)\..*")


def name_of(key: str) -> str:
    """OpenAI's name of a tensor of transformers' WhisperForConditionalGeneration."""
    key = key.removeprefix("model.")
    inside = re.sub(r"^(encoder|decoder)\.layers\.", r"\1.blocks.", key)
    for theirs, ours in (OUTSIDE if inside == key else LAYER).items():
        inside = re.sub(rf"(?<![a-z_]){re.escape(theirs)}", ours, inside)
    return inside


def renaming(report: dict) -> dict[str, str]:
    """A `key_mapping` for from_pretrained: names in a file, under a prefix or OpenAI's own, to those that were missed.

    `report`: what from_pretrained gives with output_loading_info. Two tensors that would get one name get none.
    """
    ours = {BARE.search(name)[0]: name for name in report["missing_keys"] if BARE.search(name)}
    ours |= {name_of(name): name for name in report["missing_keys"]}
    found = {}
    for name in report["unexpected_keys"]:
        bare = BARE.search(WRAPPERS.sub("", name))
        if bare and bare[0] in ours:
            found[name] = ours[bare[0]]
    times = Counter(found.values())
    return {rf"^{re.escape(name)}$": new for name, new in found.items() if times[new] == 1}


def check(model, report: dict, name: str) -> None:
    """Raise LabError unless `report` says that the file had all of the model's weights and no others, all finite."""
    import torch

    missing = set(report["missing_keys"]) - {POSITIONS}
    shapes = [f"{key} is {'×'.join(map(str, there))}" for key, there, _ in report["mismatched_keys"]]
    faults = [
        f"{len(keys)} {'weights are' if len(keys) > 1 else 'weight is'} {what} ({some(keys)})"
        for what, keys in (
            ("missing", missing),
            ("unknown to a Whisper of this size", report["unexpected_keys"]),
            ("of another shape than config.json says", shapes),
        )
        if keys
    ]
    if faults:
        raise LabError(
            f"{name} is not a whole Whisper, or its config.json is another's: {'; '.join(faults)}; copy or convert the "
            "model again, or take an earlier checkpoint"
        )
    spoilt = [
        key
        for key, tensor in model.named_parameters()
        if tensor.numel() and not torch.isfinite(torch.stack(tensor.aminmax())).all()
    ]
    if spoilt:
        raise LabError(
            f"{name} is spoilt: NaN or infinity in {len(spoilt)} of its weights ({some(spoilt)}); take an earlier "
            "checkpoint"
        )


def some(names) -> str:
    names = sorted(names)
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
