"""Loading and saving Whisper so that every engine can read it."""

import hashlib
import json
from pathlib import Path

from . import LabError, near

SAMPLE = "sample"  # the embedded model's name on every command line
LABELS = "<|language|><|transcribe|><|notimestamps|> text<|endoftext|>"  # what `label_ids` gives


WAYS_OUT = "name a local folder, or use the embedded Whisper base with --model sample"


def locate(name: str) -> str:
    """What `from_pretrained` takes for `--model name`: the embedded model's folder, a folder as it is, or a Hub id.

    Raises LabError for a folder without a model, and for a Hub id that the Hub, or its cache here, does not give.
    """
    if name == SAMPLE:
        from . import embedded

        return str(embedded.whisper_base(save))
    if Path(name).is_dir():
        if not (Path(name) / "config.json").is_file():
            raise LabError(f"{name} is a folder, but no model: it has no config.json (found: {_some_files(name)})")
        return name
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

    try:  # asked for by itself, because from_pretrained words every failure the same, after half a minute of retries
        get_hf_file_metadata(hf_hub_url(name, "config.json"))
        return name
    except errors.GatedRepoError as error:
        raise LabError(
            f"{name} wants its terms accepted first, at https://huggingface.co/{name}; {WAYS_OUT}"
        ) from error
    except (errors.RepositoryNotFoundError, errors.EntryNotFoundError, errors.HFValidationError) as error:
        raise LabError(f"there is no folder {name!r}, and no such model on the Hugging Face Hub; {WAYS_OUT}") from error
    except Exception as error:  # whatever the Hub's HTTP library raises without a network
        if isinstance(cached := try_to_load_from_cache(name, "config.json"), str):
            return str(Path(cached).parent)
        raise LabError(
            f"the Hugging Face Hub cannot be reached for {name!r}, and there is no such folder; {WAYS_OUT}"
        ) from error


def folder(name: str) -> tuple[Path, str | None]:
    """The files of `--model name` on this machine, and the Hub's commit that they are (None for a folder).

    A Hub id may name a revision: NAME@REVISION. Raises LabError.
    """
    if name == SAMPLE or Path(name).is_dir():
        return Path(locate(name)), None
    from huggingface_hub import snapshot_download

    name, _, revision = name.partition("@")
    found = Path(locate(name))
    if not found.is_dir():
        wanted = ["*.json", "*.safetensors", "*.bin", "*.txt", "README.md"]
        try:
            found = Path(snapshot_download(name, revision=revision or None, allow_patterns=wanted))
        except Exception as error:  # the Hub's HTTP library's, or the Hub's own
            first = (str(error).strip() or repr(error)).splitlines()[0]
            raise LabError(f"{name} could not be fetched from the Hugging Face Hub ({first}); {WAYS_OUT}") from error
    return found, found.name if found.parent.name == "snapshots" else None


def config(folder: Path) -> dict:
    """config.json of a model's folder."""
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def load_processor(name: str):
    """The WhisperProcessor of `--model name`: tokenizer and feature extractor, no weights."""
    from transformers import WhisperProcessor

    return _pretrained(WhisperProcessor, name)


def load_model(name: str):
    """WhisperForConditionalGeneration of `--model name`, float32 whatever it was saved as, ready for short windows."""
    import torch
    from transformers import WhisperForConditionalGeneration

    from . import windows

    model = _pretrained(WhisperForConditionalGeneration, name, dtype=torch.float32)
    if getattr(model.generation_config, "lang_to_id", None) is None:
        raise LabError(f"{name} is not multilingual: its generation config names no languages; take one without '.en'")
    return windows.allow(model)


def _pretrained(kind, name: str, **options):
    no_bars()
    source = locate(name)
    try:
        return kind.from_pretrained(source, **options)
    except (OSError, ValueError, KeyError, TypeError) as error:
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
    save_processor(processor, folder)


def save_processor(processor, folder: str | Path) -> None:
    """The processor's files, in the new form and the old."""
    folder = Path(folder)
    processor.save_pretrained(folder)
    processor.feature_extractor.save_pretrained(folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    added = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    vocabulary = {token: i for token, i in tokenizer["model"]["vocab"].items() if token not in added}
    merges = [m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]]
    _write_json(folder / "vocab.json", vocabulary)
    _write_json(folder / "added_tokens.json", added)
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")


def _write_json(path: Path, value) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def _some_files(folder) -> str:
    names = sorted(p.name for p in Path(folder).iterdir())
    return ", ".join(names[:6]) + (", …" if len(names) > 6 else "") if names else "nothing"


def whisper_language(locale: str) -> str:
    """Whisper's code for a language: of a Common Voice locale (`sv-SE`), a code (`sv`) or a name (`swedish`)."""
    from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE

    short = locale.lower().replace("_", "-").split("-")[0]
    code = {"nb": "no"}.get(short) or TO_LANGUAGE_CODE.get(locale.lower(), short)
    if code not in LANGUAGES:
        raise LabError(f"Whisper knows no language {locale!r}" + near(locale.lower(), {*LANGUAGES, *TO_LANGUAGE_CODE}))
    return code


def prompt_ids(tokenizer, language: str, task: str = "transcribe") -> list[int]:
    """What the decoder is given before it writes: <|startoftranscript|><|sv|><|transcribe|><|notimestamps|>."""
    tokens = ("<|startoftranscript|>", f"<|{whisper_language(language)}|>", f"<|{task}|>", "<|notimestamps|>")
    ids = tokenizer.convert_tokens_to_ids(list(tokens))
    unknown = [t for t, i in zip(tokens, ids) if i is None or i == tokenizer.unk_token_id]
    if unknown and len(set(ids)) < len(ids) or None in ids:
        raise LabError(f"the model's tokenizer has no {unknown[0]}: it is not multilingual, or not Whisper's")
    return ids


def label_ids(tokenizer, sentences: list[str], language: str) -> list[list[int]]:
    """Token labels of each sentence: <|sv|><|transcribe|><|notimestamps|> text <|endoftext|>.

    The text begins with a space, as Whisper writes it: without, tuning has to unlearn every sentence's first token.
    <|startoftranscript|> is not among the labels: it is what the decoder is given first, not what it has to write. The
    common recipes ask for `bos_token_id`, which is <|endoftext|> in Whisper, fail to strip it, and show it to the
    decoder twice (huggingface/transformers#29973).
    """
    prompt = prompt_ids(tokenizer, language)[1:]
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    texts = tokenizer([f" {s}" for s in sentences], add_special_tokens=False).input_ids if sentences else []
    return [[*prompt, *text, end] for text in texts]


def tokenizer_fingerprint(tokenizer) -> str:
    """The same for tokenizers that give the same labels: of the vocabulary, as every Whisper size shares it."""
    return hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()[:16]


def set_language(model, language: str, task: str = "transcribe") -> None:
    """Put language and task where every engine looks for them: the generation config, not forced ids."""
    model.generation_config.language = f"<|{whisper_language(language)}|>"
    model.generation_config.task = task
    model.generation_config.forced_decoder_ids = None
    model.config.forced_decoder_ids = None
