"""A link to a film on YouTube → a file with its sound, in two phases: what the film is and, if that will do, its sound.

What can be reached: a link is only read. Its id is put into a link of our own, and yt-dlp gets its one extractor for
single films, so no other address, scheme, list or channel can be asked for. Not checked here: the media's host and
redirects, which YouTube's own answers name, over TLS, and yt-dlp follows. No cookies, no configuration file, no FFmpeg.
"""

import math
import os
import re
import tempfile
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, parse_qs, urlsplit

from .. import LabError
from .refusals import Refused, check_part, part, reason_in

DOWNLOADERS = ("yt-dlp", "pytube")
LINK = "https://www.youtube.com/watch?v="
HOSTS = {"youtube.com", "www.youtube.com", "m.youtube.com", "music.youtube.com", "youtu.be"}
HOSTS |= {"youtube-nocookie.com", "www.youtube-nocookie.com", "consent.youtube.com"}
MOST_MEGABYTES = 500  # 12 h, YouTube's longest, at 90 kbit/s
SILENCE_SECONDS = 20  # how long a server may say nothing


@dataclass(frozen=True)
class Film:
    """What is known before any sound is fetched; `seconds` is the whole film's length, `link` the canonical one."""

    id: str
    title: str
    seconds: float
    thumbnail: str | None
    channel: str | None
    link: str


def film_id(link: str) -> str:
    """The eleven characters that name the one film that `link` leads to, asking nobody; a bare id is a link, too.

    Raises Refused("not youtube"), Refused("playlist") for YouTube's lists, channels and searches, or Refused("cut") for
    what a shell left of a link without quotes.
    """
    from pytube import exceptions, extract

    link, parts = _parts(link)
    host, query = parts.netloc.lower(), parse_qs(parts.query)
    segments = [segment for segment in parts.path.split("/") if segment]
    if re.fullmatch(r"[\w-]{11}", link):
        name = link
    elif parts.scheme not in ("http", "https") or host not in HOSTS:  # a port, or user:…@, would be part of `host`
        raise Refused("not youtube")
    elif host == "consent.youtube.com" and "continue" in query:
        return film_id(query["continue"][0])
    elif host == "youtu.be" and len(segments) == 1:
        name = segments[0]
    elif segments == ["watch"] and "v" in query:
        name = re.split("[?&]", query["v"][0])[0]  # ID?si=…, put together by hand
    elif segments == ["watch"] and query and "list" not in query:
        raise Refused("cut")
    elif len(segments) == 2 and segments[0] in ("shorts", "embed", "live", "v"):
        name = segments[1]
    else:
        raise Refused("playlist")
    if name in ("videoseries", "live_stream"):  # /embed/videoseries?list=…: as long as an id, but a list
        raise Refused("playlist")
    try:  # pytube takes the first eleven characters that fit, wherever they are, so it is given nothing else to find
        found = extract.video_id(LINK + name)
    except exceptions.RegexMatchError:
        found = None
    if found != name:
        raise Refused("not youtube")
    return found


def start_in(link: str) -> float | None:
    """The second at which a link says that the film begins (t=75, t=1m15s, #t=75, start=, time_continue=), if any."""
    _, parts = _parts(link)
    said = parse_qs(parts.query.replace("?", "&")) | parse_qs(parts.fragment)
    if "continue" in said:
        return start_in(said["continue"][0])
    for text in (one for key in ("t", "start", "time_continue") for one in said.get(key, ())):
        with suppress(Refused):
            return part(text) or None
    return None


def _parts(link: str) -> tuple[str, SplitResult]:
    """A link as people paste it, without what stands around it in a text or a shell's quoting, and its parts."""
    link = re.sub(r"\\([?=&])", r"\1", link.strip(" \t\r\n<>\"'").rstrip(".,;:!)"))
    try:
        return link, urlsplit(link if "://" in link else f"https://{link}")
    except ValueError as error:  # such as http://[
        raise Refused("not youtube") from error


def look(link: str, max_minutes: float | None = None, downloader: str = "yt-dlp", start=None, end=None) -> Film:
    """Phase 1: the film that `link` leads to, from its description alone; no sound is fetched.

    `start` and `end`, in seconds, choose a part; `max_minutes` limits that part, or the film where none is chosen.
    Raises Refused.
    """
    name = film_id(link)
    film = _pytube_film(name) if downloader == "pytube" else _yt_dlp_film(name)
    first, last = check_part(start, end, film.seconds)
    if max_minutes is not None and last - first > 60 * max_minutes:
        raise Refused("too long", minutes=math.ceil((last - first) / 60), limit=f"{max_minutes:g}")
    return film


def download(
    film: Film,
    folder: Path,
    progress: Callable[[float], None] | None = None,
    cancelled: Callable[[], bool] = lambda: False,
    downloader: str = "yt-dlp",
) -> Path:
    """Phase 2: the film's sound as a new file in `folder`, whole or not there, as YouTube has it: m4a or webm.

    `progress` is told the share that has come, 0 to 1; `cancelled` is asked at every block and at every request.
    Raises Refused.
    """

    def block(done: int, total: int | None) -> None:
        if cancelled():
            raise Refused("cancelled")
        if max(done, total or 0) > MOST_MEGABYTES * 1_000_000:
            raise Refused("too large", megabytes=MOST_MEGABYTES)
        if progress and total:
            progress(min(1.0, done / total))

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    fetch = _pytube_sound if downloader == "pytube" else _yt_dlp_sound
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder) as own:
        sound = fetch(film_id(film.id), Path(own), block, cancelled)  # film.link may have come back from a browser
        os.replace(sound, folder / sound.name)
    return folder / sound.name


@contextmanager
def fetched(film: Film, *args, **kwargs):
    """The path of the film's sound, in a folder of its own that only this user can read and that is deleted when the
    block ends, however it ends. Further arguments, and errors, are those of `download`."""
    with tempfile.TemporaryDirectory(prefix="whisper-lab-youtube-") as folder:
        yield download(film, Path(folder), *args, **kwargs)


@contextmanager
def _as_refusal(warnings=(), otherwise: str = "unknown"):
    """Both libraries raise whatever their parsers stumble over when YouTube changes, so everything is caught."""
    try:
        yield
    except (LabError, ImportError):
        raise
    except Exception as error:
        text = str(error).strip().split("\n")[0]
        reason = reason_in(text)
        if reason is None and "please report this issue" in text:  # yt-dlp's words for a surprise
            reason = "outdated"
        if reason in (None, "outdated"):  # "Failed to extract any player response": why not is in the warnings
            likely = ("network", "rate", "bot", "javascript")[: 4 if reason else 3]
            said = set(map(reason_in, warnings))
            reason = next((each for each in likely if each in said), reason)
        detail = re.sub(r"^(ERROR: )?(\[[^\]]+\] )?([\w-]{11}: )?", "", text)
        detail = re.split(r"[;.,]? *[Pp]lease report this issue| \(caused by | Use --", detail)[0].rstrip(" .")[:200]
        if otherwise == "pytube" and reason in (None, "outdated"):
            reason = "pytube"
        raise Refused(reason or otherwise, detail=detail or type(error).__name__) from error


def _ydl(options: dict):
    import yt_dlp

    return yt_dlp.YoutubeDL(options)


class _Log:
    """What yt-dlp writes. Its warnings say why something is missing later; its other lines come before each request."""

    def __init__(self, cancelled: Callable[[], bool]):
        self.cancelled, self.warnings = cancelled, []

    def debug(self, message: str) -> None:
        if self.cancelled():
            raise Refused("cancelled")

    def warning(self, message: str) -> None:
        self.warnings.append(message)

    def error(self, message: str) -> None:
        pass  # raised as well


@contextmanager
def _yt_dlp(name: str, cancelled: Callable[[], bool] = lambda: False, **options):
    """yt-dlp, and its description of a film that has sound to fetch; what goes wrong in the block becomes Refused."""
    log = _Log(cancelled)
    options |= {
        "allowed_extractors": ["youtube"],  # a regular expression for whole names: lists and searches have others
        # An original track before a dubbed one, then speech at the lowest rate that keeps it; without an audio-only
        # format, the smallest picture. Plain files before HLS, which comes in hundreds of pieces.
        "format": "bestaudio[protocol^=http]/bestaudio/best[protocol^=http]/best",
        "format_sort": ["lang", "abr~70", "+res"],
        "noplaylist": True,
        "cachedir": False,
        "fixup": "never",  # would want FFmpeg
        "logger": log,
        "noprogress": True,
        "color": "never",
        "socket_timeout": SILENCE_SECONDS,
        "retries": 2,
        "extractor_retries": 1,
        "js_runtimes": {"deno": {}, "node": {}},  # deno alone is yt-dlp's default; many have node 22
    }
    with _as_refusal(log.warnings), _ydl(options) as ydl:
        info = ydl.extract_info(LINK + name, download=False, process=False)
        if info.get("id") != name:  # a film for sale answers with its trailer
            raise Refused("members")
        if info.get("live_status") in ("is_live", "is_upcoming", "post_live"):
            raise Refused("live")
        formats = [each for each in info.get("formats") or [] if {each.get("vcodec"), each.get("acodec")} != {"none"}]
        if not formats:  # but perhaps storyboards
            raise LookupError("no video formats found")
        if all(each.get("has_drm") is True for each in formats):
            raise Refused("drm")
        if all(each.get("acodec") == "none" for each in formats):
            raise Refused("no sound")
        yield ydl, info


def _yt_dlp_film(name: str) -> Film:
    with _yt_dlp(name) as (_, info):
        if not info.get("duration"):
            raise Refused("outdated", detail="no length")
        title = info.get("title") or name
        return Film(name, title, float(info["duration"]), info.get("thumbnail"), info.get("channel"), LINK + name)


def _yt_dlp_sound(name: str, own: Path, block: Callable, cancelled: Callable[[], bool]) -> Path:
    options = {
        "paths": {"home": str(own)},
        "outtmpl": "%(id)s.%(ext)s",
        "progress_hooks": [lambda status: block(status.get("downloaded_bytes") or 0, status.get("total_bytes"))],
    }
    with _yt_dlp(name, cancelled, **options) as (ydl, info):  # asked anew: the media's links are for hours, and for one
        return Path(ydl.process_ie_result(info, download=True)["requested_downloads"][0]["filepath"])


def _pytube(name: str, **options):
    import urllib.request

    import pytube

    # pytube (15.0.0, its last release) sets no time limit, so a silent server would hold it for ever
    pytube.request.urlopen = lambda request, timeout=None: urllib.request.urlopen(request, timeout=SILENCE_SECONDS)
    return pytube.YouTube(LINK + name, **options)


def _pytube_film(name: str) -> Film:
    with _as_refusal(otherwise="pytube"):
        film = _pytube(name)
        film.check_availability()
        return Film(name, film.title, float(film.length), film.thumbnail_url, film.author, LINK + name)


def _pytube_sound(name: str, own: Path, block: Callable, cancelled: Callable[[], bool]) -> Path:
    def arrived(stream, chunk, missing):
        block(stream.filesize - missing, stream.filesize)

    with _as_refusal(otherwise="pytube"):
        if (stream := _pytube(name, on_progress_callback=arrived).streams.get_audio_only()) is None:
            raise Refused("no sound")
        block(0, stream.filesize)
        return Path(stream.download(str(own), f"{name}.{stream.subtype}"))
