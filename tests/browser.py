"""The real pages in a real browser: headless Chromium, whose microphone hears a file."""

import functools
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import soundfile
from quick import Quick

from whisper_lab.corpora import corpus
from whisper_lab.serving import captions
from whisper_lab.speech import audio
from whisper_lab.whisper.decoding import Decoding

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needed = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (apt install chromium)")
GREEDY = Decoding(beams=1)  # quickest: the untuned model is in doubt about every sentence
WAIT = 60_000  # milliseconds at most for anything to happen, on a busy machine
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True}


def clips(count: int, gap: float = 0.5, first: int = 7) -> np.ndarray:
    """`count` test clips from number `first` on, `gap` seconds of silence around each: (samples,).

    The untuned model has text for all of them. Of clip 6 it has some even where the clip is cut off; clips 7 and 8 it
    transcribes several times as fast, since on short windows it does not repeat itself.
    """
    rows = (corpus.SAMPLE / "sv-SE" / "test.tsv").read_text(encoding="utf-8").splitlines()[first : first + count]
    quiet, folder = np.zeros(round(gap * audio.SAMPLE_RATE), np.float32), corpus.SAMPLE / "sv-SE" / "clips"
    return np.concatenate([quiet, *(part for row in rows for part in (audio.read(folder / row.split("\t")[1]), quiet))])


def save(path: Path, samples: np.ndarray) -> Path:
    """(samples,) float32 at 16 kHz as a file of the kind that its suffix names."""
    soundfile.write(path, samples, audio.SAMPLE_RATE)
    return path


@functools.cache
def base() -> Quick:
    """The embedded model, beside the page's own: what the pages have to show is what it hears."""
    return Quick("sample")


@functools.cache
def heard(source: Path, start: float = 0, end: float | None = None) -> list[captions.Segment]:
    return list(base().segments(source, GREEDY, True, start, end))


def lines(segments) -> str:
    """The text that a page shows of them."""
    return captions.write(list(segments), "txt").strip()


@contextmanager
def chromium(microphone: Path):
    """`browser(**options)` → a browser with these options of Playwright's, started once for the same options: it keeps
    the page's scripts compiled. Whoever asks for its microphone hears the file `microphone` from its beginning, and
    then silence."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=WAIT)
    flags = ["--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    flags += [f"--use-file-for-fake-audio-capture={microphone}%noloop"]
    with sync_playwright() as playwright:
        browsers = {}

        def browser(**options):
            key = repr(sorted(options.items()))
            if key not in browsers:
                browsers[key] = playwright.chromium.launch_persistent_context(
                    microphone.with_name(f"profile-{len(browsers)}"),
                    executable_path=CHROMIUM,
                    args=flags,
                    permissions=["microphone", "clipboard-read", "clipboard-write"],
                    **options,
                )
                browsers[key].set_default_timeout(WAIT)
            return browsers[key]

        yield browser
        for one in browsers.values():
            one.close()


@contextmanager
def visits(browser, address: str, hosts=()):
    """`visit(locale, **options of the browser)` → the page of a visitor of its own, opened and ready.

    In the end, no script may have failed in any, and none may have asked another host than the page's own and `hosts`.
    """
    pages, wrong, asked = [], [], set()

    def visit(locale: str = "sv-SE", script: str = "", ready: str = "#result", **options):
        options = {"viewport": {"width": 1000, "height": 900}} | options
        page = browser(locale=locale, **options).new_page()
        pages.append(page)
        page.add_init_script(script)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: asked.add(urlsplit(request.url).netloc))
        page.goto(address)
        page.wait_for_selector(ready, state="attached")
        return page

    try:
        yield visit
    finally:
        for page in pages:
            page.close()
    assert not wrong
    assert asked <= {"", urlsplit(address).netloc, *hosts}


def upload(visitor, path: Path) -> None:
    visitor.set_input_files("#upload input[type=file]", path)


def until(visitor, happens) -> None:
    """Wait until `happens()`, which is asked here."""
    for _ in range(WAIT // 50):
        if happens():
            return
        visitor.wait_for_timeout(50)
    raise TimeoutError


def fill(visitor, name: str, text: str) -> None:
    """Write `text` into the field whose id is `name`."""
    visitor.fill(f"#{name} input, #{name} textarea", text)


def result_text(visitor) -> str:
    """The text of the result, once it is there and unless there is an error instead."""
    visitor.wait_for_selector(".lab-result, #status .lab-error")
    assert visitor.locator(".lab-result").count(), visitor.inner_text("#status")
    return visitor.inner_text(".lab-text")


def fits(visitor) -> bool:
    """There is nothing to scroll to sideways."""
    return visitor.evaluate("document.scrollingElement.scrollWidth <= innerWidth")


def shot(page, name: str) -> None:
    """A picture of the whole page, where the environment variable SHOTS names a folder for them."""
    if folder := os.environ.get("SHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)
