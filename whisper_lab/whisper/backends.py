"""Two ways to run the same Whisper over the same windows: CTranslate2 (fast; int8 on a CPU, float16 on a GPU) and
transformers (the model as it was trained). Both take windows as short as the speech.

An engine encodes a batch of log-mels, reads text from what it encoded, and finds when each token was said.
"""

import ctypes
import importlib.metadata
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .. import LabError, cuda, faults, files
from . import checkpoint
from .decoding import Decoded
from .precision import autocast, choose

AUTO = "auto"
NAMES = ("ctranslate2", "transformers")
CUBLAS = ("libcublas.so.12", "cublas64_12.dll")  # what CTranslate2 4.7 and newer want of CUDA; no cuDNN any more
SOURCES = ("config.json", "generation_config.json", "tokenizer.json", "preprocessor_config.json")


class Alignment(NamedTuple):
    """When each token of a text begins and the last one ends, (tokens + 1,) seconds of the window, and how probable
    each was, among tokens of text: (tokens,)."""

    times: np.ndarray
    probabilities: np.ndarray


def load(name: str, folder: Path, device: str = "auto", threads: int = 0, precision: str = "auto"):
    """The engine `name` with the model in `folder` (Hugging Face's layout), on "cpu", "cuda" or what there is ("auto").

    The engine "auto" is CTranslate2; where that cannot use the GPU that is there, transformers on it, or CTranslate2 on
    the processor, and a line says so. `threads`: CPU threads for a batch; 0 takes $OMP_NUM_THREADS, or else all cores
    that this process may use. `precision`: of transformers, one of `precision.NAMES`. Raises LabError where an engine,
    a device or a precision that was named cannot be had.
    """
    if name not in (AUTO, *NAMES):
        raise LabError(f"no engine {name!r}: {' or '.join(NAMES)}")
    threads = threads or _cores()
    if name == "transformers":
        return Transformers(folder, device, threads, precision)
    if precision != "auto":
        raise LabError(f"--precision {precision} goes with --engine transformers; leave it out for CTranslate2")
    try:
        return CTranslate2(folder, device, threads)
    except (RuntimeError, ValueError) as error:
        if cuda.full(error) or not _of_the_gpu(error):
            raise
        fault = f"CTranslate2 cannot use the GPU: {faults.in_a_line(error)}"
    if "cublas" in fault:
        fault += " (pip install nvidia-cublas-cu12 brings it)"
    usable = cuda.available() and not _converted(folder)
    if name != AUTO or device != "auto" and not usable:
        raise LabError(f"{fault}; --engine transformers does without CTranslate2, {cuda.WITHOUT}")
    instead = Transformers(folder, "auto", threads, precision) if usable else CTranslate2(folder, "cpu", threads)
    cuda.say(f"{fault}. Instead: {instead.name}, {instead.precision} on {instead.device}.")
    return instead


def _cores() -> int:
    told = os.environ.get("OMP_NUM_THREADS", "")  # as torch and CTranslate2 have it
    if told.isdigit() and int(told):
        return int(told)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class CTranslate2:
    """https://github.com/OpenNMT/CTranslate2, `ctranslate2.models.Whisper`."""

    name = "ctranslate2"

    def __init__(self, folder: Path, device: str, threads: int, precision: str | None = None):
        import ctranslate2
        import torch

        torch.set_num_threads(1)  # the front-end's; torch's waiting threads would take the cores from CTranslate2's
        cards = ctranslate2.get_cuda_device_count() if device != "cpu" else 0
        if device == "auto":
            device = "cuda" if cards or cuda.available() else "cpu"
        self.device, index = device, cuda.card() if cards > 1 and cuda.available() else 0
        config = checkpoint.config(folder)
        # On short windows, threads that share a matrix wait for each other longer than they work (Whisper base, two
        # cores: 151 ms to decode a clip with two, 54 with one), so a text has one thread. 30 s are worth sharing.
        short = device == "cpu" and len(config.get("trained_windows") or ()) > 1
        self.workers = threads if short else 1  # calls that run at the same time

        def load(precision: str, workers: int):
            place = str(convert(folder, precision))
            options = {"device_index": index, "inter_threads": workers, "intra_threads": threads // workers}
            try:
                return ctranslate2.models.Whisper(place, device=device, compute_type=precision, **options)
            except (RuntimeError, ValueError) as error:  # of a damaged model.bin, or of what the device cannot do
                if _of_the_gpu(error):
                    raise
                raise LabError(
                    f"{place} could not be loaded by CTranslate2 ({faults.in_a_line(error)}); delete it or copy it "
                    "again, or try --engine transformers"
                ) from error

        self.precision = precision or ("int8" if device == "cpu" else _precision(index))
        self.model = self.encoder = load(self.precision, self.workers)
        # What int8 costs in words, it costs in the encoder (tuned Whisper base: 10.9 % WER, 8.9 with an encoder in
        # float32, 8.4 all in float32). Short windows can pay for it, and it is work enough for all threads; of large
        # models a second copy takes gigabytes. Where a processor is faster in bf16, torch encodes in it: CTranslate2
        # has no bf16 on a CPU, and its float32 takes twice as long (an AMD EPYC) for words that are no better.
        if self.precision == "int8" and short and config.get("d_model", 0) <= 768:
            if choose("auto", device) == "bf16" and not _converted(folder):
                self.precision, self.encoder = "int8 (encoder bf16)", _Bf16Encoder(folder, threads)
            else:
                self.precision, self.encoder = "int8 (encoder float32)", load("float32", 1)
        self._view = ctranslate2.StorageView.from_array
        if device == "cuda":  # some of what it needs it looks for only now
            self.model.encode(self._view(np.zeros((1, self.model.n_mels, 200), np.float32)), to_cpu=True)

    def encode(self, features: np.ndarray):
        """(batch, mels, frames) float32 → what `decode` and `align` take."""
        return self.encoder.encode(self._view(np.ascontiguousarray(features)))

    def select(self, encoded, chosen: list[int]):
        """Those of a batch that are `chosen`."""
        if len(chosen) == encoded.shape[0]:
            return encoded
        if self.device == "cuda":
            import ctranslate2

            encoded = encoded.to_device(ctranslate2.Device.cpu)
        return self._view(np.ascontiguousarray(np.asarray(encoded)[chosen]))

    def decode(
        self, encoded, prompt: list[int], limit: int, beams: int = 1, temperature: float = 0, forced: Sequence[int] = ()
    ) -> list[Decoded]:
        """At most `limit` tokens for each window of the batch, after those that are `forced` to be its first."""
        longest = limit + len(forced)
        results = self.model.generate(
            encoded,
            [[*prompt, *forced]] * encoded.shape[0],
            beam_size=1 if temperature else beams,
            max_length=max(len(prompt) + longest, 2 * longest),  # it writes at most half of max_length
            return_scores=True,
            return_no_speech_prob=True,
            sampling_temperature=temperature,
            sampling_topk=0 if temperature else 1,
        )
        decoded = []
        for result in results:
            tokens = result.sequences_ids[0]  # the forced ones too
            logprob = result.scores[0] * len(tokens) / (len(tokens) + 1)
            decoded.append(Decoded(tokens[len(forced) :], logprob, result.no_speech_prob, len(tokens) < longest))
        return decoded

    def languages(self, encoded) -> list[dict[str, float]]:
        """How likely Whisper takes each language for the one spoken in each window of the batch: probabilities by code,
        of the decoder's first token, as in openai/whisper."""
        return [{token.strip("<|>"): p for token, p in one} for one in self.model.detect_language(encoded)]

    def align(self, encoded, start: list[int], texts: list[list[int]], frames: Sequence[int]) -> list[Alignment]:
        """When each token of `texts` was said, and how probable it was.

        By the decoder's attention to the sound, warped in time (OpenAI's whisper/timing.py). `start` is the prompt
        without <|notimestamps|>; `frames` hold sound in each window, the rest is padding.
        """
        results = self.model.align(encoded, start, texts, [max(2, count) for count in frames], median_filter_width=7)
        return [
            Alignment(_starts(np.array(result.alignments), len(text)), np.array(result.text_token_probs))
            for result, text in zip(results, texts)
        ]


def _precision(index: int) -> str:
    """Of CTranslate2 on the GPU `index`. Old ones have no fast float16; int8 would cost words."""
    import ctranslate2

    _find_cublas()
    return "float16" if "float16" in ctranslate2.get_supported_compute_types("cuda", index) else "float32"


def _of_the_gpu(error: Exception) -> bool:
    """Whether it is CUDA that CTranslate2 complains of, or a library of it."""
    return any(word in str(error).lower() for word in ("cuda", "cublas"))


def _find_cublas() -> None:
    """Load what pip installed of CUDA 12, if it did: CTranslate2 does not look where pip puts it, but takes what is
    loaded. A torch of CUDA 12 brings and loads it by itself."""
    with suppress(importlib.metadata.PackageNotFoundError, OSError):
        for path in importlib.metadata.files("nvidia-cublas-cu12") or ():
            if path.name in CUBLAS:
                ctypes.CDLL(str(path.locate()), mode=ctypes.RTLD_GLOBAL)


def _converted(folder: Path) -> bool:
    """Whether it holds a model as CTranslate2 keeps it, and no other."""
    return (folder / "model.bin").is_file() and not any(folder.glob("*.safetensors"))


def _starts(path: np.ndarray, tokens: int) -> np.ndarray:
    """The path of a warping, (steps, 2) of token and position of 20 ms → (tokens + 1,) seconds, ascending."""
    token, position = path.T
    first = np.flatnonzero(np.diff(token, prepend=-1))
    starts = np.full(tokens + 1, position[-1] + 1, float)
    starts[: len(first)] = position[first][: tokens + 1]
    return np.maximum.accumulate(starts) * 0.02


def convert(folder: Path, precision: str) -> Path:
    """The model in `folder` as CTranslate2 keeps it, made once for the same content; or `folder`, if it is that.

    Raises LabError for a model that is not whole.
    """
    if _converted(folder):
        return folder
    import ctranslate2

    by = {"by": ctranslate2.__version__, "whole": True}  # before, half of a model could be converted
    key = files.digest({"weights": weights_digest(folder), "precision": precision, **by})
    target = files.cache_folder() / "ctranslate2" / f"{precision}-{key[:16]}"
    if not target.is_dir():
        model = checkpoint.load_model(str(folder))
        print(f"Converting {folder} for CTranslate2 ({precision}, once) …", file=sys.stderr, flush=True)
        copied = [name for name in ("tokenizer.json", "preprocessor_config.json") if (folder / name).is_file()]
        converter = ctranslate2.converters.TransformersConverter(str(folder), copy_files=copied)
        converter.load_model = lambda *_, **__: model  # its own would take one that is not whole
        with files.making(target) as new:
            try:
                converter.convert(str(new), quantization=precision)
            except Exception as error:  # the converter's, or of a library that it calls
                raise LabError(
                    f"{folder} could not be converted for CTranslate2 ({error}); try --engine transformers"
                ) from error
    return target


def weights_digest(folder: Path) -> str:
    """SHA-256 of all that the conversion depends on; of a file that did not change, as remembered from last time."""
    index = files.cache_folder() / "digests.json"
    known = files.read_json(index) if index.is_file() else {}
    digests = {}
    for path in sorted(
        [*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin"), *map(folder.joinpath, SOURCES)]
    ):
        if path.is_file():
            key = files.state(path)
            digests[path.name] = known.get(key) or files.file_digest(path)
            known[key] = digests[path.name]
    index.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(index, known)
    return files.digest(digests)


class Transformers:
    """https://github.com/huggingface/transformers: in float32 or bf16 on a CPU, float16 on a GPU."""

    name = "transformers"
    workers = 1

    def __init__(self, folder: Path, device: str, threads: int, precision: str = "auto"):
        import torch

        from . import windows

        torch.set_num_threads(threads)
        place = torch.device("cpu") if device == "cpu" else cuda.device()
        if device not in ("auto", place.type):
            raise LabError(f"there is no GPU that torch can use, and device {device!r} was asked for")
        self.device = place.type
        self.model = checkpoint.load_model(str(folder)).eval().to(place)
        gpu = self.device == "cuda"
        self.precision = "float16" if gpu and precision == "auto" else choose(precision, self.device)
        if gpu:
            self.model.to({"bf16": torch.bfloat16, "float16": torch.float16}.get(self.precision, torch.float32))
        elif self.precision == "bf16":  # what autocast would round for every window, once: the same numbers
            for part in {*self.model.modules()} - {self.model.get_output_embeddings()}:
                if isinstance(part, torch.nn.Linear | torch.nn.Conv1d):
                    part.to(torch.bfloat16)
        self._autocast = lambda: autocast(self.device, "float32" if gpu else self.precision)
        self._decode = windows.decode
        self._one_at_a_time = threading.Lock()  # the hooks of short windows change the encoder while it runs

    @contextmanager
    def _running(self) -> Iterator[None]:
        import torch

        from .attention import without_cudnn

        with self._one_at_a_time, torch.inference_mode(), without_cudnn(), self._autocast():
            yield

    def encode(self, features: np.ndarray):
        import torch

        with self._running():
            return self.model.get_encoder()(torch.from_numpy(features).to(self.model.device, self.model.dtype))

    def select(self, encoded, chosen: list[int]):
        """As CTranslate2's."""
        return type(encoded)(last_hidden_state=encoded.last_hidden_state[chosen])

    def decode(
        self, encoded, prompt: list[int], limit: int, beams: int = 1, temperature: float = 0, forced: Sequence[int] = ()
    ) -> list[Decoded]:
        """As CTranslate2's."""
        generation = self.model.generation_config
        with self._running():
            begin = prompt[: prompt.index(self.model.config.decoder_start_token_id) + 1]
            first = self._first(encoded, begin).softmax(-1)
            no_speech = first[:, generation.no_timestamps_token_id - 1].tolist()  # <|nospeech|> comes before it
            decoded = self._decode(self.model, encoded, [*prompt, *forced], limit, beams, temperature)
        return [Decoded(one.tokens, one.logprob, p, one.ended) for one, p in zip(decoded, no_speech)]

    def _first(self, encoded, begin: list[int]):
        """(batch, vocabulary) float32 logits of the token after `begin`."""
        import torch

        ids = torch.tensor([begin] * len(encoded.last_hidden_state), device=self.model.device)
        return self.model(encoder_outputs=encoded, decoder_input_ids=ids).logits[:, -1].float()

    def languages(self, encoded) -> list[dict[str, float]]:
        """As CTranslate2's."""
        ids = self.model.generation_config.lang_to_id
        with self._running():
            logits = self._first(encoded, [self.model.config.decoder_start_token_id])
            probabilities = logits[:, list(ids.values())].softmax(-1).tolist()
        return [dict(zip((token.strip("<|>") for token in ids), each)) for each in probabilities]

    def align(self, encoded, start: list[int], texts: list[list[int]], frames: Sequence[int]) -> list[Alignment]:
        """As CTranslate2's."""
        import torch
        from transformers.models.whisper.generation_whisper import _dynamic_time_warping, _median_filter

        generation = self.model.generation_config
        heads = getattr(generation, "alignment_heads", None) or [
            [layer, head]
            for layer in range(self.model.config.decoder_layers // 2, self.model.config.decoder_layers)
            for head in range(self.model.config.decoder_attention_heads)
        ]
        end = [generation.no_timestamps_token_id]
        result = []
        for i, (text, count) in enumerate(zip(texts, frames)):
            ids = torch.tensor([start + end + text + [self.model.config.eos_token_id]], device=self.model.device)
            with self._running(), _eager(self.model):
                one = self.select(encoded, [i])
                output = self.model(encoder_outputs=one, decoder_input_ids=ids, output_attentions=True)
            positions, attention = max(1, count // 2), output.cross_attentions
            weights = torch.stack([attention[layer][0, head, :, :positions] for layer, head in heads]).float()
            weights = (weights - weights.mean(-2, keepdim=True)) / weights.std(-2, keepdim=True, unbiased=False)
            matrix = _median_filter(weights, 7).mean(0)[len(start) : -1]
            path = np.stack(_dynamic_time_warping(-matrix.double().cpu().numpy()), axis=1)
            # As CTranslate2 and openai/whisper: among text only, without times, languages and the end.
            words = max(self.model.config.eos_token_id, *(token + 1 for token in text))  # a model may have its own
            logits = output.logits[0, len(start) : -2, :words].float()
            chosen = logits.softmax(-1).gather(1, ids[0, len(start) + 1 : -1, None])
            result.append(Alignment(_starts(path, len(text)), chosen[:, 0].cpu().numpy()))
        return result


class _Bf16Encoder:
    """A Whisper's encoder in torch's bf16, called as CTranslate2's is.

    It has all `threads`, though CTranslate2 decodes beside it: with one, 5 minutes took 15.4 s instead of 13.8.
    """

    def __init__(self, folder: Path, threads: int):
        self._whole = Transformers(folder, "cpu", threads, "bf16")
        self._whole.model.model.decoder = self._whole.model.proj_out = None  # they only take memory

    def encode(self, features):
        """A StorageView of (batch, mels, frames) float32 → one of the encoder's states, float32."""
        states = self._whole.encode(np.asarray(features)).last_hidden_state
        return type(features).from_array(states.float().numpy())


class _eager:
    """Attention that can be looked at, for the time of a block."""

    def __init__(self, model):
        self.model = model

    def __enter__(self):
        self.before = self.model.config._attn_implementation
        self.model.set_attn_implementation("eager")

    def __exit__(self, *_):
        self.model.set_attn_implementation(self.before)
