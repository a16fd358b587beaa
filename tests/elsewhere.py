"""Places to try things on: S3 by moto's server on loopback, Google Drive in memory, memory://, a folder.

A test module has these fixtures by `pytest_plugins = ["elsewhere"]`.
"""

import itertools
import socket

import fsspec
import httplib2
import pytest
from drive import Drive

NUMBERS = itertools.count()


class Faulty:
    """A WSGI application in front of another, which answers some requests wrongly, or cuts them off."""

    def __init__(self, app):
        self.app, self.faults, self.log = app, [], []

    def fail(self, method: str, part: str, status: int, code: str = "Injected", times: int = 1) -> None:
        """Answer `status` so many `times` where `part` is in the path; 0 cuts the connection, midway through a body."""
        self.faults.append([method, part, status, code, times])

    def __call__(self, environ, start_response):
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"] + "?" + environ["QUERY_STRING"]
        self.log.append((method, path))
        for fault in self.faults:
            if fault[0] == method and fault[1] in path and fault[4]:
                fault[4] -= 1
                if not fault[2]:
                    return self._cut(environ, start_response)
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
                start_response(f"{fault[2]} Injected", [("Content-Type", "application/xml")])
                return [f"<Error><Code>{fault[3]}</Code><Message>injected</Message></Error>".encode()]
        return self.app(environ, start_response)

    def _cut(self, environ, start_response):
        if environ["REQUEST_METHOD"] == "GET":
            body = b"".join(self.app(environ, start_response))
            yield body[: len(body) // 2]
        else:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0) // 2)
            start_response("200 OK", [])
            yield b""
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="session")
def moto_server():
    from moto.moto_server.threaded_moto_server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    faulty = server._server.app = Faulty(server._server.app)
    faulty.address = "http://{}:{}".format(*server.get_host_and_port())
    yield faulty
    server.stop()


@pytest.fixture
def s3(moto_server, monkeypatch):
    """`.url` of a new bucket, `.fail(…)` to inject faults."""
    import boto3

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # botocore's own tries before ours, seconds each
    monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": moto_server.address})  # FSSPEC_S3_ENDPOINT_URL
    bucket = f"bucket-{next(NUMBERS)}"
    boto3.client("s3", endpoint_url=moto_server.address).create_bucket(Bucket=bucket)
    moto_server.faults.clear()
    moto_server.log.clear()
    moto_server.url = f"s3://{bucket}/lab"
    return moto_server


@pytest.fixture
def drive(monkeypatch):
    """A Drive; `.url` of a folder that is not there yet."""
    one = Drive()
    monkeypatch.setattr(httplib2.Http, "request", lambda http, *args, **more: one.request(http, *args, **more))
    monkeypatch.setitem(fsspec.config.conf, "gdrive", {"token": "anon"})  # FSSPEC_GDRIVE_TOKEN
    one.url = "gdrive://lab/features"
    return one


@pytest.fixture
def memory() -> str:
    """The URL of an empty place in this process."""
    return f"memory://lab-{next(NUMBERS)}/features"


@pytest.fixture(params=["folder", "memory", "s3", "drive"])
def anywhere(request, tmp_path) -> str:
    """The URL of an empty place of each kind."""
    if request.param == "folder":
        return str(tmp_path / "there" / "lab")
    found = request.getfixturevalue(request.param)
    return found if request.param == "memory" else found.url
