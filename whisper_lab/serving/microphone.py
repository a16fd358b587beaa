"""The page of app.py: speak or upload, read, compare, teach, check."""

import base64
import json
from pathlib import Path

import gradio as gr
import numpy as np

from ..corpora.collection import Collection
from ..speech import audio
from ..whisper.decoding import Decoding
from . import pages, refusals, selfcheck, teaching, texts, views
from .live import Listeners
from .pages import READING, WEB, say, words

RECORDER = """
<div class="lab-recorder">
  <div class="lab-top"><button type="button" class="lab-button"><span></span></button>
    <span class="lab-clock"></span><div class="lab-meter"><div class="lab-level"></div></div></div>
  <p class="lab-live" dir="auto" aria-live="polite"
    ><span class="lab-settled"></span><span class="lab-tentative"></span></p>
  <p class="lab-status" role="status"></p>
</div>"""


def page(options) -> tuple[gr.Blocks, list[Path]]:
    """The page, and the folders whose files a browser may ask for."""
    reader = pages.Reader(options)
    listeners = Listeners(reader.transcriber, options.queue)
    example = str(selfcheck.example()[0])
    with gr.Blocks(title=words("title"), delete_cache=(600, 3_600)) as blocks:
        blocks.temp_file_sets.append(reader.made)
        last = gr.State({}, time_to_live=3_600)  # what was read: `path` or `samples` (int16, 16 kHz), `text`, …
        pages.heading("title", "lead", reader.transcriber)
        recorder = _recorder(reader, listeners)
        upload = gr.File(label=words("upload"), height=140, elem_id="upload")
        show = gr.Button(words("example"), size="sm", elem_id="example")
        *choices, start, end = pages.options_panel(reader.transcriber, pages.part_fields)
        status, cancel, result = pages.work_lines()
        if reader.compare:
            compare = gr.Button(words("compare"), elem_id="compare")
            comparison = gr.HTML(elem_id="comparison")
        if options.collect:
            teaching.panel(Collection(options.collect), last)
        _check_panel(reader, last)
        pages.transcribe_endpoint(reader, [*choices, start, end])
        for choice in choices:  # for recorder.js, which sends them along
            keep = "(...values) => { window.labSettings = JSON.stringify(values); }"
            choice.change(None, choices, None, js=keep, api_visibility="private")

        @pages.guarded(outputs=3)
        def read_spoken(spoken, task, beams, fallback, prompt, event: gr.EventData, request: gr.Request):
            rate, samples = listeners.take(event.key)
            sound = audio.from_samples(rate, samples)
            kept = {"samples": np.round(sound * 32_767).astype(np.int16), "received": audio.received(rate, samples)}
            decoding = reader.decoding(spoken, task, beams, fallback, prompt)
            yield from reader.read(sound, {"recording": event.key, "name": "speech"}, kept, decoding, request)

        @pages.guarded(outputs=3)
        def read_file(path, spoken, task, beams, fallback, prompt, start, end, request: gr.Request):
            first, last = refusals.part(start) or 0, refusals.part(end)
            kept = {"path": path, "received": audio.describe(path)}
            decoding = reader.decoding(spoken, task, beams, fallback, prompt)
            yield from reader.read(path, None, kept, decoding, request, first, last)

        @pages.guarded(outputs=3)
        def read_example(spoken, task, beams, fallback, prompt, request: gr.Request):
            decoding = reader.decoding(spoken, task, beams, fallback, prompt)
            yield from reader.read(example, None, {"path": example}, decoding, request)

        @pages.guarded(outputs=1)
        def read_by_second(last, request: gr.Request):
            yield from reader.compared(last, request)

        shown = {"concurrency_id": READING, "api_visibility": "private", "show_progress_on": status}
        works = [
            recorder.spoken(read_spoken, choices, [status, result, last], trigger_mode="multiple", **shown),
            upload.upload(read_file, [upload, *choices, start, end], [status, result, last], **shown),
            show.click(read_example, choices, [status, result, last], **shown),
        ]
        works[1].then(lambda: None, None, upload, queue=False, api_visibility="private")  # ready for the next one
        if reader.compare:
            shown["show_progress_on"] = comparison
            works.append(compare.click(read_by_second, last, comparison, **shown))
            result.change(lambda: "", None, comparison, show_progress="hidden", api_visibility="private")
        cancel.click(reader.cancel, None, status, cancels=works, queue=False, api_visibility="private")
    return blocks, [Path(example).parent]


def _recorder(reader: pages.Reader, listeners: Listeners) -> gr.HTML:
    def hear(data: dict) -> dict:
        """A piece of what a visitor says, from recorder.js."""
        samples = np.frombuffer(base64.b64decode(data["samples"]), "<i2")
        settings = json.loads(data.get("settings") or "[]")
        decoding = reader.decoding(*settings) if settings else Decoding(reader.transcriber.language)
        return listeners.hear(
            str(data["key"]), int(data["at"]), int(data["rate"]), samples, decoding, bool(data.get("last"))
        )

    return gr.HTML(
        html_template=RECORDER,
        js_on_load=(WEB / "recorder.js").read_text(encoding="utf-8"),
        server_functions=[hear],
        words=texts.TEXTS,
        elem_id="recorder",
    )


def _check_panel(reader: pages.Reader, last: gr.State) -> None:
    def check(last, request: gr.Request) -> tuple[dict, str]:
        with pages.said(request):
            here, found = say(request), selfcheck.check(reader.transcriber, last.get("received"))
        rows = {
            here["expected"]: found["expected"],
            here["actual"]: found["actual"],
            here["error_rate"]: f"{found['wer']:.1f} %",
            here["clip_received"]: _received(found["clip"]),
            here["last_received"]: _received(found["last"]) if found["last"] else here["none_yet"],
            here["model"]: f"{found['model']} {found['revision'] or ''} · {found['weights'][:12]} · {found['engine']}",
            "": " · ".join(f"{name} {version}" for name, version in found["versions"].items()),
            " ": found["platform"],
        }
        return found, views.table(rows)

    with gr.Accordion(words("check"), open=False, elem_id="check"):
        gr.Markdown(words("check_lead"))
        run = gr.Button(words("run_check"), elem_id="run-check")
        shown = gr.HTML(elem_id="checked")
        facts = gr.JSON(visible=False)
    run.click(check, last, [facts, shown], api_name="self_check", concurrency_id=READING)


def _received(sound: dict) -> str:
    return "{rate} Hz · {dtype} · {channels} ch · {seconds:.2f} s · peak {peak:.3f}".format(**sound)
