"""A Hugging Face Hub on loopback, as far as the real client needs one to send, list and read files of a dataset."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit


class Hub:
    """One repository, datasets/someone/lab, which only the token "hf_token" may write to."""

    def __init__(self):
        self.files, self.large, self.commits, self.sent, self.faults = {}, {}, [], 0, []
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def commit(self, lines: list[dict]) -> None:
        changed = []
        for key, value in ((line["key"], line["value"]) for line in lines):
            if key == "file":
                self.files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                self.files[value["path"]] = self.large[value["oid"]]
            if key != "header":
                changed.append(value["path"])
        self.commits.append(changed)

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

    def handle_any(self):
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        for fault in hub.faults:
            if fault[0] == self.command and fault[1] in path and fault[3]:
                fault[3] -= 1
                return self.answer({"error": "injected"}, fault[2])
        if self.command == "PUT" and path.startswith("/large/"):
            hub.large[path.rpartition("/")[2]] = body
            hub.sent += len(body)
            return self.answer({})
        found = re.fullmatch(r"(?:/api)?/datasets/someone/lab(\.git)?(?:/(.*))?", path)
        if not found:
            return self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
        what = found[2] or ""
        if self.command == "POST" and self.headers.get("Authorization") != "Bearer hf_token":
            return self.answer({"error": "forbidden"}, 403)
        if what.startswith("preupload/"):
            asked = json.loads(body)["files"]
            modes = [
                {"path": one["path"], "shouldIgnore": False, "uploadMode": "lfs" if one["size"] > 999 else "regular"}
                for one in asked
            ]
            return self.answer({"files": modes})
        if what.endswith("objects/batch"):
            objects = [dict(one) for one in json.loads(body)["objects"]]
            for one in objects:
                if one["oid"] not in hub.large:
                    one["actions"] = {"upload": {"href": f"{hub.address}/large/{one['oid']}"}}
            return self.answer({"objects": objects, "transfer": "basic"})
        if what.startswith("commit/"):
            hub.commit([json.loads(line) for line in body.splitlines()])
            url = f"{hub.address}/datasets/someone/lab/commit/{len(hub.commits)}"
            return self.answer({"success": True, "commitOid": str(len(hub.commits)), "commitUrl": url})
        if what.startswith("paths-info/"):
            asked = parse_qs(body.decode())["paths"]
            return self.answer([hub.entry(path) for path in asked if path in hub.files or hub.tree(path)])
        if what.startswith("tree/main"):
            listed = hub.tree(what[len("tree/main/") :])
            missing = {"status": 404, "X_Error_Code": "EntryNotFound"}
            return self.answer(listed) if listed is not None else self.answer({"error": "no entry"}, **missing)
        if what.startswith("resolve/main/"):
            data = hub.files.get(what[len("resolve/main/") :])
            if data is None:
                return self.answer({"error": "no entry"}, 404, X_Error_Code="EntryNotFound")
            if span := re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
                data = data[int(span[1]) : int(span[2] or len(data)) + 1]
            return self.answer(raw=data, ETag='"x"', X_Repo_Commit="0" * 40)
        return self.answer({"id": "someone/lab", "sha": "0" * 40, "private": True, "tags": [], "siblings": []})

    do_GET = do_HEAD = do_POST = do_PUT = handle_any
