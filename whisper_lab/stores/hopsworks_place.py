"""Hopsworks, by its own client: a folder in a project's dataset, the model registry, a feature group of the clips.

Its address and key come from the environment, see hopsworks_session.py. What hopsworks 5.2.1 does not do by itself is
done here and there: the engine is Python's even where pyspark is installed; `exists()`, which is False on every error,
decides nothing; listings go on after 1,000 files; a file is removed before it is sent anew, so what is cut short shows;
what importing it does to logging and warnings is undone; certificates are checked; a call without an answer ends.
"""

import importlib.util
import math
import re
import tempfile
import threading
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .. import LabError
from ..whisper import leaving
from . import hopsworks_session as session
from . import transfers
from .places import Place

EXTRA = 'pip install "hopsworks[python]==5.2.1"'
PAGE = 1000  # entries of a folder in one answer
BLOCK = 1 << 20  # bytes between two reports of a download
PAUSE = 1  # seconds until the client sends a refused chunk a second time
STAGING = ".temp"  # the server keeps the chunks of FILE in FILE.temp/ until the last has come
CLIPS = dict.fromkeys(("id", "split", "sentence", "client_id", "shard"), "string") | {"seconds": "double"}


class HopsworksPlace(Place):
    """hopsworks://PROJECT/Resources/FOLDER; the datasets of a project, such as Resources, are there already."""

    def __init__(self, url: str):
        """Raises LabError if the URL names no folder, and if there is no API key."""
        self.url = url
        self.project, self.path = parse(url)
        self.made, self.lock = set(), threading.Lock()
        session.api_key()

    def sizes(self) -> dict[str, int]:
        found, folders = {}, [self.path]
        with self._datasets() as api:
            if not session.stat(api, self.path):
                if not session.stat(api, dataset := self.path.split("/")[0]):
                    raise session.no_dataset(self.url, dataset)
                return {}
            while folders:
                folder = folders.pop()
                for entry in _entries(api, folder):
                    path = f"{folder}/{entry['name']}"
                    if not entry.get("dir"):
                        size = entry.get("size")
                        size = session.stat(api, path)["attributes"]["size"] if size is None else size
                        found[path[len(self.path) + 1 :]] = int(size)
                    elif not path.endswith(STAGING):
                        folders.append(path)
        return found

    def put(self, file: Path, name: str, sent: Callable[[int], None] = lambda count: None) -> None:
        folder, _, last = f"{self.path}/{name}".rpartition("/")
        with self._datasets() as api, tempfile.TemporaryDirectory() as scratch:
            source = Path(scratch) / last  # the client gives a file the name that it has here
            source.symlink_to(Path(file).resolve())
            self._make(api, folder)
            self._drop(api, f"{folder}/{last}")
            session.thread.sent = sent
            try:
                # One chunk after the other: the server takes those that a killed upload of the same name and size has
                # left for ours, and would join the old ones as soon as the last of the new ones is there.
                api.upload(str(source), folder, simultaneous_chunks=1, chunk_retry_interval=PAUSE)
            finally:
                session.thread.sent = None

    def get(self, name: str, file: Path, got: Callable[[int], None] = lambda count: None) -> None:
        with self._download(name) as response, open(file, "wb") as out:
            for block in response.iter_content(BLOCK):
                out.write(block)
                got(len(block))

    def read(self, name: str) -> bytes:
        with self._download(name) as response:
            return response.content

    def remove(self, name: str) -> None:
        with self._datasets() as api:
            self._drop(api, f"{self.path}/{name}")

    @contextmanager
    def _datasets(self):
        with session.explained(self.url), session.connected(self.project) as project:
            yield project.get_dataset_api()

    @contextmanager
    def _download(self, name: str):
        from hopsworks.client.exceptions import RestAPIError

        with self._datasets() as api:
            try:
                response = api.read_content(f"/{self.path}/{name}")  # it cuts off the first character
            except RestAPIError as error:
                if session.absent(error):
                    raise FileNotFoundError(f"{self.url}/{name}") from error
                raise
            with response:
                yield response

    def _make(self, api, folder: str) -> None:
        """Make the folder, below its dataset."""
        parts = folder.split("/")
        with self.lock:
            for path in ("/".join(parts[:depth]) for depth in range(2, len(parts) + 1)):
                if path not in self.made and not session.stat(api, path):
                    try:
                        api.mkdir(path)
                    except Exception:
                        if not session.stat(api, path):  # and nobody else has made it meanwhile
                            raise
                self.made.add(path)

    def _drop(self, api, path: str) -> None:
        if session.stat(api, path):
            api.remove(path)


def parse(url: str) -> tuple[str, str]:
    """The project, and what is named in it: "hopsworks://lab/Resources/features" → ("lab", "Resources/features")."""
    found = re.fullmatch(r"hopsworks://([^/]+)/(.*[^/])/*", url)
    if not found or {"", ".", ".."} & set(found[2].split("/")):
        raise LabError(
            f"{url} is neither hopsworks://PROJECT/Resources/FOLDER nor, of a model, hopsworks://PROJECT/NAME"
        )
    return found[1], found[2]


def register_model(folder: Path, project: str, name: str, metrics: dict[str, float], description: str = "") -> str:
    """A new version of the model `name` in the project's registry, of those of a folder's files that may leave this
    machine (`leaving.files`); the address to see it at.

    The name is written as Hopsworks takes names: "whisper-small-sv" → "whisper_small_sv". Raises LabError if it cannot
    be registered; then it is not there.
    """
    folder, url = Path(folder), f"hopsworks://{project}/{name}"
    if not (folder / "config.json").is_file():
        raise LabError(f"{folder} holds no model: there is no config.json; name the folder that training wrote")
    name, numbers = _plain(name), {key: float(value) for key, value in metrics.items() if math.isfinite(value)}

    def save() -> str:
        with (
            session.explained(url),
            session.connected(project) as found,
            tempfile.TemporaryDirectory() as scratch,
            session.unchanged(),
        ):
            if not session.stat(found.get_dataset_api(), "Models"):
                raise session.no_dataset(url, "Models")
            from hsml.engine import model_engine

            model_engine.tqdm = session.Bar
            for file, path in leaving.files(folder).items():
                Path(scratch, file).symlink_to(path.resolve())
            model = found.get_model_registry().torch.create_model(name, metrics=numbers, description=description)
            # Its own waits for 5 s at least, and where it does not wait at all, save() ends in an AttributeError.
            model._model_engine._poll_model_available = lambda saved, seconds: saved
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that there is no feature view to take a schema from
                return model.save(scratch).get_url()

    return transfers.ask(url, save)


def insert_clips(project: str, feature_group: str, table, version: int = 1) -> str:
    """Send clips' metadata, the columns of `CLIPS`, to an offline feature group; made if it is not there. Its address.

    `table` is a pyarrow Table or a pandas DataFrame, such as clips.parquet. From outside of Hopsworks rows go by Kafka,
    and a job of the cluster writes them into the group after this has returned. Raises LabError, before anything is
    made, without the packages for that.
    """
    frame = table.to_pandas() if hasattr(table, "to_pandas") else table
    if absent := [column for column in CLIPS if column not in frame.columns]:
        raise LabError(f"the clips have no column {absent[0]}, which the group is to hold; make the features again")
    if not importlib.util.find_spec("confluent_kafka"):
        raise LabError(f"the feature group of the clips needs Hopsworks' Kafka client, which is not installed: {EXTRA}")
    with (
        session.explained(f"hopsworks://{project}/{feature_group}"),
        session.connected(project) as found,
        session.unchanged(),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # that the group is new, that its Kafka may not be Hopsworks' own
        from hopsworks_common import util
        from hsfs.core import kafka_engine

        kafka_engine.tqdm = session.Bar
        group = _group(found, feature_group, version)
        group.insert(frame[list(CLIPS)].astype({"seconds": "float64"}), wait=False)
        return util._get_feature_group_url(group.feature_store_id, group.id)


def _entries(api, folder: str) -> Iterator[dict]:
    """The attributes of what is in a folder. list() gives paths only, and the first 1,000."""

    class Raw:
        from_response_json = staticmethod(lambda answer: [item["attributes"] for item in answer.get("items") or []])

    offset, page = 0, [{}]
    while page:
        count, page = api._list_dataset_path(folder, Raw, offset=offset, limit=PAGE)
        yield from page
        offset += len(page)
        if offset >= count and len(page) < PAGE:
            return


def _group(project, name: str, version: int):
    """The feature group for clips, made if it is not there."""
    from hsfs.feature import Feature

    group = project.get_feature_store().get_or_create_feature_group(
        name=_plain(name).lower(),
        version=version,
        description="The clips of a Whisper feature set: who says what for how long, and in which shard.",
        primary_key=["id"],
        hudi_precombine_key="id",
        features=[Feature(column, kind) for column, kind in CLIPS.items()],
        time_travel_format="HUDI",  # DELTA would be written to HopsFS itself, which few clusters open to the outside
        statistics_config=False,
    )
    if group.id is None:
        group.save()
    return group


def _plain(name: str) -> str:
    """Letters of ASCII, digits and underscores."""
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^A-Za-z0-9]+", "_", ascii_name).strip("_")
    if not plain or "/" in name:
        raise LabError(f"{name!r} is no name for Hopsworks, which takes letters, digits and _, as in whisper_small_sv")
    return plain
