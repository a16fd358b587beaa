import contextlib
import os
import pickle
import re
import signal
import socket
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from whisper_lab import LabError, files
from whisper_lab.corpora import corpus
from whisper_lab.speech.features import Extract, FrontEnd
from whisper_lab.stores import cluster, engine, store

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")
VERSIONS = tuple(files.versions().items())
SHARD = 4  # clips
PROMPT = {  # the head gives up a silent node after 2 s, not 20
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 3,
}


@pytest.fixture
def by_value():
    """Tasks of this file go to the workers as they are: the workers have the package, not the tests."""
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture
def nodes(by_value, monkeypatch):
    """A Ray cluster of two nodes with one CPU each; this process counts as being on the first."""
    from ray.cluster_utils import Cluster

    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)  # not tmp_path, which is too long for Ray's sockets
        head = {"num_cpus": 1, "include_dashboard": False, "_system_config": PROMPT}
        nodes = Cluster(initialize_head=True, head_node_args=head)
        nodes.add_node(num_cpus=1)
        yield nodes
        nodes.shutdown()


def jobs(folder: Path, count: int) -> list[store.Job]:
    return [store.Job(folder / str(i), [], "") for i in range(count)]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@dataclass(frozen=True)
class Fail:
    error: Exception

    def __call__(self, job: store.Job):
        job.path.write_text("")
        if job.path.name == "2":
            raise self.error


@dataclass(frozen=True)
class Mishap:
    """Extract, slowly; the first process to come to `deadly` is killed. A journal says who began which clip."""

    extract: Extract
    journal: Path
    deadly: str

    def __call__(self, clip: dict) -> dict:
        first = clip["id"] not in [begun for begun, _, _ in self.begun()]
        with open(self.journal, "a") as file:
            file.write(f"{clip['id']} {os.getpid()} {os.getppid()}\n")
        if clip["id"] == self.deadly and first:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.05)
        return self.extract(clip)

    def begun(self) -> list[tuple[str, int, int]]:
        """(clip, process, raylet: the process over all workers of its node), in the order of time."""
        lines = self.journal.read_text().splitlines() if self.journal.exists() else []
        return [(clip, int(process), int(raylet)) for clip, process, raylet in map(str.split, lines)]


def test_ray_on_this_machine_raises_the_errors_of_the_task_and_leaves_nothing_behind(by_value, tmp_path, capfd):
    before = set(Path("/tmp").glob("ray-*"))
    with pytest.raises(LabError, match="^do it otherwise$") as raised:
        list(cluster.Ray(workers=1).run(Fail(LabError("do it otherwise")), jobs(tmp_path, 4)))
    assert raised.value.__cause__ is None and raised.value.__context__ is None
    assert set(Path("/tmp").glob("ray-*")) == before and not list(tmp_path.glob(".partial-*"))
    assert capfd.readouterr() == ("", "")


def test_a_killed_worker_and_a_lost_node_lose_nothing(nodes, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(store, "CLIPS_PER_SHARD", SHARD)
    splits, extract = {}, Extract(FrontEnd())
    for split, count in (("train", 7 * SHARD), ("dev", 2 * SHARD)):
        clips = corpus.read("sample", "sv-SE", [split], limit=count).splits[split]
        splits[split] = [vars(clip) | {"labels": [1, 2, 3]} for clip in clips]
    splits["dev"][3]["path"] += ".gone"
    settings = {"corpus": {"name": "test"}, "front_end": FrontEnd().settings()}
    store.build(tmp_path / "here", settings, splits, extract, engine.Local(1))

    node = next(iter(nodes.worker_nodes))
    raylet = node.all_processes["raylet"][0].process.pid
    task, before = Mishap(extract, tmp_path / "journal", splits["train"][2]["id"]), []

    def lose_the_node(clips: int) -> None:
        """Once the first shard is there, and the node amid one: as if its power was cut."""
        while clips and not before and time.monotonic() < late:
            begun = task.begun()
            process = next((process for _, process, parent in reversed(begun) if parent == raylet), None)
            if [process for _, process, _ in begun].count(process) % SHARD == 2 and task.deadly != begun[-1][0]:
                os.kill(process, signal.SIGKILL)
                nodes.remove_node(node, allow_graceful=False)
                before.extend(begun)
            time.sleep(0.005)

    late = time.monotonic() + 60
    store.build(tmp_path / "there", settings, splits, task, cluster.Ray(nodes.address), lose_the_node)
    after = [clip for clip, _, parent in task.begun()[len(before) :] if parent != raylet]
    lost = [clip for clip, _, parent in before if parent == raylet]
    assert lost and set(lost[-2:]) <= set(after), "the node was amid a shard"
    assert [clip for clip, _, _ in task.begun()].count(task.deadly) >= 2, "a worker was killed"
    assert contents(tmp_path / "there") == contents(tmp_path / "here")
    assert capfd.readouterr() == ("", "")


def outcome(task, seen: list, versions=VERSIONS):
    job = pickle.dumps(store.Job(Path("/nowhere/2"), [], ""))
    with contextlib.chdir("/"):  # where a worker goes for good, and the tests after these must not stay
        result, error = pickle.loads(cluster._work(task, "/", versions, {"job": job, "seen": seen})["outcome"])
    assert (result is None) != (error is None)
    return result if error is None else error


def test_a_machine_that_does_not_see_the_files_does_not_touch_the_job(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    here.touch()
    assert outcome(str, [str(here)]) == "Job(path=PosixPath('/nowhere/2'), clips=[], settings='')"
    error = outcome(str, [str(here), str(there)])
    assert isinstance(error, LabError) and f"does not see {there}" in str(error) and "\n" not in str(error)


def test_the_first_clip_that_is_here_has_to_be_there_too(tmp_path):
    (tmp_path / "b").touch()
    clips = [{"path": str(tmp_path / name)} for name in "abc"]
    assert cluster._first_clip(store.Job(tmp_path, clips, "")) == [str(tmp_path / "b")]
    assert cluster._first_clip(store.Job(tmp_path, clips[:1], "")) == []


def test_a_machine_with_other_libraries_does_not_touch_the_job():
    error = outcome(str, [], tuple((dict(VERSIONS) | {"torch": "1.0"}).items()))
    assert isinstance(error, LabError) and re.search(r"has torch \S+ instead of 1.0; install", str(error))


def test_a_bug_keeps_its_type_and_brings_its_traceback():
    error = outcome(lambda job: {}["key"], [])
    assert type(error) is KeyError and error.args == ("key",)
    assert "Traceback" in error.__notes__[0] and "test_cluster.py" in error.__notes__[0]


def test_no_job_needs_no_ray(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert list(cluster.Ray().run(str, [])) == []


def test_without_ray_its_installation_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(LabError, match=re.escape('pip install "ray[data]==2.60.0"')):
        list(cluster.Ray().run(str, jobs(tmp_path, 1)))


@pytest.mark.parametrize("kind", ["closed", "silent", "something else", "no port"])
def test_no_cluster_is_one_line_soon(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        if kind == "closed":
            server.close()
        if kind == "something else":
            server.settimeout(5)
            threading.Thread(target=lambda: server.accept()[0].sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")).start()
        if kind == "no port":
            address = "auto"
        began = time.monotonic()
        with pytest.raises(LabError, match=f"no Ray cluster can be reached at {address}.*ray start --head") as error:
            list(cluster.Ray(address).run(str, jobs(tmp_path, 1)))
    assert time.monotonic() - began < 5 and "\n" not in str(error.value)
