"""What both pages share: the visitor's options, reading with progress and cancel, the comparison with a second model,
and how a page is served."""

import functools
import html
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import gradio as gr
import numpy as np

from .. import LabError
from ..speech import audio
from ..whisper.decoding import AUTO, DEFAULT, Decoding
from . import captions, playing, refusals, terminal, texts
from .transcription import Cancelled, Progress, Transcriber
from .views import clock, failed, marked, note, parts, plain, result, short, side_by_side, text_of, working

WEB = Path(__file__).parent / "web"
OFTEN = 0.4  # seconds between two looks at the progress
READING = "reading"  # the queue that all reading shares
UPLOAD = "2gb"  # the largest file that can be sent
COMPARED = 10  # minutes of sound that are read by two models
LARGEST = 8_000_000  # characters of a transcript that is sent to be edited: about eight hours
LONGEST_TEXT = 2_000  # characters of an edited segment


def words(key: str) -> gr.I18n:
    """A label, in the browser's language."""
    return LABELS(key)


LABELS = gr.I18n(**{code: here | texts.GRADIO[code] for code, here in texts.TEXTS.items()})


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
        self.made = playing.Names()  # of what lies beside uploads, to be deleted with them
        self._stops: dict[str, threading.Event] = {}
        self._loading = threading.Lock()

    @cached_property
    def _second(self) -> Transcriber:
        return Transcriber(self.compare, self.options.engine, precision=self.options.precision)

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
        self,
        source,
        media: dict | None,
        kept: dict,
        decoding: Decoding,
        request: gr.Request,
        start: float = 0,
        end: float | None = None,
    ) -> Iterator[tuple]:
        """Transcribe a file or (samples,) float32 for a visitor: status and result, as HTML, and what to remember of
        it for the other parts of the page: `kept`, with the text. `media`: what plays it, None for an upload itself."""
        here, began, shown, segments = say(request), time.monotonic(), 0.0, []
        cancelled, progress = self.starts(request), Progress()
        yield working(here["preparing"]), "", {}
        self.check_length(source, start, end)
        given_up = threading.Event()
        media = media or playing.media(source, end, self.made, lambda: cancelled() or given_up.is_set())
        try:
            for segment in self.transcriber.segments(source, decoding, True, start, end, progress, cancelled):
                segments.append(segment)
                if progress.total and time.monotonic() - shown > OFTEN:
                    shown = time.monotonic()
                    text = f"{here['reading']} {clock(progress.done)} {here['of']} {clock(progress.total)}"
                    yield working(text, progress.done / progress.total), text_of(segments, here), {}
        except BaseException:  # also of a visitor who left
            given_up.set()
            raise
        places = ", ".join(dict.fromkeys(clock(one.at) for one in progress.damage))
        damaged = note(here["damaged"].format(places=places)) if places else ""
        if not segments:
            yield note(here["nothing"]) + damaged, "", {}
            return
        took = here["took"].format(
            audio=clock(progress.done),
            seconds=f"{time.monotonic() - began:.1f}",
            model=short(self.transcriber.name),
        )
        if progress.language:
            decoding = replace(decoding, language=progress.language[0])
        kept = kept | {"segments": segments, "text": plain(segments), "decoding": decoding, "part": (start, end)}
        facts = self.transcriber.facts() | progress.facts()
        yield damaged, result(segments, facts, media, took, here), kept

    def as_json(self, source, decoding: Decoding, start: float = 0, end: float | None = None, facts=()) -> dict:
        """The transcript as `captions` writes it, with its text in one piece and what it was made with."""
        progress = Progress()
        found = list(self.transcriber.segments(source, decoding, True, start, end, progress))
        about = {**dict(facts), "text": plain(found), **self.transcriber.facts(), **progress.facts()}
        return json.loads(captions.write(found, "json", about))

    def check_length(self, source, start: float, end: float | None, limit: float | None = None) -> None:
        """Raises TooLong for more minutes than `limit`, by default --max-minutes, and Refused for a part that the
        recording does not have."""
        limit = limit or self.options.max_minutes
        known = source.size / audio.SAMPLE_RATE if isinstance(source, np.ndarray) else audio.seconds_of(source)
        if known is not None and (start or end is not None):
            refusals.check_part(start, end, round(known, 1))
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


def part_fields() -> list[gr.Textbox]:
    """From and to: the part of a film or an upload that is transcribed."""
    with gr.Row():
        about = {"value": "", "info": words("time_info"), "max_lines": 1, "min_width": 120}
        return [gr.Textbox(label=words(key), elem_id=key, **about) for key in ("from", "to")]


def options_panel(transcriber: Transcriber, more: Callable[[], list] = list) -> list:
    """Language, task, beams, fallback and prompt: the components, in the order that `Reader.decoding` takes, and `more`
    beside them."""
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    names = sorted(((name.title(), code) for code, name in LANGUAGES.items()), key=lambda pair: pair[0])
    with gr.Accordion(words("options"), open=False, elem_id="options"):
        with gr.Row():
            names = [(words("detect"), AUTO), *names]
            spoken = gr.Dropdown(names, value=transcriber.language, label=words("language"), filterable=True)
            task = gr.Radio(
                [(words("transcribe"), "transcribe"), (words("translate"), "translate")],
                value="transcribe",
                label=words("task"),
            )
        with gr.Row():
            beams = gr.Slider(1, 10, value=DEFAULT.beams, step=1, label=words("beams"), info=words("beams_info"))
            prompt = gr.Textbox("", label=words("prompt"), info=words("prompt_info"), max_lines=2)
        fallback = gr.Checkbox(label=words("fallback"))
        return [spoken, task, beams, fallback, prompt, *more()]


def work_lines() -> tuple[gr.HTML, gr.Button, gr.HTML]:
    """Where the work's progress and its result are shown, and the button that cancels it (seen while there is work)."""
    status = gr.HTML(elem_id="status")
    cancel = gr.Button(words("cancel"), elem_id="cancel", size="sm")
    script = (WEB / "player.js").read_text(encoding="utf-8")
    result = gr.HTML(js_on_load=script, server_functions=[edit], elem_id="result")
    return status, cancel, result


def edit(data: dict, request: gr.Request) -> dict:
    """For player.js: what is shown of a `transcript` (as `captions` writes JSON) with a visitor's `texts`, by the
    number of their segment. All of it comes along and nothing is kept, so nobody changes what another sees."""
    here = say(request)
    whole, new = str(data["transcript"]), {int(i): str(text) for i, text in data["texts"].items()}
    if len(whole) > LARGEST or max(map(len, new.values()), default=0) > LONGEST_TEXT:
        return {"error": here["edit_too_long"].format(limit=LONGEST_TEXT)}
    segments, facts = captions.from_json(whole)
    segments = [captions.edited(one, new[i]) if i in new else one for i, one in enumerate(segments)]
    rows = {str(i): marked(segments[i].text, segments[i].words, here) for i in new if i < len(segments)}
    return parts([one for one in segments if one.text], facts, here) | {"rows": rows}


@contextmanager
def said(request: gr.Request):
    """What went wrong as Gradio's own error, in the caller's language."""
    try:
        yield
    except Exception as error:
        raise gr.Error(texts.plain(error, language(request)), print_exception=False) from error


def transcribe_endpoint(reader: Reader, choices: list) -> None:
    """`/transcribe` for gradio_client: a file, the options and a part → the transcript as JSON, with the time of every
    word."""

    def transcribe(file, spoken, task, beams, fallback, prompt, start, end, request: gr.Request):
        with said(request):
            first, last = refusals.part(start) or 0, refusals.part(end)
            reader.check_length(file, first, last)
            return reader.as_json(file, reader.decoding(spoken, task, beams, fallback, prompt), first, last)

    file, out, run = gr.File(visible=False), gr.JSON(visible=False), gr.Button(visible=False)
    run.click(transcribe, [file, *choices], out, api_name="transcribe", concurrency_id=READING)


def serve(page: gr.Blocks, options, readable: Sequence[Path] = (), block: bool = True) -> str:
    """Open `page` as the command line says, on loopback unless told otherwise; its address, if it does not `block`."""
    page.queue(default_concurrency_limit=options.queue)
    user, _, password = (options.auth or "").partition(":")
    host = options.host or os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1")
    check_host(host)
    try:
        _, address, _ = page.launch(
            prevent_thread_lock=not block,
            quiet=not block,
            server_name=f"[{host}]" if ":" in host else host,  # as in an address
            server_port=options.port,
            share=options.share,
            auth=(user, password) if options.auth else None,
            css_paths=[WEB / "page.css"],
            i18n=LABELS,
            theme=gr.themes.Default(primary_hue="blue"),
            allowed_paths=[str(path) for path in readable],
            max_file_size=UPLOAD,
            footer_links=["api"],
            run_history=False,
            js=gradios_words(),
            max_threads=max(40, 4 * options.queue),
        )
    except OSError as error:
        if "port" not in str(error).lower():
            raise
        raise LabError(
            f"port {options.port} of {host} is taken; choose another with --port, or leave it out"
        ) from error
    return address


def gradios_words() -> str:
    """The script that puts what Gradio itself says into the visitor's words."""
    return f"() => {{ const TEXTS = {json.dumps(texts.TEXTS)};\n{(WEB / 'words.js').read_text(encoding='utf-8')} }}"


def check_host(host: str) -> None:
    """Raise LabError where this computer cannot listen at `host`, a name or an address."""
    try:
        kind, _, _, _, place = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise LabError(
            f"no such host: {host} (--host takes an address of this computer: 127.0.0.1, 0.0.0.0, ::1)"
        ) from error
    try:
        with socket.socket(kind) as tried:
            tried.bind(place)
    except OSError as error:
        raise LabError(f"{host} is no address of this computer; --host 0.0.0.0 listens at all that it has") from error
