"""Training a part of a Whisper: LoRA on its matrices, or some of its layers left as they are.

LoRA (Hu et al., ICLR 2022) keeps a matrix W and trains two narrow ones beside it, W + (α/r)·B·A. Gradients and the
optimiser's state then take a fraction of the memory, and what is saved is a plain Whisper with the sums in it. peft
puts them into the model's own layers: it stays a WhisperForConditionalGeneration with its hooks, and decodes as before.
"""

import re
from pathlib import Path

from .. import LabError

# All matrices: attention alone learns less at any rank (Schulman et al., "LoRA without regret", 2025).
TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
ALPHA = 32  # at every rank: B·A grows with the rank, and α/r takes that back, so that one learning rate fits all
DROPOUT = 0.05
FILE = "adapters.safetensors"  # not peft's adapter_config.json: from_pretrained would look for the model elsewhere


def prepare(model, recipe):
    """`model`, with what `recipe` freezes frozen, and LoRA on what is left where it asks for a rank.

    Raises LabError for a part or a target that the model has not, and where nothing would be left to train.
    """
    for name in recipe.freeze:
        _part(model, name).requires_grad_(False)
    if recipe.lora:
        _add_lora(model, recipe)
    if not count(model)[0]:
        raise LabError(f"--freeze {' '.join(recipe.freeze)} leaves nothing to train; leave a part out of it")
    return model


def _part(model, name: str):
    from torch.nn import ModuleList

    sides = {"encoder": model.get_encoder(), "decoder": model.get_decoder()}
    parts = {
        **sides,
        "encoder.conv": ModuleList([sides["encoder"].conv1, sides["encoder"].conv2]),
        "embeddings": ModuleList([sides["decoder"].embed_tokens, sides["decoder"].embed_positions]),
    }
    if name in parts:
        return parts[name]
    if found := re.fullmatch(r"(encoder|decoder)\.(\d+)(?:-(\d+))?", name):
        layers, first, last = sides[found[1]].layers, int(found[2]), int(found[3] or found[2])
        if first <= last < len(layers):
            return layers[first : last + 1]
    ranges = [f"{side}.0-{len(module.layers) - 1}" for side, module in sides.items()]
    raise LabError(f"--freeze {name}: the model has no such part; it has {', '.join([*parts, *ranges])}")


def _add_lora(model, recipe) -> None:
    import torch
    from peft import LoraConfig, inject_adapter_in_model

    matrices = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and ".layers." in name
    }
    chosen = []
    for target in recipe.lora_targets or TARGETS:
        found = [name for name in matrices if f".{name}".endswith(f".{target}")]
        if not found:
            known = sorted({name.rsplit(".", 1)[1] for name in matrices})
            raise LabError(
                f"--lora-targets {target}: the model has no such matrix; it has {', '.join(known)}, each also as "
                "self_attn.q_proj, or decoder.layers.0.fc1"
            )
        chosen += [name for name in found if matrices[name].weight.requires_grad]
    if not chosen:
        raise LabError(f"--freeze {' '.join(recipe.freeze)} leaves nothing for LoRA to train; leave a part out of it")
    config = LoraConfig(r=recipe.lora, lora_alpha=ALPHA, lora_dropout=DROPOUT, target_modules=chosen)
    with torch.random.fork_rng(devices=[]):  # the same start for the same recipe, whatever was drawn before
        torch.manual_seed(recipe.seed)
        inject_adapter_in_model(config, model)


def _layers(model) -> dict:
    """The layers that LoRA is in, by name."""
    return {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}


def merge(model):
    """`model` with LoRA's products in its weights: the same classes and names of weights as before `prepare`."""
    for name, layer in _layers(model).items():
        layer.merge()
        model.set_submodule(name, layer.get_base_layer())
    model.__dict__.pop("peft_config", None)
    return model


def merged_weights(model) -> dict:
    """The state dict that `merge(model)` would have; the model stays as it is."""
    state = {
        name.replace(".base_layer.", "."): tensor for name, tensor in model.state_dict().items() if ".lora_" not in name
    }
    for name, layer in _layers(model).items():
        merged = layer.get_base_layer().weight + layer.get_delta_weight(layer.active_adapters[0])
        state[f"{name}.weight"] = merged.detach().cpu()  # a second copy of every matrix would not fit a small GPU
    return state


class Checkpoints:
    """For a transformers Trainer to inherit from: checkpoints of a model with LoRA load like any model.

    They hold the model with the sums in its weights, and LoRA's own matrices in `FILE`, from which training goes on
    to the same losses: from the sums alone they could not be had back. Models without LoRA are saved as ever.
    """

    def _save(self, output_dir=None, state_dict=None) -> None:
        if not _layers(self.model):
            return super()._save(output_dir, state_dict)
        super()._save(output_dir, merged_weights(self.model))
        if self.args.should_save:
            from safetensors.torch import save_file

            own = {name: tensor.cpu() for name, tensor in self.model.state_dict().items() if ".lora_" in name}
            save_file(own, Path(output_dir or self.args.output_dir) / FILE)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None) -> None:
        if not _layers(self.model):
            return super()._load_from_checkpoint(resume_from_checkpoint, model)
        from safetensors.torch import load_file

        self.model.load_state_dict(load_file(Path(resume_from_checkpoint) / FILE), strict=False)

    def _load_best_model(self) -> None:
        if not _layers(self.model):
            return super()._load_best_model()
        self._load_from_checkpoint(self.state.best_model_checkpoint)


def count(model) -> tuple[int, int]:
    """The number of weights that are trained, and of all; LoRA's own are in both until they are merged."""
    sizes = [(weight.numel(), weight.requires_grad) for weight in model.parameters()]
    return sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes)


def activation_checkpointing(recipe) -> dict:
    """The Trainer's arguments for it, as the transformers at hand calls them (`gradient_checkpointing` in 5.17).

    Not reentrant, as a reentrant checkpoint gives no gradients where its inputs need none: behind frozen layers.
    """
    from dataclasses import fields

    from transformers import TrainingArguments

    new = "activation_checkpointing" in {field.name for field in fields(TrainingArguments)}
    name = "activation_checkpointing" if new else "gradient_checkpointing"
    return {name: recipe.activation_checkpointing, f"{name}_kwargs": {"use_reentrant": False}}
