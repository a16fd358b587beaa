"""Text as it is trained on, and as it is scored: raw scores compare what is written, normalised ones what was said."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import cache

CONTROL = re.compile(r"<\|[^|\s]*\|>")  # how Whisper's tokens that are no text are written, as <|0.00|>
UNSEEN = ("Cc", "Cf", "Cs")  # categories: control, format, halves of surrogate pairs
APOSTROPHES = "'’ʼ‘´`‛ʻʹ′՚׳ꞌꞋ"  # one and the same to a listener; U+FF07 is wide
IN_WORD = re.compile(r"(?<=[^ .,:'])'(?=\w)")
LOOSE = re.compile(r"'|(?<!\d)[.,:]|[.,:](?!\d)")  # the point of 3,5 and 10.30 belongs to the number
# Written without spaces, so that there are no words to count. Tibetan is not here: its points part the syllables.
UNSPACED = {
    "zh": "Chinese", "cmn": "Mandarin", "yue": "Cantonese", "nan": "Min Nan", "hak": "Hakka", "wuu": "Wu",
    "ja": "Japanese", "th": "Thai", "lo": "Lao", "my": "Burmese", "km": "Khmer",
}  # fmt: skip
DOTTED = {"tr": "Turkish", "az": "Azerbaijani"}  # with two letters where others have one: I ı, and İ i
CODES = {name.lower(): code for code, name in (UNSPACED | DOTTED).items()} | {"myanmar": "my"}
SCRIPTS = {
    "CJK": "zh", "HIRAGANA": "ja", "KATAKANA": "ja", "THAI": "th", "LAO": "lo", "MYANMAR": "my", "KHMER": "km",
}  # fmt: skip


def cleaned(sentence: str) -> str:
    """The sentence as it is trained on: NFC, single spaces, nothing that is neither seen nor heard.

    Any white space (a line feed, a tab, U+00A0, U+2028) is a space. Control and format characters (a soft hyphen,
    those of no width) are left out, and so are halves of surrogate pairs, which no file can hold.
    """
    if not sentence.isprintable():  # what is printable has none of them
        sentence = "".join(c for c in sentence if c.isspace() or unicodedata.category(c) not in UNSEEN)
    return " ".join(unicodedata.normalize("NFC", sentence).split())


def normalise(text: str, language: str = "") -> str:
    """Lower case without punctuation; letters keep their marks (å ä ö é), numbers stand as they are.

    `language` is a locale, code or name: Turkish and Azerbaijani have their own lower case, and where words are
    written without spaces, none are left. Apostrophes of any kind are left out within words; wide and narrow forms are
    the usual ones. Whisper's own BasicTextNormalizer drops what is in brackets and splits numbers; its English one
    spells å as a.
    """
    text = unicodedata.normalize("NFC", text).translate(TABLE)
    if _code(language) in DOTTED:
        text = unicodedata.normalize("NFC", text).replace("İ", "i").replace("I", "ı").replace("i\u0307", "i")
    words = LOOSE.sub(" ", IN_WORD.sub("", text.lower())).split()
    return unicodedata.normalize("NFC", ("" if unspaced(language) else " ").join(words))


class _Table(dict):
    """What each character becomes before its case is looked at, by its code point; filled as characters are met."""

    def __missing__(self, code: int) -> str | None:
        c = chr(code)
        kind, _, usual = unicodedata.decomposition(c).partition(" ")
        if kind in ("<wide>", "<narrow>"):
            c = chr(int(usual, 16))
        if c in APOSTROPHES:
            c = "'"
        elif unicodedata.category(c) in UNSEEN and not c.isspace():
            c = None
        elif c not in ".,:" and unicodedata.category(c)[0] not in "LMN":
            c = " "
        self[code] = c
        return c


TABLE = _Table()


def unspaced(language: str) -> str | None:
    """The name of a language that is written without spaces; None of any other. `language` as in `normalise`."""
    return UNSPACED.get(_code(language))


def units(text: str, language: str = "") -> list[str]:
    """What is counted in a normalised text: its words, or, where it is written without spaces, its characters."""
    return list(text) if unspaced(language) else text.split()


def guess(sentences: Iterable[str]) -> str:
    """For texts of no named language: the code of one that `normalise` has rules for, by its letters; "" for others."""
    letters = Counter(c for sentence in sentences for c in sentence if c.isalpha())
    scripts = Counter()
    for letter, times in letters.items():
        scripts[SCRIPTS.get(unicodedata.name(letter, "").partition(" ")[0], "")] += times
    if scripts[""] < 0.75 * letters.total():  # a foreign word among characters has many letters
        return max(SCRIPTS.values(), key=lambda code: scripts[code])
    return "tr" if letters["ı"] + letters["İ"] > 0.02 * letters.total() else ""  # a name has them elsewhere, too


@cache
def _code(language: str) -> str:
    short = re.split("[-_]", language.lower())[0]
    return CODES.get(short, short)
