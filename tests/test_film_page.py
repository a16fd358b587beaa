"""The YouTube page in a browser: the real yt-dlp against test_youtube's YouTube, and an embedded player of our own."""

import tempfile
import threading
import time
from dataclasses import astuple
from pathlib import Path

import av
import browser as browsers
import numpy as np
import pytest
import test_youtube
from browser import GREEDY, PHONE, WAIT, clips, fill, fits, heard, lines, result_text, save, shot, upload
from playwright.sync_api import expect
from quick import Quick
from test_youtube import ID, JOIN, OTHER, SECONDS

from whisper_lab.serving import transcription
from whisper_lab.serving.captions import cues
from whisper_lab.serving.texts import ERRORS, SWEDISH
from whisper_lab.speech import audio

pytestmark = browsers.needed
site = test_youtube.site

LINK, OTHER_LINK = f"https://www.youtube.com/watch?v={ID}", f"https://youtu.be/{OTHER}"
HALF = 20  # seconds: the second sentence begins after it
PLAYER = """<script>
let at = 0;
window.told = [];
const report = () => parent.postMessage(JSON.stringify({event: "infoDelivery", info: {currentTime: at}}), "*");
window.play = (seconds) => { at = seconds; report(); };
addEventListener("message", ({data}) => {
  const message = JSON.parse(data);
  told.push(message);
  if (message.func === "seekTo") at = message.args[0];
  if (message.event === "listening" || message.func === "seekTo") report();
});
</script>"""
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
    "0000000c4944415408d763f8cfc000000301010018dd8db00000000049454e44ae426082"
)


def film(path: Path, *pictures: str) -> Path:
    """Two sentences, `HALF` a film apart, with a picture a second if a codec for `pictures` is named."""
    first, both = clips(1, 1), clips(2, 1)
    sound = np.zeros(SECONDS * audio.SAMPLE_RATE, np.float32)
    sound[: first.size] = first
    sound[HALF * audio.SAMPLE_RATE :][: both.size - first.size] = both[first.size :]
    with av.open(path, "w", format="mp4") as container:
        seen = [container.add_stream(codec, rate=1, width=160, height=90, pix_fmt="yuv420p") for codec in pictures]
        heard = container.add_stream("aac", rate=audio.SAMPLE_RATE, layout="mono", bit_rate=64_000)
        for stream in seen:
            for second in range(SECONDS):
                picture = av.VideoFrame.from_ndarray(np.full((90, 160, 3), 6 * second, np.uint8))
                picture.pts = second
                container.mux(stream.encode(picture))
            container.mux(stream.encode(None))
        for start in range(0, sound.size, 1024):
            frame = av.AudioFrame.from_ndarray(sound[None, start : start + 1024], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = audio.SAMPLE_RATE, start
            container.mux(heard.encode(frame))
        container.mux(heard.encode(None))
    return path


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    return film(tmp_path_factory.mktemp("sound") / "sound.m4a")


@pytest.fixture(scope="module")
def m4a(sound) -> bytes:
    """What our YouTube's films sound like (test_youtube.site)."""
    return sound.read_bytes()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    import app_youtube
    from whisper_lab.serving import films, pages

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("gradio")))
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        options = app_youtube.parse_args(["--model", "sample", "--queue", "2", "--max-minutes", "3"])
        patch.setattr(pages, "DEFAULT", GREEDY)
        patch.setattr(transcription, "Transcriber", Quick)
        blocks = films.page(options)
        yield pages.serve(blocks, options, block=False)
        blocks.close()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    silence = save(tmp_path_factory.mktemp("silence") / "silence.wav", np.zeros(16_000, np.float32))
    with browsers.chromium(silence) as chromium:
        yield chromium


@pytest.fixture
def visit(chromium, address, site):
    """A visitor to whom Google's hosts answer from here. Nothing of any film may be left on disk afterwards."""
    site.details = {"thumbnail": {"thumbnails": [{"url": "https://i.ytimg.com/vi/x/hq.jpg"}]}}

    def open_page(*args, **kwargs):
        visitor = visit(*args, **kwargs)
        visitor.route("https://i.ytimg.com/**", lambda route: route.fulfill(body=PIXEL, content_type="image/png"))
        embedded = "https://www.youtube-nocookie.com/embed/**"
        visitor.route(embedded, lambda route: route.fulfill(body=PLAYER, content_type="text/html"))
        return visitor

    with browsers.visits(chromium, address, {"i.ytimg.com", "www.youtube-nocookie.com"}) as visit:
        yield open_page
    assert not films_on_disk()


def films_on_disk() -> list[Path]:
    return [path for pattern in ("film-*", "whisper-lab-*") for path in Path(tempfile.gettempdir()).glob(pattern)]


def soon_gone() -> None:
    for _ in range(WAIT // 100):
        if not films_on_disk():
            return
        time.sleep(0.1)
    raise AssertionError(films_on_disk())


def slow(site) -> threading.Event:
    """The film is large, and after its first pieces comes no more of it until the event is set."""
    more = threading.Event()
    site.sound += bytes(100_000_000)
    site.wait_if_silent = lambda: len(site.media_asked) < 3 or more.wait(WAIT / 1000)
    return more


def player(visitor, name: str = ID):
    """The frame in which the film plays."""
    visitor.wait_for_function("[...document.querySelectorAll('#result iframe')].length === 1")
    frame = visitor.query_selector("#result iframe").content_frame()
    frame.wait_for_load_state()
    assert f"/embed/{name}?" in frame.url
    return frame


def test_a_link_becomes_a_film_with_its_words(visit, site, sound):
    visitor = visit()
    shot(visitor, "film-start")
    fill(visitor, "link", LINK)
    card = visitor.locator("#card")
    expect(card).to_contain_text("Räksmörgås på Öland")
    expect(card).to_contain_text("0:40")
    assert visitor.eval_on_selector("#card img", "image => image.src") == "https://i.ytimg.com/vi/x/hq.jpg"
    shot(visitor, "film-card")
    assert site.asked and not site.media_asked, "no sound is fetched before it is asked for"
    visitor.click("#fetch")
    text = result_text(visitor)
    segments = heard(sound)
    assert site.media_asked and text == lines(segments)
    frame = player(visitor)
    frame.wait_for_function("told.some(({event}) => event === 'listening')")
    shot(visitor, "film-result")

    for cue in cues(segments):
        frame.evaluate("seconds => play(seconds)", cue.start + 0.05)
        expect(visitor.locator(".lab-caption")).to_have_text(" ".join(cue.lines))
    shot(visitor, "film-caption")
    frame.evaluate("play(0)")
    expect(visitor.locator(".lab-caption")).to_have_text("")
    last = visitor.locator(".lab-segments button").last
    last.click()
    expect(last).to_have_attribute("aria-current", "true")
    seeks = frame.evaluate("told.filter(({func}) => func === 'seekTo').map(({args}) => args[0])")
    assert seeks == [pytest.approx(segments[-1].start, abs=0.01)]
    expect(visitor.locator(".lab-caption")).not_to_have_text("")


def test_a_part_of_a_film_has_the_times_of_the_film(visit, sound):
    visitor = visit("en-GB", **PHONE)
    assert fits(visitor)
    fill(visitor, "link", LINK)
    fill(visitor, "from", f"0:{HALF}")
    fill(visitor, "to", "35")
    visitor.click("#fetch")
    segments = heard(sound, start=HALF, end=35)
    assert result_text(visitor) == lines(segments) and segments[0].start >= HALF
    starts = visitor.eval_on_selector_all(".lab-segments button", "all => all.map(one => Number(one.dataset.start))")
    assert starts == [pytest.approx(segment.start, abs=0.01) for segment in segments]
    assert fits(visitor)
    shot(visitor, "film-phone")


def test_a_link_that_names_a_second_fills_in_where_to_begin(visit, sound):
    visitor = visit("en-GB", **PHONE)
    fill(visitor, "link", f"{LINK}&t={HALF}")
    expect(visitor.locator("#from textarea, #from input")).to_have_value(f"0:{HALF}")
    visitor.click("#fetch")
    assert result_text(visitor) == lines(heard(sound, start=HALF))
    shot(visitor, "film-from-the-link")
    fill(visitor, "link", OTHER_LINK)
    expect(visitor.locator("#from textarea, #from input")).to_have_value("")
    fill(visitor, "from", "0:05")
    fill(visitor, "link", f"{OTHER_LINK}?t=1m15s")
    expect(visitor.locator("#card")).to_contain_text("0:40")
    expect(visitor.locator("#from textarea, #from input")).to_have_value("0:05")


def test_each_refusal_is_a_sentence_in_the_visitors_language(visit, site):
    visitor, english = visit(), visit("en-GB")
    for key, link, spoil in (
        ("not youtube", "https://vimeo.com/76979871", lambda: None),
        ("playlist", "https://www.youtube.com/@svt", lambda: None),
        ("live", LINK, lambda: site.details.update(isLive=True)),
        ("private", OTHER_LINK, lambda: site.refuse("Private video", "LOGIN_REQUIRED")),
        ("bot", LINK, lambda: site.refuse("Sign in to confirm you’re not a bot", "LOGIN_REQUIRED")),
        ("members", OTHER_LINK, lambda: site.refuse(JOIN, "UNPLAYABLE")),
    ):
        spoil()
        fill(visitor, "link", link)
        expect(visitor.locator("#card .lab-error")).to_have_text(ERRORS["sv"][key])
        site.details.pop("isLive", None)
    shot(visitor, "film-refused")
    visitor.click("#fetch")
    expect(visitor.locator("#status .lab-error")).to_have_text(ERRORS["sv"]["members"])
    fill(english, "link", "hej")
    english.click("#fetch")
    expect(english.locator("#status .lab-error")).to_contain_text("That is no link to a film on YouTube; paste one")
    assert not visitor.locator(".lab-result").count() and not site.media_asked


def test_a_part_that_is_none_is_told_in_the_visitors_language(visit, site):
    visitor = visit()
    fill(visitor, "link", LINK)
    fill(visitor, "from", "soon")
    visitor.click("#fetch")
    expect(visitor.locator("#status .lab-error")).to_contain_text("soon")
    expect(visitor.locator("#status .lab-error")).not_to_contain_text("write it as")
    fill(visitor, "from", "50")
    visitor.click("#fetch")
    beyond = ERRORS["sv"]["beyond"].format(time="0:50", length=f"0:{SECONDS}")
    expect(visitor.locator("#status .lab-error")).to_have_text(beyond)
    fill(visitor, "from", "0.30")
    fill(visitor, "to", "0:20")
    visitor.click("#fetch")
    order = ERRORS["sv"]["order"].format(start="0:30", end="0:20")
    expect(visitor.locator("#status .lab-error")).to_have_text(order)
    shot(visitor, "film-part-refused")
    fill(visitor, "to", "")
    site.details["lengthSeconds"] = "600"
    fill(visitor, "from", "")
    visitor.click("#fetch")
    expect(visitor.locator("#status .lab-error")).to_have_text(ERRORS["sv"]["too long"].format(minutes=10, limit=3))


def test_a_film_may_be_uploaded_instead(visit, site, tmp_path):
    path, visitor = film(tmp_path / "Min film.mp4", "libx264"), visit("en-GB")
    upload(visitor, path)
    segments = heard(path)
    assert result_text(visitor) == lines(segments) and not site.asked
    visitor.wait_for_function("document.querySelector('#result video').videoWidth === 160")
    visitor.locator(".lab-segments button").last.click()
    expect(visitor.locator(".lab-caption")).to_have_text(" ".join(cues(segments)[-1].lines))
    assert visitor.eval_on_selector("#result video", "video => video.currentTime") >= HALF
    visitor.locator(".lab-segments span").last.fill("Ät nu!")
    visitor.keyboard.press("Enter")
    expect(visitor.locator(".lab-text")).to_contain_text("Ät nu!")
    visitor.eval_on_selector("#result video", "(video, at) => { video.currentTime = at }", segments[-1].start + 0.1)
    expect(visitor.locator(".lab-caption")).to_have_text("Ät nu!")
    shot(visitor, "film-uploaded")


def test_a_cancelled_download_leaves_nothing(visit, site):
    visitor, more = visit(), slow(site)
    fill(visitor, "link", LINK)
    visitor.click("#fetch")
    expect(visitor.locator("#status .lab-status")).to_contain_text(SWEDISH["fetching"])
    visitor.wait_for_selector("#status .lab-bar")
    shot(visitor, "film-fetching")
    assert films_on_disk()
    visitor.click("#cancel")
    expect(visitor.locator("#status .lab-status")).to_have_text(SWEDISH["cancelled"])
    more.set()
    soon_gone()
    assert not visitor.locator(".lab-result").count()


def test_who_leaves_during_a_download_leaves_nothing(visit, site):
    visitor, more = visit(), slow(site)
    fill(visitor, "link", LINK)
    visitor.click("#fetch")
    visitor.wait_for_selector("#status .lab-bar")
    assert films_on_disk()
    visitor.goto("about:blank")
    more.set()
    soon_gone()


def test_a_connection_cut_midway_is_said_and_leaves_nothing(visit, site):
    visitor = visit()
    site.cut = True
    fill(visitor, "link", LINK)
    visitor.click("#fetch")
    expect(visitor.locator("#status .lab-error")).to_have_text(ERRORS["sv"]["network"])
    soon_gone()


def test_two_at_once_get_their_own_film(visit, sound):
    first, second = visit(), visit("en-GB")
    fill(first, "link", LINK)
    fill(first, "to", str(HALF))
    fill(second, "link", OTHER_LINK)
    fill(second, "from", str(HALF))
    first.click("#fetch")
    second.click("#fetch")
    texts = [lines(heard(sound, end=HALF)), lines(heard(sound, start=HALF))]
    assert [result_text(first), result_text(second)] == texts and texts[0] != texts[1]
    player(first, ID)
    player(second, OTHER)


def test_programs_may_ask_under_a_stable_name(address, site, sound):
    from gradio_client import Client
    from gradio_client.exceptions import AppError

    client = Client(address, verbose=False)
    assert set(client.view_api(return_format="dict", print_info=False)["named_endpoints"]) == {
        "/transcribe",
        "/transcribe_link",
    }
    options = astuple(GREEDY)
    transcript = client.predict(LINK, str(HALF), "", *options, api_name="/transcribe_link")
    segments = heard(sound, start=HALF)
    assert transcript["title"] == "Räksmörgås på Öland" and transcript["source"] == LINK
    assert transcript["text"] == " ".join(segment.text for segment in segments)
    assert transcript["segments"][0]["start"] == pytest.approx(segments[0].start, abs=0.001)
    assert client.predict(f"{LINK}&t={HALF}", api_name="/transcribe_link")["text"] == transcript["text"]
    whole = client.predict(f"{LINK}&t={HALF}", "0", api_name="/transcribe_link")["segments"]
    assert whole[0]["start"] < HALF
    site.refuse("Private video", "LOGIN_REQUIRED")
    with pytest.raises(AppError, match="The film is private"):
        client.predict(LINK, "", "", *options, api_name="/transcribe_link")
    with pytest.raises(AppError, match="is no time"):
        client.predict(LINK, "soon", "", *options, api_name="/transcribe_link")
    assert not films_on_disk()
