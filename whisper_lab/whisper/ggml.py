"""A Whisper folder → one file for whisper.cpp, in its ggml format with weights in 16 bits.

    magic, 11 sizes                                     int32 each
    mel filters: mels, bins, values                     int32, int32, float32 each
    vocabulary: count, then length and bytes of each    int32; special tokens are not among them
    tensors until the end: dimensions, length of name, type (0 float32, 1 float16), sizes (last one first), name, values

It is what whisper.cpp's `whisper_model_load` (src/whisper.cpp) reads; its own converter, models/convert-h5-to-ggml.py,
wants a checkout of openai/whisper for the mel filters, and holds the weights in memory twice.
"""

import re
import struct
from pathlib import Path

import numpy as np

from .. import LabError, files
from ..speech.features import N_FFT, FrontEnd
from . import checkpoint

MAGIC = 0x67676D6C
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


def write(folder: Path, path: Path) -> None:
    """The model in `folder` (Hugging Face's layout, safetensors) as `path`, whole or not at all.

    Raises LabError where the folder has no safetensors or no old tokenizer files.
    """
    config = checkpoint.config(folder)
    weights = sorted(folder.glob("*.safetensors"))
    if not weights or not (folder / "vocab.json").is_file():
        raise LabError(f"{folder} cannot become a ggml file: it needs *.safetensors and vocab.json")
    sizes = [config["vocab_size"]]
    for side, positions in (("encoder", "max_source_positions"), ("decoder", "max_target_positions")):
        sizes += [config[positions], config["d_model"], config[f"{side}_attention_heads"], config[f"{side}_layers"]]
    sizes += [config["num_mel_bins"], 1]
    words = _words(files.read_json(folder / "vocab.json"))
    with files.replacing(path) as beside, open(beside, "wb") as file:
        file.write(struct.pack("<12i", MAGIC, *sizes))
        file.write(struct.pack("<2i", config["num_mel_bins"], N_FFT // 2 + 1))
        file.write(FrontEnd(config["num_mel_bins"]).filters.astype("<f4").tobytes())
        file.write(struct.pack("<i", len(words)))
        for word in words:
            file.write(struct.pack("<i", len(word)) + word)
        for part in weights:
            _write_tensors(file, part)


def name_of(key: str) -> str:
    """OpenAI's name of a tensor of transformers' WhisperForConditionalGeneration."""
    key = key.removeprefix("model.")
    inside = re.sub(r"^(encoder|decoder)\.layers\.", r"\1.blocks.", key)
    for theirs, ours in (OUTSIDE if inside == key else LAYER).items():
        inside = re.sub(rf"(?<![a-z_]){re.escape(theirs)}", ours, inside)
    return inside


def _write_tensors(file, weights: Path) -> None:
    import torch
    from safetensors import safe_open

    with safe_open(weights, "pt") as tensors:
        for key in tensors.keys():  # noqa: SIM118
            if key == "proj_out.weight":  # the token embedding again
                continue
            name, tensor = name_of(key), tensors.get_tensor(key)
            # whisper.cpp multiplies with float16 and adds float32: biases, norms and positions are added.
            half = tensor.ndim > 1 and "positional" not in name
            values = tensor.to(torch.float16 if half else torch.float32).numpy()
            if re.fullmatch(r"encoder\.conv\d\.bias", name):
                values = values[:, np.newaxis]  # added to (width, frames)
            file.write(struct.pack("<3i", values.ndim, len(name), half))
            file.write(struct.pack(f"<{values.ndim}i", *reversed(values.shape)) + name.encode())
            file.write(values.tobytes())


def _words(vocabulary: dict[str, int]) -> list[bytes]:
    """The bytes that each token stands for, by id; vocab.json writes bytes as letters (openai/gpt-2, encoder.py)."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in shown]
    byte_of = {chr(byte): byte for byte in shown} | {chr(256 + i): byte for i, byte in enumerate(hidden)}
    return [bytes(byte_of[letter] for letter in token) for token, _ in sorted(vocabulary.items(), key=lambda t: t[1])]
