"""Mozilla's own client against a Mozilla Data Collective on this machine."""

import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from conftest import ROOT

from whisper_lab import LabError
from whisper_lab.corpora import collective, corpus

KEY = "a-key"
CHUNK = 1 << 16  # bytes that the client writes at once
SWEDISH = "Common Voice Scripted Speech {} - Swedish"


class Platform(BaseHTTPRequestHandler):
    """The part of https://mozilladatacollective.com/api that is used, and its storage with ranges and faults."""

    def log_message(self, *args):
        pass

    def answer(self, status: int, value, **headers):
        body = json.dumps(value).encode()
        self.send_response(status)
        for name, text in headers.items():
            self.send_header(name.replace("_", "-"), text)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def handle_request(self):
        server, url = self.server, urlsplit(self.path)
        server.seen.append(f"{self.command} {url.path}")
        kind = f"{self.command} {'download' if url.path.endswith('/download') else url.path.split('/')[1]}"
        if kind in server.refusals:
            status, headers = server.refusals[kind]
            return self.answer(status, {"error": "No."}, **headers)
        if url.path == "/api/datasets":
            return self.listing({name: values[0] for name, values in parse_qs(url.query).items()})
        if url.path == "/api/datasets/filters":
            return self.answer(200, {"locales": sorted({one["locale"] for one in server.datasets})})
        if url.path.startswith("/storage/"):
            return self.storage()
        name = url.path.split("/")[3]
        for one in server.datasets:
            if name in (one["id"], one["slug"]):
                if self.command == "GET":
                    return self.answer(200, one)
                if self.headers["Authorization"] != f"Bearer {KEY}":
                    return self.answer(401, {"error": "Unknown key"})
                url = f"http://127.0.0.1:{server.server_port}/storage/{one['id']}"
                facts = {key: one[key] for key in ("sizeBytes", "checksum", "filename")}
                return self.answer(200, {"downloadUrl": url} | facts)
        return self.answer(404, {"error": "Dataset not found"})

    do_GET = do_POST = handle_request

    def listing(self, query: dict[str, str]):
        found = [one for one in reversed(self.server.datasets) if one["locale"] == query["locale"]]
        count = min(int(query["limit"]), self.server.most_a_page)
        start = (int(query.get("page", 1)) - 1) * count
        self.answer(200, {"items": found[start : start + count], "total": len(found)})

    def storage(self):
        assert "Authorization" not in self.headers
        content = self.server.content
        start = int(re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "bytes=0-"))[1])
        self.server.starts.append(start)
        if start >= len(content):
            return self.answer(416, {})
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = self.server.cuts.pop(0) if self.server.cuts else len(content)
        self.wfile.write(content[start:end])
        if self.server.interrupts:
            self.wfile.flush()
            self.server.interrupts.pop(0)()


@pytest.fixture
def platform(release, tmp_path, monkeypatch):
    """Serves `release` as the Swedish 99.0, beside older, other and unrelated datasets."""
    packed = tmp_path / "packed.tar.gz"
    with tarfile.open(packed, "w:gz") as tar:
        tar.add(release, release.name)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Platform)
    server.content, server.most_a_page = packed.read_bytes(), 2
    server.seen, server.starts, server.cuts, server.interrupts, server.refusals = [], [], [], [], {}
    server.page = f"http://127.0.0.1:{server.server_port}/datasets/"
    server.datasets = []
    for number, (name, locale, size) in enumerate(
        [
            (SWEDISH.format("9.0"), "sv-SE", 900),
            (SWEDISH.format("99.0"), "sv-SE", len(server.content)),
            ("Common Voice Scripted Speech 99.0 - Swedish women", "sv-SE", 100),
            ("Common Voice Scripted Speech 100.0 Delta Segment - Swedish", "sv-SE", 50),
            ("Common Voice Spontaneous Speech 101.0 - Swedish", "sv-SE", 10**9),
            (SWEDISH.format("26.0"), "sv-SE", 10**9),
            ("Common Voice Scripted Speech 102.0 - Finnish", "fi", 10**9),
        ]
    ):
        server.datasets.append(
            {
                "id": f"c000000{number}",
                "slug": f"common-voice-scripted-speech-{number}",
                "name": name,
                "locale": locale,
                "sizeBytes": size,
                "checksum": hashlib.sha256(server.content).hexdigest().upper(),
                "filename": f"common-voice-scripted-speech-99-0-swedis-{number}.tar.gz",
                "datasetUrl": f"{server.page}c000000{number}",
            }
        )
    server.wanted = server.datasets[1]
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("MDC_API_URL", f"http://127.0.0.1:{server.server_port}/api")
    monkeypatch.setenv("MDC_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("WHISPER_LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(collective, "WAITS_SECONDS", (0, 0))
    monkeypatch.chdir(tmp_path)
    yield server
    server.shutdown()
    server.server_close()


def refused(name: str = "sv-SE", language: str = "sv-SE") -> str:
    with pytest.raises(LabError) as error:
        collective.fetch(name, language)
    assert "\n" not in str(error.value)
    return str(error.value)


def archives(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "cache" / "corpora").rglob("*.tar.gz"))


def test_a_language_is_its_newest_release_by_version_and_reads_as_the_folder_does(platform, release, capfd):
    read = corpus.read("mdc:sv-SE", "sv-SE")
    assert read.identity() == corpus.read(str(release), "sv-SE").identity() and read.version == "99.0-2026-01-01"
    assert all(Path(clip.path).is_file() for clips in read.splits.values() for clip in clips)
    assert "POST /api/datasets/c0000001/download" in platform.seen
    shown = capfd.readouterr()
    assert shown.out == "" and "Downloading: 100%" in shown.err


@pytest.mark.parametrize("name", ["c0000001", "common-voice-scripted-speech-1", "{page}c0000001", "{page}c0000001/"])
def test_a_release_by_its_id_its_slug_or_its_address(platform, name):
    archive = collective.fetch(name.format(page=platform.page), "sv-SE")
    assert archive.name == platform.wanted["filename"] and archive.read_bytes() == platform.content


def test_a_verified_archive_is_not_fetched_again_and_needs_no_key(platform, monkeypatch):
    first = collective.fetch("sv-SE", "sv-SE")
    platform.seen.clear()
    monkeypatch.delenv("MDC_API_KEY")
    assert collective.fetch("sv-SE", "sv-SE") == collective.fetch("c0000001", "sv-SE") == first
    assert platform.seen and not any("POST" in seen or "storage" in seen for seen in platform.seen)


def test_runs_at_the_same_time_download_and_unpack_once(platform, capfd):
    with ThreadPoolExecutor(3) as runs:
        read = list(runs.map(lambda _: corpus.read("mdc:sv-SE", "sv-SE"), range(3)))
    assert len({one.fingerprint for one in read}) == 1
    assert platform.starts == [0] and capfd.readouterr().err.count("Unpacking: 100%") == 1


def test_a_release_that_was_replaced_is_fetched_anew(platform):
    first = collective.fetch("sv-SE", "sv-SE")
    platform.content = b"another" * 99
    platform.wanted |= {"checksum": hashlib.sha256(platform.content).hexdigest(), "sizeBytes": len(platform.content)}
    assert collective.fetch("sv-SE", "sv-SE").read_bytes() == platform.content != first.read_bytes()


def test_a_cut_connection_goes_on_where_it_was_cut(platform):
    platform.cuts = [CHUNK + 1, 3 * CHUNK + 2]
    assert collective.fetch("sv-SE", "sv-SE").read_bytes() == platform.content
    assert platform.starts == [0, CHUNK, 3 * CHUNK]


def test_a_connection_cut_again_and_again_is_said_and_the_next_run_goes_on(platform, tmp_path):
    platform.cuts = [CHUNK, 2 * CHUNK, 3 * CHUNK]
    said = refused()
    assert "run the same command again to go on" in said and "192.0 KB" in said and archives(tmp_path) == []
    assert collective.fetch("sv-SE", "sv-SE").read_bytes() == platform.content
    assert platform.starts == [0, CHUNK, 2 * CHUNK, 3 * CHUNK]


def test_a_run_that_is_interrupted_says_so_and_the_next_one_goes_on(platform, tmp_path):

    def interrupt():
        while not any(part.stat().st_size for part in (tmp_path / "cache").rglob("*.part")):
            time.sleep(0.01)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # the one that waits for the server
        interrupted.wait(5)

    interrupted = threading.Event()
    platform.cuts, platform.interrupts = [CHUNK + 1], [interrupt]
    with pytest.raises(KeyboardInterrupt):
        collective.fetch("sv-SE", "sv-SE")
    interrupted.set()
    assert archives(tmp_path) == []
    assert collective.fetch("sv-SE", "sv-SE").read_bytes() == platform.content
    assert platform.starts == [0, CHUNK]


@pytest.mark.parametrize("length", [1000, None])
def test_a_run_that_was_killed_is_gone_on_with(platform, length):
    """At 1000 bytes, and after the last byte but before the rename, where the client itself would fail for good."""
    archive = collective.fetch("sv-SE", "sv-SE")
    part = archive.parent / "unverified" / f"{archive.name}.part"
    part.write_bytes(platform.content[:length])
    part.with_name(f"{archive.name}.checksum").write_text(platform.wanted["checksum"])
    archive.unlink()
    platform.starts.clear()
    assert collective.fetch("sv-SE", "sv-SE").read_bytes() == platform.content
    assert platform.starts == ([length] if length else [])


def test_a_wrong_checksum_deletes_the_file_and_says_so(platform, tmp_path):
    right, platform.content = platform.content, platform.content[:-1] + b"?"
    said = refused()
    assert "another checksum" in said and "deleted" in said and platform.wanted["datasetUrl"] in said
    assert archives(tmp_path) == []
    platform.content = right
    assert collective.fetch("sv-SE", "sv-SE").read_bytes() == right


def test_no_key(platform, monkeypatch):
    monkeypatch.delenv("MDC_API_KEY")
    assert collective.KEYS in refused() and not any("POST" in seen for seen in platform.seen)


def test_a_key_that_is_not_known(platform, monkeypatch):
    monkeypatch.setenv("MDC_API_KEY", "old")
    said = refused()
    assert "does not know the key" in said and collective.KEYS in said


def test_terms_not_agreed_to(platform):
    platform.refusals = {"POST download": (403, {})}
    said = refused()
    assert platform.wanted["datasetUrl"] in said and "agree to the terms" in said


@pytest.mark.parametrize("kind", ["POST download", "GET api"])
def test_too_many_requests(platform, kind):
    platform.refusals = {kind: (429, {"Retry_After": "600"})}
    said = refused()
    assert "(429)" in said and "in 10 min" in said and "http" in said


def test_no_such_dataset_and_one_that_was_removed(platform):
    said = refused("c9999999")
    assert "has no dataset 'c9999999'" in said and collective.COMMON_VOICE in said
    platform.refusals = {"GET api": (410, {})}
    assert "was removed" in refused("c0000001")


def test_no_release_of_that_language(platform):
    said = refused("sv", "sv-SE")
    assert "no Common Voice Scripted Speech in sv" in said and "did you mean sv-SE?" in said
    assert collective.COMMON_VOICE in said
    assert "(known: fi, sv-SE" in refused("xx", "sv-SE")
    assert "mdc:sv-SE" in refused("")


def test_a_release_of_another_language_is_not_downloaded(platform):
    assert "say --language fi" in refused("fi", "sv-SE")
    assert not any("POST" in seen for seen in platform.seen)


@pytest.mark.parametrize("filename", ["swedish.zip", "../../swedish.tar.gz", None])
def test_what_is_no_archive_is_not_downloaded(platform, tmp_path, filename):
    platform.wanted["filename"] = filename
    assert "not a .tar.gz" in refused()
    assert not any("POST" in seen for seen in platform.seen)


def test_no_network(platform, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MDC_API_URL", f"http://127.0.0.1:{taken.getsockname()[1]}/api")
        said = refused()
    assert "cannot be reached" in said and os.environ["MDC_API_URL"] in said


@pytest.mark.parametrize("status", [402, 500, 503])
def test_a_fault_of_the_platform(platform, status):
    platform.refusals = {"POST download": (status, {})}
    said = refused()
    assert str(status) in said and platform.wanted["datasetUrl"] in said


def test_a_disk_without_room_is_said_before_anything_is_downloaded(platform, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 2 * len(platform.content)))
    said = refused()
    assert "WHISPER_LAB_CACHE" in said and SWEDISH.format("99.0") in said and platform.starts == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is always full")
def test_a_disk_that_fills_up_on_the_way_is_said(platform):
    archive = collective.fetch("sv-SE", "sv-SE")
    archive.unlink()
    part = archive.parent / "unverified" / f"{archive.name}.part"
    part.symlink_to("/dev/full")
    part.with_name(f"{archive.name}.checksum").write_text(platform.wanted["checksum"])
    said = refused()
    assert "no room left" in said and str(archive.parent) in said
    part.unlink()
    assert collective.fetch("sv-SE", "sv-SE").read_bytes() == platform.content


def test_a_file_of_settings_gives_the_key_and_nothing_else(platform, tmp_path, monkeypatch):
    """The client reads ./.env on import, so this is tried in a process of its own."""
    (tmp_path / ".env").write_text(f"MDC_API_KEY={KEY}\nCUDA_VISIBLE_DEVICES=7\n")
    monkeypatch.delenv("MDC_API_KEY")
    code = "import os; from whisper_lab.corpora import collective; "
    code += "print(collective.fetch('sv-SE', 'sv-SE', progress=False)); print(os.environ.get('CUDA_VISIBLE_DEVICES'))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    archive, device = done.stdout.splitlines()
    assert Path(archive).read_bytes() == platform.content and device == "None" and done.stderr == ""
