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
from . import checkpoint, vocabulary
from .weights import name_of

MAGIC = 0x67676D6C


def write(folder: Path, path: Path) -> None:
    """The model in `folder` (Hugging Face's layout) as `path`, whole or not at all; rows that only pad are left out.

    Raises LabError for a model that is not whole, for one with tokens that users added (whisper.cpp counts the tokens,
    and takes each one more for a language more), and for one whose output is not tied to its embedding.
    """
    model, ids = checkpoint.load_model(str(folder)), checkpoint.load_processor(str(folder)).tokenizer.get_vocab()
    config, tokens = model.config, ids["<|notimestamps|>"] + vocabulary.TIMES + 1
    if added := sorted(token for token, i in ids.items() if i >= tokens):
        raise LabError(
            f"{folder} cannot become a ggml file: whisper.cpp knows no added tokens, as {', '.join(added[:3])}"
        )
    if model.get_output_embeddings().weight is not model.get_input_embeddings().weight:
        raise LabError(f"{folder} cannot become a ggml file: its proj_out is not its embedding, as whisper.cpp's is")
    sizes = [tokens]
    for side, positions in (("encoder", "max_source_positions"), ("decoder", "max_target_positions")):
        sizes += [getattr(config, positions), config.d_model]
        sizes += [getattr(config, f"{side}_attention_heads"), getattr(config, f"{side}_layers")]
    sizes += [config.num_mel_bins, 1]
    words = _words({word: i for word, i in ids.items() if i < ids["<|endoftext|>"]})
    with files.replacing(path) as beside, open(beside, "wb") as file:
        file.write(struct.pack("<12i", MAGIC, *sizes))
        file.write(struct.pack("<2i", config.num_mel_bins, N_FFT // 2 + 1))
        file.write(FrontEnd(config.num_mel_bins).filters.astype("<f4").tobytes())
        file.write(struct.pack("<i", len(words)))
        for word in words:
            file.write(struct.pack("<i", len(word)) + word)
        for key, tensor in model.state_dict().items():
            if key != "proj_out.weight":  # the token embedding again
                _write_tensor(file, name_of(key), tensor[:tokens] if "embed_tokens" in key else tensor)


def _write_tensor(file, name: str, tensor) -> None:
    import torch

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
