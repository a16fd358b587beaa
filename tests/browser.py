"""The real pages in a real browser: headless Chromium, whose microphone hears a file."""

import base64
import io
import os
import shutil
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import soundfile
from conftest import ROOT

from whisper_lab import audio, captions, corpus

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needed = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (apt install chromium)")
CLIPS = corpus.SAMPLE / "sv-SE" / "clips"
PHONE = {"width": 390, "height": 844}


def clips(count: int, gap: float = 0.5) -> np.ndarray:
    """The first `count` test clips of the sample, `gap` seconds of silence before, between and after: (samples,)."""
    rows = (corpus.SAMPLE / "sv-SE" / "test.tsv").read_text(encoding="utf-8").splitlines()[1 : count + 1]
    quiet = np.zeros(round(gap * audio.SAMPLE_RATE), np.float32)
    return np.concatenate([quiet, *(x for row in rows for x in (audio.read(CLIPS / row.split("\t")[1]), quiet))])


def save(path: Path, samples: np.ndarray) -> Path:
    """(samples,) float32 at 16 kHz as a file of 16 bit, in the coding that its suffix names."""
    soundfile.write(path, samples, audio.SAMPLE_RATE)
    return path


def lines(segments) -> str:
    """What the page shows of them."""
    return captions.write(list(segments), "txt").strip()


@contextmanager
def chromium(microphone: Path):
    """A browser; whoever asks for its microphone hears the file `microphone` from its beginning, and then silence."""
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    flags += [f"--use-file-for-fake-audio-capture={microphone}%noloop"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@contextmanager
def visits(browser, address: str, hosts=()):
    """`visit(locale, size)` → a page of a visitor of its own, opened and ready.

    Afterwards, no script may have failed in any, and none may have asked another host than the page's own and `hosts`.
    """
    contexts, wrong, asked = [], [], set()

    def visit(locale: str = "sv-SE", size: dict | None = None, script: str | None = None, **options):
        permissions = ["microphone", "clipboard-read", "clipboard-write"]
        context = browser.new_context(
            locale=locale, viewport=size or {"width": 1000, "height": 900}, permissions=permissions, **options
        )
        contexts.append(context)
        context.set_default_timeout(20_000)
        if script:
            context.add_init_script(script)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: asked.add(urlsplit(request.url).netloc))
        page.goto(address)
        if "auth" not in options:
            page.wait_for_function("document.querySelector('#result') !== null")
        return page

    try:
        yield visit
    finally:
        for context in contexts:
            context.close()
    assert not wrong
    assert asked <= {"", urlsplit(address).netloc, *hosts}


def shot(page, name: str) -> None:
    """A picture of the whole page, where the environment variable SHOTS names a folder for them."""
    if folder := os.environ.get("SHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)
