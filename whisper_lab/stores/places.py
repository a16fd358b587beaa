"""Folders elsewhere: any fsspec URL, Google Drive, Hopsworks. Every library finds its credentials as it always does.

    a path, file://                 a folder of this machine
    s3://BUCKET/FOLDER              AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY or ~/.aws; AWS_ENDPOINT_URL if not Amazon's
    gs://BUCKET/FOLDER              `gcloud auth application-default login`
    hf://datasets/USER/NAME/FOLDER  HF_TOKEN, or `hf auth login`; see hub_place.py
    gdrive://FOLDER                 FSSPEC_GDRIVE_TOKEN, see drive_place.py
    hopsworks://PROJECT/Resources/… HOPSWORKS_HOST, HOPSWORKS_API_KEY, see hopsworks_place.py

fsspec hands FSSPEC_<PROTOCOL>_<OPTION> on to any filesystem as that option, and reads ~/.config/fsspec:
https://filesystem-spec.readthedocs.io/en/latest/features.html#configuration
"""

from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path

from .. import LabError, faults

CHUNK = 4 << 20  # bytes that are sent or received between two reports of progress, where the client leaves the choice

PACKAGES = {  # s3fs and gcsfs have fsspec's own version, which hopsworks holds below 2025.12
    "s3": "s3fs==2025.10.0",
    "s3a": "s3fs==2025.10.0",
    "gs": "gcsfs==2025.10.0",
    "gcs": "gcsfs==2025.10.0",
    "gdrive": "gdrive-fsspec==0.4.1",
}
MULTIPART = {"s3", "s3a", "gs", "gcs"}
OBJECT_STORES = MULTIPART | {"hf", "abfs", "az"}  # have no folders to make; s3fs.makedirs() would make the bucket


class Place:
    """A folder somewhere, by its URL. Files in it are named relative to it: "v1/train-00000-of-00002.parquet".

    Its methods may be called from several threads. They raise LabError for what a user has to mend (401, 403, a bucket
    that is not there), FileNotFoundError for a name that is not there, and the client's own error otherwise;
    `faults.may_pass(error)` says of the last whether to try again.
    """

    url: str

    def sizes(self) -> dict[str, int]:
        """Every file under the place → its bytes, asked for anew. {} if nothing is there, and never on an error."""
        raise NotImplementedError

    def put(self, file: Path, name: str, sent: Callable[[int], None] = lambda count: None) -> None:
        """Send a local file. What `name` held before is gone afterwards: there are never two files of one name.

        `sent` is told of bytes as they go; all together they are the file's, if this returns. After an exception the
        place may hold a file of that name that is the old one, the new one, none, or cut short; then its size tells.
        """
        raise NotImplementedError

    def get(self, name: str, file: Path, got: Callable[[int], None] = lambda count: None) -> None:
        """Fetch into the local path `file`, and write nowhere else; telling `got` of bytes as they come.

        What an exception leaves in `file` is the caller's to remove; checking what came is the caller's too.
        """
        raise NotImplementedError

    def read(self, name: str) -> bytes:
        """A small file's content."""
        raise NotImplementedError

    def remove(self, name: str) -> None:
        """Every file of that name, if there is one."""
        raise NotImplementedError


def is_url(text: str | Path) -> bool:
    """Whether `text` names a place elsewhere (or file://), and not a path."""
    return "://" in str(text)


def open_place(url: str | Path) -> Place:
    """The place of a URL or path; nothing has to be there yet.

    Raises LabError for a protocol that is not known, and where its package is missing or finds no credentials.
    """
    protocol = str(url).partition("://")[0] if is_url(url) else "file"
    url = str(url).rstrip("/") if is_url(url) else str(Path(url).expanduser().absolute())
    if protocol == "hopsworks":
        from .hopsworks_place import HopsworksPlace

        return HopsworksPlace(url)
    import fsspec

    try:
        fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        package = PACKAGES.get(protocol)
        way_out = f"pip install {package}" if package else str(error).rstrip(".")
        raise LabError(f"{url} needs a package that is not installed: {way_out}") from error
    except ValueError as error:
        known = "a path, s3://, gs://, gdrive://, hf:// or hopsworks://"
        raise LabError(f"{protocol}:// is no protocol that fsspec knows; use {known}") from error
    if protocol == "gdrive":
        from .drive_place import DrivePlace

        return DrivePlace(url)
    if protocol == "hf" and not url.startswith("hf://buckets/"):  # which have no commits
        from .hub_place import HubPlace

        return HubPlace(url, protocol)
    return FsspecPlace(url, protocol)


class FsspecPlace(Place):
    """A folder on a filesystem that fsspec reaches."""

    def __init__(self, url: str, protocol: str):
        import fsspec

        self.url, self.protocol = url, protocol
        with faults.explained(url):
            self.fs, root = fsspec.url_to_fs(url)
        self.root = root.rstrip("/")

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def sizes(self) -> dict[str, int]:
        self.fs.invalidate_cache()
        found, folders = {}, [self.root]
        while folders:  # not fs.find(), which leaves out what it has no access to
            folder = folders.pop()
            with faults.explained(self.url):
                try:
                    entries = self.fs.ls(folder, detail=True)
                except FileNotFoundError as error:
                    if faults.no_container(error):
                        raise
                    entries = []
            for entry in entries:
                path = entry["name"]
                if entry["type"] == "directory":
                    folders.append(path.rstrip("/"))
                elif path.startswith(self.root + "/") and not path.endswith("/"):  # S3 consoles mark folders so
                    found[path[len(self.root) + 1 :]] = entry["size"]
        return found

    def put(self, file: Path, name: str, sent: Callable[[int], None] = lambda count: None) -> None:
        path = self._path(name)
        options = {"chunksize": 2 * CHUNK} if self.protocol in MULTIPART else {}  # a part of S3's is 5 MiB or more
        with faults.explained(self.url), _reporting(sent, file) as callback:
            if self.protocol not in OBJECT_STORES:
                self.fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            self.fs.put_file(str(file), path, callback=callback, **options)

    def get(self, name: str, file: Path, got: Callable[[int], None] = lambda count: None) -> None:
        with faults.explained(self.url), _reporting(got, file) as callback:
            self.fs.get_file(self._path(name), str(file), callback=callback)

    def read(self, name: str) -> bytes:
        with faults.explained(self.url):
            return self.fs.cat_file(self._path(name))

    def remove(self, name: str) -> None:
        with faults.explained(self.url), suppress(FileNotFoundError):
            self.fs.rm_file(self._path(name))


@contextmanager
def _reporting(tell: Callable[[int], None], file: Path):
    """fsspec's callback that tells of bytes as they go; what a filesystem did not report is told at the end."""
    from fsspec.callbacks import Callback

    told = 0

    def hook(size, value, **_):
        nonlocal told
        if value > told:
            told, new = value, value - told
            tell(new)

    yield Callback(hooks={"tell": hook})
    hook(None, file.stat().st_size)
