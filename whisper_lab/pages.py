"""What both pages share: the visitor's options, reading with progress and cancel, the result with its player, the
comparison with a second model, and how a page is served."""

import functools
import html
import json
import mimetypes
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

import gradio as gr
import numpy as np

from . import LabError, audio, captions, terminal, texts
from .decoding import Decoding
from .text import normalise
from .transcription import Cancelled, Progress, Transcriber

WEB = Path(__file__).parent / "web"
OFTEN = 0.4  # seconds between two looks at the progress
READING = "reading"  # the queue that all reading shares
COMPARED = 10  # minutes of sound that are read by two models


def words(key: str) -> gr.I18n:
    """A label, in the browser's language."""
    return LABELS(key)


LABELS = gr.I18n(**texts.TEXTS)


def language(request: gr.Request | None) -> str:
    return texts.language_of(request.headers.get("accept-language") if request else None)


def say(request: gr.Request | None) -> dict[str, str]:
    """The page's texts in the visitor's language."""
    return texts.TEXTS[language(request)]


class Reader:
    """A model behind a page, and the visitors who wait for it."""

    def __init__(self, options):
        self.options = options
        self.transcriber = terminal.transcriber(options)
        self.compare = terminal.compared(options)
        self._stops: dict[str, threading.Event] = {}
        self._loading = threading.Lock()

    @cached_property
    def _second(self) -> Transcriber:
        return Transcriber(self.compare, self.options.engine)

    def second(self) -> Transcriber:
        """The model to compare with, loaded when it is first asked for."""
        with self._loading:
            return self._second

    def decoding(self, spoken: str, task: str, beams: int, fallback: bool, prompt: str) -> Decoding:
        return Decoding(spoken, task, int(beams), bool(fallback), prompt or "")

    def starts(self, request: gr.Request) -> Callable[[], bool]:
        """A new work for the visitor; whether it was cancelled."""
        stop = self._stops[request.session_hash] = threading.Event()
        return stop.is_set

    def cancel(self, request: gr.Request) -> str:
        if stop := self._stops.pop(request.session_hash, None):
            stop.set()
        return note(say(request)["cancelled"])

    def read(
        self, source, media: dict, kept: dict, decoding: Decoding, request: gr.Request, start: float = 0, end=None
    ) -> Iterator[tuple]:
        """Transcribe a file or (samples,) float32 for a visitor: status and result, as HTML, and what to remember of
        it for the other parts of the page: `kept`, with the text."""
        here, began, shown, segments = say(request), time.monotonic(), 0.0, []
        cancelled, progress = self.starts(request), Progress()
        yield working(here["preparing"]), "", {}
        self.check_length(source, start, end)
        for segment in self.transcriber.segments(source, decoding, True, start, end, progress, cancelled):
            segments.append(segment)
            if progress.total and time.monotonic() - shown > OFTEN:
                shown = time.monotonic()
                text = f"{here['reading']} {clock(progress.done)} {here['of']} {clock(progress.total)}"
                yield working(text, progress.done / progress.total), text_of(segments), {}
        if not segments:
            yield note(here["nothing"]), "", {}
            return
        took = here["took"].format(
            audio=clock(progress.done),
            seconds=f"{time.monotonic() - began:.1f}",
            model=short(self.transcriber.name),
        )
        kept = kept | {"text": plain(segments), "decoding": decoding, "part": (start, end)}
        yield "", result(segments, self.transcriber.facts(), media, took, here), kept

    def as_json(self, source, decoding: Decoding, start: float = 0, end: float | None = None, facts=()) -> dict:
        """The transcript as `captions` writes it, with its text in one piece and what it was made with."""
        found = list(self.transcriber.segments(source, decoding, True, start, end))
        about = {**dict(facts), "text": plain(found), **self.transcriber.facts()}
        return json.loads(captions.write(found, "json", about))

    def check_length(self, source, start: float, end: float | None, limit: float | None = None) -> None:
        """Raises TooLong for more minutes than `limit`, by default --max-minutes."""
        limit = limit or self.options.max_minutes
        known = source.size / audio.SAMPLE_RATE if isinstance(source, np.ndarray) else audio.seconds_of(source)
        if known is not None and (minutes := (min(end or known, known) - start) / 60) > limit:
            raise TooLong(minutes, limit)

    def compared(self, last: dict, request: gr.Request) -> Iterator[str]:
        """The visitor's last recording once more, by the second model: both texts, differences marked."""
        here = say(request)
        if not last:
            yield note(here["nothing_to_compare"])
            return
        start, end = last["part"]
        source = last["path"] if "path" in last else audio.from_samples(audio.SAMPLE_RATE, last["samples"])
        self.check_length(source, start, end, COMPARED)
        yield working(here["comparing"].format(model=short(self.compare)))
        found = self.second().segments(source, last["decoding"], False, start, end, cancelled=self.starts(request))
        yield side_by_side(last["text"], plain(list(found)), short(self.transcriber.name), short(self.compare), here)


class TooLong(LabError):
    """A recording over --max-minutes."""

    reason = "too_long"

    def __init__(self, minutes: float, limit: float):
        super().__init__(texts.ENGLISH["too_long"].format(minutes=minutes, limit=limit))
        self.details = {"minutes": minutes, "limit": limit}


def guarded(outputs: int) -> Callable:
    """A generator of page updates, whose errors become a sentence in the first of its `outputs`."""

    def decorate(work: Callable) -> Callable:
        @functools.wraps(work)  # Gradio reads the signature
        def inner(*args):
            request = next(value for value in args if isinstance(value, gr.Request))
            try:
                yield from work(*args)
                return
            except Cancelled:
                shown = note(say(request)["cancelled"])
            except Exception as error:
                if not isinstance(error, LabError | OSError):
                    traceback.print_exc()
                shown = failed(texts.plain(error, language(request)))
            yield (shown, *[gr.skip()] * (outputs - 1)) if outputs > 1 else shown

        return inner

    return decorate


def heading(title: str, lead: str, transcriber: Transcriber) -> None:
    gr.Markdown(words(title), elem_id="title")
    gr.Markdown(words(lead), elem_id="lead")
    gr.HTML(
        f'<p class="lab-took" id="model">{html.escape(short(transcriber.name))} · {transcriber.facts()["engine"]}</p>'
    )


def options_panel(transcriber: Transcriber) -> list:
    """Language, task, beams, fallback and prompt: the components, in the order that `Reader.decoding` takes."""
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    names = sorted(((name.title(), code) for code, name in LANGUAGES.items()), key=lambda pair: pair[0])
    with gr.Accordion(words("options"), open=False, elem_id="options"):
        with gr.Row():
            spoken = gr.Dropdown(names, value=transcriber.language, label=words("language"), filterable=True)
            task = gr.Radio(
                [(words("transcribe"), "transcribe"), (words("translate"), "translate")],
                value="transcribe",
                label=words("task"),
            )
        with gr.Row():
            beams = gr.Slider(1, 10, value=1, step=1, label=words("beams"), info=words("beams_info"))
            prompt = gr.Textbox(label=words("prompt"), info=words("prompt_info"), max_lines=2)
        fallback = gr.Checkbox(label=words("fallback"))
    return [spoken, task, beams, fallback, prompt]


def work_lines() -> tuple[gr.HTML, gr.Button, gr.HTML]:
    """Where the work's progress and its result are shown, and the button that cancels it (seen while there is work)."""
    status = gr.HTML(elem_id="status")
    cancel = gr.Button(words("cancel"), elem_id="cancel", size="sm")
    result = gr.HTML(js_on_load=(WEB / "player.js").read_text(encoding="utf-8"), elem_id="result")
    return status, cancel, result


@contextmanager
def said(request: gr.Request):
    """A caller's mistake as Gradio's own error, in the caller's language."""
    try:
        yield
    except LabError as error:
        raise gr.Error(texts.plain(error, language(request))) from error


def transcribe_endpoint(reader: Reader, choices: list) -> None:
    """`/transcribe` for gradio_client: a file and the options → the transcript as JSON, with the time of every word."""

    def transcribe(file, spoken, task, beams, fallback, prompt, request: gr.Request):
        with said(request):
            reader.check_length(file, 0, None)
            return reader.as_json(file, reader.decoding(spoken, task, beams, fallback, prompt))

    file, out, run = gr.File(visible=False), gr.JSON(visible=False), gr.Button(visible=False)
    run.click(transcribe, [file, *choices], out, api_name="transcribe", concurrency_id=READING)


def file_media(path: str) -> dict:
    """How the browser plays a file that was uploaded."""
    kind = (mimetypes.guess_type(path)[0] or "").split("/")[0]
    source = f"gradio_api/file={quote(str(path))}"
    return {"tag": "video" if kind == "video" else "audio", "src": source, "name": Path(path).stem}


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
        f'<li><button type="button" data-start="{s.start:.2f}" data-end="{s.end:.2f}">'
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
    source = f'data-recording="{media["recording"]}"' if "recording" in media else f'src="{html.escape(media["src"])}"'
    tag, over = media.get("tag", "audio"), " lab-over" if media.get("tag") == "video" else ""
    return (
        f'<div class="lab-stage{over}"><{tag} controls playsinline preload="metadata" {source}></{tag}>{caption}</div>'
    )


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


def serve(page: gr.Blocks, options, readable: Sequence[Path] = (), block: bool = True) -> str:
    """Open `page` as the command line says, on loopback unless told otherwise; its address, if it does not `block`."""
    page.queue(default_concurrency_limit=options.queue)
    user, _, password = (options.auth or "").partition(":")
    host = options.host or os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1")
    try:
        _, address, _ = page.launch(
            prevent_thread_lock=not block,
            quiet=not block,
            server_name=host,
            server_port=options.port,
            share=options.share,
            auth=(user, password) if options.auth else None,
            css_paths=[WEB / "page.css"],
            i18n=LABELS,
            theme=gr.themes.Default(primary_hue="blue"),
            allowed_paths=[str(path) for path in readable],
            max_file_size="2gb",
            footer_links=["api"],
            run_history=False,
            show_error=True,
            max_threads=max(40, 4 * options.queue),
        )
    except OSError as error:
        if "port" not in str(error).lower():
            raise
        raise LabError(
            f"port {options.port} of {host} is taken; choose another with --port, or leave it out"
        ) from error
