"""What a visitor sees of a transcript, as HTML: the result with its player, the comparison, progress and errors."""

import html
import json
from pathlib import Path
from urllib.parse import quote

from ..text import normalise
from ..whisper.decoding import CERTAIN
from . import captions, scripts
from .captions import clock

# The probability of a word below which it is marked. Of 2,825 words that the untuned Whisper base heard in 374 human
# clips, 30 % are marked: 55 % of those are wrong, and 70 % of all that are wrong are among them. With the sample's
# tuned model, on short windows: 22 % of 2,776, 55 and 57 %. At 0.5, untuned, it is 59 and 51 %; at 0.7, 47 and 86.
DOUBTFUL = 0.6


def result(segments, facts: dict, media: dict, took: str, here: dict) -> str:
    """The transcript as a visitor gets it: text, player with captions, segments to hear and to correct, downloads."""
    name, shown = media.get("name", "transcript"), parts(segments, facts, here)
    downloads = "".join(
        f'<a download="{html.escape(name)}.{form}" href="data:{kind};charset=utf-8,{quote(text)}">{form.upper()}</a>'
        for (form, text), kind in zip(
            shown["files"].items(), ("text/plain", "application/x-subrip", "text/vtt", "application/json")
        )
    )
    cues = html.escape(json.dumps(shown["cues"], ensure_ascii=False))
    caption = f'<div class="lab-caption" dir="auto" data-cues="{cues}"></div>'
    rows = "".join(_row(segment, here) for segment in segments)
    return (
        f'<div class="lab-result"><p class="lab-text" dir="auto">{shown["text"]}</p>'
        f'<div class="lab-row"><button type="button" class="lab-copy" data-copied="{here["copied"]}">{here["copy"]}'
        f'</button>{downloads}<span class="lab-took" role="status" data-edited="{here["edited"]}" '
        f'data-lost="{here["edit_lost"]}"></span></div>{_stage(media, caption)}'
        f'<p class="lab-took" id="lab-hint">{here["edit_hint"]}</p>'
        f'<ol class="lab-segments">{rows}</ol><p class="lab-took">{html.escape(took)}{_detected(facts, here)}</p></div>'
    )


def parts(segments, facts: dict, here: dict) -> dict:
    """What an edit changes of a result: its text as HTML, the captions, and the text of every download."""
    return {
        "text": _text(segments, here),
        "cues": [[cue.start, cue.end, "\n".join(cue.lines)] for cue in captions.cues(segments)],
        "files": {form: captions.write(segments, form, facts) for form in captions.FORMATS},
    }


def _row(segment, here: dict) -> str:
    at = clock(segment.start)
    return (
        f'<li><button type="button" data-start="{segment.start:.3f}" data-end="{segment.end:.3f}" '
        f'aria-label="{here["play_from"]} {at}"><time>{at}</time></button>'
        f'<span contenteditable="plaintext-only" role="textbox" enterkeyhint="done" aria-describedby="lab-hint" '
        f'dir="auto" aria-label="{here["text_from"]} {at}" data-empty="{here["removed"]}">'
        f"{marked(segment.text, segment.words, here)}</span></li>"
    )


def _detected(facts: dict, here: dict) -> str:
    """The language, if it was detected; player.js names it as the visitor's language does."""
    if "language" not in facts:
        return ""
    code, probability = facts["language"], facts["language_probability"]
    name = f'<span data-language="{code}" lang="{here["locale"]}">{code}</span>'
    said = here["detected" if probability >= CERTAIN else "guessed"]
    return f" · {said.format(language=name, percent=100 * probability)}"


def _stage(media: dict, caption: str) -> str:
    if "film" in media:
        source = f"https://www.youtube-nocookie.com/embed/{quote(media['film'])}?enablejsapi=1&playsinline=1"
        inner = (
            f'<iframe src="{source}" allow="autoplay; encrypted-media; picture-in-picture" allowfullscreen '
            'referrerpolicy="strict-origin-when-cross-origin" title="YouTube"></iframe>'
        )
        return f'<div class="lab-stage lab-over">{inner}{caption}</div>'
    about = " data-made" if media.get("made") else ""
    about += f' data-recording="{media["recording"]}"' if "recording" in media else ""
    sources = "".join(f'<source src="{html.escape(source)}">' for source in media.get("sources", ()))
    tag, over = media.get("tag", "audio"), " lab-over" if media.get("tag") == "video" else ""
    player = f'<{tag} controls playsinline preload="metadata"{about}>{sources}</{tag}>'
    return f'<div class="lab-stage{over}">{player}{caption}</div>'


def side_by_side(ours: str, theirs: str, our_name: str, their_name: str, here: dict) -> str:
    """Two texts, the words that only one of them has marked."""
    from difflib import SequenceMatcher

    a, b = scripts.parts(ours), scripts.parts(theirs)
    match = SequenceMatcher(None, [normalise(w) for w in a], [normalise(w) for w in b], autojunk=False)
    left, right, count = [], [], 0
    for kind, a0, a1, b0, b1 in match.get_opcodes():
        for words_, out in ((a[a0:a1], left), (b[b0:b1], right)):
            text = html.escape("".join(words_))
            if text and kind != "equal":
                space = " " * text.startswith(" ")
                text = f'{space}<mark title="{here["only_here"]}">{text.strip()}</mark>'
            out.append(text)
        count += 0 if kind == "equal" else max(a1 - a0, b1 - b0)
    verdict = here["differences"].format(count=count, total=max(len(a), len(b))) if count else here["same"]
    columns = "".join(
        f'<div><h4>{html.escape(name)}</h4><p dir="auto">{"".join(text)}</p></div>'
        for name, text in ((our_name, left), (their_name, right))
    )
    return f'<div class="lab-two">{columns}</div><p class="lab-took">{verdict}</p>'


def text_of(segments, here: dict) -> str:
    return f'<p class="lab-text" dir="auto">{_text(segments, here)}</p>'


def _text(segments, here: dict) -> str:
    words = [word for segment in segments for word in segment.words]
    return marked(captions.write(segments, "txt").strip(), words, here).replace("\n", "<br>")


def marked(text: str, words, here: dict) -> str:
    """`text` as HTML; those of its `words` that the model doubted are underlined."""
    pieces, written, at = [], 0, 0
    for word in words:
        if (begin := text.find(word.text, at)) < 0:
            continue
        at = begin + len(word.text)
        if word.probability is not None and word.probability < DOUBTFUL:
            pieces += [html.escape(text[written:begin]), f'<u title="{here["doubtful"]}">{html.escape(word.text)}</u>']
            written = at
    return "".join([*pieces, html.escape(text[written:])])


def plain(segments) -> str:
    return captions.joined(segments)


def note(text: str) -> str:
    return f'<p class="lab-status">{html.escape(text)}</p>'


def failed(text: str) -> str:
    return f'<p class="lab-error" role="alert">{html.escape(text)}</p>'


def working(text: str, share: float | None = None) -> str:
    bar = "" if share is None else f'<div class="lab-bar"><div style="width:{min(100, 100 * share):.0f}%"></div></div>'
    return f'<div class="lab-status" role="status">{html.escape(text)}{bar}</div>'


def table(rows: dict[str, str]) -> str:
    cells = "".join(f"<tr><td>{html.escape(k)}</td><td>{html.escape(str(v))}</td></tr>" for k, v in rows.items())
    return f'<table class="lab-table">{cells}</table>'


def short(model: str) -> str:
    """A model's name without the folders above it."""
    return "Whisper base" if model == "sample" else "/".join(Path(model).parts[-2:])
