"""A Hugging Face Hub on loopback, as far as the real client needs one to send, list and read files of a repository."""

import base64
import hashlib
import json
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import yaml


class Hub:
    """One repository, which only the token "hf_token", that of someone, may write to; `there`: it exists already.

    `faults`: [method, part of the path, status, how many times], with the status 0 for a connection that is cut.
    """

    def __init__(self, repository: str = "datasets/someone/lab", there: bool = True):
        self.repository, self.there, self.private = repository, there, True
        self.files, self.large, self.commits, self.sent, self.faults = {}, {}, [], 0, []
        self.puts = []  # the SHA-256 of each large file sent
        self.kept, self.says = {}, "injected"  # commit → its files; with what words a fault is answered
        self.user = {"name": "someone", "orgs": [], "auth": {"accessToken": {"role": "write"}}}
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def sha(self) -> str:
        return f"{len(self.commits):040x}"

    def commit(self, lines: list[dict]) -> None:
        changed = []
        for key, value in ((line["key"], line["value"]) for line in lines):
            if key == "file":
                self.files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                self.files[value["path"]] = self.large[value["oid"]]
            elif key == "deletedFile":
                del self.files[value["path"]]
            if key != "header":
                changed.append(value["path"])
        self.commits.append(changed)
        self.kept[self.sha] = dict(self.files)

    def tree(self, folder: str) -> list[dict] | None:
        inside = {path: data for path, data in self.files.items() if not folder or path.startswith(folder + "/")}
        if folder and not inside:
            return None
        names = {path[len(folder) + bool(folder) :].split("/")[0] for path in inside}
        paths = [f"{folder}/{name}".lstrip("/") for name in sorted(names)]
        return [self.entry(path) for path in paths]

    def entry(self, path: str) -> dict:
        kind = (
            {"type": "file", "size": len(self.files[path])} if path in self.files else {"type": "directory", "size": 0}
        )
        return {"path": path, "oid": hashlib.sha1(path.encode()).hexdigest(), **kind}

    def oid(self, path: str) -> str | None:
        """As the preupload tells it: of a large file the SHA-256, of a small one git's SHA-1."""
        if (data := self.files.get(path)) is None:
            return None
        return _oid(data) if _large(len(data)) else hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    def info(self) -> dict:
        card = re.match(r"---\n(.*?)---\n", self.files.get("README.md", b"").decode(), re.DOTALL)
        card = yaml.safe_load(card[1]) if card else {}
        return {
            "id": self.repository.removeprefix("datasets/"),
            "sha": self.sha,
            "private": self.private,
            "tags": card.get("tags", []),
            "cardData": card,
            "siblings": [{"rfilename": path} for path in sorted(self.files)],
        }


def _large(size: int) -> bool:
    return size > 999


def _oid(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, value=None, status=200, raw=None, **headers):
        body = raw if raw is not None else json.dumps(value).encode()
        self.send_response(status)
        for key, text in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key.replace("_", "-"), text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def missing(self, code: str):
        self.answer({"error": code}, 404, X_Error_Code=code)

    def fault(self, path: str) -> int | None:
        for one in self.hub.faults:
            if one[0] == self.command and one[1] in path and one[3]:
                one[3] -= 1
                return one[2]
        return None

    def body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def handle_any(self):
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        fault = self.fault(path)
        if fault == 0:
            if self.command in ("POST", "PUT"):
                self.rfile.read1(99)
            self.close_connection = True
            return self.connection.shutdown(socket.SHUT_RDWR)
        body = self.body()
        if fault:
            return self.answer({"error": hub.says}, fault)
        if self.command == "PUT" and path.startswith("/large/"):
            hub.large[_oid(body)] = body
            hub.sent += len(body)
            hub.puts.append(_oid(body))
            return self.answer({})
        may_write = self.headers.get("Authorization") == "Bearer hf_token"
        if path == "/api/whoami-v2":
            return self.answer(hub.user) if may_write else self.answer({"error": "Invalid user token."}, 401)
        if path == "/api/validate-yaml":
            return self.answer({})
        if path == "/api/repos/create" and may_write:
            asked = json.loads(body)
            if f"{asked['organization']}/{asked['name']}" != hub.repository:
                return self.answer({"error": "You don't have the rights to create a model here"}, 403)
            if hub.there:
                return self.answer({"error": "exists", "url": f"{hub.address}/{hub.repository}"}, 409)
            hub.there, hub.private = True, asked.get("visibility") == "private"
            return self.answer({"url": f"{hub.address}/{hub.repository}"})
        found = re.fullmatch(rf"(?:/api)?(?:/models)?/{hub.repository}(\.git)?(?:/(.*))?", path)
        if not found or not hub.there:
            return self.missing("RepoNotFound")
        what = found[2] or ""
        if self.command == "POST" and not may_write:
            return self.answer({"error": "forbidden"}, 403)
        if what.startswith("preupload/"):
            modes = [
                {
                    "path": one["path"],
                    "shouldIgnore": False,
                    "uploadMode": "lfs" if _large(one["size"]) else "regular",
                    "oid": hub.oid(one["path"]),
                }
                for one in json.loads(body)["files"]
            ]
            return self.answer({"files": modes})
        if what.endswith("objects/batch"):
            objects = [dict(one) for one in json.loads(body)["objects"]]
            for one in objects:
                if one["oid"] not in hub.large:
                    one["actions"] = {"upload": {"href": f"{hub.address}/large/{one['oid']}"}}
            return self.answer({"objects": objects, "transfer": "basic"})
        if what.startswith("commit/"):
            lines = [json.loads(line) for line in body.splitlines()]
            if lines[0]["value"].get("parentCommit", hub.sha) != hub.sha:
                return self.answer({"error": "A commit has happened since"}, 412)
            hub.commit(lines)
            url = f"{hub.address}/{hub.repository}/commit/{hub.sha}"
            return self.answer({"success": True, "commitOid": hub.sha, "commitUrl": url})
        if what.startswith("paths-info/"):
            asked = parse_qs(body.decode())["paths"]
            return self.answer([hub.entry(path) for path in asked if path in hub.files or hub.tree(path)])
        if tree := re.match(r"tree/(?:main|[0-9a-f]{40})/?", what):
            listed = hub.tree(what[tree.end() :])
            return self.answer(listed) if listed is not None else self.missing("EntryNotFound")
        if resolve := re.match(r"resolve/(main|[0-9a-f]{40})/", what):
            data = hub.kept.get(resolve[1], hub.files).get(what[resolve.end() :])
            if data is None:
                return self.missing("EntryNotFound")
            tag = f'"{_oid(data)}"'
            if span := re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
                data = data[int(span[1]) : int(span[2] or len(data)) + 1]
            return self.answer(raw=data, ETag=tag, X_Repo_Commit=hub.sha)
        return self.answer(hub.info())

    do_GET = do_HEAD = do_POST = do_PUT = handle_any
