"""The page of app_youtube.py: a link, what the film is, its words."""

import html
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gradio as gr

from . import pages, texts, views, youtube
from .pages import READING, language, say, words


def page(options) -> gr.Blocks:
    reader = pages.Reader(options)
    with gr.Blocks(title=words("title_film"), delete_cache=(600, 3_600)) as blocks:
        blocks.temp_file_sets.append(reader.made)
        pages.heading("title_film", "lead_film", reader.transcriber)
        link = gr.Textbox(
            label=words("link"), placeholder="https://www.youtube.com/watch?v=…", max_lines=1, elem_id="link"
        )
        card = gr.HTML(elem_id="card")
        start, end = pages.part_fields()
        filled = gr.State("")  # into `start`, from a link
        fetch = gr.Button(words("fetch"), variant="primary", elem_id="fetch")
        gr.Markdown(words("notice"), elem_id="notice")
        upload = gr.File(label=words("upload_instead"), height=140, elem_id="upload")
        choices = pages.options_panel(reader.transcriber)
        status, cancel, result = pages.work_lines()
        pages.transcribe_endpoint(reader, [*choices, start, end])

        def look(link: str, request: gr.Request):
            """The film's card as soon as the link is one; nothing is asked of YouTube before."""
            if not link.strip():
                return ""
            try:
                return _card(youtube.look(link, None, options.downloader))
            except Exception as error:
                return views.failed(texts.plain(error, language(request)))

        def begin(link: str, start: str, filled: str):
            """Where the link says that the film begins, unless the visitor wrote something else."""
            try:
                at = youtube.start_in(link)
            except youtube.Refused:
                at = None
            said = views.clock(at) if at else ""
            return (said, said) if start in ("", filled) else (gr.skip(), said)

        @pages.guarded(outputs=2)
        def read_film(link, start, end, spoken, task, beams, fallback, prompt, request: gr.Request):
            decoding = reader.decoding(spoken, task, beams, fallback, prompt)
            first, last = youtube.part(start), youtube.part(end)
            yield views.working(say(request)["looking"]), ""
            found = youtube.look(link, options.max_minutes, options.downloader, first, last)
            for status, result, _ in _fetched_and_read(reader, options, found, decoding, request, first or 0, last):
                yield status, result

        @pages.guarded(outputs=2)
        def read_file(path, start, end, spoken, task, beams, fallback, prompt, request: gr.Request):
            decoding = reader.decoding(spoken, task, beams, fallback, prompt)
            first, last = youtube.part(start) or 0, youtube.part(end)
            for status, result, _ in reader.read(path, None, {}, decoding, request, first, last):
                yield status, result

        shown = {"concurrency_id": READING, "api_visibility": "private", "show_progress_on": status}
        works = [
            fetch.click(read_film, [link, start, end, *choices], [status, result], **shown),
            upload.upload(read_file, [upload, start, end, *choices], [status, result], **shown),
        ]
        cancel.click(reader.cancel, None, status, cancels=works, queue=False, api_visibility="private")
        link.change(look, link, card, show_progress_on=card, api_visibility="private", trigger_mode="always_last")
        link.change(begin, [link, start, filled], [start, filled], queue=False, api_visibility="private")
        _endpoint(reader, options, link, start, end, choices)
    return blocks


def _fetched_and_read(reader, options, film, decoding, request, start: float, end: float | None) -> Iterator[tuple]:
    """Fetch the film's sound into a folder of the visitor's own, read it, and delete it, whatever happens."""
    here, cancelled, share = say(request), reader.starts(request), [0.0]
    done = False
    with tempfile.TemporaryDirectory(prefix="film-") as folder, ThreadPoolExecutor(1) as aside:
        fetching = aside.submit(
            youtube.download,
            film,
            Path(folder),
            lambda s: share.__setitem__(0, s),
            lambda: done or cancelled(),
            options.downloader,
        )
        try:
            while not fetching.done():
                yield views.working(here["fetching"], share[0]), "", {}
                time.sleep(pages.OFTEN)
            path = fetching.result()
            yield from reader.read(path, {"film": film.id, "name": film.id}, {}, decoding, request, start, end)
        finally:
            done = True  # the visitor may have left in the middle of it


def _card(film: youtube.Film) -> str:
    picture = f'<img src="{html.escape(film.thumbnail)}" alt="" referrerpolicy="no-referrer">' if film.thumbnail else ""
    about = " · ".join(filter(None, (film.channel, views.clock(film.seconds))))
    return (
        f'<div class="lab-card">{picture}<div><strong>{html.escape(film.title)}</strong>'
        f'<p class="lab-took">{html.escape(about)}</p></div></div>'
    )


def _endpoint(reader, options, link, start, end, choices: list) -> None:
    """`/transcribe_link` for gradio_client: a link, a part, and the options → the transcript as JSON."""

    def transcribe_link(link, start, end, spoken, task, beams, fallback, prompt, request: gr.Request):
        with pages.said(request):
            first, last = youtube.part(start), youtube.part(end)
            first = youtube.start_in(link) if first is None else first
            film = youtube.look(link, options.max_minutes, options.downloader, first, last)
            with youtube.fetched(film, downloader=options.downloader) as path:
                decoding = reader.decoding(spoken, task, beams, fallback, prompt)
                return reader.as_json(path, decoding, first or 0, last, {"title": film.title, "source": film.link})

    out, run = gr.JSON(visible=False), gr.Button(visible=False)
    run.click(transcribe_link, [link, start, end, *choices], out, api_name="transcribe_link", concurrency_id=READING)
