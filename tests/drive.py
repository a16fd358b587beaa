"""Google Drive in memory, under the real gdrive-fsspec and Google client: it answers what httplib2 would send."""

import itertools
import json
import re
import threading
from urllib.parse import parse_qs, urlsplit

import httplib2

FOLDER = "application/vnd.google-apps.folder"


class Drive:
    """Files by id, any number of one name, as in the real one. `fail` makes it fail."""

    def __init__(self):
        self.files = {"root": {"id": "root", "name": "My Drive", "mimeType": FOLDER, "parents": [], "trashed": False}}
        self.content, self.uploads, self.faults, self.log = {}, {}, [], []
        self.numbers, self.lock = itertools.count(1), threading.RLock()

    def fail(self, method: str, kind: str, status: int, reason: str = "", times: int = 1, name: str = "") -> None:
        """Answer `status` (0: the connection is cut) to so many requests of a kind, for files with `name` in theirs."""
        self.faults.append([method, kind, name, status, reason, times])

    def names(self) -> list[str]:
        """The paths of all that is not in the bin, in order, twice where there are two of a name."""

        def path(entry):
            parents = [path(self.files[parent]) for parent in entry["parents"]]
            return "/".join([*filter(None, parents), entry["name"]]) if parents else ""

        return sorted(path(entry) for entry in self.files.values() if entry["parents"] and not entry["trashed"])

    def make(self, name: str, parent: str, content: bytes | None = None) -> str:
        """The id of a new file, or of a folder if there is no content, whatever else has that name."""
        key = f"id{next(self.numbers)}"
        kind = FOLDER if content is None else "application/octet-stream"
        times = {"createdTime": f"{next(self.numbers):09d}", "modifiedTime": f"{next(self.numbers):09d}"}
        self.files[key] = {"id": key, "name": name, "mimeType": kind, "parents": [parent], "trashed": False, **times}
        if content is not None:
            self._fill(key, content)
        return key

    def _fill(self, key: str, content: bytes) -> None:
        self.content[key] = content
        self.files[key] |= {"size": str(len(content)), "modifiedTime": f"{next(self.numbers):09d}"}

    def request(self, http, uri, method="GET", body=None, headers=None, **_):
        """In place of httplib2.Http.request."""
        body = body.read() if hasattr(body, "read") else body
        headers = {key.lower(): value for key, value in (headers or {}).items()}
        with self.lock:
            return self._answer(urlsplit(uri), method, body, headers)

    def _answer(self, url, method, body, headers):
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        kind = "upload" if url.path.startswith("/upload") else "media" if query.get("alt") == "media" else "files"
        self.log.append((method, kind, query))
        key = url.path.rpartition("/files")[2].lstrip("/")
        upload = self.uploads.get(query.get("upload_id"), (key, {}))
        name = upload[1].get("name") or self.files.get(upload[0], {}).get("name", "")
        for fault in self.faults:
            if fault[:2] == [method, kind] and fault[2] in name and fault[5]:
                fault[5] -= 1
                if not fault[3]:
                    raise ConnectionResetError("the connection was cut")
                error = {"code": fault[3], "message": "injected", "errors": [{"reason": fault[4]}]}
                return _reply({"error": error}, fault[3])
        if kind == "upload" and "upload_id" not in query:
            token = f"up{next(self.numbers)}"
            self.uploads[token] = (key, json.loads(body or "{}"), b"")
            return _reply({}, location=f"https://www.googleapis.com{url.path}?uploadType=resumable&upload_id={token}")
        if kind == "upload":
            return self._chunk(query["upload_id"], body or b"", headers.get("content-range", ""))
        if kind == "media":
            return self._media(key, headers.get("range"))
        if method == "GET":
            return _reply({"files": self._found(query["q"], query.get("orderBy", "name"))})
        if method == "POST":
            meta = json.loads(body)
            return _reply(self.files[self.make(meta["name"], meta["parents"][0])])
        assert method == "PATCH", (method, url)
        self.files[key] |= json.loads(body)
        return _reply(self.files[key])

    def _found(self, query: str, order: str) -> list[dict]:
        assert "trashed = false" in query
        parent = re.search(r"'([^']+)' in parents", query)[1]
        name = re.search(r"name = '((?:[^'\\]|\\.)*)'", query)
        found = [one for one in self.files.values() if parent in one["parents"] and not one["trashed"]]
        if name:
            found = [one for one in found if one["name"] == re.sub(r"\\(.)", r"\1", name[1])]
        field, _, direction = order.partition(" ")
        return sorted(found, key=lambda one: one[field], reverse=direction == "desc")

    def _chunk(self, token: str, data: bytes, where: str):
        key, meta, buffer = self.uploads[token]
        buffer += data
        self.uploads[token] = (key, meta, buffer)
        whole = re.search(r"/(\d+)$", where)
        if where and (not whole or len(buffer) < int(whole[1])):
            return _reply(None, 308, range=f"bytes=0-{len(buffer) - 1}")
        if not key:
            key = self.make(meta["name"], meta["parents"][0], b"")
        self._fill(key, buffer)
        return _reply(self.files[key])

    def _media(self, key: str, span: str | None):
        data = self.content[key]
        if span is None:
            return httplib2.Response({"status": 200}), data
        first, last = map(int, re.match(r"bytes=(\d+)-(\d+)", span).groups())
        if first >= len(data):
            return httplib2.Response({"status": 416, "content-range": f"bytes */{len(data)}"}), b""
        piece = data[first : last + 1]
        where = f"bytes {first}-{first + len(piece) - 1}/{len(data)}"
        return httplib2.Response({"status": 206, "content-range": where}), piece


def _reply(value, status: int = 200, **headers):
    content = b"" if value is None else json.dumps(value).encode()
    return httplib2.Response({"status": status, "content-type": "application/json", **headers}), content
