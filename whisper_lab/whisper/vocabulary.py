"""Whether a tokenizer, a front-end and a model's sizes belong together."""

from pathlib import Path

from .. import LabError
from .damage import FRONT_END, TOKENIZER

TIMES = 1501  # tokens <|0.00|> to <|30.00|>, after <|notimestamps|>; old tokenizers lack them, no model does
SPECIAL = ("<|startoftranscript|>", "<|transcribe|>", "<|notimestamps|>", "<|endoftext|>")
FROM = "from the model that it was tuned from"
COPY = f"copy {', '.join(TOKENIZER)} {FROM}"
PADDED = 8  # rows are padded to multiples of it, or of 64 or 128, for the matrix units of GPUs


def check_files(name: str, folder: Path) -> None:
    """Raise LabError where a folder has no tokenizer or no front-end; transformers takes an empty one then."""
    there = {path.name for path in folder.iterdir()}
    if "tokenizer.json" not in there and not {"vocab.json", "merges.txt"} <= there:
        raise LabError(f"{name} has no tokenizer; {COPY}")
    if not there & set(FRONT_END):
        raise LabError(f"{name} has no {FRONT_END[0]}; copy it {FROM}")


def check_mels(name: str, file: str, front_end: dict, mels: int) -> None:
    """Raise LabError where the front-end's settings in `file` are not for `mels`, those of the model's config.json."""
    said = front_end.get("feature_extractor", front_end).get("feature_size", mels)
    if said != mels:
        raise LabError(f"{name} takes {mels} mels by its config.json, but its {file} says {said}; copy that one {FROM}")


def check(name: str, ids: dict[str, int], config: dict, generation: dict) -> None:
    """Raise LabError unless a tokenizer's tokens are those of the model's rows. `ids`: token → id.

    `config` and `generation` are the model's config.json and generation_config.json, {} where there is none. Tokens
    that users added are fine, and so are rows that pad the vocabulary; a row for a token of another Whisper is not.
    """
    if lacking := [token for token in SPECIAL if token not in ids]:
        raise LabError(f"the tokenizer of {name} is no Whisper's: it has no {lacking[0]}; {COPY}")
    if rows := config.get("vocab_size"):
        _check_rows(name, rows, ids, config.get("num_mel_bins"))
    told = dict(generation.get("lang_to_id") or {})
    told |= {f"<|{task}|>": i for task, i in (generation.get("task_to_id") or {}).items()}
    told["<|notimestamps|>"] = generation.get("no_timestamps_token_id")
    for token, i in told.items():
        if i is not None and ids.get(token, i) != i:
            raise LabError(
                f"the tokenizer and generation_config.json of {name} are of two models: {token} is {ids[token]} and "
                f"{i}; copy both {FROM}"
            )


def _check_rows(name: str, rows: int, ids: dict[str, int], mels: int | None) -> None:
    last = max(ids, key=ids.get)
    tokens = max(ids[last], ids["<|notimestamps|>"] + TIMES) + 1
    padded = rows % PADDED == 0 and 0 < rows - tokens < 128
    padded = padded and ("<|yue|>" in ids) == (mels == 128)  # both in large-v3 and what is made of it
    if rows not in (tokens, ids[last] + 1) and not padded:
        raise LabError(
            f"the tokenizer of {name} is another model's: {tokens:,} tokens (the last is {last}), where the model has "
            f"{rows:,}; {COPY}"
        )
