"""Whisper's languages: their codes, and where a model says which it knows."""

from .. import LabError, near

ENGLISH_END = 50256  # <|endoftext|> of the '.en' models: their vocabulary is GPT-2's, one token shorter than Whisper's


def whisper_language(locale: str) -> str:
    """Whisper's code for a language: of a Common Voice locale (`sv-SE`), a code (`sv`) or a name (`swedish`)."""
    from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE

    short = locale.lower().replace("_", "-").split("-")[0]
    code = {"nb": "no"}.get(short) or TO_LANGUAGE_CODE.get(locale.lower(), short)
    if code not in LANGUAGES:
        raise LabError(f"Whisper knows no language {locale!r}" + near(locale.lower(), {*LANGUAGES, *TO_LANGUAGE_CODE}))
    return code


def name_languages(generation, ids: dict[str, int]) -> None:
    """What transformers' `generate` needs to be told a language, from the ids of the tokenizer's tokens."""
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    generation.is_multilingual = True
    generation.lang_to_id = {f"<|{code}|>": ids[f"<|{code}|>"] for code in LANGUAGES if f"<|{code}|>" in ids}
    generation.task_to_id = {task: ids[f"<|{task}|>"] for task in ("transcribe", "translate")}
    generation.no_timestamps_token_id = ids["<|notimestamps|>"]
    generation._from_model_config = False  # what is derived from a config loses these on reload
