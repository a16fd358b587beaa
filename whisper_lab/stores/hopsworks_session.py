"""Hopsworks' client, logged in: what it takes over is given back, and what it raises says what to do.

    HOPSWORKS_HOST                   my.cluster.example; without it, the hosted one
    HOPSWORKS_API_KEY                from https://HOST/account/audit/api-keys, with the scopes in `SCOPES`
    HOPSWORKS_PORT                   443 if not set
    HOPSWORKS_TRUST_STORE_PATH       the PEM file of who signed the host's certificate, if that is one's own
    HOPSWORKS_HOSTNAME_VERIFICATION  False: do not check the certificate; the client does not check by default, we do

hopsworks 5.2.1, https://github.com/logicalclocks/hopsworks-api
"""

import io
import logging
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

from tqdm import tqdm

from .. import LabError, faults

SCOPES = "PROJECT, DATASET_VIEW, DATASET_CREATE, DATASET_DELETE, MODELREGISTRY, FEATURESTORE, JOB, KAFKA"
HOSTED = "eu-west.cloud.hopsworks.ai"
SILENCE = (20, 300)  # seconds until a connection stands, and until the next byte of an answer
# Codes of the server, with whatever HTTP status they come (400 for a path that is not there): RESTCodes.java in
# https://github.com/logicalclocks/hopsworks/tree/master/hopsworks-rest-utils
NO_FILE, NO_DATASET, EXISTS, NO_PATH, FULL = 110008, 110011, 110012, 110018, 110055


class Unavailable(ConnectionError):
    """Hopsworks did not do it now, and may do it later."""

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


class _Login:
    """The client is one in all of a process, and knows one project at a time."""

    turn = threading.Condition()
    to: tuple = ()  # what it is logged in to
    project = None
    users = 0  # calls that are under way


thread = threading.local()  # `.sent` is told of what the client's bars are


class Bar(tqdm):
    """The client's bars are kept off the screen."""

    def __init__(self, *args, **options):
        self.sent = getattr(thread, "sent", None)
        super().__init__(*args, **options | {"disable": True})

    def update(self, count=1):
        if self.sent:
            self.sent(count)


@contextmanager
def connected(project: str) -> Iterator:
    """hopsworks' object for the project, logged in if need be; waits while calls to another project are under way."""
    settings = [(name, value) for name, value in os.environ.items() if name.startswith("HOPSWORKS_")]
    to = (project, os.getpid(), *sorted(settings))
    with _Login.turn:
        _Login.turn.wait_for(lambda: not _Login.users or _Login.to == to)
        if _Login.to != to:
            _Login.to = ()
            _Login.project = _login(project)
            _Login.to = to
        _Login.users += 1
    try:
        yield _Login.project
    finally:
        with _Login.turn:
            _Login.users -= 1
            _Login.turn.notify_all()


def api_key() -> str | None:
    """Raises LabError, where the client would ask at the terminal, if there is none."""
    key = os.environ.get("HOPSWORKS_API_KEY", "").strip()
    if not key and "REST_ENDPOINT" not in os.environ:  # within Hopsworks, there is a token
        raise LabError(
            f"HOPSWORKS_API_KEY is not set; make a key with the scopes {SCOPES} at "
            f"https://{_host()}/account/audit/api-keys"
        )
    return key or None


def _host() -> str:
    """With the port, if it is not 443."""
    host, port = os.environ.get("HOPSWORKS_HOST") or HOSTED, os.environ.get("HOPSWORKS_PORT", "443")
    return host if port == "443" else f"{host}:{port}"


def _login(name: str):
    key = api_key()
    host = os.environ.get("HOPSWORKS_HOST", "")
    if "://" in host:
        raise LabError(f"HOPSWORKS_HOST={host} is to be a name only: {host.partition('://')[2].strip('/')}")
    with unchanged():
        import hopsworks
        from hopsworks.client.exceptions import ProjectException
        from hopsworks_common import client
        from hopsworks_common.core import dataset_api

    dataset_api.tqdm = Bar
    try:
        with unchanged():
            # With pyspark installed, the client would choose Spark, and fail without a cluster of it around.
            project = hopsworks.login(project=name, api_key_value=key, engine="python", hostname_verification=True)
    except ProjectException as error:
        if error.__cause__.response.status_code not in (400, 403, 404):
            raise error.__cause__ from None
        known = [one["project"]["name"] for one in client._get_instance()._send_request("GET", ["project"])]
        if name in known:
            raise error.__cause__ from None
        raise LabError(
            f"there is no project {name} for this key at {_host()}; it opens: {', '.join(sorted(known)) or 'none'}"
        ) from error
    if project.name.casefold() != name.casefold():  # within Hopsworks, the client opens its own, whichever is asked for
        raise LabError(f"this is the project {project.name}, from where {name} cannot be opened; name {project.name}")
    client._get_instance()._session.mount("https://", _patient())
    return project


def _patient():
    """requests' connections, but no call waits for ever."""
    from requests.adapters import HTTPAdapter

    class Patient(HTTPAdapter):
        def send(self, request, timeout=None, **options):
            return super().send(request, timeout=timeout or SILENCE, **options)

    return Patient()


@contextmanager
def unchanged() -> Iterator[None]:
    """The root logger and the look of warnings stay as they are, and nothing is printed on stdout."""
    root = logging.getLogger()
    handlers, level, look = root.handlers[:], root.level, warnings.formatwarning
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        warnings.formatwarning = look


def absent(error) -> bool:
    """Whether the server says that there is no such file, folder or dataset."""
    code = getattr(error, "error_code", None)
    return code in (NO_FILE, NO_PATH, NO_DATASET) or (error.response.status_code == 404 and bool(code))


def stat(api, path: str) -> dict | None:
    """What the server says of a file or folder; None if it is not there, and an error if that is not known."""
    from hopsworks.client.exceptions import RestAPIError

    try:
        return api.get(path)
    except RestAPIError as error:
        if absent(error):
            return None
        raise


def no_dataset(url: str, name: str) -> LabError:
    return LabError(
        f"{url}: the project has no dataset {name}; use Resources, or make {name} in Hopsworks' file browser"
    )


@contextmanager
def explained(url: str) -> Iterator[None]:
    """Turn what a user has to mend into a LabError that says how, and what may pass into Unavailable."""
    try:
        yield
    except Exception as error:
        if meaning := _meaning(url, error):
            raise meaning from error
        raise


def _meaning(url: str, error: Exception) -> Exception | None:
    """What to raise in an error's place; None if that is the error itself."""
    text, reason = faults.in_a_line(error), getattr(error.args[0] if error.args else None, "reason", None)
    kind, library = type(error).__name__, type(error).__module__.split(".")[0]
    response = getattr(error, "response", None)
    if "CERTIFICATE_VERIFY_FAILED" in f"{error} {error.__cause__}":
        return LabError(
            f"{url}: the certificate of {_host()} is not known; set HOPSWORKS_TRUST_STORE_PATH to the PEM file of who "
            "signed it, or HOPSWORKS_HOSTNAME_VERIFICATION=False"
        )
    if type(reason).__name__ in ("NewConnectionError", "NameResolutionError") and not _Login.to:
        return LabError(f"{url}: nothing answers at {_host()}; set HOPSWORKS_HOST, and HOPSWORKS_PORT if it is not 443")
    if kind == "DatasetException" and error.__cause__ is None:  # upload() has found the file that was just removed
        return Unavailable(text, 409)
    if (
        library in ("hopsworks", "hopsworks_common", "hsfs", "hsml")
        and response is None
        and not isinstance(error, OSError)
    ):
        return LabError(f"{url}: {text}")
    if kind == "JSONDecodeError" and not _Login.to:
        return LabError(f"{url}: what answers at {_host()} is not Hopsworks; set HOPSWORKS_HOST")
    if kind != "RestAPIError":
        return None
    status, code = response.status_code, getattr(error, "error_code", None)
    try:
        said = response.json()
        said = said.get("usrMsg") or said.get("errorMsg") or response.reason
    except (ValueError, AttributeError):
        said = response.reason
    answer = f"Hopsworks answered {status} ({' '.join(str(said).split())[:200]})"
    if code == EXISTS:  # a first chunk that came, and whose answer did not
        return Unavailable(answer, 409)
    if code not in (NO_DATASET, FULL) and (status >= 500 or status in faults.TRY_AGAIN):
        return Unavailable(answer, status)
    answer = f"{url}: {answer}"
    if code == NO_DATASET:
        return no_dataset(url, url.split("/")[3])
    if code == FULL:
        return LabError(f"{answer}; free some room in the project, or ask its administrator for more")
    if status == 401:
        return LabError(f"{answer}; make a new HOPSWORKS_API_KEY at https://{_host()}/account/audit/api-keys")
    if status == 403:
        return LabError(f"{answer}; the key needs the scopes {SCOPES}, and its owner a role that may write")
    if status == 404 and not code:
        return LabError(f"{answer}; what answers at {_host()} is not Hopsworks; set HOPSWORKS_HOST")
    if status == 413:
        return LabError(
            f"{answer}; a proxy before it takes no chunks of 10 MiB, its administrator can raise that limit"
        )
    return LabError(answer)
