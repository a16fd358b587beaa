"""The real yt-dlp, its real YouTube extractor and the real pytube, against a YouTube of our own on this machine."""

import http.server
import json
import stat
import sys
import tempfile
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import av
import numpy as np
import pytest

from whisper_lab import LabError
from whisper_lab.serving import pages, refusals, youtube
from whisper_lab.serving.refusals import REASONS, Refused
from whisper_lab.serving.youtube import Film, download, fetched, film_id, look, part, start_in

ID, OTHER = "dQw4w9WgXc_", "-abcdefghij"
SECONDS = 40


@pytest.fixture(scope="session")
def m4a(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("sound") / "sound.m4a"
    with av.open(path, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono", bit_rate=64_000)
        noise = np.random.default_rng(0).normal(0, 0.1, SECONDS * 16_000).astype(np.float32)
        for start in range(0, noise.size, 1024):
            frame = av.AudioFrame.from_ndarray(noise[None, start : start + 1024], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16_000, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path.read_bytes()


def audio(itag: int, kilobits: int, **more) -> dict:
    kind = 'audio/mp4; codecs="mp4a.40.2"' if itag in (139, 140) else 'audio/webm; codecs="opus"'
    return media(itag, kilobits, kind) | {"audioSampleRate": "44100", "audioChannels": 2} | more


def media(itag: int, kilobits: int, kind: str) -> dict:
    return {"itag": itag, "mimeType": kind, "averageBitrate": 1000 * kilobits, "approxDurationMs": str(1000 * SECONDS)}


PICTURE = media(160, 70, 'video/mp4; codecs="avc1.4d400c"') | {"height": 144, "width": 256, "qualityLabel": "144p"}


PAGE = b"""<html><script>
ytcfg.set({"INNERTUBE_CONTEXT": {"client": {"clientName": "WEB", "clientVersion": "2.20261101.00.00"}}});
var ytInitialData = {"contents": {"x": 1}};
</script></html>"""


class OurYouTube(http.server.BaseHTTPRequestHandler):
    """What YouTube answers: /HOST/PATH, so that the tests also see which host would have been asked."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def say(self, body: bytes, kind="application/json", status=200, **headers):
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self):
        site = self.server.site
        site.asked.append(self.path)
        site.wait_if_silent()
        if "/videoplayback" not in self.path:
            return self.say(site.page, "text/html", site.page_status)
        if site.media_status != 200:
            return self.say(b"", status=site.media_status)
        first, last = 0, len(site.sound) - 1
        wanted = self.headers.get("Range", "").removeprefix("bytes=") or parse_qs(self.path).get("range", ["0-"])[0]
        first, last = int(wanted.split("-")[0]), min(int(wanted.split("-")[1] or last), last)
        body = site.sound[first : last + 1]
        if site.cut:
            self.send_response(206)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(site.sound)}")
            self.end_headers()
            self.wfile.write(body[:1000])
            self.close_connection = True
            return None
        return self.say(body, "audio/mp4", 206, Content_Range=f"bytes {first}-{last}/{len(site.sound)}")

    do_HEAD = do_GET

    def do_POST(self):
        site = self.server.site
        site.asked.append(self.path)
        site.wait_if_silent()
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if "/player" not in self.path:
            return self.say(b'{"contents": {"x": 1}}')
        if site.player_status != 200:
            return self.say(b"{}", status=site.player_status)
        name = question.get("videoId") or parse_qs(urlsplit(self.path).query)["videoId"][0]
        return self.say(json.dumps(site.answer(name)).encode())


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *args):
        if not isinstance(sys.exception(), ConnectionError):  # a client hangs up when it cancels
            super().handle_error(*args)


class Site:
    """What our YouTube answers, to be spoilt at will, and what it was asked."""

    def __init__(self, sound: bytes):
        self.sound, self.asked, self.cut, self.silent, self.over = sound, [], False, False, threading.Event()
        self.page, self.page_status, self.player_status, self.media_status = PAGE, 200, 200, 200
        self.status, self.details, self.more = {"status": "OK"}, {}, {}
        self.formats = [audio(140, 129), audio(250, 68), audio(251, 135), audio(139, 32), PICTURE]

    def answer(self, name: str) -> dict:
        links = {"url": f"https://rr1.googlevideo.com/videoplayback?name={name}&itag="}
        details = {"videoId": name, "title": "Räksmörgås på Öland", "lengthSeconds": str(SECONDS), **self.details}
        formats = [{**each, "url": f"{links['url']}{each['itag']}"} for each in self.formats]
        return {
            "playabilityStatus": self.status,
            "videoDetails": details,
            "streamingData": {"adaptiveFormats": formats},
            **self.more,
        }

    def refuse(self, reason: str, status: str = "ERROR", subreason: str = "") -> None:
        screen = {
            "playerErrorMessageRenderer": {"reason": {"simpleText": reason}, "subreason": {"simpleText": subreason}}
        }
        self.status, self.formats = {"status": status, "reason": reason, "errorScreen": screen}, []

    def wait_if_silent(self) -> None:
        if self.silent:
            self.over.wait(30)

    @property
    def media_asked(self) -> list[str]:
        return [path for path in self.asked if "videoplayback" in path]


@pytest.fixture
def site(m4a, monkeypatch, tmp_path):
    server = Server(("127.0.0.1", 0), OurYouTube)
    server.site = Site(m4a)
    server.site.base = base = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()

    import yt_dlp

    class HereYoutubeDL(yt_dlp.YoutubeDL):
        def urlopen(self, request):
            parts = urlsplit(request.url)
            request.url = f"{base}/{parts.netloc}{parts.path}?{parts.query}"
            return super().urlopen(request)

    monkeypatch.setattr(youtube, "_ydl", lambda options: HereYoutubeDL(options | {"js_runtimes": {}}))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    yield server.site
    server.site.over.set()
    server.shutdown()
    server.server_close()


def here_for_pytube(site, monkeypatch) -> None:
    real = urllib.request.urlopen

    def here(request, **kwargs):
        parts = urlsplit(request.full_url)
        request.full_url = f"{site.base}/{parts.netloc}{parts.path}?{parts.query}"
        return real(request, **kwargs)

    monkeypatch.setattr(urllib.request, "urlopen", here)


def film(name: str = ID) -> Film:
    return Film(name, "", SECONDS, None, None, "http://127.0.0.1/never-used")


def reason(call, *args, **kwargs) -> str:
    with pytest.raises(Refused) as refused:
        call(*args, **kwargs)
    assert "\n" not in str(refused.value) and "{" not in str(refused.value) and len(str(refused.value)) < 350
    return refused.value.reason


@pytest.mark.parametrize(
    "link",
    [
        ID,
        f" {ID}\n",
        *(
            scheme + rest
            for scheme in ("https://", "http://", "HTTPS://", "")
            for rest in (
                f"www.youtube.com/watch?v={ID}",
                f"youtube.com/watch?v={ID}&t=1m2s&pp=v=AAAAAAAAAAA",
                f"WWW.YouTube.com/watch?list=PLabcdefghijklmnop&index=3&v={ID}#t=3",
                f"m.youtube.com/watch?app=desktop&v={ID}",
                f"music.youtube.com/watch?v={ID}&si=abcdefghijklmnop",
                f"youtu.be/{ID}",
                f"youtu.be/{ID}?si=abcdefghijklmnop&t=75",
                f"www.youtube.com/shorts/{ID}",
                f"www.youtube.com/shorts/{ID}/?feature=share",
                f"www.youtube.com/live/{ID}?feature=shared",
                f"www.youtube.com/embed/{ID}?start=3",
                f"www.youtube-nocookie.com/embed/{ID}",
                f"www.youtube.com/watch\\?v\\={ID}",
                f"www.youtube.com/watch?v={ID}?si=abcdefgh",
                f"youtu.be/{ID}.",
                f"consent.youtube.com/m?continue=https%3A%2F%2Fwww.youtube.com%2Fwatch%3Fv%3D{ID}&gl=SE",
            )
        ),
    ],
)
def test_a_link_to_one_film_in_any_form_gives_its_id(link):
    assert film_id(link) == ID


@pytest.mark.parametrize(
    "link",
    [
        "https://www.youtube.com/playlist?list=PLabcdefghijklmnop",
        "https://www.youtube.com/watch?list=PLabcdefghijklmnop",
        "https://www.youtube.com/embed/videoseries?list=PLabcdefghijklmnop",
        "https://www.youtube.com/embed/live_stream?channel=UCabcdefghijklmnopqrstuv",
        "https://www.youtube.com/@svt",
        "https://www.youtube.com/@svtnyheterna/videos",
        "https://www.youtube.com/channel/UCabcdefghijklmnopqrstuv",
        "https://www.youtube.com/results?search_query=svenska",
        "https://www.youtube.com/",
        "youtube.com",
    ],
)
def test_lists_channels_and_searches_are_told_apart(link):
    assert reason(film_id, link) == "playlist"


def test_what_a_shell_left_of_a_link_is_said():
    assert reason(film_id, "https://www.youtube.com/watch?time_continue=198") == "cut"
    assert film_id(f"<https://youtu.be/{ID}>") == ID


@pytest.mark.parametrize(
    "link, seconds",
    [
        (f"https://www.youtube.com/watch?v={ID}&t=75", 75),
        (f"https://www.youtube.com/watch?v={ID}&t=1m15s", 75),
        (f"https://www.youtube.com/watch?v={ID}#t=75s", 75),
        (f"https://www.youtube.com/watch?time_continue=198&v={ID}", 198),
        (f"youtu.be/{ID}?t=1h2m3s", 3723),
        (f"www.youtube.com/watch?v={ID}?t=75", 75),
        (f"www.youtube.com/watch\\?v\\={ID}\\&t\\=75", 75),
        (f"https://www.youtube.com/embed/{ID}?start=30&end=60", 30),
        (f"https://consent.youtube.com/m?continue=https%3A%2F%2Fyoutu.be%2F{ID}%3Ft%3D9&gl=SE", 9),
        (f"https://youtu.be/{ID}?t=0", None),
        (f"https://youtu.be/{ID}?t=soon", None),
        (f"https://youtu.be/{ID}?si=t75", None),
        (ID, None),
    ],
)
def test_a_link_may_say_where_the_film_begins(link, seconds):
    assert film_id(link) == ID
    assert start_in(link) == seconds


@pytest.mark.parametrize(
    "link",
    [
        "",
        "hej",
        "abcdefghijå",
        "https://vimeo.com/76979871",
        f"https://vimeo.com/watch?v={ID}",
        f"https://youtube.com@evil.example/watch?v={ID}",
        f"https://user:secret@youtube.com/watch?v={ID}",
        f"https://youtube.com:8080/watch?v={ID}",
        f"https://youtube.com.evil.example/watch?v={ID}",
        f"https://evil.example/youtube.com/watch?v={ID}",
        f"https://evil.example/?https://youtu.be/{ID}",
        f"https://evilyoutube.com/watch?v={ID}",
        f"https://youtube.com\\@evil.example/watch?v={ID}",
        f"https://yоutube.com/watch?v={ID}",  # a Cyrillic о
        f"https://127.0.0.1/watch?v={ID}",
        f"http://localhost:7860/watch?v={ID}",
        f"http://[::1]/watch?v={ID}",
        "http://[",
        f"ftp://youtube.com/watch?v={ID}",
        f"file://youtube.com/watch?v={ID}",
        "file:///etc/passwd",
        f"javascript://youtube.com/watch?v={ID}",
        f"//youtube.com/watch?v={ID}",
        f"https://www.youtube.com/watch?v={ID}x",
        "https://www.youtube.com/watch?v=short",
        f"https://www.youtube.com/watch?v=../{ID}",
        f"https://youtu.be/{ID}%26x",
        f"ytsearch:{ID}",
    ],
)
def test_everything_else_is_refused(link):
    assert reason(film_id, link) == "not youtube"


def test_a_film_is_described_without_touching_its_sound(site, capfd):
    site.details = {"thumbnail": {"thumbnails": [{"url": "https://i.ytimg.com/vi/x/hq.jpg", "width": 9, "height": 9}]}}
    seen = look(f"https://youtu.be/{ID}?list=PLabcdefghijklmnop&t=3")
    assert seen == Film(ID, "Räksmörgås på Öland", 40.0, "https://i.ytimg.com/vi/x/hq.jpg", None, youtube.LINK + ID)
    assert site.asked and all(path.startswith("/www.youtube.com/") for path in site.asked)
    assert not site.media_asked
    assert capfd.readouterr() == ("", "")


def test_the_sound_arrives_whole_at_the_lowest_rate_that_keeps_speech(site, tmp_path, m4a, capfd):
    shares = []
    path = download(film(), tmp_path / "new" / "folder", shares.append)
    assert path == tmp_path / "new" / "folder" / f"{ID}.webm" and path.read_bytes() == m4a
    assert all("itag=250" in asked for asked in site.media_asked)  # 68 kbit/s, not 32, 129 or 135
    assert shares == sorted(shares) and shares[-1] == 1 and len(shares) > 3
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    assert capfd.readouterr() == ("", "")


def test_the_speakers_own_voice_is_taken_before_a_dubbed_one(site, tmp_path):
    dubbed = {"audioTrack": {"id": "en.10", "displayName": "English", "audioIsDefault": True}}
    original = {"audioTrack": {"id": "sv.4", "displayName": "Swedish original", "audioIsDefault": False}}
    site.formats = [audio(250, 68, **dubbed), audio(140, 129, **original), PICTURE]
    assert download(film(), tmp_path).suffix == ".m4a"
    assert all("itag=140" in asked for asked in site.media_asked)


def test_what_was_fetched_is_decodable_private_and_gone_afterwards(site, tmp_path, m4a):
    site.formats = [audio(140, 129)]
    with fetched(film()) as path:
        folder = path.parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        with av.open(path) as container:
            assert container.duration / av.time_base == pytest.approx(SECONDS, abs=0.2)
    assert not folder.exists()
    with pytest.raises(ZeroDivisionError), fetched(film()) as path:
        assert path.read_bytes() == m4a
        raise ZeroDivisionError
    assert not list((tmp_path / "temporary").iterdir())


def test_two_at_once_share_nothing(site, m4a):
    together = threading.Barrier(2, timeout=10)

    def one(name):
        with fetched(film(name)) as path:
            together.wait()
            return path, path.read_bytes()

    with ThreadPoolExecutor(2) as pool:
        (first, first_bytes), (second, second_bytes) = pool.map(one, [ID, ID])
    assert first.parent != second.parent and first_bytes == second_bytes == m4a


def test_an_id_may_begin_with_a_dash(site, tmp_path, m4a):
    assert look(OTHER).id == OTHER
    assert download(film(OTHER), tmp_path).read_bytes() == m4a == (tmp_path / f"{OTHER}.webm").read_bytes()


def test_a_cancel_midway_leaves_nothing(site, tmp_path):
    shares = []
    kwargs = {"progress": shares.append, "cancelled": lambda: len(shares) >= 3}
    assert reason(fetched(film(), **kwargs).__enter__) == "cancelled"
    assert len(shares) == 3 and 0 < shares[-1] < 1
    shares.clear()
    assert reason(download, film(), tmp_path / "here", **kwargs) == "cancelled"
    assert not list((tmp_path / "here").iterdir()) and not list((tmp_path / "temporary").iterdir())


def test_a_cancel_before_the_sound_asks_for_none(site, tmp_path):
    assert reason(download, film(), tmp_path, cancelled=lambda: True) == "cancelled"
    assert not site.asked


def test_a_connection_cut_midway_leaves_nothing(site, tmp_path):
    site.cut = True
    assert reason(fetched(film()).__enter__) == "network"
    assert site.media_asked and not list((tmp_path / "temporary").iterdir())


def test_a_file_that_is_too_large_is_stopped_at_its_first_block(site, tmp_path, monkeypatch, m4a):
    monkeypatch.setattr(youtube, "MOST_MEGABYTES", (len(m4a) - 1) / 1e6)
    shares = []
    assert reason(download, film(), tmp_path / "here", shares.append) == "too large"
    assert not shares and not list((tmp_path / "here").iterdir())


JOIN = "Join this channel to get access to members-only content like this video, and other exclusive perks."
CLOSED = "This video is no longer available because the YouTube account associated with this video has been terminated."


@pytest.mark.parametrize(
    "key, status, said, more",
    [
        ("private", "LOGIN_REQUIRED", "Private video", "Sign in if you've been granted access to this video"),
        ("private", "LOGIN_REQUIRED", "This is a private video. Please sign in to verify that you may see it.", ""),
        ("age", "LOGIN_REQUIRED", "Sign in to confirm your age", "This video may be inappropriate for some users."),
        ("age", "UNPLAYABLE", "This video is age-restricted and only available on YouTube", ""),
        (
            "bot",
            "LOGIN_REQUIRED",
            "Sign in to confirm you’re not a bot",
            "This helps protect our community. Learn more",
        ),
        ("bot", "LOGIN_REQUIRED", "Sign in to confirm you're not a bot", ""),
        ("bot", "LOGIN_REQUIRED", "Please sign in", ""),
        ("removed", "ERROR", "Video unavailable", ""),
        ("removed", "ERROR", "Video unavailable", "This video has been removed by the uploader"),
        ("removed", "ERROR", "Video unavailable", CLOSED),
        ("removed", "ERROR", "This video isn't available anymore", ""),
        ("removed", "ERROR", "This video has been removed for violating YouTube's Terms of Service", ""),
        ("region", "UNPLAYABLE", "Video unavailable", "The uploader has not made this video available in your country"),
        ("region", "UNPLAYABLE", "Video unavailable", "Contains content from X, who has blocked it in your country"),
        ("members", "UNPLAYABLE", JOIN, ""),
        ("members", "UNPLAYABLE", "This video is available to this channel's members on level: Fika", ""),
        ("members", "UNPLAYABLE", "This video requires payment to watch", ""),
        ("members", "UNPLAYABLE", "This video is only available to Music Premium members", ""),
        ("live", "LIVE_STREAM_OFFLINE", "This live event will begin in 3 hours.", ""),
        ("live", "LIVE_STREAM_OFFLINE", "Premieres in 20 hours", ""),
        ("live", "UNPLAYABLE", "This live stream recording is not available.", ""),
        ("rate", "UNPLAYABLE", "Video unavailable", "This content isn’t available, try again later."),
        ("rate", "UNPLAYABLE", "Video unavailable. This content isn't available, try again later.", ""),
        ("outdated", "ERROR", "The following content is not available on this app. Watch on the latest version", ""),
        ("outdated", "UNPLAYABLE", "The page needs to be reloaded.", ""),
        ("unknown", "ERROR", "Something that YouTube has never said", ""),
    ],
)
def test_youtubes_own_words_become_a_plain_reason(site, key, status, said, more):
    site.refuse(said, status, more)
    expected = "javascript" if key == "outdated" else key  # the tests' yt-dlp has no JavaScript runtime, and says so
    assert reason(look, ID) == expected
    assert not site.media_asked


def test_an_unknown_reason_is_passed_on_without_its_wrapping(site):
    site.refuse("Something that YouTube has never said", "ERROR", "And more. Sign in")
    with pytest.raises(Refused, match=r"fetched \(Something that YouTube has never said\. And more\. Sign in\); try"):
        look(ID)


@pytest.mark.parametrize("details", [{"isLive": True}, {"isUpcoming": True}, {"isPostLiveDvr": True}])
def test_what_is_or_will_be_live_is_refused_even_with_sound_to_fetch(site, details, tmp_path):
    site.details = details
    assert reason(look, ID) == "live"
    assert reason(download, film(), tmp_path) == "live" and not site.media_asked
    site.details = {"isLiveContent": True, "isLive": False}  # a recording of what was live
    assert look(ID).seconds == SECONDS


def test_a_film_for_sale_answers_with_another_film(site):
    trailer = {"playerLegacyDesktopYpcTrailerRenderer": {"trailerVideoId": OTHER}}
    site.status = {"status": "UNPLAYABLE", "errorScreen": trailer}
    assert reason(look, ID) == "members"


def test_formats_that_are_no_sound(site):
    site.formats = [PICTURE]
    assert reason(look, ID) == "no sound"
    site.formats = [{**each, "drmFamilies": ["WIDEVINE"]} for each in (PICTURE, audio(140, 129))]
    assert reason(look, ID) == "drm"
    site.formats = []
    assert reason(look, ID) == "javascript"
    site.more = {"streamingData": {"licenseInfos": [{"drmFamily": "WIDEVINE"}]}}
    assert reason(look, ID) == "drm"


def test_with_a_runtime_it_is_yt_dlp_that_is_outdated():
    for text in (
        "ERROR: [youtube] x: Requested format is not available. Use --list-formats for a list of available formats",
        "ERROR: unable to download video data: HTTP Error 403: Forbidden",
        "[youtube] x: Signature extraction failed: Some formats may be missing",
        "[youtube] x: Unable to extract something; please report this issue on  https://github.com/yt-dlp/yt-dlp",
    ):
        with pytest.raises(Refused, match=r"pip install -U") as refused, youtube._as_refusal():
            raise RuntimeError(text)
        assert refused.value.reason == "outdated"
        assert not any(noise in str(refused.value) for noise in ("ERROR", "[youtube]", "--list", "please report"))


def test_servers_that_refuse(site, tmp_path):
    site.media_status = 403
    assert reason(download, film(), tmp_path / "here") == "javascript" and not list((tmp_path / "here").iterdir())
    site.player_status = 429
    assert reason(look, ID) == "rate"
    site.player_status = site.page_status = 503
    assert reason(look, ID) == "network"


@pytest.mark.parametrize("downloader", youtube.DOWNLOADERS)
def test_without_a_network_the_answer_is_quick(downloader, monkeypatch, tmp_path):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # a port where nobody listens, wherever these tests run
    monkeypatch.setattr(urllib.request, "_opener", None)  # which would remember, or has remembered, other proxies
    began = time.monotonic()
    assert reason(look, ID, downloader=downloader) == "network"
    assert reason(download, film(), tmp_path / "here", downloader=downloader) == "network"
    assert time.monotonic() - began < 8 and not list((tmp_path / "here").iterdir())


@pytest.mark.parametrize("downloader", youtube.DOWNLOADERS)
def test_a_silent_server_is_given_up(site, monkeypatch, downloader):
    monkeypatch.setattr(youtube, "SILENCE_SECONDS", 0.2)
    here_for_pytube(site, monkeypatch)
    site.silent = True
    began = time.monotonic()
    assert reason(look, ID, downloader=downloader) == "network"
    assert site.asked and time.monotonic() - began < 5


def test_a_loopback_link_reaches_nobody_even_if_yt_dlp_itself_is_given_it(site, monkeypatch):
    given = {}
    real = youtube._ydl
    monkeypatch.setattr(youtube, "_ydl", lambda options: given.update(options) or real(options))
    look(ID)
    monkeypatch.undo()
    site.asked.clear()
    for link in (f"{site.base}/sound.wav", f"{site.base}/watch?v={ID}", f"{site.base}/www.youtube.com/watch?v={ID}"):
        assert reason(film_id, link) == reason(look, link) == "not youtube"
        with pytest.raises(Exception, match="No suitable extractor"), youtube._ydl(dict(given)) as ydl:
            ydl.extract_info(link, download=True)
    for link in ("file:///etc/passwd", "https://www.youtube.com/playlist?list=PLabcdefghijklmnop", "ytsearch:svenska"):
        with pytest.raises(Exception, match="No suitable extractor"), youtube._ydl(dict(given)) as ydl:
            ydl.extract_info(link, download=True)
    assert not site.asked


def test_a_part_must_lie_in_the_film_and_the_limit_is_on_the_part(site):
    site.details = {"lengthSeconds": str(3 * 3600)}
    assert reason(look, ID, max_minutes=120) == "too long"
    with pytest.raises(Refused, match="180 minutes are over the limit of 120"):
        look(ID, max_minutes=120)
    assert look(ID, max_minutes=180).seconds == look(ID).seconds == 3 * 3600
    assert look(ID, max_minutes=120, start=3600) == look(ID, max_minutes=120, end=7200.0)
    assert look(ID, max_minutes=0.5, start=10000, end=10030)
    assert reason(look, ID, max_minutes=0.5, start=10000, end=10031) == "too long"
    for start, end in ((-1, None), (60, 60), (60, 30), (None, 0)):
        assert reason(look, ID, start=start, end=end) == "order"
    for start, end in ((10800, None), (0, 10802), (20000, 20001)):
        assert reason(look, ID, start=start, end=end) == "beyond"


@pytest.mark.parametrize("start, end, why", [(5, 2, "order"), (60, None, "beyond"), (3, 60, "beyond")])
def test_a_part_must_lie_in_an_uploaded_file_too(start, end, why):
    page = SimpleNamespace(options=SimpleNamespace(max_minutes=1))
    seven = np.zeros(7 * 16_000, np.float32)
    pages.Reader.check_length(page, seven, 2, 7.5)
    assert reason(pages.Reader.check_length, page, seven, start, end) == why


@pytest.mark.parametrize(
    "text, seconds",
    [("1:02:03", 3723), ("2:03", 123), ("75", 75), ("75.5", 75.5), ("1h2m3s", 3723), ("90m", 5400), ("1H", 3600)]
    + [("1.30", 90), ("1.02.03", 3723), ("75,5", 75.5), ("00:01:30,500", 90.5)]
    + [(" 12s ", 12), ("90:00", 5400), ("0", 0), ("1:02:03.25", 3723.25), ("", None), ("  ", None), (None, None)],
)
def test_points_in_time(text, seconds):
    assert part(text) == seconds


@pytest.mark.parametrize(
    "text", ["x", "1:2:3:4", "1:75", "1:75:00", "-3", "1e3", "nan", "inf", ":", "1:", "3s2m", "1h30"]
)
def test_points_in_time_that_are_none(text):
    with pytest.raises(LabError, match="is no point in a film"):
        part(text)


def test_every_reason_is_one_line_and_says_what_to_do():
    facts = {"minutes": 3, "limit": 2, "megabytes": 500, "text": "1:75", "detail": "{detail}"}
    facts |= {"time": "1:00", "length": "0:40", "start": "1:00", "end": "0:30"}
    for key in REASONS:
        text = str(Refused(key, **facts))
        assert "\n" not in text and text[-1] != "." and (";" in text or ": " in text or "must" in text), text
    assert {*refusals.SAYS} <= {*REASONS}


class TestPytube:
    """YouTube no longer answers pytube; what it once answered is set by hand, the rest is pytube itself."""

    @pytest.fixture
    def old(self, site, monkeypatch):
        import pytube

        here_for_pytube(site, monkeypatch)
        once = youtube._pytube

        def with_streams(name, **options):
            given = once(name, **options)
            url = f"https://rr1.googlevideo.com/videoplayback?itag=140&name={name}"
            kind = site.formats[0]["mimeType"]
            source = {"itag": site.formats[0]["itag"], "url": url, "mimeType": kind, "type": kind, "is_otf": False}
            given._fmt_streams = [pytube.Stream(source | {"bitrate": 1}, given.stream_monostate)]
            return given

        monkeypatch.setattr(youtube, "_pytube", with_streams)
        site.page = self.page({"status": "OK"})
        pytube.request.filesize.cache_clear()
        return site

    @staticmethod
    def page(status: dict) -> bytes:
        return f"<script>var ytInitialPlayerResponse = {json.dumps({'playabilityStatus': status})};</script>".encode()

    def test_describes_and_fetches(self, old, tmp_path, m4a):
        old.details = {"author": "Kanal"}
        seen = look(ID, downloader="pytube")
        assert (seen.id, seen.title, seen.seconds, seen.channel) == (ID, "Räksmörgås på Öland", 40.0, "Kanal")
        assert not old.media_asked
        shares = []
        path = download(seen, tmp_path / "here", shares.append, downloader="pytube")
        assert path.read_bytes() == m4a and shares[-1] == 1 and list(path.parent.iterdir()) == [path]

    def test_a_cancel_or_a_cut_leaves_nothing(self, old, tmp_path):
        shares = []
        cancel = {"progress": shares.append, "cancelled": lambda: bool(shares)}
        assert reason(download, film(), tmp_path / "here", **cancel, downloader="pytube") == "cancelled"
        old.cut = True
        assert reason(download, film(), tmp_path / "here", downloader="pytube") == "network"
        assert not list((tmp_path / "here").iterdir())

    def test_its_own_reasons(self, old, tmp_path):
        private = "This is a private video. Please sign in to verify that you may see it."
        for key, status in (
            ("private", {"status": "LOGIN_REQUIRED", "reason": private}),
            ("members", {"status": "UNPLAYABLE", "reason": JOIN}),
            ("live", {"status": "UNPLAYABLE", "reason": "This live stream recording is not available."}),
            ("live", {"status": "OK", "liveStreamability": {}}),
            ("removed", {"status": "ERROR", "reason": "Video unavailable"}),
        ):
            old.page = self.page(status)
            assert reason(look, ID, downloader="pytube") == key
        old.page = b"<html>something new</html>"
        assert reason(look, ID, downloader="pytube") == "pytube"
        old.page, old.player_status = self.page({"status": "OK"}), 400  # as YouTube answers since July 2024
        assert reason(look, ID, downloader="pytube") == "pytube"
        old.player_status = 429
        assert reason(look, ID, downloader="pytube") == "rate"
        old.formats = [PICTURE]
        assert reason(download, film(), tmp_path, downloader="pytube") == "no sound"

    def test_what_its_exceptions_mean(self):
        from pytube import exceptions

        for error, key in (
            (exceptions.AgeRestrictedError(ID), "age"),
            (exceptions.VideoRegionBlocked(ID), "region"),
            (exceptions.LiveStreamError(ID), "live"),
            (exceptions.RecordingUnavailable(ID), "live"),
            (exceptions.VideoPrivate(ID), "private"),
            (exceptions.MembersOnly(ID), "members"),
            (exceptions.VideoUnavailable(ID), "removed"),
            (exceptions.RegexMatchError("get_throttling_function_name", "x"), "pytube"),
            (KeyError("streamingData"), "pytube"),
        ):
            with pytest.raises(Refused) as refused, youtube._as_refusal(otherwise="pytube"):
                raise error
            assert refused.value.reason == key
