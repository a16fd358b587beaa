"""Whisper's languages: their codes, and where a model says which it knows."""

import re

from .. import LabError, near
from .relatives import NEAR

# Codes of languages that Whisper has under another code.
OTHER_CODES = {
    "nb": "no", "jv": "jw", "fil": "tl", "iw": "he", "in": "id", "ji": "yi", "mo": "ro", "sh": "hr", "cmn": "zh",
    "zsm": "ms", "zlm": "ms", "swh": "sw", "swc": "sw", "arb": "ar", "pes": "fa", "prs": "fa", "ekk": "et", "lvs": "lv",
    "khk": "mn", "npi": "ne", "als": "sq", "azj": "az", "uzn": "uz", "ydd": "yi",
}  # fmt: skip
ENGLISH_END = 50256  # <|endoftext|> of the '.en' models: their vocabulary is GPT-2's, one token shorter than Whisper's


def whisper_language(locale: str) -> str:
    """Whisper's code for a language: of a Common Voice locale (`sv-SE`), a code (`sv`) or a name (`swedish`).

    Raises LabError where Whisper has none, with those near it.
    """
    from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE

    short = _short(locale)
    code = OTHER_CODES.get(short) or TO_LANGUAGE_CODE.get(locale.lower(), short)
    if code in LANGUAGES:
        return code
    if short in NEAR:
        name, codes = NEAR[short]
        where = "beside it, of other families" if codes.startswith("(") else "near it"
        raise LabError(f"Whisper knows no {name} ({locale}); {where}: {', '.join(map(named, _near(short)))}")
    raise LabError(f"Whisper knows no language {locale!r}" + near(locale.lower(), {*LANGUAGES, *TO_LANGUAGE_CODE}))


def of_corpus(locale: str, chosen: str | None = None) -> str:
    """Whisper's code for a corpus of `locale`: that of the language `chosen`, or its own.

    Raises LabError where Whisper has none, with the way out.
    """
    if chosen:
        return whisper_language(chosen)
    try:
        return whisper_language(locale)
    except LabError as error:
        first = next(iter(_near(_short(locale))), "CODE")
        raise LabError(
            f"{error}; choose one that it knows with --whisper-language {first}: the model borrows its token, and its "
            "card says so"
        ) from error


def borrowed(locale: str, code: str) -> str | None:
    """What a model's card says where a corpus of `locale` is tuned under the token of another language, `code`."""
    try:
        if whisper_language(locale) == code:
            return None
        why = f"Whisper's token for {named(locale)} is not used"
    except LabError:
        why = f"Whisper has no token for {named(locale)}"
    return f"{why}: this model borrows that of {named(code)}, `<|{code}|>`, and is to be told that language."


def instead(code: str) -> str:
    """The way out where a model has no token for a `code` that others have; "" where none is near."""
    first = next(iter(_near(code)), None)
    return f", or, to make features for it, --whisper-language {first}" if first else ""


def named(locale: str) -> str:
    """Such as "Kyrgyz (ky)"; the locale alone where it is not known."""
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    short = _short(locale)
    name = LANGUAGES.get(OTHER_CODES.get(short, short), "").title() or NEAR.get(short, ("",))[0]
    return f"{name} ({locale})" if name else locale


def _near(short: str) -> list[str]:
    return re.findall(r"\w+", NEAR[short][1]) if short in NEAR else []


def _short(locale: str) -> str:
    return re.split("[-_]", locale.lower())[0]


def name_languages(generation, ids: dict[str, int]) -> None:
    """What transformers' `generate` needs to be told a language, from the ids of the tokenizer's tokens."""
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    generation.is_multilingual = True
    generation.lang_to_id = {f"<|{code}|>": ids[f"<|{code}|>"] for code in LANGUAGES if f"<|{code}|>" in ids}
    generation.task_to_id = {task: ids[f"<|{task}|>"] for task in ("transcribe", "translate")}
    generation.no_timestamps_token_id = ids["<|notimestamps|>"]
    generation._from_model_config = False  # what is derived from a config loses these on reload
