"""Hopsworks' own client against a server on the loopback, over TLS."""

import concurrent.futures
import io
import json
import os
import subprocess
import sys

import finished
import pyarrow
import pytest
from conftest import ROOT
from hopsworks_server import KEY, Hopsworks, Refusal, broker

from whisper_lab import LabError, faults
from whisper_lab.stores import hopsworks_place, hopsworks_session, publishing, transfers
from whisper_lab.stores.hopsworks_place import HopsworksPlace, insert_clips, parse, register_model
from whisper_lab.stores.places import open_place

MIB = 1 << 20
CHUNK = 10 * MIB  # of the client's uploads


@pytest.fixture
def server(tmp_path, monkeypatch):
    hopsworks = Hopsworks(tmp_path / "hopsworks")
    for name, value in hopsworks.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("REST_ENDPOINT", raising=False)
    monkeypatch.setattr(transfers, "PAUSES", (0.01,) * 4)
    monkeypatch.setattr(hopsworks_place, "PAUSE", 0.01)
    yield hopsworks
    hopsworks.close()


@pytest.fixture
def place(server) -> HopsworksPlace:
    return open_place("hopsworks://lab/Resources/features")


@pytest.fixture
def send(place, tmp_path):
    def send(name: str, content: bytes) -> list[int]:
        (tmp_path / "file").write_bytes(content)
        told = []
        place.put(tmp_path / "file", name, told.append)
        return told

    return send


def test_what_was_put_is_there_under_its_name_and_comes_back(place, send, tmp_path, server):
    contents = {"a.txt": b"one", "v1/b c/\u00e5.bin": bytes(range(256)) * 9, "v1/empty": b""}
    for name, content in contents.items():
        assert sum(send(name, content)) == len(content)
    assert place.sizes() == {name: len(content) for name, content in contents.items()}
    for name, content in contents.items():
        got = []
        place.get(name, tmp_path / "back", got.append)
        assert (tmp_path / "back").read_bytes() == content == place.read(name)
        assert sum(got) == len(content)
    assert (server.root / "lab/Resources/features/a.txt").read_bytes() == b"one"


@pytest.mark.parametrize("size", [2 * CHUNK, 2 * CHUNK + 1])
def test_files_of_one_chunk_and_more_arrive_whole(place, send, server, size):
    content = os.urandom(MIB) * (size // MIB) + b"x" * (size % MIB)
    told = send("shard", content)
    assert place.sizes() == {"shard": size} and sum(told) == size and len(told) == -(-size // CHUNK)
    assert (server.root / "lab/Resources/features/shard").read_bytes() == content


def test_the_new_content_replaces_the_old(place, send):
    for content in (b"a long one", b"short", b""):
        send("v1/name", content)
        assert place.sizes() == {"v1/name": len(content)} and place.read("v1/name") == content
    place.remove("v1/name")
    place.remove("v1/name")
    assert place.sizes() == {}


def test_a_folder_of_more_files_than_one_answer_lists_is_listed_whole(place, server):
    folder = server.root / "lab/Resources/features/v1"
    folder.mkdir(parents=True)
    for number in range(2 * hopsworks_place.PAGE + 1):
        (folder / f"{number}").touch()
    assert len(place.sizes()) == 2 * hopsworks_place.PAGE + 1


def test_what_is_not_there_is_told_from_an_error(place, send, tmp_path):
    assert place.sizes() == {}
    for act in (lambda: place.read("none"), lambda: place.get("none", tmp_path / "none")):
        with pytest.raises(FileNotFoundError):
            act()
    with pytest.raises(LabError, match="has no dataset Resorces"):
        HopsworksPlace("hopsworks://lab/Resorces/features").sizes()
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(LabError, match="has no dataset Resorces"):
        HopsworksPlace("hopsworks://lab/Resorces/features").put(tmp_path / "file", "v1/x")


@pytest.mark.parametrize("code", [110008, 110018])
def test_a_server_that_says_404_of_a_path_is_understood_too(place, server, code):
    server.fail(Refusal(404, code, "File not found."), "GET .*features$")
    assert place.sizes() == {}


FINAL = [
    (Refusal(401, 320002, "Api key not found"), "HOPSWORKS_API_KEY"),
    (Refusal(403, 320004, "No valid scope found for this invocation"), "DATASET_CREATE"),
    (404, "is not Hopsworks"),
    (413, "administrator"),
    (Refusal(400, 110028, "Name of dir is invalid"), "Name of dir is invalid"),
    (Refusal(500, 110055, "HopsFS storage is full"), "administrator"),
]
PASSING = [429, 500, 503, Refusal(412, 110041, "is being uploaded"), "cut"]


def acts(place, file):
    """What a place does, and the request of it that is to fail."""
    return [
        (place.sizes, "GET .*dataset/Resources/features$"),
        (place.sizes, "listing"),
        (lambda: place.put(file, "v2/x"), "GET .*x$"),
        (lambda: place.put(file, "v2/x"), "POST .*upload"),
        (lambda: place.put(file, "v1/x"), "DELETE"),
        (lambda: place.get("v1/x", file.parent / "back"), "download"),
        (lambda: place.read("v1/x"), "download"),
        (lambda: place.remove("v1/x"), "DELETE"),
    ]


@pytest.mark.parametrize(("answer", "way_out"), FINAL)
def test_what_a_user_has_to_mend_is_said_at_once(server, place, send, tmp_path, answer, way_out):
    send("v1/x", b"x")
    for act, request in acts(place, tmp_path / "file"):
        server.fail(answer, request, times=9)
        with pytest.raises(LabError, match=way_out) as error:
            act()
        assert "hopsworks://lab/Resources" in str(error.value) and "\n" not in str(error.value)
        server.faults.clear()


@pytest.mark.parametrize("answer", PASSING)
def test_what_may_pass_is_left_to_be_tried_again(server, place, send, tmp_path, answer):
    send("v1/x", b"x")
    for act, request in acts(place, tmp_path / "file"):
        server.fail(answer, request, times=2)  # the client tries a chunk twice by itself
        with pytest.raises(OSError) as error:
            act()
        assert faults.may_pass(error.value)
        server.faults.clear()
        act()
        assert set(place.sizes().values()) <= {1}
        send("v1/x", b"x")


def test_an_upload_that_failed_midway_shows_and_the_next_is_whole(server, place, send, tmp_path):
    first, second = os.urandom(MIB), os.urandom(MIB)
    seen = []
    original = server.upload

    def break_off(folder, form):
        seen.append(form["flowChunkNumber"])
        if form["flowChunkNumber"] == "3":
            raise Refusal(503)
        return original(folder, form)

    server.upload = break_off
    with pytest.raises(OSError):
        send("shard", first * 25)
    assert seen[:3] == ["1", "2", "3"]
    assert place.sizes() == {"shard": 0}  # and nothing of the chunks that wait beside it
    server.upload = original
    send("shard", second * 25)
    assert place.sizes() == {"shard": 25 * MIB} and place.read("shard") == second * 25


def test_a_first_chunk_whose_answer_was_lost_may_be_sent_again(server, place, send):
    server.fail("late cut", "POST .*upload")
    with pytest.raises(OSError) as error:
        send("x", b"content")
    assert faults.may_pass(error.value)
    send("x", b"content")
    assert place.read("x") == b"content"


def test_publishing_and_fetching_go_through_faults(server, tmp_path, monkeypatch):
    monkeypatch.setenv("WHISPER_LAB_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "set"
    folder.mkdir()
    contents = {f"train-{number:05d}.parquet": os.urandom(1000 + number) for number in range(12)}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    server.fail("cut", "POST .*upload", times=3)
    server.fail(503, "POST .*create")
    server.fail(429, "listing")
    url = publishing.publish(folder, "hopsworks://lab/Resources/deep/er/features")
    assert url == "hopsworks://lab/Resources/deep/er/features/v1"
    server.fail("half", "download.*train", times=2)
    fetched = publishing.fetch("hopsworks://lab/Resources/deep/er/features")
    assert {path.name: path.read_bytes() for path in fetched.glob("train*")} == contents
    (folder / "train-00000.parquet").write_bytes(b"other")
    assert publishing.publish(folder, "hopsworks://lab/Resources/deep/er/features").endswith("/v2")


def test_two_projects_at_a_time_get_each_its_own_files(server, tmp_path):
    (tmp_path / "file").write_bytes(b"x" * 100)

    def work(thread: str) -> None:
        place = HopsworksPlace(f"hopsworks://{thread.partition('-')[0]}/Resources/set")
        for number in range(4):
            place.put(tmp_path / "file", f"{thread}-{number}")

    names = ["lab-1", "other-1", "lab-2", "other-2"]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(work, names, timeout=30))
    for project in ("lab", "other"):
        there = {path.name: path.stat().st_size for path in (server.root / project / "Resources/set").iterdir()}
        assert there == {f"{one}-{number}": 100 for one in names if one.startswith(project) for number in range(4)}


def test_the_way_in_is_said(server, monkeypatch):
    with pytest.raises(LabError, match=r"no project none for this key at 127.0.0.1:\d+; it opens: lab, other"):
        open_place("hopsworks://none/Resources/x").sizes()
    server.fail(Refusal(403, 320004, "No valid scope found"), "getProjectInfo")
    with pytest.raises(LabError, match="answered 403 .*the scopes PROJECT"):
        open_place("hopsworks://lab/Resources/x").sizes()
    monkeypatch.setenv("HOPSWORKS_API_KEY", "wrong")
    with pytest.raises(LabError, match=r"answered 401 .*make a new HOPSWORKS_API_KEY at https://127.0.0.1:\d+/account"):
        open_place("hopsworks://lab/Resources/x").sizes()
    monkeypatch.delenv("HOPSWORKS_API_KEY")
    with pytest.raises(LabError, match=r"HOPSWORKS_API_KEY is not set; make a key .* at https://127.0.0.1:\d+/account"):
        open_place("hopsworks://lab/Resources/x")
    monkeypatch.setenv("HOPSWORKS_API_KEY", KEY)
    monkeypatch.setenv("HOPSWORKS_PORT", "1")
    with pytest.raises(LabError, match="nothing answers at 127.0.0.1:1; set HOPSWORKS_HOST"):
        open_place("hopsworks://lab/Resources/x").sizes()
    monkeypatch.setenv("HOPSWORKS_HOST", "https://127.0.0.1/")
    with pytest.raises(LabError, match="is to be a name only: 127.0.0.1$"):
        open_place("hopsworks://lab/Resources/x").sizes()


@pytest.mark.filterwarnings("ignore:Unverified HTTPS")
def test_a_certificate_that_is_not_known_is_refused_unless_told_otherwise(server, monkeypatch):
    place = open_place("hopsworks://lab/Resources/x")
    monkeypatch.delenv("HOPSWORKS_HOSTNAME_VERIFICATION", raising=False)
    assert place.sizes() == {}
    monkeypatch.delenv("HOPSWORKS_TRUST_STORE_PATH")
    with pytest.raises(LabError, match="set HOPSWORKS_TRUST_STORE_PATH"):
        place.sizes()
    monkeypatch.setenv("HOPSWORKS_HOSTNAME_VERIFICATION", "False")
    assert place.sizes() == {}


@pytest.mark.parametrize("answer", [500, 503, "cut"])
def test_a_login_that_failed_for_a_moment_is_made_again(server, place, answer):
    for request in ("GET variables/versions", "getProjectInfo", "credentials"):
        hopsworks_session._Login.to = ()
        server.fail(answer, request)
        with pytest.raises(OSError) as error:
            place.sizes()
        assert faults.may_pass(error.value)
        assert place.sizes() == {}


def test_parse():
    assert parse("hopsworks://lab/Resources/features/") == ("lab", "Resources/features")
    assert parse("hopsworks://lab/whisper-small-sv") == ("lab", "whisper-small-sv")
    for url in (
        "hopsworks://lab",
        "hopsworks://lab/",
        "hopsworks:///x",
        "hopsworks://lab/a/../b",
        "hopsworks://lab/a//b",
    ):
        with pytest.raises(LabError, match="hopsworks://PROJECT/"):
            parse(url)


QUIET = """
import logging, sys, warnings
before = (logging.getLogger().handlers[:], logging.getLogger().level, warnings.formatwarning)
from pathlib import Path
from whisper_lab.stores.hopsworks_place import HopsworksPlace, register_model
place = HopsworksPlace("hopsworks://lab/Resources/x")
Path("file").write_bytes(b"x" * 1000)
place.put(Path("file"), "v1/name")
place.get("v1/name", Path("back"))
Path("config.json").write_text("{}")
register_model(Path("."), "lab", "m", {"wer": 1.0})
assert before == (logging.getLogger().handlers[:], logging.getLogger().level, warnings.formatwarning)
assert "hopsworks" in sys.modules and "pyspark" not in sys.modules, "the engine is Spark's"
"""


def test_the_client_stays_off_the_screen_and_off_spark(server, tmp_path):
    (tmp_path / "pyspark" / "sql").mkdir(parents=True)
    (tmp_path / "pyspark" / "__init__.py").write_text("raise ImportError('no Spark here')")
    path = f"{tmp_path}{os.pathsep}{ROOT}"
    done = subprocess.run(
        [sys.executable, "-c", QUIET],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_server_that_stops_answering_is_left(server, place, monkeypatch):
    assert place.sizes() == {}
    monkeypatch.setattr(hopsworks_session, "SILENCE", (0.2, 0.2))
    server.fail("silence", "GET .*features$")
    with pytest.raises(OSError) as error:
        place.sizes()
    assert faults.may_pass(error.value)


@pytest.fixture
def model(tmp_path):
    return finished.husk(tmp_path / "model", finished.plan())


def test_a_model_is_registered_with_its_files_and_metrics(server, model):
    for version in (1, 2):
        url = register_model(model, "lab", "whisper-små.sv", {"wer": 21.5, "cer": float("nan")}, "Swedish")
        assert server.log[-1].startswith("PUT")  # and no waiting for what is registered already
        assert url.endswith(f"/p/119/models/whisper_sma_sv/{version}") and url.startswith("https://127.0.0.1:")
        known = server.models[f"whisper_sma_sv_{version}"]
        assert known["metrics"] == {"wer": 21.5} and known["description"] == "Swedish" and known["framework"] == "TORCH"
        files = server.root / f"lab/Models/whisper_sma_sv/{version}/Files"
        there = {path.relative_to(files).as_posix() for path in files.rglob("*") if path.is_file()}
        assert there == finished.LEAVES
        assert (files / "config.json").read_bytes() == (model / "config.json").read_bytes()


def test_a_model_is_registered_whole_or_not_at_all(server, model):
    server.fail("cut", "POST .*upload")
    server.fail(500, "POST .*upload")
    assert register_model(model, "lab", "m", {}).endswith("/models/m/1")
    for answer, request in ((403, "PUT .*modelregistries"), (413, "POST .*upload"), (500, "POST .*upload")):
        server.faults.clear()
        server.fail(answer, request, times=99)
        with pytest.raises(LabError):
            register_model(model, "lab", "m", {})
        assert set(server.models) == {"m_1"}
        assert [path.name for path in (server.root / "lab/Models/m").iterdir()] == ["1"]


def test_a_model_that_cannot_be_registered(server, model, tmp_path):
    with pytest.raises(LabError, match="no config.json"):
        register_model(tmp_path, "lab", "m", {})
    for name in ("a/b", "---", ""):
        with pytest.raises(LabError, match="is no name for Hopsworks"):
            register_model(model, "lab", name, {})
    (server.root / "lab/Models").rmdir()
    with pytest.raises(LabError, match="has no dataset Models"):
        register_model(model, "lab", "m", {})
    assert not server.models


CLIPS = pyarrow.table({
    "id": ["a", "b"], "split": ["train", "dev"], "row": [0, 0], "sentence": ["Hej på dig", "å"], "seconds": [1.5, 2.0],
    "client_id": ["x", "y"], "shard": ["train-0.parquet", "dev-0.parquet"],
})  # fmt: skip


def test_clips_need_the_extra_package_and_nothing_is_made_without_it(server, monkeypatch):
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    with pytest.raises(LabError, match=r'pip install "hopsworks\[python\]==5.2.1"'):
        insert_clips("lab", "clips", CLIPS)
    with pytest.raises(LabError, match="no column shard"):
        insert_clips("lab", "clips", CLIPS.drop(["shard"]))
    assert not server.groups


def test_the_clips_reach_kafka_as_the_group_says_and_its_job_is_started(server):
    import fastavro

    with broker() as (server.kafka, sent):
        insert_clips("lab", "clips", CLIPS)
        values = sent("clips_topic", CLIPS.num_rows)
    fields = [{"name": f["name"], "type": ["null", f["type"]]} for f in server.groups[0]["features"]]
    schema = fastavro.parse_schema({"type": "record", "name": "row", "fields": fields})
    rows = [fastavro.schemaless_reader(io.BytesIO(value), schema, schema) for value in values]
    assert sorted(rows, key=lambda row: row["id"]) == CLIPS.drop(["row"]).to_pylist()
    assert server.ran == ["clips_1_offline_fg_materialization"]


def test_the_feature_group_of_the_clips_is_made_once(server):
    with hopsworks_session.connected("lab") as project, hopsworks_session.unchanged():
        for _ in range(2):
            group = hopsworks_place._group(project, "Clips sv-SE", 1)
            assert (group.feature_store_id, group.id) == (67, 1)
    [made] = server.groups
    assert made["name"] == "clips_sv_se" and made["onlineEnabled"] is False and made["timeTravelFormat"] == "HUDI"
    kinds = {feature["name"]: feature["type"] for feature in made["features"]}
    assert kinds == {**dict.fromkeys(("id", "split", "sentence", "client_id", "shard"), "string"), "seconds": "double"}
    assert [feature["name"] for feature in made["features"] if feature["primary"]] == ["id"]
    assert json.dumps(made)
