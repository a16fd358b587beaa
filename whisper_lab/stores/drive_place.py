"""Google Drive, signed in by gdrive-fsspec, whose own reading and writing is left alone.

    FSSPEC_GDRIVE_TOKEN=browser          asks in the browser, once; later runs need no variable
    FSSPEC_GDRIVE_TOKEN=service_account  with FSSPEC_GDRIVE_CREDS=KEY.json; has no room of its own, so with
    FSSPEC_GDRIVE_DRIVE=NAME             a shared drive, or
    FSSPEC_GDRIVE_ROOT_FILE_ID=ID        a folder (the end of its address) that gdrive:// then stands for

gdrive-fsspec 0.4.1 (https://github.com/fsspec/gdrive-fsspec) makes a folder called "gdrive:" where a path has its
protocol, writes a second file where one of that name exists and then reads the first, keeps listings without a way to
drop them, and reports each refused upload as `AssertionError: Init upload failed`. So here it gives credentials and
options, and the requests are made with Google's client, https://developers.google.com/workspace/drive/api/reference.
"""

import threading
from collections.abc import Callable
from pathlib import Path

from .. import LabError, faults
from .places import CHUNK, Place

FOLDER = "application/vnd.google-apps.folder"
EVERYWHERE = {"supportsAllDrives": True}
BUSY = {"rateLimitExceeded", "userRateLimitExceeded", "sharingRateLimitExceeded", "backendError"}
FULL = {
    "storageQuotaExceeded": "free some room, or use a shared drive: FSSPEC_GDRIVE_DRIVE=NAME (service accounts have no "
    "room of their own)",
    "teamDriveFileLimitExceeded": "the shared drive holds too many files; use another",
    "downloadQuotaExceeded": "Drive hands this file out no more today; wait a day, or copy it within Drive",
    "dailyLimitExceeded": "wait a day",
}


class DrivePlace(Place):
    """A folder of a Drive. Where two files have one name, the newer is meant; of two folders, the older."""

    def __init__(self, url: str):
        """Raises LabError if Google's libraries find no credentials."""
        import fsspec

        self.url = url
        with faults.explained(url):
            self.fs, path = fsspec.url_to_fs(url)
        self.root = [part for part in path.split("/") if part]
        self.folders = {(): self.fs.root_file_id}  # path → id
        self.lock = threading.Lock()  # so that two threads do not make one folder each
        self.own = threading.local()

    def sizes(self) -> dict[str, int]:
        with self.lock:
            self.folders = {(): self.fs.root_file_id}
        root = self._folder([])
        found, queue = {}, [("", root)] if root else []
        while queue:
            prefix, folder = queue.pop()
            entries = self._list(folder)
            queue += [(f"{prefix}{name}/", entry) for name, entry in _folders(entries).items()]
            for entry in reversed(entries):
                if entry["mimeType"] != FOLDER and "size" in entry:  # Google's own documents have no bytes
                    found[prefix + entry["name"]] = int(entry["size"])
        return found

    def put(self, file: Path, name: str, sent: Callable[[int], None] = lambda count: None) -> None:
        from googleapiclient.http import MediaFileUpload

        folder, last = self._folder(name.split("/")[:-1], make=True), name.split("/")[-1]
        media = MediaFileUpload(str(file), mimetype="application/octet-stream", chunksize=CHUNK, resumable=True)
        there = self._files(name)
        if there:  # its content is replaced, in one step and when all of it has come
            request = self.fs.files.update(fileId=there[0]["id"], media_body=media, fields="id", **EVERYWHERE)
        else:
            body = {"name": last, "parents": [folder]}
            request = self.fs.files.create(body=body, media_body=media, fields="id", **EVERYWHERE)
        told, done = 0, None
        while done is None:
            progress, done = self._asked(lambda: request.next_chunk(http=self._http()))
            now = progress.resumable_progress if done is None else file.stat().st_size
            sent(now - told)
            told = now
        for other in self._files(name):  # of an earlier failure, or of someone else's at the same time
            if other["id"] != done["id"]:
                self._trash(other)

    def get(self, name: str, file: Path, got: Callable[[int], None] = lambda count: None) -> None:
        from googleapiclient.http import MediaIoBaseDownload

        request = self.fs.files.get_media(fileId=self._file(name)["id"], **EVERYWHERE)
        request.http = self._http()
        with open(file, "wb") as out:
            download, told, done = MediaIoBaseDownload(out, request, chunksize=CHUNK), 0, False
            while not done:
                progress, done = self._asked(download.next_chunk)
                got(progress.resumable_progress - told)
                told = progress.resumable_progress

    def read(self, name: str) -> bytes:
        request = self.fs.files.get_media(fileId=self._file(name)["id"], **EVERYWHERE)
        return self._executed(request)

    def remove(self, name: str) -> None:
        for entry in self._files(name):
            self._trash(entry)

    def _trash(self, entry: dict) -> None:
        """To the bin, which in a shared drive more people may do than delete."""
        request = self.fs.files.update(fileId=entry["id"], body={"trashed": True}, fields="id", **EVERYWHERE)
        self._executed(request)

    def _folder(self, names: list[str], make: bool = False) -> str | None:
        """The id of a folder under the place; None, or a new one, if it is not there."""
        path = (*self.root, *names)
        with self.lock:
            for depth in range(1, len(path) + 1):
                if path[:depth] in self.folders:
                    continue
                parent, name = self.folders[path[: depth - 1]], path[depth - 1]
                there = _folders(self._list(parent, name)).get(name)
                if not there and not make:
                    return None
                if not there:
                    body = {"name": name, "mimeType": FOLDER, "parents": [parent]}
                    request = self.fs.files.create(body=body, fields="id", **EVERYWHERE)
                    there = self._executed(request)["id"]
                self.folders[path[:depth]] = there
            return self.folders[path]

    def _files(self, name: str) -> list[dict]:
        """The files of that name, the newest first."""
        folder = self._folder(name.split("/")[:-1])
        entries = self._list(folder, name.split("/")[-1]) if folder else []
        return [entry for entry in entries if entry["mimeType"] != FOLDER]

    def _file(self, name: str) -> dict:
        there = self._files(name)
        if not there:
            raise FileNotFoundError(f"{self.url}/{name}")
        return there[0]

    def _list(self, folder: str, name: str | None = None) -> list[dict]:
        """What is in a folder (under that name), the newest first."""
        query = f"'{folder}' in parents and trashed = false"
        if name is not None:
            query += " and name = '{}'".format(name.replace("\\", r"\\").replace("'", r"\'"))
        entries, page = [], None
        while True:
            request = self.fs.files.list(
                q=query,
                orderBy="modifiedTime desc",
                fields="nextPageToken, files(id, name, size, mimeType, createdTime)",
                pageSize=1000,
                pageToken=page,
                **EVERYWHERE | {"includeItemsFromAllDrives": True} | self.fs._drive_kw(),
            )
            answer = self._executed(request)
            entries += answer.get("files", [])
            page = answer.get("nextPageToken")
            if not page:
                return entries

    def _http(self):
        """This thread's own: https://googleapis.github.io/google-api-python-client/docs/thread_safety.html."""
        if not hasattr(self.own, "http"):
            import google_auth_httplib2
            from googleapiclient.http import build_http

            self.own.http = google_auth_httplib2.AuthorizedHttp(self.fs.srv._http.credentials, http=build_http())
        return self.own.http

    def _executed(self, request):
        return self._asked(lambda: request.execute(http=self._http()))

    def _asked(self, ask: Callable):
        """`ask()`, with Drive's refusals told apart: 403 is its answer to too many requests and to a full Drive too."""
        from googleapiclient.errors import HttpError

        try:
            with faults.explained(self.url):
                return ask()
        except LabError as error:
            cause = error.__cause__
            details = cause.error_details if isinstance(cause, HttpError) else []
            reasons = {one.get("reason") for one in details if isinstance(one, dict)} if details else set()
            if reasons & BUSY:
                raise faults.Busy(faults.in_a_line(cause)) from None
            for reason in reasons & FULL.keys():
                raise LabError(f"{self.url}: {reason}; {FULL[reason]}") from cause
            raise


def _folders(entries: list[dict]) -> dict[str, str]:
    """Name → id of the folders among what a listing gave; of two that have one name, the older."""
    folders = [entry for entry in entries if entry["mimeType"] == FOLDER]
    return {entry["name"]: entry["id"] for entry in sorted(folders, key=lambda entry: entry["createdTime"])[::-1]}
