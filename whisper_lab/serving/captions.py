"""A transcript, and the four ways it is written: plain text, SubRip, WebVTT and JSON.

Captions are cut where a small cost is least, over every way to cut: dynamic programming over the words, as Knuth and
Plass break paragraphs (doi:10.1002/spe.4380111102), with costs from subtitlers' rules (Karamitroglou, "A Proposed Set
of Subtitling Standards in Europe", Translation Journal 2(2), 1998; Netflix's Timed Text Style Guides).
"""

import html
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from functools import partial
from itertools import accumulate
from math import inf

from .. import LabError
from ..text import normalise
from . import scripts

FORMATS = ("txt", "srt", "vtt", "json")
WIDTH = 42  # characters in a line, as `scripts.width` counts them; a caption has one line or two
SHORTEST, LONGEST = 1_000, 7_000  # milliseconds on screen
PAUSE = 1_000  # milliseconds of silence that no caption spans
SHIFT = 2_000  # milliseconds that a caption may at most start before or after its words, to get its second
READING_SPEED = 17  # characters a second
PARAGRAPH = 2.0  # seconds of silence that begin a new line of plain text

# What a caption costs; only the proportions matter.
EMPTY = 2.0  # nothing in it; in proportion to the square of the room left, so lengths even out
SHORT = 12.0  # begins under a second before the next; more than all the rest, so it joins a neighbour if it can
FAST = 1.0  # for each second too little to read it
SILENCE = 2.0  # for each second of pause inside
CLAUSE, JOINT, WITHIN, CLINGING = 1.0, 1.5, 2.5, 3.5  # ends after a comma, before a joint, elsewhere, after a joint
STRANDED, LITTLE = 2.0, 8  # a word under 8 characters cut off from its sentence, or alone in a line
LINE = 0.5  # as a share of the above: the break between its two lines
UNEVEN = 1.0  # one line empty; twice that for the lower one

JOINTS = set(
    "och men eller samt att som när om eftersom medan där så då än innan sedan tills fast vilket vilken vilka "
    "i på med av till från vid under över efter hos mellan genom mot utan inom enligt för åt ur bland kring "
    "and but or because that which who when if while where so than until although "
    "in on with of to from at by for after before between through about into over without".split()
)
CLINGERS = JOINTS | set(
    "en ett den det de min mitt mina din ditt dina sin sitt sina vår vårt våra er ert era hans hennes deras inte "
    "jag du han hon vi ni man är a an the my your his her its our their not i you he she it we they is are".split()
)
SENTENCE_ENDS, CLOSING = r".!?…。！？｡؟۔।॥။។៕።፧།։", r"[\"'”’»)\]」』）】》〉]*"
SENTENCE_END = re.compile(f"[{SENTENCE_ENDS}]{CLOSING}$")
ABBREVIATION = re.compile(r"^\W*([^\W\d]|kl|ca|nr|dr|mr|mrs|prof|[^\W\d]+(\.[^\W\d]+)+)\.$", re.IGNORECASE)
UNFINISHED = re.compile(r"(?:-|\d|^\d+\.)$")  # the first part of a word, a number, an ordinal
CLAUSE_END = re.compile(rf"(?:[,;:、，；：､،؛၊{SENTENCE_ENDS}]{CLOSING}|[)\]–—」』）】》〉])$")


@dataclass(frozen=True)
class Word:
    """`text` without spaces around it, punctuation attached; times in seconds; `probability` as the model has it. In
    scripts without spaces a word is a character or a few, `glued` where no space parts it from the one before."""

    text: str
    start: float
    end: float
    probability: float | None = None
    glued: bool = False


@dataclass(frozen=True)
class Segment:
    """Consecutive speech; times in seconds, `text` stripped, `words` where the model timed them; `edited`: the text is
    a person's; `glued` as a word."""

    start: float
    end: float
    text: str
    words: tuple[Word, ...] = ()
    edited: bool = False
    glued: bool = False


@dataclass(frozen=True)
class Cue:
    """One or two `lines` on screen from `start` to `end`, seconds in whole milliseconds."""

    start: float
    end: float
    lines: tuple[str, ...]


def joined(timed: Iterable[Word | Segment]) -> str:
    """Their texts in one piece, with the spaces that were between them."""
    return "".join(one.text if one.glued else f" {one.text}" for one in timed).strip()


def clock(seconds: float) -> str:
    """75 → 1:15, 3675 → 1:01:15."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def cues(segments: Sequence[Segment]) -> list[Cue]:
    """Captions fit to be read, in time order, none overlapping, with every word once and in order.

    At most two lines of 42 characters (16 of Chinese or Japanese), 1 to 7 s each, none over a pause of more than 1 s.
    Words without times get theirs by counting characters within the segment; times that run backwards are made not to.
    A word of more than 42 characters (a compound, a URL) is cut evenly into pieces that end in a hyphen; scripts
    without spaces are cut between characters, without one. Where speech leaves a caption less than 1 s, it takes what
    is missing from the silence after, before, then from its neighbours, up to 2 s off its words; speech still faster
    than that gets less than 1 s, never more than two lines.
    """
    pieces = list(_pieces(segments))
    if not pieces:
        return []
    texts, starts, ends, glued = map(list, zip(*pieces))
    starts = list(accumulate((max(0, round(1000 * start)) for start in starts), max))
    ends = [max(start, min(round(1000 * end), later)) for start, end, later in zip(starts, ends, [*starts[1:], inf])]
    cuts = _cuts(texts, starts, ends, glued)
    spaced = [text if on else f" {text}" for text, on in zip(texts, glued)]
    lines = [tuple("".join(spaced[a:b]).strip() for a, b in ((i, k), (k, j)) if a < b) for i, k, j in cuts]
    sizes = [scripts.width("".join(two)) for two in lines]
    shown = _times([starts[i] for i, _, _ in cuts], [ends[j - 1] for _, _, j in cuts], sizes)
    return [Cue(start / 1000, end / 1000, two) for (start, end), two in zip(shown, lines)]


def _pieces(segments: Sequence[Segment]) -> Iterator[tuple[str, float, float, bool]]:
    """Words, and the pieces of those too long for a line: text without space, start and end in seconds, and whether it
    is glued to the one before. Where nothing is timed but a segment, scripts without spaces come in characters."""
    for segment in segments:
        for word in segment.words or [segment]:
            glued = word.glued
            for token, start, end in _spread(word.text.split(), word.start, word.end):
                whole = segment.words and scripts.width(token) <= WIDTH
                for part in _spread([token] if whole else scripts.parts(token), start, end):
                    for piece in _spread(_hyphenated(part[0]), *part[1:]):
                        yield *piece, glued
                        glued = False  # a piece after a hyphen has a line of its own
                    glued = True
                glued = False


def _spread(parts: list[str], start: float, end: float) -> Iterator[tuple[str, float, float]]:
    """Times for `parts` in proportion to their characters."""
    reached = [0, *accumulate(map(len, parts))]
    times = [start + (end - start) * share / max(reached) for share in reached if parts]
    return zip(parts, times, times[1:])


def _hyphenated(token: str) -> list[str]:
    width = scripts.width(token)
    if width <= WIDTH:
        return [token]
    size = -(-len(token) // int(-(-width // (WIDTH - 1))))
    parts = [token[at : at + size] for at in range(0, len(token), size)]
    return [f"{part}-" for part in parts[:-1]] + parts[-1:]


def _break_cost(texts: list[str], glued: list[bool], at: int) -> float:
    """Of a break before word `at`, by what stands around it.

    Without spaces, a phrase is most likely to begin after a hiragana, with a character that is none: there particles
    and endings stand. Where such a script has a space, a phrase ends.
    """

    def ends_sentence(index: int) -> bool:
        text, following = texts[index], texts[index + 1] if index + 1 < len(texts) else "A"
        return bool(SENTENCE_END.search(text)) and not ABBREVIATION.match(text) and not following[0].islower()

    last, first = texts[at - 1], texts[at]
    if ends_sentence(at - 1):
        return 0.0
    in_name = last[-1].isalpha() and last[0].isupper() and first[0].isupper()
    if last.lower() in CLINGERS or ABBREVIATION.match(last) or UNFINISHED.search(last) or in_name:
        cost = CLINGING
    elif CLAUSE_END.search(last) or (scripts.unspaced(last) and not glued[at]):
        cost = CLAUSE
    elif glued[at]:
        cost = JOINT if scripts.HIRAGANA.match(last[-1]) and not scripts.HIRAGANA.match(first) else CLINGING
    else:
        cost = JOINT if first in JOINTS else WITHIN
    begins = at == 1 or ends_sentence(at - 2)
    return cost + STRANDED * (begins and len(last) < LITTLE) + STRANDED * (ends_sentence(at) and len(first) < LITTLE)


def _cuts(texts: list[str], starts: list[int], ends: list[int], glued: list[bool]) -> list[tuple[int, int, int]]:
    """The cheapest captions as (first word, first of the second line, past the last); that line may be empty.

    None of more than one word breaks the line limits, `LONGEST` or `PAUSE`; times in milliseconds.
    """
    count = len(texts)
    sizes = [scripts.width(text) for text in texts]
    offsets = [0, *accumulate(size + (not on) for size, on in zip(sizes, glued))]  # with the space before each
    pauses = [0, *(after - before for before, after in zip(ends, starts[1:]))]  # before each word
    silence = [*accumulate(pauses)]
    breaks = [0, *(_break_cost(texts, glued, at) for at in range(1, count)), 0]
    lonely = [STRANDED * (size < LITTLE) for size in sizes]

    def width(i: int, j: int) -> float:
        return offsets[j] - offsets[i] - (not glued[i])

    def layout(i: int, line: int, j: int) -> tuple[float, int]:
        """Cost and second line's first word of the best layout; words `line` to `j` are the most that fit one line."""
        if i >= line:
            return (lonely[i] if i == j - 1 else 0.0), j
        best = inf, j
        for k in range(line, j):
            upper, lower = width(i, k), width(k, j)
            if upper > WIDTH:
                break
            uneven = UNEVEN * ((upper - lower) / WIDTH) ** 2 * (2 if upper > lower else 1)
            alone = lonely[i] * (k == i + 1) + lonely[k] * (k == j - 1)
            best = min(best, (LINE * breaks[k] + uneven + alone, k))
        return best

    least, line = [(0.0, (0, 0, 0))], 0  # the least cost of the words before each, and the last caption then
    for j in range(1, count + 1):
        while width(line, j) > WIDTH:
            line += 1
        best = inf, (0, 0, 0)
        for i in range(j - 1, -1, -1):
            if i < j - 1 and (pauses[i + 1] > PAUSE or ends[j - 1] - starts[i] > LONGEST):
                break
            cost, k = layout(i, line, j)
            if cost == inf:
                break
            seconds = (min(starts[j] - starts[i], LONGEST) if j < count else LONGEST) / 1000
            cost += EMPTY * max(0, 1 - width(i, j) / (2 * WIDTH)) ** 2 + SILENCE * (silence[j - 1] - silence[i]) / 1000
            cost += FAST * max(0, width(i, j) / READING_SPEED - max(seconds, 1)) + SHORT * (2 - seconds) * (seconds < 1)
            cost += least[i][0] + breaks[j]
            best = min(best, (cost, (i, k, j)))
        least.append(best)
    chosen = [least[count][1]]
    while chosen[-1][0]:
        chosen.append(least[chosen[-1][0]][1])
    return chosen[::-1]


def _times(starts: list[int], ends: list[int], characters: Iterable[float]) -> list[tuple[int, int]]:
    """When captions spoken from `starts` to `ends` show: `SHORTEST` each if any times within `SHIFT` of them allow."""
    shown = list(starts)
    for i in reversed(range(len(starts) - 1)):
        shown[i] = min(starts[i], max(shown[i + 1] - SHORTEST, starts[i] - SHIFT, 0))
    for i in range(1, len(starts)):
        shown[i] = max(shown[i], min(shown[i - 1] + SHORTEST, starts[i] + SHIFT), shown[i - 1] + 1)
    return [
        (start, min(following, start + LONGEST, max(end, start + max(SHORTEST, int(1000 * count // READING_SPEED)))))
        for start, following, end, count in zip(shown, [*shown[1:], inf], ends, characters)
    ]


def write(segments: Sequence[Segment], form: str, facts: dict | None = None) -> str:
    """The text of a whole file in one of `FORMATS`; `facts` stand before the segments in JSON.

    Plain text begins a new line after 2 s of silence between segments. In SubRip, which says nothing of direction, and
    whose players take a line for left to right, lines of Arabic, Hebrew and the like are marked (U+202B); WebVTT's look
    at the text. Raises LabError for another format.
    """
    if form == "txt":
        return _txt(segments)
    if form == "srt":
        return "\n".join(f"{index}\n{block}" for index, block in enumerate(_blocks(segments, ",", _marked), 1))
    if form == "vtt":
        return "\n".join(["WEBVTT\n", *_blocks(segments, ".", partial(html.escape, quote=False))])
    if form == "json":
        value = {**(facts or {}), "segments": [_row(segment) for segment in segments]}
        return json.dumps(value, ensure_ascii=False, indent=1) + "\n"
    raise LabError(f"there is no caption format {form!r}; choose one of {', '.join(FORMATS)}")


def _txt(segments: Sequence[Segment]) -> str:
    text, end = "", inf
    for segment in segments:
        if words := " ".join(segment.text.split()):
            text += ("\n" if segment.start - end >= PARAGRAPH else "" if segment.glued else " ") + words
            end = segment.end
    return text and text.strip() + "\n"


def _blocks(segments: Sequence[Segment], point: str, escape=str) -> Iterator[str]:
    for cue in cues(segments):
        yield f"{_clock(cue.start, point)} --> {_clock(cue.end, point)}\n" + escape("\n".join(cue.lines)) + "\n"


def _marked(lines: str) -> str:
    if not scripts.right_to_left(lines):
        return lines
    return "\n".join(f"\u202b{line}\u202c" for line in lines.split("\n"))


def _clock(seconds: float, point: str) -> str:
    rest, milliseconds = divmod(round(1000 * seconds), 1000)
    return f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}{point}{milliseconds:03}"


def _row(timed: Segment | Word) -> dict:
    row = {"start": round(timed.start, 3), "end": round(timed.end, 3), "text": timed.text}
    row |= {"glued": True} if timed.glued else {}
    if isinstance(timed, Word):
        return row if timed.probability is None else row | {"probability": round(timed.probability, 3)}
    row |= {"edited": True} if timed.edited else {}
    return row | {"words": [_row(word) for word in timed.words]} if timed.words else row


def from_json(text: str) -> tuple[list[Segment], dict]:
    """The segments and the facts that `write` wrote as JSON. Raises LabError for anything else."""

    def word(row: dict) -> Word:
        glued = bool(row.get("glued"))
        return Word(str(row["text"]), float(row["start"]), float(row["end"]), row.get("probability"), glued)

    try:
        facts = json.loads(text)
        rows = [(row, tuple(map(word, row.get("words", ())))) for row in facts.pop("segments")]
        flags = [(bool(row.get("edited")), bool(row.get("glued"))) for row, _ in rows]
        return [
            Segment(float(row["start"]), float(row["end"]), str(row["text"]), words, *two)
            for (row, words), two in zip(rows, flags)
        ], facts
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise LabError("that is no transcript in JSON; write one with --format json") from error


def shared(words: Sequence[Word], start: float, end: float) -> list[Word]:
    """`words` one after the other from `start` to `end`, each for as long as its share of their characters."""
    times = _spread([word.text for word in words], start, end)
    return [replace(word, start=start, end=end) for word, (_, start, end) in zip(words, times)]


def edited(segment: Segment, text: str) -> Segment:
    """`segment` with a person's `text`: words that stay keep their times, others share those of the words that they
    replace, or the time between their neighbours."""
    text, old = " ".join(text.split()), segment.words
    if text == segment.text:
        return segment
    parts = scripts.parts(text)
    new = [part.strip() for part in parts]
    words = [Word(part.strip(), segment.start, segment.end, glued=part[0] != " ") for part in parts] if old else []
    words[:1] = [replace(word, glued=segment.glued) for word in words[:1]]

    def share(i: int, j: int, start: float, end: float) -> None:
        words[i:j] = shared(words[i:j], start, end)

    match = SequenceMatcher(None, [normalise(word.text) for word in old], list(map(normalise, new)), autojunk=False)
    for _, a, b, i, j in sorted(match.get_opcodes(), key=lambda code: code[0] == "insert") if old else ():
        if b - a == j - i:  # one for one: a name put right, a comma
            words[i:j] = [
                replace(was, glued=one.glued) if was.text == one.text else replace(one, start=was.start, end=was.end)
                for was, one in zip(old[a:b], words[i:j])
            ]
        elif a < b:
            share(i, j, old[a].start, old[b - 1].end)
        else:
            start = old[a - 1].end if a else segment.start
            end = old[a].start if a < len(old) else segment.end
            if end <= start:  # no room between them: said with the word before, or the first with the one after
                i, j, with_ = (i - 1, j, words[i - 1]) if a else (i, j + 1, words[j])
                start, end = with_.start, with_.end
            share(i, j, start, end)
    return replace(segment, text=text, words=tuple(words), edited=True)
