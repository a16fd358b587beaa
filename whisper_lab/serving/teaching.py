"""Teach it: the part of the microphone page that keeps recordings, with --collect and the visitor's consent."""

import json
from math import inf

import gradio as gr
import numpy as np
import soundfile

from .. import LabError
from ..corpora.collection import Collection, Refused
from ..speech import audio
from . import captions, texts
from .pages import language, say, words
from .views import clock, failed, note

MARGIN = 0.2  # seconds of sound around a corrected segment, at most half of the way to the next one


def panel(collection: Collection, last: gr.State) -> None:
    """Read a sentence aloud, or keep what was corrected in the last transcript; listen to clips and delete them.

    `last` holds the visitor's last recording: `path` or `samples`, and `segments`.
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
        folder, count = collection.folder.name, len(clips())
        return note(here["saved"].format(split=split, count=count, folder=folder)), listed(speaker)

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

    def keep_corrected(consent, speaker, edits: str, last, request: gr.Request):
        """`edits`: texts by the number of their segment, as JSON. A clip that is there is not kept again."""
        here, segments = say(request), (last or {}).get("segments", ())
        if not consent:
            return failed(here["need_consent"]), gr.skip(), gr.skip()
        if not speaker.strip():
            return failed(texts.plain(Refused("no speaker", ""), language(request))), gr.skip(), gr.skip()
        new = {int(i): str(text) for i, text in json.loads(edits or "{}").items() if 0 <= int(i) < len(segments)}
        kept, refused, before = {}, [], (last or {}).get("kept", {})
        there = {(clip["sentence"], clip["id"]) for clip in clips()}
        for i in sorted(new):
            one = captions.edited(segments[i], new[i])
            if not one.edited or not one.text or before.get(i) in there and before[i][0] == one.text:
                continue
            try:
                kept[i] = one.text, collection.add(_sound(last, *around(segments, i)), one.text, speaker)
            except (LabError, OSError) as error:
                refused.append(f"{clock(one.start)} {one.text} – {texts.plain(error, language(request))}")
        if not kept and not refused:
            return failed(here["nothing_corrected" if segments else "nothing_to_save"]), gr.skip(), gr.skip()
        done = here["saved_corrected"].format(count=len(kept), total=len(clips()))
        return note(done) + "".join(map(failed, refused)), listed(speaker), last | {"kept": before | kept}

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
        edits = gr.Textbox(visible=False)
        save_corrected = gr.Button(words("save_corrected"), elem_id="save-corrected")
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
    from_page = "(consent, speaker, _, last) => [consent, speaker, JSON.stringify(window.labEdits || {}), last]"
    save_corrected.click(keep_corrected, [consent, speaker, edits, last], [status, chosen, last], js=from_page, **quiet)
    chosen.change(heard, [chosen, speaker], listen, **quiet)
    delete.click(remove, [chosen, speaker], [status, chosen, listen], **quiet)


def around(segments, i: int) -> tuple[float, float]:
    """Where the sound of segment `i` begins and ends, in seconds, with a margin that none of its neighbours is in."""
    one = segments[i]
    before, after = segments[i - 1].end if i else -inf, segments[i + 1].start if i + 1 < len(segments) else inf
    start = max(0, one.start - MARGIN, min(one.start, (before + one.start) / 2))
    return start, min(one.end + MARGIN, max(one.end, (one.end + after) / 2))


def _sound(last: dict, start: float, end: float) -> np.ndarray:
    """(samples,) float32 of a part of the visitor's last recording, in seconds."""
    if "path" in last:
        whole = audio.read(last["path"], start=start, end=end)
    else:
        whole = last["samples"][round(start * audio.SAMPLE_RATE) : round(end * audio.SAMPLE_RATE)]
    return audio.from_samples(audio.SAMPLE_RATE, whole)
