"""Loading and saving Whisper so that every engine can read it."""

import hashlib
import json
import os
import tempfile
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

from .. import LabError, files
from ..text import CONTROL, cleaned
from . import damage, hub, vocabulary, weights
from .hub import WAYS_OUT
from .languages import ENGLISH_END, instead, name_languages, whisper_language

SAMPLE = "sample"  # the embedded model's name on every command line
LABELS = "<|language|><|transcribe|><|notimestamps|> text<|endoftext|>"  # what `label_ids` gives


def locate(name: str) -> str:
    """What `from_pretrained` takes for `--model name`: the embedded model's folder, a folder as it is, or a Hub id.

    Of an adapter it is a folder in the cache, with its base model and the adapter merged. A Hub id may name a revision,
    which is left off: NAME@REVISION. Raises LabError for a folder without a model, and for a Hub id that the Hub, or
    its cache here, does not give.
    """
    if name == SAMPLE:
        from . import embedded

        return str(embedded.whisper_base(save))
    place = Path(name)
    if place.is_dir():
        from . import merged

        if adapted := merged.whole(place, name):
            return str(adapted)
        if not (place / "config.json").is_file():
            raise LabError(
                f"{name} is a folder, but no model: it has no config.json (found: {damage.some_files(place)})"
            )
        return name
    if place.is_file():
        raise LabError(f"{name} is a file; {WAYS_OUT}")
    return hub.find(name)


def plain(name: str) -> str:
    """`--model name` as plans have it, the same however a folder is written: "./models/tiny/" → "models/tiny".

    Relative where it is below the current folder, which so can move to another machine; what is no folder stays.
    """
    if name == SAMPLE or not Path(name).is_dir():
        return name
    path = Path(os.path.abspath(name))
    path = path.parent.resolve() / path.name  # a folder may be a link, and is called by the link's name
    short = os.path.relpath(path)
    return str(path) if short.startswith(os.pardir) or short in (os.curdir, SAMPLE) else short


def folder(name: str) -> tuple[Path, str | None]:
    """The files of `--model name` on this machine, and the Hub's commit that they are (None for a folder)."""
    if name == SAMPLE or Path(name).is_dir():
        return Path(locate(name)), None
    found = Path(locate(name))
    if not found.is_dir():
        found = hub.fetch(name)
    return found, found.name if found.parent.name == "snapshots" else None


def config(folder: Path) -> dict:
    """config.json of a model's folder. Raises LabError where it is damaged, or of another kind of model."""
    return _whisper(str(folder), damage.parsed(folder / "config.json"))


def _whisper(name: str, config: dict) -> dict:
    if (kind := config.get("model_type", "whisper")) != "whisper":  # CTranslate2's config.json has none
        raise LabError(f"{name} is a model of type {kind}, no Whisper; {WAYS_OUT}")
    return config


def load_processor(name: str):
    """The WhisperProcessor of `--model name`, or NAME@REVISION of the Hub: tokenizer and feature extractor. The same
    object for the same files: it is not to be changed.

    Raises LabError where they are not whole, or not this model's.
    """
    source = locate(name)
    folder = Path(source)
    if not folder.is_dir():
        return _load_processor(name, source)
    return _processor_of(name, source, tuple(files.state(path) for path in sorted(folder.iterdir()) if path.exists()))


@lru_cache(maxsize=4)
def _processor_of(name: str, source: str, states: tuple[str, ...]):
    """That of the files with these `states`. A run asks for it several times, and loading takes a third of a second."""
    return _load_processor(name, source)


def _load_processor(name: str, source: str):
    from transformers import WhisperProcessor

    sizes, generation = (_settings(name, source, one) for one in damage.SETTINGS)
    _whisper(name, sizes)
    if (folder := Path(source)).is_dir():
        damage.weights(folder)  # now, not after the features are made
        damage.check(map(folder.joinpath, damage.PROCESSOR))
        vocabulary.check_files(name, folder)
    processor = _pretrained(WhisperProcessor, name, source)
    vocabulary.check(name, processor.tokenizer.get_vocab(), sizes, generation)
    # OpenAI's have it. Without, the Trainer of transformers 5.17 takes it out of the model's config, too.
    processor.tokenizer.pad_token = processor.tokenizer.pad_token or processor.tokenizer.eos_token
    return processor


def load_model(name: str):
    """WhisperForConditionalGeneration of `--model name`, float32 whatever it was saved as, ready for short windows.

    Its generation config names the languages, which many a tuned model has lost. Raises LabError for an English one,
    and unless each of its weights comes from its files, and is a number.
    """
    import torch
    from transformers import WhisperForConditionalGeneration

    from . import windows

    source = locate(name)
    if (folder := Path(source)).is_dir():
        config(folder)
        damage.check(map(folder.joinpath, damage.SETTINGS))
        if not damage.weights(folder):
            raise LabError(
                f"{name} could not be loaded as a Whisper model (it has no weights: needs {damage.WEIGHTS[0]} or "
                f"{damage.WEIGHTS[2]}, found: {damage.some_files(folder)}); {WAYS_OUT}"
            )
    options = {"dtype": torch.float32, "output_loading_info": True, "ignore_mismatched_sizes": True}  # to name them
    model, report = _pretrained(WhisperForConditionalGeneration, name, source, **options)
    if names := weights.renaming(report):
        model, report = _pretrained(WhisperForConditionalGeneration, name, source, key_mapping=names, **options)
    weights.check(model, report, name)
    for one in damage.FRONT_END:
        vocabulary.check_mels(name, one, _settings(name, source, one), model.config.num_mel_bins)
    model.__dict__.pop("_weight_conversions", None)  # by which transformers 5 would save the names it found
    generation = model.generation_config
    if generation.eos_token_id == ENGLISH_END or getattr(generation, "is_multilingual", None) is False:
        raise LabError(f"{name} is not multilingual, but for English only; take one without '.en'")
    if not getattr(generation, "lang_to_id", None):
        name_languages(generation, load_processor(name).tokenizer.get_vocab())
    return windows.allow(model)


def _settings(name: str, source: str, file: str) -> dict:
    """A JSON file of `--model name`, which `locate` found at `source`; {} where it has none of that name."""
    from transformers.utils import cached_file

    quietly = {f"_raise_exceptions_for_{what}": False for what in ("missing_entries", "connection_errors")}
    path = cached_file(source, file, revision=hub.split(name)[1], **quietly)
    return damage.parsed(Path(path)) if path else {}


def _pretrained(kind, name: str, source: str, **options):
    no_bars()
    try:
        return kind.from_pretrained(source, revision=hub.split(name)[1], **options)
    except Exception as error:  # safetensors, pickle and tokenizers raise their own
        damage.check(map(Path(source).joinpath, damage.PROCESSOR), thorough=True)
        first = (str(error).strip() or repr(error)).splitlines()[0]
        raise LabError(f"{name} could not be loaded as a Whisper model ({first}); {WAYS_OUT}") from error


def no_bars() -> None:
    """Loading and writing weights takes a second or two: no bar of transformers' for that."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()


def save(model, processor, folder: str | Path) -> None:
    """Write `model` and `processor` so that transformers 4 and 5, CTranslate2's converter and faster-whisper open them.

    transformers 5 writes one `processor_config.json`; the converter and faster-whisper read
    `preprocessor_config.json`, and older tools `vocab.json`, `merges.txt` and `added_tokens.json`.
    """
    no_bars()
    folder = Path(folder)
    model.save_pretrained(folder)
    for path in folder.glob("*.safetensors"):
        path.chmod(0o644)  # it is written for its owner alone
    save_processor(processor, folder)


def save_processor(processor, folder: str | Path) -> None:
    """The processor's files, in the new form and the old."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in _processor_files(processor).items():
        (folder / name).write_bytes(content)


@lru_cache(maxsize=1)
def _processor_files(processor) -> dict[str, bytes]:
    """The content of those files, by name. It is the same in every checkpoint, and slow to make."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        processor.save_pretrained(folder)
        processor.feature_extractor.save_pretrained(folder)
        tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        added = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
        vocabulary = {token: i for token, i in tokenizer["model"]["vocab"].items() if token not in added}
        merges = [m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]]
        _write_json(folder / "vocab.json", vocabulary)
        _write_json(folder / "added_tokens.json", added)
        (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
        return {path.name: path.read_bytes() for path in folder.iterdir()}


def _write_json(path: Path, value) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def prompt_ids(tokenizer, language: str, task: str = "transcribe") -> list[int]:
    """What the decoder is given before it writes: <|startoftranscript|><|sv|><|transcribe|><|notimestamps|>."""
    code = whisper_language(language)
    tokens = ("<|startoftranscript|>", f"<|{code}|>", f"<|{task}|>", "<|notimestamps|>")
    ids = tokenizer.convert_tokens_to_ids(list(tokens))
    if unknown := [t for t, i in zip(tokens, ids) if i is None or i == tokenizer.unk_token_id]:
        raise LabError(
            f"the model's tokenizer has no {unknown[0]}: it was made for others; choose another --model{instead(code)}"
        )
    if tokenizer.convert_tokens_to_ids("<|endoftext|>") == ENGLISH_END:  # its other tokens are those of all Whispers
        raise LabError("the model is not multilingual, but for English only; choose a --model without '.en'")
    return ids


def label_ids(tokenizer, sentences: list[str], language: str) -> list[list[int]]:
    """Token labels of each sentence: <|sv|><|transcribe|><|notimestamps|> text <|endoftext|>.

    The text is the sentence as `text.cleaned` has it, and nothing in it becomes a control token. It begins with a
    space, as Whisper writes it: without, tuning has to unlearn every sentence's first token.
    <|startoftranscript|> is not among the labels: it is what the decoder is given first, not what it has to write. The
    common recipes ask for `bos_token_id`, which is <|endoftext|> in Whisper, fail to strip it, and show it to the
    decoder twice (huggingface/transformers#29973).
    """
    prompt = prompt_ids(tokenizer, language)[1:]
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    sentences = [f" {cleaned(sentence)}" for sentence in sentences]
    texts = tokenizer(sentences, add_special_tokens=False).input_ids if sentences else []
    added = tokenizer.added_tokens_decoder

    def whole(text: str, ids: list[int]) -> bool:
        """Whether they are that text, and not what controls the decoder; of a user's own tokens some do not decode."""
        met = [added[token] for token in ids if token in added]
        control = any(token.special or CONTROL.fullmatch(token.content) for token in met)
        return not met or not control and tokenizer.backend_tokenizer.decode(ids) == text

    texts = [ids if whole(s, ids) else _spelt(tokenizer, s) for s, ids in zip(sentences, texts)]
    return [[*prompt, *text, end] for text in texts]


def _spelt(tokenizer, text: str) -> list[int]:
    """The tokens of `text` with none of those that were added to the vocabulary. transformers' `split_special_tokens`
    would leave <|0.00|> one token, as the timestamps are not called special."""
    inner = tokenizer.backend_tokenizer
    return [token.id for word, _ in inner.pre_tokenizer.pre_tokenize_str(text) for token in inner.model.tokenize(word)]


def labelled(clips, tokenizer, language: str) -> list[dict]:
    """Clips (corpus.Clip) as rows for the store, with their token labels."""
    labels = label_ids(tokenizer, [clip.sentence for clip in clips], language)
    return [asdict(clip) | {"labels": ids} for clip, ids in zip(clips, labels, strict=True)]


@lru_cache(maxsize=4)
def tokenizer_fingerprint(tokenizer) -> str:
    """The same for tokenizers that give the same labels: of the vocabulary, as every Whisper size shares it."""
    return hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()[:16]


def set_language(model, language: str, task: str = "transcribe") -> None:
    """Put language and task where every engine looks for them: the generation config, not forced ids.

    Raises LabError for a language that the model was not made for.
    """
    token, known = f"<|{whisper_language(language)}|>", model.generation_config.lang_to_id
    if token not in known:
        raise LabError(f"the model knows no {token}, but {', '.join(list(known)[:12])}; choose another --model")
    model.generation_config.language = token
    model.generation_config.task = task
    model.generation_config.forced_decoder_ids = None
    model.config.forced_decoder_ids = None
