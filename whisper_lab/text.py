"""Text as it is scored. Raw scores compare sentences as written; normalised ones what was said."""

import re
import unicodedata

NUMBER = re.compile(r"(?<=\d)[.,:](?=\d)")  # the point of 3,5 and 10.30 belongs to the number
APOSTROPHE = re.compile(r"(?<=\w)['’](?=\w)")


def normalise(text: str) -> str:
    """Lower case without punctuation; letters keep their marks (å ä ö é), numbers stand as they are.

    Whisper's own BasicTextNormalizer drops what is in brackets and splits numbers; its English one spells å as a.
    """
    text = unicodedata.normalize("NFC", text).lower()
    text = APOSTROPHE.sub("", text)
    kept = {match.start() for match in NUMBER.finditer(text)}
    letters = (c if i in kept or unicodedata.category(c)[0] in "LMN" else " " for i, c in enumerate(text))
    return " ".join("".join(letters).split())
