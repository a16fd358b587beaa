"""What an error of any client means: it may pass, or a user has to mend it and this is how."""

import http.client
import socket
import ssl
from contextlib import contextmanager

from . import LabError

WAYS_IN = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY of a user who may read and write there",
    "gs": "run `gcloud auth application-default login` as a user who may read and write there",
    "hf": "set HF_TOKEN to a token with write access, https://huggingface.co/settings/tokens",
    "gdrive": "set FSSPEC_GDRIVE_TOKEN=browser to sign in anew, or FSSPEC_GDRIVE_TOKEN=service_account with "
    "FSSPEC_GDRIVE_CREDS=KEY.json of an account with which the folder is shared",
}
WAYS_IN |= {"s3a": WAYS_IN["s3"], "gcs": WAYS_IN["gs"]}
NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "TokenRetrievalError"}  # botocore's
NO_CREDENTIALS |= {"PyDataCredentialsError", "LocalTokenNotFoundError"}  # of Google's sign-in, of the Hub
# Whose errors without a status are of the connection:
CLIENTS = {"aiohttp", "httpcore", "httplib2", "httpx", "httpx2", "requests", "urllib3"}
CUT = (ConnectionError, TimeoutError, EOFError, http.client.HTTPException, ssl.SSLError, socket.gaierror)
TRY_AGAIN = {408, 409, 412, 423, 425, 429}  # 409 and 412: two commits met at the Hub; 423: locked for a moment


class Busy(Exception):
    """A server that asks to come back later, in other words than those of HTTP."""

    status_code = 429


def status(error: BaseException) -> int | None:
    """The HTTP status that an error of any client carries, or that of the error behind it."""
    for one in _behind(error):
        response = getattr(one, "response", None)
        if isinstance(response, dict):  # botocore
            code = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        elif response is not None:  # requests, httpx, huggingface_hub, hopsworks
            code = getattr(response, "status_code", None)
        else:  # googleapiclient, aiohttp, gcsfs
            code = getattr(one, "status_code", None) or getattr(one, "status", None) or getattr(one, "code", None)
        if str(code).isdecimal() and int(code) >= 400:
            return int(code)
    return None


def may_pass(error: BaseException) -> bool:
    """Whether trying again may help: too many requests, a server's own fault, a connection that was cut."""
    if isinstance(error, LabError | FileNotFoundError | PermissionError):
        return False
    if code := status(error):
        return code in TRY_AGAIN or code >= 500
    return any(isinstance(one, CUT) or type(one).__module__.split(".")[0] in CLIENTS for one in _behind(error))


@contextmanager
def explained(url: str):
    """Turn what a user has to mend into a LabError that says how."""
    try:
        yield
    except LabError:
        raise
    except Exception as error:
        way_in = WAYS_IN.get(url.partition("://")[0], "check the address, and who may write there")
        if no_container(error):
            raise LabError(f"{url}: there is no such bucket or repository; make it first, or {way_in}") from error
        if isinstance(error, FileNotFoundError):
            raise
        if isinstance(error, PermissionError) or status(error) in (401, 403) or _signed_out(error):
            raise LabError(f"{url}: access refused ({in_a_line(error)}); {way_in}") from error
        if status(error) == 404:
            raise LabError(f"{url} is not there ({in_a_line(error)}); check the address, or {way_in}") from error
        raise


def in_a_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:199] + "…"


def _behind(error: BaseException | None):
    """The error, and those that it was raised from."""
    while error:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _signed_out(error: BaseException) -> bool:
    """Whether the client has no credentials, or such as are not taken any more."""
    kinds = {(type(one).__module__, type(one).__name__) for one in _behind(error)}
    return any(
        name in NO_CREDENTIALS or module == "google.auth.exceptions" and name != "TransportError"
        for module, name in kinds
    )


def no_container(error: BaseException) -> bool:
    """Whether what is not there is the bucket or repository that the place would be in."""
    for one in _behind(error):
        response = getattr(one, "response", None)
        if isinstance(response, dict) and response.get("Error", {}).get("Code") == "NoSuchBucket":
            return True
        if type(one).__name__ in ("RepositoryNotFoundError", "BucketNotFoundError"):  # huggingface_hub
            return True
    return False
