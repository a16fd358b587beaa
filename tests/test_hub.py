"""The Hub's own client and `datasets` against a Hub on loopback, in a process of its own: it is told where once."""

import http.server
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import unquote, urlsplit

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile

from whisper_lab import LabError
from whisper_lab.corpora import corpus, hub, unpacking

ROOT = Path(__file__).parent.parent
SHA, CONVERTED_SHA = "a1" * 20, "b2" * 20
FLEURS = {"gender": {"names": ["male", "female"], "_type": "ClassLabel"}, "audio": {"_type": "Audio"}}


def sound(number: int, kind: str = "FLAC") -> bytes:
    """A tenth of a second of noise, another for each number."""
    file = io.BytesIO()
    soundfile.write(file, np.random.default_rng(number).uniform(-0.1, 0.1, 1600), 16_000, format=kind)
    return file.getvalue()


def parquet(numbers, features=None, kind="FLAC", **columns) -> bytes:
    """As the Hub has it: audio in a struct of bytes and path, several row groups, notes of `datasets` in the footer."""
    rows = {
        "id": [number // 2 for number in numbers],  # not unique, as in FLEURS
        "path": [f"/somewhere/{number}.wav" for number in numbers],
        "audio": [{"bytes": sound(number, kind), "path": f"{number}.wav"} for number in numbers],
        "transcription": [f"mening nummer {number} på svenska" for number in numbers],
        "raw_transcription": [f"Mening nummer {number}, på svenska." for number in numbers],
        "gender": [number % 2 for number in numbers],
        "other": [[number] for number in numbers],
    } | columns
    table = pyarrow.table({name: values for name, values in rows.items() if values is not None})
    if features:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    file = io.BytesIO()
    pyarrow.parquet.write_table(table, file, row_group_size=4)
    return file.getvalue()


class Hub(http.server.ThreadingHTTPServer):
    """The few endpoints that reading a dataset takes. `repos`: name → commit → path → bytes; `refs`: name → commit."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.repos, self.refs, self.gated, self.asked = {}, {}, set(), []
        self.cut, self.cuts = (), 0  # paths that end so, answered with a cut connection so many times
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path = urlsplit(self.path).path
        self.server.asked.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if not (parts := re.match(r"(/api)?/datasets/([^/]+/[^/]+)(?:/([^/]+))?(?:/([^/]+))?(?:/(.*))?$", path)):
            return self.say(404)
        api, name, what, revision, inside = (unquote(part or "") for part in parts.groups())
        if name == "lab/busy":
            return self.say(503)
        if name not in self.server.repos:
            return self.say(401, "RepoNotFound")
        if name in self.server.gated and (not api or what == "auth-check"):
            return self.say(403, "GatedRepo")
        commits = self.server.repos[name]
        revision = revision if what in ("tree", "paths-info", "resolve", "revision") and revision else "main"
        commit = self.server.refs[name].get(revision, revision)
        if commit not in commits:
            return self.say(404, "RevisionNotFound")
        files = commits[commit]
        if self.command == "GET" and path.endswith(self.server.cut) and self.server.cuts:
            self.server.cuts -= 1
            return self.connection.shutdown(socket.SHUT_RDWR)
        if not api:
            return self.file(files.get(inside), commit)
        entries = [self.entry(path, files[path]) for path in files]
        if what == "auth-check":
            return self.json({})
        if what == "tree":
            folders = {str(parent) for path in files for parent in Path(path).parents} - {"."}
            entries += [{"type": "directory", "path": folder, "oid": SHA, "size": 0} for folder in sorted(folders)]
            entries = [entry for entry in entries if not inside or entry["path"].startswith(f"{inside}/")]
            if "recursive=true" not in self.path.lower():
                entries = [e for e in entries if "/" not in e["path"].removeprefix(f"{inside}/")]
            return self.json(entries) if entries else self.say(404, "EntryNotFound")
        if what == "paths-info":
            asked = json.loads(body)["paths"]
            return self.json([entry for entry in entries if entry["path"] in asked])
        card = re.match(r"---\n(.*?)---", files.get("README.md", b"").decode(), re.DOTALL)
        import yaml

        self.json({
            "id": name, "sha": commit, "private": False, "gated": "auto" if name in self.server.gated else False,
            "siblings": [{"rfilename": path} for path in files], "tags": [], "downloads": 0, "likes": 0,
            "cardData": yaml.safe_load(card[1]) if card else {},
        })  # fmt: skip

    do_HEAD = do_POST = do_GET

    def entry(self, path: str, content: bytes) -> dict:
        return {"type": "file", "path": path, "size": len(content), "oid": SHA}

    def file(self, content: bytes | None, commit: str):
        if content is None:
            return self.say(404, "EntryNotFound")
        asked = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        start, end = (int(asked[1]), int(asked[2] or len(content) - 1) + 1) if asked else (0, len(content))
        extra = {"ETag": f'"{hash(content):x}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if asked:
            extra["Content-Range"] = f"bytes {start}-{min(end, len(content)) - 1}/{len(content)}"
        self.reply(206 if asked else 200, content[start:end], extra)

    def json(self, value):
        self.reply(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def say(self, status: int, code: str = ""):
        self.reply(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code})

    def reply(self, status: int, body: bytes, headers: dict):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args):
        pass


CLIENT = """
import dataclasses, json, os, sys, time
time.sleep = lambda seconds: None  # the Hub's client tries again for half a minute
from whisper_lab import LabError, command
from whisper_lab.corpora import hub
command.quiet_libraries()
for line in sys.stdin:
    asked = json.loads(line)
    os.environ["WHISPER_LAB_CACHE"] = asked.pop("cache")
    try:
        answer = dataclasses.asdict(hub.read(**asked))
    except LabError as error:
        answer = {"refused": str(error)}
    print(json.dumps(answer), flush=True)
"""


@pytest.fixture(scope="module")
def server():
    server = Hub()
    card = "---\nlicense: mit\nconfigs:\n" + "".join(
        f"- config_name: {name}\n  data_files:\n  - split: train\n    path: {name}/train-*\n"
        f"  - split: validation\n    path: {name}/validation-*\n  - split: test\n    path: {name}/test-*\n"
        for name in ("sv", "fi")
    ) + "---\n"  # fmt: skip
    carded = {"README.md": card.encode()}
    for language, base in (("sv", 0), ("fi", 100)):
        for part, (split, shard) in enumerate((("train", 0), ("train", 1), ("validation", 0), ("test", 0))):
            of = "00002" if split == "train" else "00001"
            numbers = range(base + 10 * part, base + 10 * part + 6)
            carded[f"{language}/{split}-{shard:05d}-of-{of}.parquet"] = parquet(numbers, FLEURS)
    script = {"fleurs.py": b"raise SystemExit", "README.md": b"---\nlicense:\n- cc-by-4.0\n---\n# FLEURS\n"}
    converted = {
        f"{language}/{split}/0000.parquet": parquet(range(base, base + 6), FLEURS)
        for language, first in (("sv_se", 0), ("fi_fi", 100))
        for split, base in (("train", first), ("validation", first + 10), ("test", first + 20))
    }
    folder = {f"train/{number}.flac": sound(number) for number in range(12)}
    folder["train/metadata.csv"] = b"file_name,text\n" + b"".join(
        f"{number}.flac,mening {number}\n".encode() for number in range(12)
    )
    card = (
        "---\nconfigs:\n" + "".join(f"- config_name: {name}\n  data_dir: {name}\n" for name in ("sv", "fi")) + "---\n"
    )
    folders = {"README.md": card.encode()}
    for place in ("sv/train", "sv/test", "fi/train", "fi/test"):
        folders[f"{place}/1.flac"] = sound(len(place))
        folders[f"{place}/metadata.csv"] = f"file_name,text\n1.flac,{place}\n".encode()
    one = {"data/train-00000-of-00001.parquet": parquet(range(20), path=None)}
    for name, files in {
        "lab/carded": carded, "lab/closed": carded, "google/fleurs": script, "lab/folder": folder,
        "lab/folders": folders, "lab/one": one, "lab/script": {"script.py": b""},
        "lab/mute": {"data/train-0.parquet": parquet(range(3), audio=None)},
        "lab/wordless": {"data/train-0.parquet": parquet(range(3), transcription=None, raw_transcription=None)},
    }.items():  # fmt: skip
        server.repos[name], server.refs[name] = {SHA: files}, {"main": SHA}
    server.repos["google/fleurs"][CONVERTED_SHA] = converted
    server.refs["google/fleurs"]["refs/convert/parquet"] = CONVERTED_SHA
    server.gated.add("lab/closed")
    yield server
    server.shutdown()


@pytest.fixture(scope="module")
def client(server, tmp_path_factory):
    home = tmp_path_factory.mktemp("hf")
    said = home / "stderr"
    settings = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HUB_OFFLINE": "0", "HF_HOME": str(home)}
    with open(said, "w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", CLIENT], cwd=ROOT, env=os.environ | settings, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr,
        )  # fmt: skip

    def ask(source: str, cache: Path, **options) -> dict:
        process.stdin.write(json.dumps({"source": source, "language": "sv", "cache": str(cache), **options}) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline() or json.dumps({"died": said.read_text()[-3000:]}))

    ask.said = said
    yield ask
    process.stdin.close()
    process.wait(10)


def counts(answer: dict) -> dict[str, int]:
    assert "splits" in answer, answer
    return {split: len(clips) for split, clips in answer["splits"].items()}


def test_a_configuration_of_the_card(client, server, tmp_path):
    found = client("hub:lab/carded:sv", tmp_path)
    assert (found["name"], found["version"], found["language"]) == ("lab/carded:sv", SHA[:12], "sv")
    assert found["licence"] == "mit"
    assert counts(found) == {"train": 12, "dev": 6, "test": 6}
    train = found["splits"]["train"]
    numbers = [*range(6), *range(10, 16)]
    assert [clip["sentence"] for clip in train] == [f"mening nummer {number} på svenska" for number in numbers]
    assert [Path(clip["path"]).read_bytes() for clip in train] == [sound(number) for number in numbers]
    assert [clip["id"] for clip in train] == [str(number) for number in numbers]  # the files', for `id` is not unique
    assert [clip["gender"] for clip in train[:2]] == ["male", "female"]  # kept as numbers, with the names in the footer
    assert {Path(clip["path"]).suffix for clip in train} == {".flac"}  # the names said .wav
    assert Path(train[0]["path"]).is_relative_to(tmp_path / "corpora" / f"hub-lab--carded--sv-{SHA[:12]}")
    other = client("hub:lab/carded:fi", tmp_path, columns={"text": "raw_transcription"})
    assert other["splits"]["test"][0]["sentence"] == "Mening nummer 130, på svenska."


def test_sound_is_fetched_once_and_what_is_here_needs_no_hub(client, server, tmp_path):
    first = client("hub:lab/carded:sv", tmp_path)
    server.asked.clear()
    assert client("hub:lab/carded:sv", tmp_path) == first
    assert not [line for line in server.asked if "parquet" in line]
    server.asked.clear()
    assert client(f"hub:lab/carded:sv@{SHA[:12]}", tmp_path) == first
    assert not server.asked


def test_a_limit_and_splits_fetch_no_more_than_they_take(client, server, tmp_path):
    found = client("hub:lab/carded:sv", tmp_path, splits=["dev"], limit=2)
    assert counts(found) == {"dev": 2}
    assert not [line for line in server.asked if "train" in line and line.startswith("GET") and "/resolve/" in line]
    assert len([*tmp_path.rglob("*.flac")]) == 2
    assert counts(client("hub:lab/carded:sv", tmp_path, splits=["train"], limit=8)) == {"train": 8}  # into shard two
    whole = client("hub:lab/carded:sv", tmp_path)
    assert counts(whole) == {"train": 12, "dev": 6, "test": 6}  # the first rows are not taken for all of them
    part = client("hub:lab/carded:sv", tmp_path, limit=8)
    assert part["splits"]["train"] == whole["splits"]["train"][:8]


def test_a_dataset_with_a_script_is_read_from_the_hubs_parquet_copy(client, server, tmp_path):
    found = client("hub:google/fleurs:sv_se", tmp_path)
    assert (found["name"], found["version"]) == ("google/fleurs:sv_se", CONVERTED_SHA[:12])
    assert found["licence"] == "cc-by-4.0"  # of the dataset's card: the copy has none
    assert counts(found) == {"train": 6, "dev": 6, "test": 6}
    assert found["splits"]["dev"][0]["sentence"].startswith("mening nummer 10 ")
    assert "google/fleurs needs a script" in client.said.read_text()
    assert client("hub:google/fleurs:sv_se@refs/convert/parquet", tmp_path) == found


def test_sound_files_beside_a_table_and_a_dataset_of_one_split(client, tmp_path):
    found = client("hub:lab/folder", tmp_path)
    assert (found["name"], found["version"]) == ("lab/folder", SHA[:12])
    assert counts(found) == {"train": 10, "dev": 1, "test": 1}
    clip = found["splits"]["dev"][0]
    number = int(clip["sentence"].split()[1])
    assert Path(clip["path"]).read_bytes() == sound(number)
    (clip,) = (found := client("hub:lab/folders:sv", tmp_path))["splits"]["test"]
    assert counts(found) == {"train": 1, "test": 1} and clip["sentence"] == "sv/test"
    assert Path(clip["path"]).read_bytes() == sound(len("sv/test"))
    assert counts(client("hub:lab/one", tmp_path)) == {"train": 16, "dev": 2, "test": 2}
    assert counts(client("hub:lab/one", tmp_path, splits=["train"])) == {"train": 20}


@pytest.mark.parametrize(
    "source, options, said",
    [
        ("lab/closed:sv", {}, ["terms", "https://huggingface.co/datasets/lab/closed", "hf auth login"]),
        ("lab/nothing", {}, ["no dataset lab/nothing", "hf auth login"]),
        ("lab/script", {}, ["needs a script", "no Parquet copy"]),
        ("lab/mute", {}, ["no column with sound", "its columns are: id, path, transcription"]),
        ("lab/wordless", {}, ["--columns text=NAME", "id, path, gender"]),
        ("lab/one", {"columns": {"audio": "path"}}, ["no column with sound called path"]),
        ("google/fleurs:sv_se@main", {}, ["needs a script", "hub:google/fleurs:sv_se@refs/convert/parquet"]),
        ("lab/carded", {}, ["several configurations", "sv, fi", "hub:NAME:CONFIG"]),
        ("lab/carded:nb", {}, ["no configuration nb", "sv, fi"]),
        ("google/fleurs", {}, ["several configurations", "fi_fi, sv_se"]),
        ("lab/carded:sv@v9", {}, ["no such revision"]),
        ("lab/carded:sv", {"splits": ["validated"]}, ["no split validated", "train, dev, test", "--splits"]),
        ("lab/a:b:c", {}, ["hub:NAME[:CONFIG][@REVISION]"]),
        ("lab/busy", {}, ["answers 503", "again"]),
    ],
)
def test_what_cannot_be_read_is_said_in_a_line_with_the_way_out(client, tmp_path, source, options, said):
    refused = client(f"hub:{source}", tmp_path, **options).get("refused", "")
    assert all(part in refused for part in said) and "\n" not in refused, refused
    assert not [*tmp_path.rglob("*.flac")] and not [*tmp_path.rglob(".partial-*")]


def test_a_connection_that_is_cut_leaves_whole_shards_only_and_the_next_run_goes_on(client, server, tmp_path):
    server.cut, server.cuts = "train-00001-of-00002.parquet", 1000
    refused = client("hub:lab/carded:sv", tmp_path).get("refused", "")
    server.cuts = 0
    assert "cannot be reached" in refused and "run the same command again" in refused
    (folder,) = (tmp_path / "corpora").iterdir()
    assert [len([*shard.glob("*.flac")]) for shard in folder.iterdir() if shard.is_dir()] == [6]
    server.asked.clear()
    assert counts(client("hub:lab/carded:sv", tmp_path)) == {"train": 12, "dev": 6, "test": 6}
    assert not [line for line in server.asked if "train-00000-of-00002.parquet" in line]


def test_a_connection_that_is_cut_now_and_then_is_taken_up_again(client, server, tmp_path):
    server.cut, server.cuts = ".parquet", 3
    assert counts(client("hub:lab/carded:sv", tmp_path)) == {"train": 12, "dev": 6, "test": 6}
    assert server.cuts == 0


def test_without_the_hub(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        gone = f"http://127.0.0.1:{closed.getsockname()[1]}"
    line = json.dumps({"source": "hub:lab/carded:sv", "language": "sv", "cache": str(tmp_path)})

    def said(**settings) -> str:
        settings = os.environ | {"HF_ENDPOINT": gone, "HF_HOME": str(tmp_path)} | settings
        done = subprocess.run(
            [sys.executable, "-c", CLIENT], cwd=ROOT, env=settings, input=line, text=True, capture_output=True
        )
        return json.loads(done.stdout)["refused"]

    assert "cannot be reached" in said(HF_HUB_OFFLINE="0")
    assert "HF_HUB_OFFLINE is set" in said(HF_HUB_OFFLINE="1")


@pytest.fixture
def local(tmp_path, monkeypatch) -> Path:
    """A folder for Parquet files on this disk, and a cache of its own."""
    monkeypatch.setenv("WHISPER_LAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "parquet"


def write(folder: Path, **files: bytes) -> Path:
    for name, content in files.items():
        path = folder / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


@pytest.mark.parametrize(
    "names",
    [
        ("data/train-00000-of-00001", "data/validation-00000-of-00001", "data/test-00000-of-00001"),
        ("train/0000", "validation/0000", "test/0000"),
        ("sv_se/train/0000", "sv_se/validation/0000", "sv_se/test/0000"),
        ("train", "dev", "test"),
    ],
)
def test_local_folders_of_parquet_files(local, names):
    write(local, **{name: parquet(range(10 * part, 10 * part + 3), kind="WAV") for part, name in enumerate(names)})
    found = corpus.read(str(local), "sv")
    assert (found.name, found.version) == ("parquet", "")
    assert {split: [clip.id for clip in clips] for split, clips in found.splits.items()} == {
        "train": ["0", "1", "2"],
        "dev": ["10", "11", "12"],
        "test": ["20", "21", "22"],
    }
    clip = found.splits["dev"][0]
    assert Path(clip.path).read_bytes() == sound(10, "WAV") and Path(clip.path).suffix == ".wav"
    write(local, **{names[1]: parquet(range(3), transcription=["nytt"] * 3)})
    assert corpus.read(str(local), "sv").splits["dev"][0].sentence == "nytt"  # a changed file is not an old one


def test_several_configurations_on_this_disk_are_not_mixed(local):
    write(local, **{f"{name}/train/0000": parquet(range(4)) for name in ("sv_se", "fi_fi")})
    with pytest.raises(LabError, match="several configurations .*fi_fi, sv_se.*give the folder of one"):
        corpus.read(str(local), "sv")
    assert corpus.read(str(local / "sv_se"), "sv", ["train"]).name == "sv_se"
    (local / "README.md").write_text("---\nconfigs:\n- config_name: sv\n- config_name: fi\n---\n", encoding="utf-8")
    with pytest.raises(LabError, match="several configurations .*sv, fi"):
        corpus.read(str(local), "sv")


def test_files_that_are_all_called_the_same_have_ids_of_their_own(local):
    sounds = [{"bytes": sound(number), "path": "audio.flac"} for number in range(4)]
    write(local, **{"train-0": parquet(range(4), audio=sounds), "test-0": parquet(range(4), audio=sounds)})
    found = corpus.read(str(local), "sv", ["train", "test"])
    assert len({clip.id for clips in found.splits.values() for clip in clips}) == 8
    assert found.splits["train"][1].id == hub.read(str(local), "sv", ["train"]).splits["train"][1].id


def test_rows_that_are_there_twice_count_once(local):
    again = {"audio": [{"bytes": sound(n % 4), "path": f"{n % 4}.wav"} for n in range(6)]}
    says = [f"mening {n}" for n in (0, 1, 2, 3, 0, 9)]  # of the second clip something else
    write(local, **{"train-0": parquet(range(6), **again, raw_transcription=None, transcription=says)})
    found = corpus.read(str(local), "sv", ["train"])
    assert [clip.id for clip in found.splits["train"]] == ["0", "2", "3"]
    assert [(place, reason) for place, reason, _ in found.left_out["train"]] == [
        ("train-0.parquet, row 5", "the same row again"),
        ("train-0.parquet, row 2", "a clip with several sentences"),
        ("train-0.parquet, row 6", "a clip with several sentences"),
    ]


def test_where_a_clip_was_cut_from_is_no_part_of_it(local):
    write(local, **{"test-0": parquet(range(2), start=[9.0, 9.5], end=[9.1, 9.6])})
    assert [clip.part for clip in corpus.read(str(local), "sv").splits["test"]] == [None, None]


@pytest.mark.parametrize("split", ["train", "validation", None])
def test_what_datasets_saved_to_a_disk(local, split):
    columns = {"sentence": [f"Mening {number}." for number in range(12)]}
    columns["audio"] = [{"bytes": sound(number), "path": f"{number}.flac"} for number in range(12)]
    whole = datasets.Dataset.from_dict(columns, split=split).cast_column("audio", datasets.Audio())
    whole.save_to_disk(local / "one")
    found = corpus.read(str(local / "one"), "sv")
    counts = {name: len(clips) for name, clips in found.splits.items()}
    assert counts == ({"dev": 12} if split == "validation" else {"train": 10, "dev": 1, "test": 1})
    datasets.DatasetDict(train=whole.select(range(9)), test=whole.select(range(9, 12))).save_to_disk(local / "two")
    found = corpus.read(str(local / "two"), "sv")
    assert [clip.sentence for clip in found.splits["test"]] == columns["sentence"][9:]
    assert Path(found.splits["test"][0].path).read_bytes() == sound(9) and len(found.splits["train"]) == 9


def test_missing_sound_and_damaged_files(local):
    write(local, **{"test-0": parquet(range(2), audio=[{"bytes": sound(0), "path": "0"}, None])})
    clips = corpus.read(str(local), "sv").splits["test"]
    assert [Path(clip.path).stat().st_size > 0 for clip in clips] == [True, False]  # counted when it is to be read
    write(local, **{"test-0": parquet(range(2), audio=[{"bytes": None, "path": "/there/0.wav"}] * 2)})
    with pytest.raises(LabError, match="names /there/0.wav, but holds no sound"):
        corpus.read(str(local), "sv")
    write(local, **{"test-0": parquet(range(2))[:-5]})
    with pytest.raises(LabError, match="damaged"):
        corpus.read(str(local), "sv")
    assert not [*local.parent.rglob(".partial-*")]


def test_what_a_killed_run_left_goes_after_a_day(local):
    write(local, **{"test-0": parquet(range(2))})
    into = Path(corpus.read(str(local), "sv").splits["test"][0].path).parent.parent
    for name, age in ((".partial-old", 2), (".partial-new", 0)):
        (into / name).mkdir()
        os.utime(into / name, (time.time() - age * unpacking.DAY,) * 2)
    shutil.rmtree(next(into.glob("test-0-*")))
    corpus.read(str(local), "sv")
    assert [path.name for path in into.glob(".partial-*")] == [".partial-new"]


def test_two_columns_of_sound(local):
    write(local, **{"test-0": parquet(range(3), noisy=[{"bytes": sound(9), "path": None}] * 3)})
    with pytest.raises(LabError, match="audio and noisy could both be the audio.*--columns audio=NAME"):
        corpus.read(str(local), "sv")
    for name, number in (("noisy", 9), ("audio", 1)):
        clip = corpus.read(str(local), "sv", columns={"audio": name}).splits["test"][1]
        assert Path(clip.path).read_bytes() == sound(number)


def test_suffixes_follow_the_content():
    for kind, suffix in (("WAV", ".wav"), ("FLAC", ".flac"), ("OGG", ".ogg"), ("MP3", ".mp3"), ("AIFF", ".aiff")):
        assert unpacking.suffix(sound(1, kind)) == suffix
    assert unpacking.suffix(b"ID3\x04") == ".mp3" and unpacking.suffix(b"\0\0\0\x20ftypM4A ") == ".m4a"
    assert unpacking.suffix(b"") == unpacking.suffix(b"what?") == ""
