"""Teach it: the part of the microphone page that keeps recordings, with --collect and the visitor's consent."""

import gradio as gr
import numpy as np
import soundfile

from .. import LabError
from ..corpora.collection import Collection
from ..speech import audio
from . import texts
from .pages import language, say, words
from .views import failed, note


def panel(collection: Collection, last: gr.State) -> None:
    """Read a sentence aloud, or correct the last transcript; listen to clips and delete them.

    `last` holds the visitor's last recording: `path` or `samples`, and `text`.
    """
    clips = collection.clips

    def listed(speaker: str, chosen: str | None = None):
        choices = [
            (f"{clip['sentence']} ({clip['seconds']:.1f} s, {clip['split']})", clip["id"]) for clip in clips(speaker)
        ]
        return gr.Dropdown(choices, value=chosen if chosen in [c[1] for c in choices] else None)

    def keep(consent: bool, speaker: str, sentence: str, samples: np.ndarray | None, request: gr.Request):
        here = say(request)
        if not consent or samples is None:
            return failed(here["nothing_to_save" if consent else "need_consent"]), gr.skip()
        try:
            name = collection.add(samples, sentence, speaker)
        except (LabError, OSError) as error:
            return failed(texts.plain(error, language(request))), gr.skip()
        mine = clips(speaker)
        split = next(clip["split"] for clip in mine if clip["id"] == name)
        return note(here["saved"].format(split=split, count=len(clips()), folder=collection.folder)), listed(speaker)

    def keep_reading(consent, speaker, sentence, recorded, request: gr.Request):
        try:
            samples = None if recorded is None else audio.from_samples(*recorded)
        except LabError as error:
            return failed(texts.plain(error, language(request))), gr.skip(), gr.skip(), gr.skip()
        status, dropdown = keep(consent, speaker, sentence, samples, request)
        kept = "lab-error" not in status
        return (
            status,
            dropdown,
            collection.next_sentence(speaker) if kept else gr.skip(),
            None if kept else gr.skip(),
        )

    def keep_correction(consent, speaker, corrected, last, request: gr.Request):
        samples = None
        if last:
            whole = audio.read(last["path"], None, *last["part"]) if "path" in last else last["samples"]
            samples = audio.from_samples(audio.SAMPLE_RATE, whole)
        return keep(consent, speaker, corrected, samples, request)

    def remove(chosen: str | None, speaker: str, request: gr.Request):
        if not chosen:
            return gr.skip(), gr.skip(), None
        try:
            collection.remove(chosen)
        except LabError as error:
            return failed(texts.plain(error, language(request))), listed(speaker), None
        return note(say(request)["deleted"]), listed(speaker), None

    def heard(chosen: str | None, speaker: str):
        path = next((clip["path"] for clip in clips(speaker) if clip["id"] == chosen), None)
        if path is None:
            return None
        samples, rate = soundfile.read(path, dtype="int16")
        return rate, samples

    with gr.Accordion(words("teach"), open=False, elem_id="teach"):
        gr.Markdown(words("teach_lead"))
        consent = gr.Checkbox(label=words("consent"), elem_id="consent")
        speaker = gr.Textbox(label=words("speaker"), info=words("speaker_info"), max_lines=1, elem_id="speaker")
        with gr.Row():
            sentence = gr.Textbox(
                label=words("read_aloud"),
                max_lines=3,
                scale=4,
                elem_id="sentence",
            )
            another = gr.Button(words("another"), scale=1, min_width=120)
        reading = gr.Audio(sources=["microphone"], type="numpy", label=words("your_reading"), elem_id="reading")
        save = gr.Button(words("save"), variant="primary", elem_id="save")
        corrected = gr.Textbox(label=words("correct"), lines=2, elem_id="corrected")
        save_corrected = gr.Button(words("save_correction"), elem_id="save-corrected")
        status = gr.HTML(elem_id="teach-status")
        with gr.Row():
            chosen = gr.Dropdown([], label=words("clips"), scale=4, elem_id="clips")
            delete = gr.Button(words("delete"), scale=1, min_width=120, elem_id="delete")
        listen = gr.Audio(label=words("listen"), interactive=False, type="filepath")

    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    gr.on(None, lambda: collection.next_sentence(""), None, sentence, **quiet)
    another.click(collection.next_sentence, speaker, sentence, **quiet)
    speaker.change(listed, speaker, chosen, **quiet)
    save.click(keep_reading, [consent, speaker, sentence, reading], [status, chosen, sentence, reading], **quiet)
    save_corrected.click(keep_correction, [consent, speaker, corrected, last], [status, chosen], **quiet)
    chosen.change(heard, [chosen, speaker], listen, **quiet)
    delete.click(remove, [chosen, speaker], [status, chosen, listen], **quiet)
    last.change(lambda last: (last or {}).get("text", ""), last, corrected, **quiet)
