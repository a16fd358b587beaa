"""The microphone page as people use it: in a browser that hears a file instead of a microphone."""

import base64
import contextlib
import csv
import io
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import astuple
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import av
import browser as browsers
import httpx
import numpy as np
import pytest
import soundfile
import soxr
from browser import GREEDY, PHONE, WAIT, base, clips, fill, fits, heard, lines, result_text, save, shot, until, upload
from conftest import JAPANESE, ROOT
from playwright.sync_api import expect
from quick import Quick

from whisper_lab.serving import captions, live, playing, scripts, selfcheck, teaching, transcription, views
from whisper_lab.serving.texts import ENGLISH, ERRORS, SWEDISH
from whisper_lab.serving.transcription import Transcriber
from whisper_lab.speech import audio
from whisper_lab.whisper.decoding import DEFAULT

pytestmark = browsers.needed

MINUTES = 5  # --max-minutes


@pytest.fixture(scope="module")
def sounds(tmp_path_factory) -> SimpleNamespace:
    """Files: what the microphone hears, two sentences apart, one, some that take two windows, six, too long, a text."""
    folder = tmp_path_factory.mktemp("sounds")
    first, gap = clips(1), np.zeros(26 * audio.SAMPLE_RATE, np.float32)
    second = clips(2)[first.size :]
    text = folder / "text.mp3"
    text.write_text("Ingen musik.", encoding="utf-8")
    return SimpleNamespace(
        microphone=save(folder / "microphone.wav", np.pad(clips(2, 0.8, 6)[10_000:], (0, 60 * audio.SAMPLE_RATE))),
        two=save(folder / "Två meningar.flac", clips(2, 4)),
        one=save(folder / "one.mp3", clips(1)),
        long=save(folder / "long.ogg", np.concatenate([first, gap, second])),
        other=save(folder / "other.wav", np.concatenate([second, gap, first])),
        minutes=save(folder / "minutes.flac", np.tile(np.concatenate([first, gap]), 6)),
        too_long=save(folder / "too long.wav", np.zeros((60 * MINUTES + 50) * audio.SAMPLE_RATE, np.float32)),
        text=text,
    )


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """app.py as a user starts it: its address, once it is asked for; it starts while other tests run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = ["--model", "sample", "--compare", "none", "--auth", "lab:hemligt", "--port", str(port)]
    folder = tmp_path_factory.mktemp("script")
    environment = os.environ | {"GRADIO_ANALYTICS_ENABLED": "False", "TMPDIR": str(folder)}
    process = subprocess.Popen([sys.executable, ROOT / "app.py", *flags], cwd=folder, env=environment)

    def address() -> str:
        for _ in range(1200):
            assert process.poll() is None
            with contextlib.suppress(httpx.HTTPError):
                httpx.get(f"http://127.0.0.1:{port}/")
                return f"http://127.0.0.1:{port}/"
            time.sleep(0.1)
        raise TimeoutError

    yield address
    process.terminate()
    process.wait(10)


@pytest.fixture(scope="module")
def page(tmp_path_factory, tiny, script):
    """The page, served from here: its address, and the folders that it may write into."""
    import app
    from whisper_lab.serving import microphone, pages

    gradio, temporary, mine = (tmp_path_factory.mktemp(name) for name in ("gradio", "temporary", "mine"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(gradio))
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        patch.setattr(tempfile, "tempdir", str(temporary))
        flags = ["--compare", str(tiny), "--collect", str(mine / "min röst"), "--max-minutes", str(MINUTES)]
        options = app.parse_args(["--model", "sample", "--queue", "2", *flags])
        patch.setattr(pages, "DEFAULT", GREEDY)
        patch.setattr(transcription, "Transcriber", Quick)
        blocks, readable = microphone.page(options)
        address = pages.serve(blocks, options, readable, block=False)
        sessions = blocks._queue.pending_messages_per_session  # those of visitors who wait for something
        folders, mine = (gradio, temporary, mine), mine / "min röst"
        yield SimpleNamespace(address=address, folders=folders, mine=mine, sessions=sessions)
        blocks.close()


@pytest.fixture(scope="module")
def chromium(sounds):
    with browsers.chromium(sounds.microphone) as chromium:
        yield chromium


@pytest.fixture
def visit(chromium, page):
    with browsers.visits(chromium, page.address) as visit:
        yield visit


@pytest.fixture(scope="module")
def read(chromium, page, sounds):
    """A visitor who has uploaded two sentences and sees the result."""
    with browsers.visits(chromium, page.address) as visit:
        visitor = visit()
        upload(visitor, sounds.two)
        result_text(visitor)
        yield visitor


@pytest.fixture
def blocks(monkeypatch) -> SimpleNamespace:
    """How many blocks of 30 s have been `given` of all files together. After as many of a file as may be `passing`, the
    next one waits until `open` is set. Windows are decoded one by one."""
    monkeypatch.setattr(transcription, "AHEAD", 1)
    counts = SimpleNamespace(given=0, passing=3, open=threading.Event(), longest=WAIT / 1000)
    give = audio.blocks

    def counting(*args, **kwargs):
        for i, block in enumerate(give(*args, **kwargs)):
            if i >= counts.passing:
                counts.open.wait(counts.longest)
            counts.given += 1
            yield block

    monkeypatch.setattr(audio, "blocks", counting)
    yield counts
    counts.open.set()


def speak(visitor) -> None:
    visitor.click(".lab-button:not(.lab-on)")
    visitor.wait_for_selector(".lab-button.lab-on")


def stop(visitor) -> None:
    visitor.click(".lab-button.lab-on")


def spoke(visitor, seconds: int) -> None:
    """Wait until so much of the recording has been taken: the microphone runs late where the machine is busy."""
    visitor.wait_for_function(
        """seconds => {
        const [minute, second] = document.querySelector('.lab-clock').textContent.split(':').map(Number);
        return 60 * minute + second >= seconds; }""",
        arg=seconds,
    )


def recorder(visitor):
    """The line under the live text."""
    return visitor.locator(".lab-recorder .lab-status")


def recorded(visitor) -> tuple[int, np.ndarray]:
    """The rate, and (samples,) int16: what the player of the result plays."""
    wav = visitor.evaluate(
        """async () => {
        const bytes = new Uint8Array(await (await fetch(document.querySelector('#result audio').src)).arrayBuffer());
        let text = '';
        for (let i = 0; i < bytes.length; i += 32768) text += String.fromCharCode(...bytes.subarray(i, i + 32768));
        return btoa(text); }"""
    )
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(wav)), dtype="int16")
    return rate, samples


def spoken(visitor) -> list[captions.Segment]:
    """What is heard in that."""
    return list(base().segments(audio.from_samples(*recorded(visitor)), GREEDY, True))


def pieces_sent(visitor) -> list[dict]:
    """Grows by what the recorder sends."""
    pieces = []

    def note(request):
        if "component_server" in request.url:
            pieces.append(json.loads(request.post_data)["data"])

    visitor.on("request", note)
    return pieces


def carrying(segments, *texts: str | None) -> list[captions.Segment]:
    """What the page shows of `segments` once their `texts` were corrected, from the first on; None: as it was."""
    kept, _ = captions.from_json(captions.write(segments, "json"))
    texts = [*texts, *[None] * (len(kept) - len(texts))]
    changed = [one if text is None else captions.edited(one, text) for one, text in zip(kept, texts)]
    return [one for one in changed if one.text]


def downloaded(visitor, form: str) -> str:
    with visitor.expect_download() as download:
        visitor.click(f".lab-row a:text-is('{form.upper()}')")
    return Path(download.value.path()).read_text(encoding="utf-8")


def files_in(folders) -> set[Path]:
    return {path for folder in folders for path in folder.rglob("*") if path.is_file()}


def kept(folder: Path) -> dict[str, str]:
    """The sentences of a collection by their clips, as its tables have them."""
    rows = {}
    for path in (folder / "sv-SE").glob("*.tsv"):
        with open(path, encoding="utf-8", newline="") as file:
            rows |= {row["path"]: row["sentence"] for row in csv.DictReader(file, delimiter="\t") if "path" in row}
    return rows


def test_text_appears_while_one_speaks_and_settled_words_stay(visit, page):
    visitor, before = visit(), files_in(page.folders)
    pieces = pieces_sent(visitor)
    visitor.evaluate(
        """() => { window.readings = [""]; const settled = document.querySelector('.lab-settled');
        new MutationObserver(() => readings.push(settled.textContent.trim())).observe(settled, {childList: true}); }"""
    )
    shot(visitor, "start")
    speak(visitor)
    visitor.wait_for_function("document.querySelector('.lab-live').innerText.trim()")
    expect(recorder(visitor)).to_have_text(SWEDISH["listening"])
    visitor.wait_for_function("new Set(readings).size > 2")
    shot(visitor, "speaking")
    readings = visitor.evaluate("readings")
    assert all(after.startswith(before) for before, after in zip(readings, readings[1:]))
    stop(visitor)
    text, segments = result_text(visitor), spoken(visitor)
    shot(visitor, "spoken")
    assert visitor.inner_text(".lab-live").strip() == "" and visitor.inner_text(".lab-button") == SWEDISH["record"]

    rate, samples = recorded(visitor)
    sent = [np.frombuffer(base64.b64decode(piece["samples"]), "<i2") for piece in pieces]
    assert [piece["at"] for piece in pieces] == [sum(map(len, sent[:i])) for i in range(len(sent))]
    assert np.array_equal(np.concatenate(sent), samples)
    assert text == lines(segments)
    assert visitor.locator(".lab-segments span").all_inner_texts() == [segment.text for segment in segments]
    source, seconds = visitor.eval_on_selector("#result audio", "audio => [audio.src, audio.duration]")
    assert source.startswith("blob:") and seconds == pytest.approx(samples.size / rate, abs=0.05)
    assert files_in(page.folders) == before, "a recording is written nowhere"


def test_a_click_on_a_segment_goes_there_and_captions_show(read, sounds):
    segments = heard(sounds.two)
    assert read.inner_text(".lab-text") == lines(segments)
    assert read.locator(".lab-segments span").all_inner_texts() == [segment.text for segment in segments]
    player, last = read.locator("#result audio"), read.locator(".lab-segments button").last
    last.click()
    read.wait_for_function(
        "at => document.querySelector('#result audio').currentTime >= at", arg=segments[-1].start - 0.01
    )
    assert player.evaluate("audio => audio.currentTime") < segments[-1].end + 2
    expect(last).to_have_attribute("aria-current", "true")
    assert read.locator(".lab-current").count() == 1
    player.evaluate("audio => audio.pause()")
    for cue in captions.cues(segments):
        player.evaluate("(audio, at) => { audio.currentTime = at }", cue.start + 0.05)
        expect(read.locator(".lab-caption")).to_have_text(" ".join(cue.lines))
        assert read.locator(".lab-caption").is_visible()
    player.evaluate("audio => { audio.currentTime = 0 }")
    expect(read.locator(".lab-caption")).to_have_text("")


def test_each_download_is_the_transcript_as_the_terminal_writes_it(read, sounds, tmp_path):
    for form in captions.FORMATS:
        with read.expect_download() as download:
            read.click(f".lab-row a:text-is('{form.upper()}')")
        assert download.value.suggested_filename == f"Två meningar.{form}"
        download.value.save_as(tmp_path / form)
        written = (tmp_path / form).read_text(encoding="utf-8")
        assert written == captions.write(heard(sounds.two), form, base().facts())
    assert json.loads(written)["segments"][0]["words"] and json.loads(written)["model"] == "sample"


def test_copied_is_the_text_line_by_line(read):
    read.click(".lab-copy")
    expect(read.locator(".lab-copy")).to_have_text(SWEDISH["copied"])
    copied = read.evaluate("navigator.clipboard.readText()").strip()
    assert copied == read.inner_text(".lab-text") and "\n" in copied, "after four seconds of silence"


def test_a_text_corrected_in_place_is_in_text_files_and_captions(visit, sounds):
    segments, visitor = heard(sounds.two), visit("en-GB")
    upload(visitor, sounds.two)
    result_text(visitor)
    visitor.evaluate("window.player = document.querySelector('#result audio')")
    shown, said = visitor.locator(".lab-segments span"), visitor.locator(".lab-row [role=status]")
    marked = [word.text for one in segments for word in one.words if word.probability < views.DOUBTFUL]
    assert marked and visitor.locator(".lab-text u").all_inner_texts() == marked
    assert visitor.locator(".lab-segments u").all_inner_texts() == marked
    assert visitor.locator(".lab-text u").first.get_attribute("title") == ENGLISH["doubtful"]
    shot(visitor, "doubtful")

    shown.first.click()
    visitor.keyboard.press("ControlOrMeta+a")
    visitor.keyboard.insert_text("Fru <i>Åke</i> & jag ")
    shot(visitor, "editing")
    written = downloaded(visitor, "json")  # in the middle of the edit
    expected = carrying(segments, "Fru <i>Åke</i> & jag")
    assert written == captions.write(expected, "json", base().facts()) and '"edited": true' in written
    assert visitor.inner_text(".lab-text") == lines(expected) and not visitor.locator("#result i").count()
    expect(said).to_have_text(ENGLISH["edited"])
    for form in captions.FORMATS[:-1]:
        assert downloaded(visitor, form) == captions.write(expected, form)
    visitor.eval_on_selector("#result audio", "(audio, at) => { audio.currentTime = at }", expected[0].start + 0.1)
    expect(visitor.locator(".lab-caption")).to_contain_text("<i>Åke</i>")
    shot(visitor, "edited")

    shown.last.click()
    visitor.keyboard.type("x")
    visitor.keyboard.press("Escape")
    assert shown.last.inner_text() == segments[-1].text
    assert visitor.evaluate("document.activeElement === [...document.querySelectorAll('.lab-segments button')].pop()")
    visitor.keyboard.press("Tab")
    visitor.keyboard.press("ControlOrMeta+a")
    visitor.evaluate(
        """() => navigator.clipboard.write([new ClipboardItem({
          "text/html": new Blob(["<b>Två</b><br>rader"], { type: "text/html" }),
          "text/plain": new Blob(["Två\\nrader"], { type: "text/plain" }) })])"""
    )
    visitor.keyboard.press("ControlOrMeta+v")
    visitor.click(".lab-copy")  # as well
    others = [None] * (len(segments) - 2)
    expected = carrying(segments, "Fru <i>Åke</i> & jag", *others, "Två rader")
    expect(visitor.locator(".lab-text")).to_have_text(lines(expected), use_inner_text=True)
    assert visitor.evaluate("navigator.clipboard.readText()").strip() == lines(expected)
    assert not visitor.locator("#result b").count()

    visitor.route(re.compile("component_server"), lambda route: route.abort())
    shown.first.click()
    visitor.keyboard.press("ControlOrMeta+a")
    visitor.keyboard.press("Delete")
    visitor.keyboard.press("Enter")
    expect(said).to_have_text(ENGLISH["edit_lost"])
    visitor.unroute(re.compile("component_server"))
    expect(said).to_have_text(ENGLISH["edited"])
    expected = carrying(segments, "", *others, "Två rader")
    assert downloaded(visitor, "srt") == captions.write(expected, "srt")
    assert visitor.inner_text(".lab-text") == lines(expected)
    shot(visitor, "emptied")
    shown.first.fill(segments[0].text)
    visitor.keyboard.press("Enter")
    expected = carrying(segments, None, *others, "Två rader")
    expect(visitor.locator(".lab-text")).to_have_text(lines(expected), use_inner_text=True)
    assert downloaded(visitor, "json") == captions.write(expected, "json", base().facts())
    shown.first.fill("x" * 3_000)
    visitor.keyboard.press("Enter")
    expect(said).to_have_text(ENGLISH["edit_too_long"].format(limit=2_000))
    assert visitor.evaluate("player.isConnected"), "an edit plays nothing from its beginning"


def test_a_second_model_beside_the_first_with_differences_marked(read, sounds, tiny):
    read.click("#compare")
    read.wait_for_selector(".lab-two")
    shot(read, "compared")
    other = Transcriber(str(tiny)).text(audio.read(sounds.two), GREEDY)
    expected = [" ".join(segment.text for segment in heard(sounds.two)), other]
    assert read.locator(".lab-two h4").all_inner_texts() == ["Whisper base", "/".join(tiny.parts[-2:])]
    assert [text.split() for text in read.locator(".lab-two p").all_inner_texts()] == [t.split() for t in expected]
    count, total = map(int, re.findall(r"\d+", read.inner_text("#comparison .lab-took")))
    assert 0 < count <= total == max(len(scripts.parts(text)) for text in expected)
    assert 0 < len(" ".join(read.locator(".lab-two div").first.locator("mark").all_inner_texts()).split()) <= count


def test_the_self_check_says_what_may_differ(read, sounds):
    read.click("#check > button")
    read.click("#run-check")
    read.wait_for_selector("#checked .lab-table")
    shot(read, "self-check")
    table = dict(row.split("\t", 1) for row in read.inner_text("#checked").splitlines() if "\t" in row)
    path, sentence = selfcheck.example()
    assert table[SWEDISH["expected"]] == sentence
    assert table[SWEDISH["actual"]] == lines(base().segments(path))
    assert re.fullmatch(r"\d+\.\d %", table[SWEDISH["error_rate"]])
    assert re.fullmatch(r"\d+ Hz · \S+ · 1 ch · \d+\.\d\d s · peak 0\.\d{3}", table[SWEDISH["clip_received"]])
    last = audio.describe(sounds.two)
    assert table[SWEDISH["last_received"]] == f"16000 Hz · pcm_16 · 1 ch · {last.seconds:.2f} s · peak {last.peak:.3f}"
    assert "sample" in table[SWEDISH["model"]] and "ctranslate2" in table[SWEDISH["model"]]
    assert "gradio 6" in read.inner_text("#checked") and "Python 3" in read.inner_text("#checked")


@pytest.mark.parametrize("locale, here, errors", [("sv-SE", SWEDISH, ERRORS["sv"]), ("en-GB", ENGLISH, ERRORS["en"])])
def test_labels_and_mistakes_are_in_the_visitors_language(visit, sounds, locale, here, errors):
    visitor = visit(locale)
    for label in ("title", "lead", "record", "upload", "example", "options", "teach", "check"):
        expect(visitor.get_by_text(here[label], exact=True).first).to_be_visible()
    upload(visitor, sounds.text)
    expect(visitor.locator("#status .lab-error")).to_have_text(errors["not audio"])
    shot(visitor, f"not-audio-{locale}")
    upload(visitor, sounds.too_long)
    too_long = here["too_long"].format(minutes=MINUTES + 50 / 60, limit=MINUTES)
    expect(visitor.locator("#status .lab-error")).to_have_text(too_long)
    assert not visitor.locator(".lab-result").count()
    damaged = sounds.one.with_name("damaged.mp3")
    whole = sounds.one.read_bytes()
    damaged.write_bytes(whole[: len(whole) // 2] + bytes(400) + whole[len(whole) // 2 + 400 :])
    upload(visitor, damaged)
    expect(visitor.locator(".lab-text")).to_have_text(lines(heard(damaged)))
    (where,) = damage_in(damaged)
    expect(visitor.locator("#status .lab-status")).to_have_text(here["damaged"].format(places=views.clock(where.at)))
    assert quote('"damage": [') in visitor.get_attribute("a[download$='.json']", "href")
    shot(visitor, f"damaged-{locale}")


def damage_in(path) -> list[audio.Damage]:
    damage: list[audio.Damage] = []
    list(audio.blocks(path, damage=damage))
    return damage


def test_a_phone_shows_everything_without_scrolling_sideways(visit):
    visitor = visit("en-GB", **PHONE)
    assert fits(visitor)
    shot(visitor, "phone-start")
    visitor.click("#example")
    assert result_text(visitor) == lines(heard(selfcheck.example()[0]))
    visitor.wait_for_function("document.querySelector('#result audio').duration > 1")
    visitor.click("#compare")
    visitor.wait_for_selector(".lab-two")
    text = visitor.locator(".lab-segments span").first
    text.tap()
    expect(text).to_be_focused()
    shot(visitor, "phone-editing")
    assert fits(visitor)
    shot(visitor, "phone-result")
    for panel in ("options", "teach", "check"):
        visitor.click(f"#{panel} > button")
    assert fits(visitor)
    shot(visitor, "phone-panels")


@pytest.mark.parametrize(
    "locale, here, name, options",
    [("sv-SE", SWEDISH, "japanska", {}), ("en-GB", ENGLISH, "Japanese", PHONE)],
)
def test_the_language_is_detected_where_a_visitor_asks_for_it(visit, espeak, locale, here, name, options):
    visitor = visit(locale, **options)
    visitor.click("#options > button")
    choose(visitor, here, here["detect"])
    shot(visitor, f"detect-{locale}")
    upload(visitor, espeak("ja", JAPANESE))
    result_text(visitor)
    language = re.escape(here["detected"]).replace(r"\{language\}", name).replace(r"\{percent:\.0f\}", r"\d\d")
    expect(visitor.locator("#result .lab-took").last).to_contain_text(re.compile(language))
    assert quote('"language": "ja"') in visitor.get_attribute("a[download$='.json']", "href")
    assert " " not in visitor.inner_text(".lab-text") and fits(visitor)
    shot(visitor, f"detected-{locale}")


def choose(visitor, here: dict, language: str) -> None:
    """In the open options."""
    visitor.get_by_label(here["language"], exact=True).fill(language)
    visitor.keyboard.press("Enter")


def test_arabic_runs_from_right_to_left(visit, espeak):
    visitor = visit("en-GB", **PHONE)
    visitor.click("#options > button")
    choose(visitor, ENGLISH, "Arabic")
    visitor.click("#options > button")
    upload(visitor, espeak("ar", "مرحبا، كيف حالك؟ أنا بخير، شكرا لك. الطقس جميل اليوم."))
    assert re.search("[\u0600-\u06ff]", result_text(visitor))
    visitor.click(".lab-segments button")
    visitor.wait_for_selector(".lab-caption:not(:empty)")
    visitor.click("#teach > button")
    for place in (".lab-text", ".lab-segments span", ".lab-caption"):
        assert visitor.locator(place).first.evaluate("e => getComputedStyle(e).direction") == "rtl", place
    assert visitor.locator("#sentence textarea").evaluate("e => getComputedStyle(e).unicodeBidi") == "plaintext"
    assert fits(visitor)
    shot(visitor, "arabic-phone")


def test_a_cancelled_upload_is_read_no_further(visit, sounds, blocks):
    visitor = visit()
    upload(visitor, sounds.minutes)
    visitor.wait_for_selector("#status .lab-bar")
    shot(visitor, "reading")
    visitor.click("#cancel")
    expect(visitor.locator("#status .lab-status")).to_have_text(SWEDISH["cancelled"])
    shot(visitor, "cancelled")
    blocks.open.set()
    expect(visitor.locator("#upload")).not_to_contain_text("minutes")
    upload(visitor, sounds.one)
    text = result_text(visitor)
    assert text == lines(heard(sounds.one))
    assert blocks.given < 8, "seven, and that of the other file"


def test_who_leaves_is_read_no_further(visit, page, sounds, blocks):
    blocks.longest = 1  # Gradio forgets a session between two blocks
    visitor = visit()
    upload(visitor, sounds.minutes)
    visitor.wait_for_selector("#status .lab-bar")
    session = visitor.evaluate("window.__gradio_session_hash__")
    assert session in page.sessions
    visitor.goto("about:blank")
    until(visitor, lambda: session not in page.sessions)
    blocks.open.set()
    upload(other := visit(), sounds.one)  # read when the places are free again
    assert result_text(other) == lines(heard(sounds.one))
    assert blocks.given < 8


def test_two_at_once_get_their_own_text_and_who_waits_sees_the_place(visit, sounds, blocks):
    """And may speak again before the answer came: the last recording is what is shown in the end."""
    blocks.passing = 0
    first, second, third = visit(), visit("en-GB"), visit()
    pieces = pieces_sent(third)
    speak(third)
    upload(first, sounds.long)
    upload(second, sounds.other)
    for busy in (first, second):
        busy.wait_for_selector("#status .lab-status")
    stop(third)
    expect(third.locator("#status")).to_contain_text(re.compile(r"Du är nummer 1 av \d i kön\."))
    expect(third.locator("#status")).not_to_contain_text("queue")
    shot(third, "in-line")
    speak(third)
    spoke(third, 1)
    stop(third)
    blocks.open.set()
    assert result_text(first) == lines(heard(sounds.long))
    assert result_text(second) == lines(heard(sounds.other))
    third.wait_for_selector(f"#result [data-recording='{pieces[-1]['key']}']", state="attached")
    assert third.inner_text(".lab-text") == lines(spoken(third))


def test_stop_before_any_sound_is_said(visit):
    visitor = visit("en-GB")
    visitor.evaluate(
        """() => {
            AudioContext.prototype.createMediaStreamSource = function () { return new GainNode(this); }; // no sound
            const button = document.querySelector("#recorder .lab-button");
            const press = new MutationObserver(() => { press.disconnect(); setTimeout(() => button.click()); });
            press.observe(button, { attributes: true });
            button.click();
        }"""
    )
    expect(recorder(visitor)).to_have_text(ENGLISH["too_soon"])
    assert not visitor.locator(".lab-error").count()


def test_what_was_said_before_the_microphone_was_unplugged_is_kept(visit):
    visitor = visit("en-GB")
    visitor.evaluate(
        """() => {
            const devices = navigator.mediaDevices, give = devices.getUserMedia.bind(devices);
            devices.getUserMedia = async (wanted) => (window.given = await give(wanted));
        }"""
    )
    speak(visitor)
    spoke(visitor, 2)
    visitor.evaluate("given.getTracks()[0].stop(); given.getTracks()[0].dispatchEvent(new Event('ended'))")
    expect(recorder(visitor)).to_have_text(ENGLISH["unplugged"])
    assert result_text(visitor) == lines(spoken(visitor))
    shot(visitor, "unplugged")


def test_who_speaks_while_others_do_sees_the_place_in_line_and_loses_nothing(visit, page, monkeypatch):
    """Until those who speak stop, or leave: then they are forgotten after a while."""
    components = httpx.get(f"{page.address}config").json()["components"]
    recorder_id = next(each["id"] for each in components if each["props"].get("elem_id") == "recorder")
    silence = base64.b64encode(bytes(2 * 16_000)).decode()
    visitor = visit("en-GB")
    for other in ("first", "second"):
        piece = {"key": other, "at": 0, "rate": 16_000, "samples": silence, "settings": ""}
        call = {"component_id": recorder_id, "fn_name": "hear", "session_hash": other, "data": piece}
        assert httpx.post(f"{page.address}gradio_api/component_server", json=call).json()["heard"] == 16_000
    speak(visitor)
    expect(recorder(visitor)).to_have_text(ENGLISH["waiting"].format(place=1))
    spoke(visitor, 3)
    shot(visitor, "speaking-in-line")
    assert not visitor.inner_text(".lab-live").strip()
    monkeypatch.setattr(live, "IDLE", 2)
    expect(recorder(visitor)).not_to_have_text(ENGLISH["waiting"].format(place=1))
    stop(visitor)
    text, (rate, samples) = result_text(visitor), recorded(visitor)
    assert samples.size / rate > 2 and text == lines(spoken(visitor))


def test_a_connection_that_falters_loses_nothing(visit):
    visitor = visit("en-GB")
    pieces = pieces_sent(visitor)
    speak(visitor)
    spoke(visitor, 1)
    visitor.route(re.compile("component_server"), lambda route: route.abort())
    expect(recorder(visitor)).to_have_text(ENGLISH["lost"])
    shot(visitor, "connection-lost")
    tried = len(pieces)
    until(visitor, lambda: len(pieces) > tried + 1)
    visitor.unroute(re.compile("component_server"))
    expect(recorder(visitor)).not_to_have_text(ENGLISH["lost"])
    spoke(visitor, 4)
    stop(visitor)
    text, (rate, samples) = result_text(visitor), recorded(visitor)
    assert samples.size / rate > 4 and text == lines(spoken(visitor))


def test_live_text_follows_the_options(visit):
    japanese = re.compile(r"[\u3040-\u9fff]")  # what Whisper writes when it is told that Swedish is Japanese
    visitor = visit("en-GB")
    visitor.click("#options > button")
    choose(visitor, ENGLISH, "Japanese")
    speak(visitor)
    visitor.wait_for_function("document.querySelector('.lab-live').innerText.trim().length > 3")
    heard_live = visitor.inner_text(".lab-live")
    stop(visitor)
    assert japanese.search(result_text(visitor))
    assert japanese.search(heard_live), heard_live


def test_a_recording_that_is_as_long_as_any_may_be_stops_says_so_and_is_read(visit, monkeypatch):
    monkeypatch.setattr(live, "LONGEST", 2.5)
    visitor = visit()
    speak(visitor)
    result_text(visitor)
    expect(recorder(visitor)).to_have_text(SWEDISH["full"])
    assert visitor.inner_text(".lab-button") == SWEDISH["record"]
    assert re.match("0:0[12] ", visitor.locator("#result .lab-took").last.inner_text())


def test_a_microphone_that_is_refused_or_that_the_browser_does_not_give(visit):
    refusing = "MediaDevices.prototype.getUserMedia = async () => { throw new DOMException('', 'NotAllowedError'); }"
    visitor = visit(script=refusing, **PHONE)
    visitor.click(".lab-button")
    expect(recorder(visitor)).to_have_text(SWEDISH["no_microphone"])
    assert visitor.inner_text(".lab-button") == SWEDISH["record"]
    shot(visitor, "no-microphone")
    visitor = visit("en-GB", script="Object.defineProperty(navigator, 'mediaDevices', { value: undefined })")
    visitor.click(".lab-button")
    expect(recorder(visitor)).to_have_text(ENGLISH["insecure"])


def test_only_with_consent_clips_are_kept_and_they_can_be_heard_and_deleted(visit, page, sounds):
    visitor, status = visit(), "#teach-status"
    upload(visitor, sounds.one)
    result_text(visitor)
    visitor.click("#teach > button")
    for button in ("#save-corrected", "#save"):
        visitor.click(button)
        expect(visitor.locator(status)).to_have_text(SWEDISH["need_consent"])
    shot(visitor, "teach-without-consent")
    assert not files_in([page.mine]) - {page.mine / ".lock"}

    visitor.check("#consent input")
    visitor.click("#save")
    expect(visitor.locator(status)).to_have_text(SWEDISH["nothing_to_save"])
    segments, corrected = heard(sounds.one), visitor.locator(".lab-segments span").first
    corrected.fill("1, 2")
    visitor.click("#save-corrected")
    expect(visitor.locator(status)).to_have_text(ERRORS["sv"]["no speaker"])
    fill(visitor, "speaker", "Åsa")
    visitor.click("#save-corrected")
    expect(visitor.locator(f"{status} .lab-error")).to_have_text(f"0:00 1, 2 – {ERRORS['sv']['no letters']}")
    assert not kept(page.mine)
    corrected.fill("Jag vill ha färsk fisk.")
    visitor.click("#save-corrected")
    expect(visitor.locator(status)).to_contain_text(re.compile(r"Klipp hittills: 1\b"))
    visitor.click("#save-corrected")
    expect(visitor.locator(status)).to_have_text(SWEDISH["nothing_corrected"])
    sentence = visitor.input_value("#sentence textarea")
    visitor.click("#reading button.record-button")
    visitor.wait_for_function("/0:0[2-9]/.test(document.querySelector('#reading').innerText)")
    visitor.click("#reading button.stop-button")
    visitor.wait_for_selector("#reading .waveform-container", state="attached")
    visitor.click("#save")
    expect(visitor.locator(status)).to_contain_text(re.compile(r"\b2 klipp"))
    expect(visitor.locator("#sentence textarea")).not_to_have_value(sentence)
    shot(visitor, "taught")
    corrected, reading = "sv-SE_000001.flac", "sv-SE_000002.flac"
    assert kept(page.mine) == {corrected: "Jag vill ha färsk fisk.", reading: sentence}
    sounds_kept = {name: audio.read(page.mine / "sv-SE" / "clips" / name) for name in (corrected, reading)}
    start, end = teaching.around(segments, 0)
    np.testing.assert_allclose(sounds_kept[corrected], audio.read(sounds.one, start=start, end=end), atol=1e-4)
    assert 1 < sounds_kept[reading].size / audio.SAMPLE_RATE < 4 and np.abs(sounds_kept[reading]).max() > 0.05

    visitor.get_by_label(SWEDISH["clips"], exact=True).click()
    visitor.locator("#clips [role=option]", has_text=sentence).click()
    visitor.wait_for_function(
        """[...document.querySelectorAll('#teach audio')].some((audio) => audio.duration > 1)
        || /0:0[1-9]/.test(document.querySelector('#teach').innerText)"""
    )
    shot(visitor, "listening-to-a-clip")
    visitor.click("#delete")
    expect(visitor.locator(status)).to_have_text(SWEDISH["deleted"])
    assert kept(page.mine) == {corrected: "Jag vill ha färsk fisk."}
    assert [path.name for path in (page.mine / "sv-SE" / "clips").iterdir()] == [corrected]


def test_a_clip_has_a_margin_that_no_neighbour_is_in():
    at = [(1, 2), (2.1, 3), (3, 4), (6, 7), (6.9, 8)]
    found = [teaching.around([captions.Segment(*times, "Hej.") for times in at], i) for i in range(len(at))]
    assert found == [pytest.approx(one) for one in [(0.8, 2.05), (2.05, 3), (3, 4.2), (5.8, 7), (6.9, 8.2)]]
    assert teaching.around([captions.Segment(0.1, 31, "Hej.")], 0) == (0, 31.2)


def test_programs_may_ask_under_stable_names(page, sounds):
    from gradio_client import Client, handle_file
    from gradio_client.exceptions import AppError

    client = Client(page.address, verbose=False)
    named = client.view_api(print_info=False, return_format="dict")["named_endpoints"]
    options = astuple(GREEDY)
    transcript = client.predict(handle_file(sounds.two), *options, api_name="/transcribe")
    expected = json.loads(captions.write(heard(sounds.two), "json"))
    assert transcript["segments"] == expected["segments"] and transcript["model"] == "sample"
    assert transcript["text"] == " ".join(segment["text"] for segment in expected["segments"])
    facts, _ = client.predict(api_name="/self_check")
    path, sentence = selfcheck.example()
    assert facts["expected"] == sentence and facts["clip"]["rate"] == audio.describe(path).rate and facts["wer"] > 0
    assert facts["versions"]["gradio"] and facts["weights"] == base().facts()["weights"] and facts["last"] is None
    assert "damage" not in transcript
    cut = sounds.one.with_name("cut.wav")
    cut.write_bytes(save(cut, clips(1)).read_bytes()[:-20_000])
    damage = client.predict(handle_file(cut), *options, api_name="/transcribe")["damage"]
    assert damage[0]["reason"] == "truncated" and damage[0]["detail"].endswith("s missing")
    plain = client.predict(handle_file(sounds.one), api_name="/transcribe")  # as README has it
    assert plain["text"] and plain["segments"]
    part = client.predict(handle_file(sounds.long), *options, start="26", api_name="/transcribe")
    assert part["text"] == " ".join(segment.text for segment in heard(sounds.long, start=26))
    with pytest.raises(AppError, match="is after its end: it is 0:3"):
        client.predict(handle_file(sounds.long), *options, "1:00", api_name="/transcribe")
    with pytest.raises(AppError, match=re.escape(ERRORS["en"]["not audio"])):
        client.predict(handle_file(sounds.text), *options, api_name="/transcribe")
    with pytest.raises(AppError, match="takes 5"):
        client.predict(handle_file(sounds.too_long), *options, api_name="/transcribe")
    assert set(named) == {"/transcribe", "/self_check"}


def test_no_file_of_the_computer_can_be_asked_for(page, sounds):
    data = [{"path": str(sounds.one), "meta": {"_type": "gradio.FileData"}}, *astuple(GREEDY)]
    called = httpx.post(f"{page.address}gradio_api/call/transcribe", json={"data": data}).json()["event_id"]
    answer = httpx.get(f"{page.address}gradio_api/call/transcribe/{called}", timeout=20).text
    assert "event: error" in answer and "segments" not in answer
    (page.mine / "secret.txt").parent.mkdir(exist_ok=True)
    (page.mine / "secret.txt").write_text("secret")
    for path in ("/etc/passwd", sounds.one, page.mine / "secret.txt", ROOT / "app.py"):
        assert httpx.get(f"{page.address}gradio_api/file={path}").status_code == 403, path
    (page.mine / "secret.txt").unlink()


def test_the_script_asks_for_the_password_first_and_collects_nothing_unasked(chromium, script, sounds):
    address = script()
    piece = {"component_id": 0, "fn_name": "hear", "session_hash": "x", "data": {}}
    assert httpx.post(f"{address}gradio_api/component_server", json=piece).status_code == 401
    with browsers.visits(chromium, address) as visit:
        visitor = visit(ready="input[type=password]")
        shot(visitor, "password")
        assert not visitor.locator(".lab-button").count()
        visitor.locator("input").first.fill("lab")
        visitor.fill("input[type=password]", "hemligt")
        visitor.keyboard.press("Enter")
        visitor.wait_for_selector(".lab-button")
        for missing in ("#teach", "#compare"):
            assert not visitor.locator(missing).count()
        upload(visitor, sounds.one)
        untuned = Transcriber("sample")  # as it is served: at 30 s
        assert result_text(visitor) == lines(untuned.segments(sounds.one, DEFAULT, True))


def test_two_presses_begin_one_recording(visit):
    visitor = visit(
        script="""const real = MediaDevices.prototype.getUserMedia; window.asked = 0;
        MediaDevices.prototype.getUserMedia = async function (wanted) {
          asked += 1; await new Promise((done) => setTimeout(done, 300)); return real.call(this, wanted); };"""
    )
    visitor.click(".lab-button")
    visitor.click(".lab-button")  # nothing seems to happen while the browser asks for the microphone
    visitor.wait_for_selector(".lab-button.lab-on")
    spoke(visitor, 1)
    stop(visitor)
    assert visitor.evaluate("asked") == 1


def amr(path: Path) -> Path:
    """The first sentence as old telephones record it, in a file without a suffix."""
    with av.open(path, "w", format="3gp") as container:
        stream = container.add_stream("libopencore_amrnb", rate=8_000, layout="mono")
        sound = np.round(32_767 * soxr.resample(clips(1), audio.SAMPLE_RATE, 8_000)).astype(np.int16)
        for at in range(0, sound.size - 159, 160):
            frame = av.AudioFrame.from_ndarray(sound[None, at : at + 160], format="s16", layout="mono")
            frame.sample_rate, frame.pts = 8_000, at
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("locale, options", [("sv-SE", {}), ("en-GB", PHONE)])
def test_any_sound_is_taken_whatever_its_name_and_has_a_player(visit, page, sounds, tmp_path, locale, options):
    """Also one that no browser plays: its sound is made anew, and the text does not wait for it."""
    visitor, made = visit(locale, **options), amr(tmp_path / f"röst {locale}")
    with playing._making:
        upload(visitor, made)
        assert result_text(visitor) == lines(heard(made))
        player = visitor.locator("#result audio")
        assert player.evaluate("audio => audio.readyState") == 0
    visitor.wait_for_function("document.querySelector('#result audio').duration > 1")
    assert player.evaluate("audio => audio.duration") == pytest.approx(audio.seconds_of(made), abs=0.05)
    last = visitor.locator(".lab-segments button").last
    last.click()
    visitor.wait_for_function("document.querySelector('#result audio').currentTime > 0.1")
    assert fits(visitor)
    shot(visitor, f"made-anew-{locale}")
    (beside,) = (path for path in files_in(page.folders) if path.name == f"{made.name}.flac")
    np.testing.assert_allclose(audio.read(beside), audio.read(made), atol=1e-4)

    named = tmp_path / "podcast.xyz"
    named.write_bytes(sounds.one.read_bytes())
    visitor.evaluate("document.querySelector('.lab-result').remove()")
    upload(visitor, named)
    assert result_text(visitor) == lines(heard(sounds.one))
    visitor.wait_for_function("document.querySelector('#result audio').duration > 1")
    address = visitor.evaluate("document.querySelector('#result audio').currentSrc")
    assert httpx.head(address).headers["content-type"] == "audio/mpeg"
    shot(visitor, f"odd-name-{locale}")


@pytest.mark.parametrize("locale, options", [("sv-SE", PHONE), ("en-GB", {})])
def test_a_part_of_an_upload_and_one_that_is_none(visit, sounds, locale, options):
    visitor, language = visit(locale, **options), locale[:2]
    visitor.click("#options > button")
    upload(visitor, sounds.one)
    assert result_text(visitor) == lines(heard(sounds.one))
    visitor.evaluate("document.querySelector('.lab-result').remove()")
    fill(visitor, "from", "0.26")
    upload(visitor, sounds.long)
    assert result_text(visitor) == lines(heard(sounds.long, start=26))
    assert fits(visitor)
    shot(visitor, f"part-{locale}")
    length = views.clock(audio.seconds_of(sounds.long))
    for start, end, reason, facts in (
        ("1:30", "", "beyond", {"time": "1:30", "length": length}),
        ("0:05", "00:00:02,500", "order", {"start": "0:05", "end": "0:02"}),
        ("snart", "", "time", {"text": "snart"}),
    ):
        fill(visitor, "from", start)
        fill(visitor, "to", end)
        upload(visitor, sounds.long)
        expect(visitor.locator("#status .lab-error")).to_have_text(ERRORS[language][reason].format(**facts))
    shot(visitor, f"part-refused-{locale}")


@pytest.mark.parametrize("locale, here", [("sv-SE", SWEDISH), ("en-GB", ENGLISH)])
def test_what_gradio_says_is_said_in_the_visitors_words(visit, tmp_path, locale, here):
    visitor = visit(locale)
    with open(tmp_path / "large.wav", "wb") as large:
        large.truncate(2_200_000_000)
    upload(visitor, tmp_path / "large.wav")
    notice = visitor.locator(".toast-wrap")
    expect(notice).to_contain_text(here["too_big"].format(most="2.0 GB"))
    expect(notice).to_contain_text(here["error"])
    shot(visitor, f"too-large-{locale}")
    visitor.click("[data-testid=toast-close]")
    visitor.route(re.compile("gradio_api/(queue/data|app_id)"), lambda route: route.abort())
    visitor.click("#example")
    expect(notice).to_contain_text(here["page_lost"])
    expect(notice).not_to_contain_text("Connection")
    visitor.wait_for_timeout(500 * bool(os.environ.get("SHOTS")))  # it comes slowly
    shot(visitor, f"page-lost-{locale}")
