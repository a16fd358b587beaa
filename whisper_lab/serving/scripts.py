"""What scripts ask of who shows a text: where it may be parted though there is no space, how wide it is, and in which
direction it runs. The text itself decides, not its language, so that a Latin word among characters stays whole."""

import re
import unicodedata

EASTERN = (  # Chinese and Japanese, with their punctuation: never a space
    "\u2e80-\u2fdf\u3000-\u30ff\u3105-\u312f\u3190-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff01-\uff9f\U00020000-\U0003ffff"
)
SOUTHERN = (  # Thai, Lao, Tibetan, Burmese, Khmer: a space ends a phrase
    "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u19e0-\u19ff\ua9e0-\ua9ff\uaa60-\uaa7f"
)
UNSPACED = re.compile(f"[{EASTERN}{SOUTHERN}]")
HIRAGANA = re.compile("[\u3041-\u309f]")
# Not parted from what follows: vowels that are written before their consonant, signs that stack the next one, and
# Tibetan but after its points.
LEADING = re.compile("[\u0e40-\u0e44\u0ec0-\u0ec4\u17d2\u1039]|[\u0f40-\u0fbc](?=[\u0f00-\u0fff])")
# Not parted from what is before: small kana, vowels that are written after, Burmese consonants that end a syllable.
TRAILING = re.compile(
    "[ぁぃぅぇぉっゃゅょゎゕゖァィゥェォッャュョヮヵヶㇰ-ㇿｧ-ｯ\u0e2f\u0e30\u0e32\u0e33\u0e45\u0eaf\u0eb0\u0eb2\u0eb3]"
    "|[\u1000-\u1021\u103f][\u1039\u103a]"
)
WIDE = 2.6  # Latin characters that a wide one takes of a line of 42: 16 to a line, as Netflix's Chinese guides have it


def parts(text: str) -> list[str]:
    """`text` cut before each space, and where a line may end without one: `"".join` of it is `text`."""
    cuts = [i for i in range(1, len(text)) if _may_part(text, i)]
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)]) if a < b]


def _may_part(text: str, at: int) -> bool:
    before, after = text[at - 1], text[at]
    if before.isspace() or after.isspace():
        return not before.isspace()
    if not (UNSPACED.match(before) or UNSPACED.match(after)):
        return False
    kind = unicodedata.category(after)  # marks, punctuation but what opens, signs that repeat or lengthen, no width
    follows = kind[0] == "M" or kind in ("Pc", "Pd", "Pe", "Pf", "Po", "Lm", "Cf") or TRAILING.match(text, at)
    opens = unicodedata.category(before) in ("Ps", "Pi", "Sc") or LEADING.match(text, at - 1)
    return not (follows or opens)


def unspaced(text: str) -> bool:
    """Whether its last character is of a script without spaces between words."""
    return bool(UNSPACED.match(text[-1:]))


def goes_on(text: str) -> bool:
    """Whether a decoded text follows what was said before it without a space: Chinese and Japanese do."""
    return bool(re.match(f"[{EASTERN}]", text)) and not text[:1].isspace()


def width(text: str) -> float:
    """Of a line, in Latin characters; marks above and below others have none."""
    return sum(
        WIDE if unicodedata.east_asian_width(c) in "WF" else unicodedata.category(c) not in ("Mn", "Me", "Cf")
        for c in text
    )


def right_to_left(text: str) -> bool:
    """Whether most of its letters run that way."""
    kinds = [unicodedata.bidirectional(c) for c in text]
    return kinds.count("R") + kinds.count("AL") > kinds.count("L")
