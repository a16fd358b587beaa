"""What a visitor sees of a transcript, as HTML: the result with its player, the comparison, progress and errors."""

import html
import json
from pathlib import Path
from urllib.parse import quote

from ..text import normalise
from . import captions


def result(segments, facts: dict, media: dict, took: str, here: dict) -> str:
    """The transcript as a visitor gets it: text, player with captions, segments to click, downloads."""
    name = media.get("name", "transcript")
    downloads = "".join(
        f'<a download="{html.escape(name)}.{form}" '
        f'href="data:{kind};charset=utf-8,{quote(captions.write(segments, form, facts))}">{form.upper()}</a>'
        for form, kind in zip(captions.FORMATS, ("text/plain", "application/x-subrip", "text/vtt", "application/json"))
    )
    cues = [[cue.start, cue.end, "\n".join(cue.lines)] for cue in captions.cues(segments)]
    caption = f'<div class="lab-caption" data-cues="{html.escape(json.dumps(cues, ensure_ascii=False))}"></div>'
    rows = "".join(
        f'<li><button type="button" data-start="{s.start:.3f}" data-end="{s.end:.3f}">'
        f"<time>{clock(s.start)}</time><span>{html.escape(s.text)}</span></button></li>"
        for s in segments
    )
    return (
        f'<div class="lab-result">{text_of(segments)}'
        f'<div class="lab-row"><button type="button" class="lab-copy" data-copied="{here["copied"]}">{here["copy"]}'
        f"</button>{downloads}</div>{_stage(media, caption)}"
        f'<ol class="lab-segments">{rows}</ol><p class="lab-took">{html.escape(took)}</p></div>'
    )


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

    a, b = ours.split(), theirs.split()
    match = SequenceMatcher(None, [normalise(w) for w in a], [normalise(w) for w in b], autojunk=False)
    left, right, count = [], [], 0
    for kind, a0, a1, b0, b1 in match.get_opcodes():
        for words_, out in ((a[a0:a1], left), (b[b0:b1], right)):
            text = html.escape(" ".join(words_))
            if text:
                out.append(text if kind == "equal" else f'<mark title="{here["only_here"]}">{text}</mark>')
        count += 0 if kind == "equal" else max(a1 - a0, b1 - b0)
    verdict = here["differences"].format(count=count, total=max(len(a), len(b))) if count else here["same"]
    columns = "".join(
        f"<div><h4>{html.escape(name)}</h4><p>{' '.join(text)}</p></div>"
        for name, text in ((our_name, left), (their_name, right))
    )
    return f'<div class="lab-two">{columns}</div><p class="lab-took">{verdict}</p>'


def text_of(segments) -> str:
    lines = html.escape(captions.write(segments, "txt")).strip().split("\n")
    return f'<p class="lab-text">{"<br>".join(lines)}</p>'


def plain(segments) -> str:
    return " ".join(segment.text for segment in segments)


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


def clock(seconds: float) -> str:
    """75 → 1:15, 3675 → 1:01:15."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def short(model: str) -> str:
    """A model's name without the folders above it."""
    return "Whisper base" if model == "sample" else "/".join(Path(model).parts[-2:])
