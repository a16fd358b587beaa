"""Why a film, or a part of a recording, cannot be had, each reason in a sentence that says what can be done, and how
YouTube words it."""

import re

from .. import LabError
from .captions import clock

REASONS = {
    "not youtube": "that is no link to a film on YouTube; paste one like https://www.youtube.com/watch?v=…",
    "cut": "that link lost its end, where the film is named: a shell cuts it at &, so put it in quotes",
    "playlist": "that link is a playlist, a channel or a search; open one film and copy its link",
    "live": "the film is a live broadcast or has not begun; try again some hours after its end",
    "too long": "{minutes} minutes are over the limit of {limit}; choose a part (start, end), or raise --max-minutes",
    "too large": "the film's sound is over {megabytes} MB; upload a shorter piece of it as a file",
    "private": "the film is private; ask its owner to share it, or to send you the file",
    "age": "the film is age-restricted: YouTube wants a login, and this program has none; upload the file",
    "removed": "the film is not there: removed, its account closed, or never there; try the link in a browser",
    "region": "the film is not shown in the country this computer is in; run this elsewhere, or upload the file",
    "bot": "YouTube takes this computer for a robot, as often with hosted ones; run this at home, or upload the file",
    "members": "the film is for members or buyers: YouTube wants a login, and this program has none; upload the file",
    "drm": "the film is copy-protected (DRM), so it cannot be fetched; choose another",
    "no sound": "the film has no sound track; choose another",
    "javascript": 'YouTube wants a JavaScript runtime, and there is none: pip install -U "yt-dlp[default,deno]"',
    "outdated": 'yt-dlp does not understand YouTube ({detail}); bring it up to date: pip install -U "yt-dlp[default]"',
    "network": "YouTube was not reached, or the connection broke; check the network and try again, or upload the file",
    "rate": "YouTube says that this computer asks too often; wait an hour, or upload the file",
    "pytube": "pytube failed ({detail}); it has not been maintained since 2023: use --downloader yt-dlp",
    "beyond": "{time} is beyond the end: there are {length} of it",
    "order": "the start, {start}, must come before the end, {end}",
    "time": "{text!r} is no point in a film; write it as 1:02:03, 2:03, 75 or 1h2m3s",
    "cancelled": "cancelled; nothing was kept",
    "unknown": "the film could not be fetched ({detail}); try the link in a browser, or upload the file",
}

# The first that fits counts: "Video unavailable" begins many sentences whose second half says why. The texts are those
# of YouTube (passed on by yt_dlp/extractor/youtube/_video.py), of yt-dlp, and of pytube (exceptions.py).
SAYS = {
    "rate": r"http error 429|too many requests|rate-limited|content isn't available, try again later",
    "bot": r"not a bot|captcha challenge|ip is likely being blocked|please sign in(?! to verify)",
    "age": r"confirm your age|age.restricted|inappropriate for some users",
    "private": r"private video|video is private",
    "members": r"members-only|channel's members|premium members|requires payment|rental|purchase",
    "region": r"in your (country|region)|from your location",
    "live": r"live event|premiere|live ?stream|streaming live",
    "drm": r"drm protected",
    "network": r"failed to resolve|urlopen error|transporterror|timed out|connection (refused|reset|aborted|broken)"
    r"|closed connection|to proxy|certificate verify failed|more expected|did not get any data|http error 5\d\d",
    "outdated": r"http error 4\d\d|requested format is not available|no video formats found|not available on this app"
    r"|page needs to be reloaded|signature|nsig|cannot identify player",
    "javascript": r"no supported javascript runtime",
    "removed": r"unavailable|removed|terminated|no longer available|isn't available|not available|does not exist",
}


class Refused(LabError):
    """A film that cannot be had. `reason` is a key of `REASONS`, for counting and for pages that translate."""

    def __init__(self, reason: str, **details):
        super().__init__(REASONS[reason].format(**details))
        self.reason, self.details = reason, details


def reason_in(text: str) -> str | None:
    """The reason that a library's message speaks of, if it is one of those known."""
    text = text.replace("’", "'").lower()
    return next((reason for reason, pattern in SAYS.items() if re.search(pattern, text)), None)


def part(text: str | None) -> float | None:
    """A point in time as people write it ("1:02:03", "2:03", "75.5", "1h2m3s", in Swedish "2.03", in captions
    "00:02:03,500") in seconds; None for nothing."""
    text = (text or "").strip().lower().replace(",", ".")
    if not text:
        return None
    if re.fullmatch(r"(\d{1,3}\.)?\d{1,3}\.[0-5]\d", text):  # two digits after a point are seconds of a minute
        text = text.replace(".", ":")
    seconds = r"(\d{1,6}(?:\.\d{1,6})?)"
    found = re.fullmatch(rf"(?:(?:(\d{{1,3}}):)?(\d{{1,3}}):)?{seconds}", text) or re.fullmatch(
        rf"(?:(\d{{1,3}})h)?(?:(\d{{1,4}})m)?(?:{seconds}s)?", text
    )
    given = [float(number or 0) for number in found.groups()] if found else []
    if not found or (":" in text and (given[2] >= 60 or (found[1] and given[1] >= 60))):
        raise Refused("time", text=text)
    return 3600 * given[0] + 60 * given[1] + given[2]


def check_part(start: float | None, end: float | None, seconds: float) -> tuple[float, float]:
    """Where a part of a film of so many seconds begins and ends. Raises Refused where it does not lie within."""
    first, last = start or 0.0, seconds if end is None else end
    if first >= seconds or last > seconds + 1:  # YouTube gives whole seconds
        raise Refused("beyond", time=clock(first if first >= seconds else last), length=clock(seconds))
    if not 0 <= first < last:
        raise Refused("order", start=clock(first), end=clock(last))
    return first, last
