import errno
import json
import os
import subprocess
import threading
import time

import pytest

from whisper_lab import LabError, files
from whisper_lab.stores import places, publishing, transfers

pytest_plugins = ["elsewhere"]

CONTENT = {"plan.json": b"{}", "train-00000.parquet": b"a" * 5000, "train-00001.parquet": b"b" * 3000, "deep/x": b""}


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    monkeypatch.setattr(transfers, "PAUSES", (0.0, 0.001, 0.001))
    monkeypatch.setenv("WHISPER_LAB_CACHE", str(tmp_path / "cache"))


def folder_of(folder, content=CONTENT):
    for name, data in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def contents(folder) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


class Bytes(list):
    """A progress that remembers."""

    def __call__(self, count, total):
        self.append(count)
        self.total = total
        assert 0 <= sum(self) <= total


class Killed(BaseException):
    pass


class Watch:
    """Notes what is asked of places, and kills at one of the requests: before it, midway in sending, or after it."""

    def __init__(self, kill_at=None, when="before"):
        self.kill_at, self.when, self.asked, self.lock = kill_at, when, [], threading.Lock()

    def sent(self) -> list[str]:
        return sorted(name for kind, name in self.asked if kind == "put")

    def ask(self, place, kind, name, *args):
        with self.lock:
            self.asked.append((kind, name))
            killed = len(self.asked) - 1 == self.kill_at
        if killed and self.when == "before":
            raise Killed
        try:
            if kind == "sizes":
                return place.sizes()
            if kind == "put" and killed and self.when == "midway":
                half = args[0].parent / ".half"
                half.write_bytes(args[0].read_bytes()[: args[0].stat().st_size // 2])
                return place.put(half, name)
            return place.put(args[0], name, *args[1:]) if kind == "put" else getattr(place, kind)(name, *args)
        finally:
            if killed:
                raise Killed


class WatchedPlace(places.Place):
    def __init__(self, place, watch):
        self.place, self.watch, self.url = place, watch, place.url

    def sizes(self):
        return self.watch.ask(self.place, "sizes", None)

    def put(self, file, name, sent=lambda count: None):
        return self.watch.ask(self.place, "put", name, file, sent)

    def get(self, name, file, got=lambda count: None):
        return self.watch.ask(self.place, "get", name, file, got)

    def read(self, name):
        return self.watch.ask(self.place, "read", name)


@pytest.fixture
def watch(monkeypatch):
    """`watch(kill_at, when)`: from now on, places are watched so."""

    def start(*args) -> Watch:
        watched = Watch(*args)
        monkeypatch.setattr(publishing, "open_place", lambda url: WatchedPlace(places.open_place(url), watched))
        return watched

    return start


def test_what_is_published_is_fetched(anywhere, tmp_path):
    url = anywhere
    folder = folder_of(tmp_path / "set")
    with pytest.raises(LabError, match="nothing that is published yet: publish to it first"):
        publishing.fetch(url)
    sent, got = Bytes(), Bytes()
    assert publishing.publish(folder, url, progress=sent) == f"{url}/v1"
    assert contents(publishing.fetch(url, got)) == CONTENT
    assert sum(sent) == sent.total == sum(got) == got.total == 8002
    listing = publishing.listing(url)
    assert listing["url"] == f"{url}/v1" and listing["files"]["plan.json"]["bytes"] == 2
    assert places.open_place(listing["url"]).read("plan.json") == b"{}"


def test_versions_lie_side_by_side_and_what_is_there_is_not_sent_again(anywhere, tmp_path, watch):
    url = anywhere
    first, second = folder_of(tmp_path / "1"), folder_of(tmp_path / "2", CONTENT | {"plan.json": b"[]"})
    assert publishing.publish(first, url) == f"{url}/v1"
    assert publishing.publish(second, url) == f"{url}/v2"
    before = places.open_place(url).sizes()
    watched = watch()
    assert publishing.publish(first, url) == f"{url}/v1" and publishing.publish(second, url) == f"{url}/v2"
    assert watched.sent() == [] and places.open_place(url).sizes() == before
    assert contents(publishing.fetch(url))["plan.json"] == b"[]"
    assert contents(publishing.fetch(f"{url}/v1/"))["plan.json"] == b"{}"
    with pytest.raises(LabError, match="v3 holds nothing that is published yet"):
        publishing.fetch(f"{url}/v3")
    with pytest.raises(LabError, match="leave out its end"):
        publishing.publish(first, f"{url}/v1")


def test_the_claim_is_first_and_the_listing_last(memory, tmp_path, watch):
    watched = watch()
    publishing.publish(folder_of(tmp_path / "set"), memory)
    puts = [name for kind, name in watched.asked if kind == "put"]
    assert puts[0] == "v1/publishing.json" and puts[-1] == "v1/published.json" and len(puts) == len(CONTENT) + 2
    kinds = [kind for kind, _ in watched.asked]
    last_file = max(i for i, (kind, name) in enumerate(watched.asked) if kind == "put" and name != puts[-1])
    assert "sizes" in kinds[last_file:], "what arrived is looked at before it is called published"


def test_hidden_files_stay_here(memory, tmp_path):
    folder = folder_of(
        tmp_path / "set",
        {"manifest.json": b"m", ".partial-x": b"", ".cache/y": b"", "log/events": b"", "pictures/log/loss.png": b"",
         "published.json": b"", "publishing.json": b""},
    )  # fmt: skip
    publishing.publish(folder, memory)
    assert sorted(publishing.listing(memory)["files"]) == ["log/events", "manifest.json", "pictures/log/loss.png"]
    publishing.publish(folder, memory, names=["manifest.json", "log/events"])
    assert sorted(publishing.listing(memory)["files"]) == ["log/events", "manifest.json"]
    with pytest.raises(LabError, match="gone.bin is to be published and is not there"):
        publishing.publish(folder, memory, names=["gone.bin"])
    with pytest.raises(LabError, match="nothing to publish"):
        publishing.publish(folder / "2", memory)


@pytest.mark.parametrize("when", ["before", "midway", "after"])
@pytest.mark.parametrize("before, at_a_time", [({}, 1), (CONTENT, 4)])
def test_a_publish_killed_at_any_request_ends_complete_and_is_never_seen_half(
    tmp_path, watch, monkeypatch, when, before, at_a_time
):
    """Into a folder, where the first half of a file may be there, as it never is in an object store."""
    monkeypatch.setattr(transfers, "TRANSFERS", at_a_time)
    new = CONTENT | {"plan.json": b"[]", "more": b"m" * 99}
    folder, number = folder_of(tmp_path / "new", new), 2 if before else 1
    for kill_at in range(100):
        url, killed = str(tmp_path / f"there-{kill_at}"), False
        if before:
            publishing.publish(folder_of(tmp_path / "old", before), url)
        watch(kill_at, when)
        try:
            publishing.publish(folder, url)
        except Killed:
            killed = True
        watch()
        try:
            seen = contents(publishing.fetch(url))
        except LabError as error:
            assert "nothing that is published yet" in str(error)
            seen = {}
        assert seen in ([before, new] if killed else [new]), kill_at
        version = publishing.publish(folder, url)
        claim_was_cut = when == "midway" and not version.endswith(f"v{number}")
        assert version == f"{url}/v{number + claim_was_cut}" and contents(publishing.fetch(url)) == new, kill_at
        if before:
            assert contents(publishing.fetch(f"{url}/v1")) == before
        if not killed:
            break
    assert kill_at > len(new) + 5


def test_a_killed_publish_sends_only_what_is_missing(anywhere, tmp_path, watch, monkeypatch):
    monkeypatch.setattr(transfers, "TRANSFERS", 1)
    folder, watched = folder_of(tmp_path / "set"), watch(5)
    with pytest.raises(Killed):
        publishing.publish(folder, anywhere)
    assert watched.sent() == ["v1/deep/x", "v1/plan.json", "v1/publishing.json", "v1/train-00000.parquet"]
    with pytest.raises(LabError, match="v1 is unfinished; publish it again"):
        publishing.fetch(anywhere)
    watched, progress = watch(), Bytes()
    assert publishing.publish(folder, anywhere, progress=progress) == f"{anywhere}/v1"
    assert watched.sent() == ["v1/published.json", "v1/train-00000.parquet", "v1/train-00001.parquet"]
    assert progress[0] == 2 and sum(progress) == progress.total == 8002
    assert contents(publishing.fetch(anywhere)) == CONTENT


def test_other_content_goes_beside_an_unfinished_version(memory, tmp_path, watch):
    first, second = folder_of(tmp_path / "1"), folder_of(tmp_path / "2", {"other": b"o"})
    watch(7)
    with pytest.raises(Killed):
        publishing.publish(first, memory)
    watch()
    assert publishing.publish(second, memory) == f"{memory}/v2"
    assert contents(publishing.fetch(memory)) == {"other": b"o"}
    assert publishing.publish(first, memory) == f"{memory}/v3", "what is published last is the newest"
    assert contents(publishing.fetch(memory)) == CONTENT


def test_a_fetch_sees_past_an_unfinished_version(memory, tmp_path, watch):
    publishing.publish(folder_of(tmp_path / "1"), memory)
    watch(5)
    with pytest.raises(Killed):
        publishing.publish(folder_of(tmp_path / "2", {"other": b"o"}), memory)
    watch()
    assert any(name.startswith("v2/") for name in places.open_place(memory).sizes())
    assert contents(publishing.fetch(memory)) == CONTENT


def test_two_who_claim_one_number_get_one_each(memory, tmp_path, monkeypatch):
    mine, theirs = folder_of(tmp_path / "1"), folder_of(tmp_path / "2", {"other": b"o"})
    write = publishing._write

    def overtaken(place, name, value):
        write(place, name, value)
        monkeypatch.setattr(publishing, "_write", write)
        write(place, name, {"digest": "of another run"})

    monkeypatch.setattr(publishing, "_write", overtaken)
    assert publishing.publish(mine, memory) == f"{memory}/v2"

    sent = Bytes()

    def claimed_later(count, total):
        sent(count, total)
        write(places.open_place(memory), "v3/publishing.json", {"digest": "of another run"})

    with pytest.raises(LabError, match="v3 was claimed by another run"):
        publishing.publish(theirs, memory, progress=claimed_later)
    assert contents(publishing.fetch(memory)) == CONTENT
    assert publishing.publish(theirs, memory) == f"{memory}/v4"

    def finished_by_another(count, total):
        entries = {"x": {"bytes": 0, "sha256": ""}}
        write(places.open_place(memory), "v5/published.json", {"digest": files.digest(entries), "files": entries})

    with pytest.raises(LabError, match="v5 was claimed by another run"):
        publishing.publish(folder_of(tmp_path / "3", {"third": b"3"}), memory, progress=finished_by_another)


# What goes wrong on the way


def fail(where, kind: str, status: int, times: int = 1) -> None:
    """Make the S3 or Drive `where` fail at "put" or "get" of the first shard: 0 cuts the connection midway."""
    if hasattr(where, "content"):
        method, kind = {"put": ("PUT", "upload"), "get": ("GET", "media")}[kind]
        where.fail(method, kind, status, times=times, name="train-00000")
    else:
        where.fail(kind.upper(), "train-00000", status, times=times)


@pytest.fixture(params=["s3", "drive"])
def where(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("status", [0, 429, 500, 503])
def test_what_passes_is_tried_again(where, tmp_path, status):
    folder, sent, got = folder_of(tmp_path / "set"), Bytes(), Bytes()
    fail(where, "put", status, times=2)
    publishing.publish(folder, where.url, progress=sent)
    fail(where, "get", status, times=2)
    assert contents(publishing.fetch(where.url, got)) == CONTENT
    assert sum(sent) == sum(got) == 8002
    assert [fault[-1] for fault in where.faults] == [0, 0]


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_only_the_user_can_mend_is_said_at_once(where, tmp_path, status):
    folder = folder_of(tmp_path / "set")
    fail(where, "put", status, times=9)
    with pytest.raises(LabError) as error:
        publishing.publish(folder, where.url)
    assert "\n" not in str(error.value) and str(error.value).count(where.url) == 1
    assert where.faults[0][-1] == 8, "not tried again"
    with pytest.raises(LabError, match="v1 is unfinished"):
        publishing.fetch(where.url)
    where.faults.clear()
    publishing.publish(folder, where.url)
    assert contents(publishing.fetch(where.url)) == CONTENT


def test_a_server_that_stays_broken_ends_in_one_line_and_the_rest_is_kept(where, tmp_path):
    folder = folder_of(tmp_path / "set")
    fail(where, "put", 500, times=999)
    with pytest.raises(LabError, match="run the same command again to go on") as error:
        publishing.publish(folder, where.url)
    assert "\n" not in str(error.value)
    with pytest.raises(LabError, match="v1 is unfinished"):
        publishing.fetch(where.url)
    where.faults.clear()
    assert publishing.publish(folder, where.url) == f"{where.url}/v1"
    fail(where, "get", 500, times=999)
    with pytest.raises(LabError, match="again to go on"):
        publishing.fetch(where.url)
    where.faults.clear()
    assert contents(publishing.fetch(where.url)) == CONTENT


def test_an_error_where_the_listing_is_read_is_no_empty_store(where, tmp_path):
    publishing.publish(folder_of(tmp_path / "set"), where.url)
    if hasattr(where, "content"):
        where.fail("GET", "media", 500, times=999, name="published.json")
    else:
        where.fail("GET", "published.json", 500, times=999)
    with pytest.raises(LabError) as error:
        publishing.fetch(where.url)
    assert "published yet" not in str(error.value)
    with pytest.raises(LabError):
        publishing.publish(folder_of(tmp_path / "other", {"x": b"1"}), where.url)
    assert not any(name.startswith("v2/") for name in places.open_place(where.url).sizes())


def test_a_file_that_arrives_cut_short_is_sent_again(memory, tmp_path, monkeypatch):
    cut = [3]
    put = places.FsspecPlace.put

    def short(self, file, name, sent=lambda count: None):
        put(self, file, name, sent)
        if name.endswith("00000.parquet") and cut[0]:
            cut[0] -= 1
            self.fs.pipe_file(self._path(name), file.read_bytes()[:-1])

    monkeypatch.setattr(places.FsspecPlace, "put", short)
    with pytest.raises(LabError, match="train-00000.parquet does not arrive whole; run the same command again"):
        publishing.publish(folder_of(tmp_path / "set"), memory)
    with pytest.raises(LabError, match="v1 is unfinished"):
        publishing.fetch(memory)
    cut[0] = 1
    assert publishing.publish(folder_of(tmp_path / "set"), memory) == f"{memory}/v1"
    assert contents(publishing.fetch(memory)) == CONTENT


def test_a_file_spoilt_on_the_way_is_fetched_once_more(memory, tmp_path, monkeypatch):
    spoil = [1]
    publishing.publish(folder_of(tmp_path / "set"), memory)
    get, got = places.FsspecPlace.get, Bytes()

    def spoilt(self, name, file, got=lambda count: None):
        get(self, name, file, got)
        if name.endswith("00000.parquet") and spoil[0]:
            spoil[0] -= 1
            file.write_bytes(b"A" + file.read_bytes()[1:])

    monkeypatch.setattr(places.FsspecPlace, "get", spoilt)
    assert contents(publishing.fetch(memory, got)) == CONTENT and sum(got) == 8002


def test_a_file_spoilt_where_it_lies_is_named_and_mended_by_publishing_again(anywhere, tmp_path):
    url = anywhere
    folder, place = folder_of(tmp_path / "set"), places.open_place(url)
    publishing.publish(folder, url)
    place.put(folder_of(tmp_path / "bad", {"x": b"A" * 5000}) / "x", "v1/train-00000.parquet")
    with pytest.raises(LabError, match="v1/train-00000.parquet is not what was published.*delete it.*again") as error:
        publishing.fetch(url)
    assert "\n" not in str(error.value)
    there = next((tmp_path / "cache" / "fetched").iterdir()) / "v1"
    assert "train-00000.parquet" not in contents(there) and not list(there.glob(".partial-*"))
    place.remove("v1/train-00000.parquet")
    with pytest.raises(LabError, match="was published and is gone; publish again"):
        publishing.fetch(url)
    assert publishing.publish(folder, url) == f"{url}/v1"
    assert contents(publishing.fetch(url)) == CONTENT


def test_only_what_is_missing_or_wrong_here_is_fetched(memory, tmp_path, watch):
    publishing.publish(folder_of(tmp_path / "set"), memory)
    watched = watch()
    there = publishing.fetch(memory, only=lambda name: name.endswith(".parquet"))
    assert sorted(contents(there)) == ["train-00000.parquet", "train-00001.parquet"]
    (there / "train-00001.parquet").write_bytes(b"B" * 3000)
    (there / "stray").write_bytes(b"of an earlier run")
    watched.asked.clear()
    got = Bytes()
    assert publishing.fetch(memory, got) == there and contents(there) == CONTENT
    fetched = sorted(name for kind, name in watched.asked if kind == "get")
    assert fetched == ["deep/x", "plan.json", "train-00001.parquet"] and got[0] == 5000 and sum(got) == 8002
    assert str(there).startswith(str(files.cache_folder() / "fetched" / "memory-"))


def test_a_fetch_killed_at_any_request_leaves_whole_files(memory, tmp_path, watch):
    publishing.publish(folder_of(tmp_path / "set"), memory)
    for kill_at in range(20):
        for when in ("before", "after"):
            watch(kill_at, when)
            try:
                publishing.fetch(memory)
            except Killed:
                for name, data in contents(tmp_path / "cache").items():
                    assert data == CONTENT[name.split("/v1/")[1]]
    watch()
    assert contents(publishing.fetch(memory)) == CONTENT


def test_a_listing_that_names_files_elsewhere_is_refused(memory, tmp_path):
    for name in ("../../evil", "/evil", "a//b", "a\\b"):
        entries = {name: {"bytes": 0, "sha256": ""}}
        publishing._write(
            places.open_place(memory), "v1/published.json", {"digest": files.digest(entries), "files": entries}
        )
        with pytest.raises(LabError, match="names a file outside its folder"):
            publishing.fetch(memory)


def test_a_listing_that_does_not_hold_what_it_says_is_none(memory):
    entries = {"x": {"bytes": 0, "sha256": ""}}
    for value in ({"digest": "", "files": entries}, {"digest": files.digest({}), "files": {}}, {"files": entries}, []):
        publishing._write(places.open_place(memory), "v1/published.json", value)
        with pytest.raises(LabError, match="nothing that is published yet"):
            publishing.fetch(memory)


def test_progress_takes_back_what_has_to_go_again():
    counted, tries = [], []

    def move(name, count):
        count(60)
        tries.append(name)
        if len(tries) == 1:
            raise ConnectionResetError
        count(40)

    transfers.in_parallel("memory://x", move, ["a"], counted.append)
    assert counted == [60, -60, 60, 40]


def test_a_full_disk_passes_and_leaves_no_half_file(memory, tmp_path, monkeypatch):
    """A real one: a file system of 4 MB, which takes root to mount."""
    disk = tmp_path / "disk"
    content = {f"{i}.parquet": os.urandom(1 << 20) for i in range(6)}
    publishing.publish(folder_of(tmp_path / "set", content), memory)
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system here: {mounted.stderr.decode().strip()}")
    try:
        monkeypatch.setenv("WHISPER_LAB_CACHE", str(disk))
        with pytest.raises(OSError) as error:
            publishing.fetch(memory)
        assert error.value.errno == errno.ENOSPC
        kept = contents(disk)
        assert all(data == content[name.rpartition("/")[2]] for name, data in kept.items())
        with pytest.raises(OSError) as error:
            publishing.publish(tmp_path / "set", str(disk / "there"))
        assert error.value.errno == errno.ENOSPC
        with pytest.raises(LabError, match="v1 is unfinished"):
            publishing.fetch(str(disk / "there"))
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        assert contents(publishing.fetch(memory)) == content
        publishing.publish(tmp_path / "set", str(disk / "there"))
        assert contents(publishing.fetch(str(disk / "there"))) == content
    finally:
        subprocess.run(["umount", disk], check=True)


def test_transfers_run_side_by_side_and_the_first_failure_stops_the_others(memory, tmp_path, monkeypatch):
    inside, most, asked = [0], [0], []
    folder = folder_of(tmp_path / "set", {f"{i:02}": b"x" for i in range(20)})
    put, together = places.FsspecPlace.put, threading.Barrier(transfers.TRANSFERS, timeout=5)

    def counted(self, file, name, sent=lambda count: None):
        if name.endswith(".json"):
            return put(self, file, name, sent)
        asked.append(name)
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        if len(asked) <= transfers.TRANSFERS:
            together.wait()
        inside[0] -= 1
        if name.endswith("02"):
            raise OSError(errno.ENOSPC, "full")
        time.sleep(0.05)
        put(self, file, name, sent)

    monkeypatch.setattr(places.FsspecPlace, "put", counted)
    with pytest.raises(OSError, match="full"):
        publishing.publish(folder, memory)
    assert most[0] == transfers.TRANSFERS == 4 and len(asked) <= 12
    assert json.loads(places.open_place(memory).read("v1/publishing.json"))["digest"]
