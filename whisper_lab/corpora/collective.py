"""Mozilla Data Collective, where Common Voice has been since October 2025: https://mozilladatacollective.com

    mdc:sv-SE                       the newest release of Common Voice Scripted Speech in that language
    mdc:cmqintw0q00xwnr07mjjzpe61   a release by its ID, its slug or the address of its page

MDC_API_KEY holds a key from https://mozilladatacollective.com/profile/credentials, and the terms of each dataset are
agreed to on its page. The client is Mozilla's own, https://github.com/Mozilla-Data-Collective/datacollective-python;
here is what it leaves to its caller: the newest release, the checksum, a cut connection, and words for each refusal.
"""

import errno
import os
import re
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock
from tqdm import tqdm

from .. import LabError, faults, files, near
from . import commonvoice

SITE = "https://mozilladatacollective.com"
KEYS = f"{SITE}/profile/credentials"
COMMON_VOICE = f"{SITE}/organization/cmfh0j9o10006ns07jq45h7xk"
LOCALE = re.compile(r"[a-z]{2,3}(-[A-Za-z]{2,8})?")  # an ID or slug is longer, or has more parts
SCRIPTED = re.compile(r"Common Voice Scripted Speech (\d+(?:\.\d+)*)\b(?!.*delta)", re.IGNORECASE)
WAITS_SECONDS = (1, 5, 20)  # between attempts; few, because each may count towards the platform's daily limit


def fetch(name: str, language: str, progress: bool = True) -> Path:
    """The verified .tar.gz of release `name` (a locale, ID, slug or address), in the cache; downloaded if it is not.

    A download that was cut or killed goes on where it stopped. Raises LabError for each refusal, with the way out.
    """
    client = _client()
    name = name.strip().rstrip("/").rpartition("/")[2]
    if not name:
        raise LabError(f"mdc: wants a language, such as mdc:{language}, or the ID of a dataset from its page at {SITE}")
    page = f"{SITE}/datasets/{name}"
    with _refusals(name, page):
        release = _newest(client, name) if LOCALE.fullmatch(name) else client.get_dataset_details(name)
    if release.locale and release.locale.split("-")[0] != language.split("-")[0]:
        raise LabError(f"{release.name} is in {release.locale}, not {language}; say --language {release.locale}")
    if not re.fullmatch(r"[^/\\]+(\.tar\.gz|\.tgz)", release.filename or ""):
        raise LabError(f"{release.name} is {release.filename}, not a .tar.gz of Common Voice; see {release.datasetUrl}")
    folder = files.cache_folder() / "corpora" / f"mdc-{files.digest([release.id, release.checksum])[:12]}"
    archive = folder / release.filename
    if archive.is_file():  # it was put there when its checksum was right
        return archive
    if not os.environ.get("MDC_API_KEY"):
        raise LabError(
            f"Mozilla Data Collective gives {release.name} to its users only: make a key at {KEYS}, set MDC_API_KEY to "
            "it, then run the same command again"
        )
    beside = folder / "unverified"
    beside.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        if not archive.is_file():
            with _refusals(release.name, release.datasetUrl or page):
                _download(client, release, beside, progress)
            _verify(beside / release.filename, release)
            os.replace(beside / release.filename, archive)
    return archive


def _client():
    """Mozilla's package. Imported, it sets all that a .env file above here says; what is not its own is unset again."""
    before = set(os.environ)
    import datacollective

    for variable in set(os.environ) - before:
        if not variable.startswith("MDC_"):
            del os.environ[variable]
    return datacollective


def _newest(client, locale: str):
    """The release of the highest version in `locale`; of several, the largest, the others being parts of it."""
    query = {"query": "Common Voice Scripted Speech", "locale": locale, "results_per_page": 100}
    part = client.list_datasets(**query)
    listed, page = part.items, 1
    while part.items and len(listed) < part.total:
        page += 1
        part = client.list_datasets(**query, page_number=page)
        listed += part.items
    found = []
    for one in listed:
        if one.locale == locale and (match := SCRIPTED.match(one.name or "")):
            found.append(([int(number) for number in match[1].split(".")], one.sizeBytes or 0, one))
    if not found:
        locales = set(client.list_dataset_filters().locales) - {locale}
        kin = sorted(one for one in locales if one.split("-")[0] == locale.split("-")[0])
        hint = f" (did you mean {' or '.join(kin)}?)" if kin else near(locale, locales)
        raise LabError(
            f"Mozilla Data Collective has no Common Voice Scripted Speech in {locale}{hint}; "
            f"its releases are at {COMMON_VOICE}"
        )
    return max(found, key=lambda one: one[:2])[2]


def _download(client, release, folder: Path, progress: bool) -> None:
    """The archive into `folder`, going on where an earlier run stopped; its checksum is not looked at."""
    from datacollective.errors import DownloadError

    part, size_bytes = folder / f"{release.filename}.part", int(release.sizeBytes or 0)
    there = part.stat().st_size if part.is_file() else 0
    if there >= size_bytes > 0:  # killed before the rename; the client would ask for the bytes after the last, and fail
        part.replace(folder / release.filename)
        return
    needed_bytes = size_bytes - there + commonvoice.UNPACKED_SHARE * size_bytes
    commonvoice.check_room(folder, needed_bytes, f"downloading and unpacking {release.name}")
    for wait_seconds in (*WAITS_SECONDS, None):
        try:
            with _bar(part, size_bytes, progress):
                client.download_dataset(release.id, str(folder), show_progress=False)
            return
        except DownloadError as error:
            cause = error.__cause__
            if isinstance(cause, KeyboardInterrupt):
                raise cause from None
            if getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                raise LabError(
                    f"no room left in {folder} for {release.name}, {size_bytes / 1e9:.2f} GB; free some, then run the "
                    "same command again to go on"
                ) from error
            if wait_seconds is None:
                raise LabError(
                    f"the download of {release.name} was cut again and again, now after {error.total_downloaded_bytes} "
                    f"({faults.in_a_line(cause)}); run the same command again to go on from there"
                ) from error
        time.sleep(wait_seconds)


@contextmanager
def _bar(part: Path, size_bytes: int, shown: bool):
    """A bar that follows the length of `part`, because the client draws its own over whatever else is on the screen."""
    done = threading.Event()

    def length() -> int:
        with suppress(FileNotFoundError):  # not begun, or already renamed
            return part.stat().st_size
        return bar.n

    def follow() -> None:
        while not done.wait(0.5):
            bar.update(length() - bar.n)

    start = part.stat().st_size if part.is_file() else 0
    size = {"total": size_bytes or None, "initial": start, "unit": "B", "unit_scale": True, "unit_divisor": 1024}
    with tqdm(desc="Downloading", disable=not shown, **size) as bar:
        follower = threading.Thread(target=follow)
        follower.start()
        try:
            yield
        finally:
            done.set()
            follower.join()
        bar.update(max(0, size_bytes - bar.n))


def _verify(archive: Path, release) -> None:
    """Raise LabError, and delete the archive, if its SHA-256 is not the one that the platform gives for it."""
    if release.checksum and files.file_digest(archive) != release.checksum.lower().removeprefix("sha256:"):
        archive.unlink()
        raise LabError(
            f"what came for {release.name} has another checksum than {release.datasetUrl or SITE} gives; it was "
            "deleted, run the same command again to download it anew"
        )


@contextmanager
def _refusals(what: str, page: str):
    """Turn each refusal of the platform into a LabError with the address to go to."""
    import requests
    from datacollective.errors import AuthenticationError, RateLimitError, ResourceRemovedError

    try:
        yield
    except AuthenticationError as error:
        raise LabError(f"Mozilla Data Collective does not know the key in MDC_API_KEY; make one at {KEYS}") from error
    except RateLimitError as error:
        after = error.response.headers.get("Retry-After", "") if error.response is not None else ""
        when = f"in {max(1, round(int(after) / 60))} min" if after.isdecimal() else "later"
        raise LabError(
            f"Mozilla Data Collective lets nothing more be fetched with this key for now (429); try again {when}, "
            f"what has come is kept; {page}"
        ) from error
    except (FileNotFoundError, PermissionError) as error:
        if error.errno:  # of this disk
            raise
        if isinstance(error, ResourceRemovedError):
            raise LabError(f"{what} was removed from Mozilla Data Collective; see {COMMON_VOICE}") from error
        if isinstance(error, FileNotFoundError):
            raise LabError(
                f"Mozilla Data Collective has no dataset {what!r}; its ID is on its page, under Download; the releases "
                f"of Common Voice are at {COMMON_VOICE}"
            ) from error
        raise LabError(
            f"Mozilla Data Collective refuses {what} (403): sign in at {page} and agree to the terms there, then run "
            "the same command again"
        ) from error
    except (requests.ConnectionError, requests.Timeout) as error:
        address = os.environ.get("MDC_API_URL") or SITE
        raise LabError(
            f"{address} cannot be reached ({type(error).__name__}); check the connection, or give --corpus the folder "
            "or the .tar.gz of a release"
        ) from error
    except (requests.RequestException, RuntimeError, ValueError) as error:  # ValueError: not the JSON that it should be
        raise LabError(
            f"Mozilla Data Collective cannot give {what} just now ({faults.in_a_line(error)}); see {page}"
        ) from error
