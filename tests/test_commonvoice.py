import csv
import gzip
import io
import os
import shutil
import subprocess
import sys
import tarfile
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import ROOT

from whisper_lab import LabError
from whisper_lab.corpora import commonvoice, corpus

NAME = "cv-corpus-99.0-2026-01-01-sv-SE.tar.gz"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("WHISPER_LAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "corpora"


@pytest.fixture
def archive(release, tmp_path) -> Path:
    """As Mozilla packs one: clips before TSVs, and files that are not needed."""
    (release / "sv-SE" / "README.md").write_text("About this release.")
    with tarfile.open(tmp_path / NAME, "w:gz") as tar:
        tar.add(release, release.name)
    return tmp_path / NAME


def unpacked(cache: Path) -> list[Path]:
    return [path for path in cache.iterdir() if path.is_dir()] if cache.is_dir() else []


def refused(*args) -> str:
    with pytest.raises(LabError) as error:
        corpus.read(*map(str, args[:1]), *args[1:])
    assert "\n" not in str(error.value)
    return str(error.value)


def test_an_archive_reads_as_the_folder_it_was_made_of(archive, release, cache):
    read, folder = corpus.read(str(archive), "sv-SE"), corpus.read(str(release), "sv-SE")
    assert read.identity() == folder.identity() and read.version == "99.0-2026-01-01"
    for ours, theirs in zip(read.splits["train"], folder.splits["train"], strict=True):
        assert Path(ours.path).is_relative_to(cache)
        assert Path(ours.path).read_bytes() == Path(theirs.path).read_bytes()


def test_only_what_is_needed_is_unpacked(release, tmp_path, cache):
    shutil.copytree(release / "sv-SE", release / "fi")
    (release / "sv-SE" / "clips" / "._common_voice_1.mp3").write_text("of a Mac")
    (release / "sv-SE" / "README.md").touch()
    with tarfile.open(tmp_path / "two-languages.tgz", "w:gz") as tar:
        tar.add(release, f"./{release.name}")
    assert corpus.read(str(tmp_path / "two-languages.tgz"), "sv-SE").version == "99.0-2026-01-01"
    (folder,) = unpacked(cache)
    assert [path.name for path in folder.iterdir()] == [release.name]
    assert [path.name for path in (folder / release.name).iterdir()] == ["sv-SE"]
    names = {path.name for path in folder.rglob("*") if path.is_file()}
    assert "README.md" not in names and not any(name.startswith(".") for name in names) and len(names) == 20 + 4
    assert corpus.read(str(tmp_path / "two-languages.tgz"), "fi").language == "fi"
    assert "languages found: fi, sv-SE" in refused(tmp_path / "two-languages.tgz", "da")


def test_an_archive_of_the_language_alone_has_its_version_by_its_name(release, tmp_path):
    with tarfile.open(tmp_path / NAME, "w:gz") as tar:
        tar.add(release / "sv-SE", "sv-SE")
    assert corpus.read(str(tmp_path / NAME), "sv-SE").identity() == corpus.read(str(release), "sv-SE").identity()


def test_an_archive_already_unpacked_is_not_opened_again(archive, cache, capfd):
    before = corpus.read(str(archive), "sv-SE")
    assert "Unpacking: 100%" in capfd.readouterr().err
    facts = archive.stat()
    archive.write_bytes(bytes(facts.st_size))
    os.utime(archive, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert corpus.read(str(archive), "sv-SE").fingerprint == before.fingerprint
    assert "Unpacking" not in capfd.readouterr().err and len(unpacked(cache)) == 1


def test_runs_at_the_same_time_unpack_once(archive, release, cache, capfd):
    with ThreadPoolExecutor(3) as runs:
        read = list(runs.map(lambda _: corpus.read(str(archive), "sv-SE"), range(3)))
    assert {one.fingerprint for one in read} == {corpus.read(str(release), "sv-SE").fingerprint}
    assert len(unpacked(cache)) == 1 and capfd.readouterr().err.count("Unpacking: 100%") == 1


def test_another_archive_of_the_same_name_is_unpacked_beside(archive, release, cache):
    before = corpus.read(str(archive), "sv-SE").fingerprint
    (release / "sv-SE" / "test.tsv").write_text((release / "sv-SE" / "dev.tsv").read_text())
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(release, release.name)
    assert corpus.read(str(archive), "sv-SE").fingerprint != before
    assert len(unpacked(cache)) == 2


@pytest.mark.parametrize("count", [1, 20])
def test_a_killed_unpack_starts_cleanly_again(archive, release, cache, count):
    killed = f"""
import itertools, os, tarfile
from whisper_lab.corpora import corpus
extract, counter = tarfile.TarFile.extract, itertools.count(1)
def extract_and_die(*args, **options):
    extract(*args, **options)
    if next(counter) == {count}:
        os.kill(os.getpid(), 9)
tarfile.TarFile.extract = extract_and_die
corpus.read({str(archive)!r}, "sv-SE")
"""
    assert subprocess.run([sys.executable, "-c", killed], cwd=ROOT, capture_output=True).returncode == -9
    (left,) = unpacked(cache)
    assert left.name.startswith(".partial-") and sum(path.is_file() for path in left.rglob("*")) == count
    (left / "of-the-killed-run").touch()
    assert corpus.read(str(archive), "sv-SE").fingerprint == corpus.read(str(release), "sv-SE").fingerprint
    (folder,) = unpacked(cache)
    assert not folder.name.startswith(".partial-") and not list(folder.rglob("of-the-killed-run"))


def test_an_archive_cut_short_anywhere_is_refused(archive, cache):
    whole = archive.read_bytes()
    for length in [0, 5, *range(1000, len(whole), len(whole) // 9), *(len(whole) - n for n in (9, 8, 5, 1))]:
        archive.write_bytes(whole[:length])
        assert "download it again" in refused(archive, "sv-SE")
        assert unpacked(cache) == []


def test_an_archive_with_a_wrong_byte_anywhere_is_refused(archive, cache):
    whole = archive.read_bytes()
    for at in [0, 1, *range(1000, len(whole), len(whole) // 9), len(whole) - 8, len(whole) - 1]:
        archive.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        assert str(archive) in (said := refused(archive, "sv-SE")) and "download it again" in said
        assert unpacked(cache) == []


def test_a_tar_that_was_cut_before_it_was_compressed_is_refused(archive, release, cache):
    plain = gzip.decompress(archive.read_bytes())
    with tarfile.open(archive) as tar:
        members = tar.getmembers()
    cuts = [
        members[9].offset,
        members[9].offset + 100,
        members[9].offset_data + 10,
    ]  # tarfile is silent on the first two
    spoilt = [plain[:cut] for cut in cuts]
    spoilt.append(plain[: members[9].offset] + b"x" * 512 + plain[members[9].offset_data :])
    for content in spoilt:
        archive.write_bytes(gzip.compress(content))
        assert "is damaged or was cut short" in refused(archive, "sv-SE")
        assert unpacked(cache) == []


@pytest.mark.parametrize(
    "name, kind, link",
    [
        ("cv-corpus-99.0-2026-01-01/sv-SE/../../../../escaped.tsv", tarfile.REGTYPE, ""),
        ("/{folder}/escaped/sv-SE/escaped.tsv", tarfile.REGTYPE, ""),
        ("cv-corpus-99.0-2026-01-01/sv-SE/clips", tarfile.SYMTYPE, "/{folder}"),
        ("cv-corpus-99.0-2026-01-01/sv-SE/train.tsv", tarfile.SYMTYPE, "dev.tsv"),
        ("cv-corpus-99.0-2026-01-01/sv-SE/escaped.tsv", tarfile.LNKTYPE, "../../outside"),
        ("cv-corpus-99.0-2026-01-01/sv-SE/escaped.tsv", tarfile.FIFOTYPE, ""),
    ],
)
def test_an_archive_that_leads_out_of_its_folder_is_refused(release, tmp_path, cache, name, kind, link):
    member = tarfile.TarInfo(name.format(folder=str(tmp_path).lstrip("/")))
    member.type, member.linkname, content = kind, link.format(folder=str(tmp_path).lstrip("/")), b"id\n"
    member.size = len(content) if kind == tarfile.REGTYPE else 0
    with tarfile.open(tmp_path / NAME, "w:gz") as tar:
        tar.addfile(member, io.BytesIO(content))
        tar.add(release, release.name)
    before = {path for path in tmp_path.rglob("*")}
    said = refused(tmp_path / NAME, "sv-SE")
    assert repr(member.name) in said and "may not be safe" in said
    assert unpacked(cache) == [] and all(
        cache.parent in [path, *path.parents] for path in {*tmp_path.rglob("*")} - before
    )


def test_what_does_not_fit_on_the_disk_is_not_begun(archive, cache, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, archive.stat().st_size))
    said = refused(archive, "sv-SE")
    assert "0.00 GB left" in said and "WHISPER_LAB_CACHE" in said and unpacked(cache) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 0, 2 * archive.stat().st_size))
    assert len(corpus.read(str(archive), "sv-SE").splits["train"]) == 12


def test_what_is_no_release_is_said(tmp_path):
    assert "is not there" in refused(tmp_path / NAME, "sv-SE")
    (tmp_path / "plain.tgz").write_text("hello")
    assert "is damaged" in refused(tmp_path / "plain.tgz", "sv-SE")
    with tarfile.open(tmp_path / "other.tar.gz", "w:gz") as tar:
        tar.add(__file__, "holiday/beach.jpg")
    assert "holds no Common Voice release" in refused(tmp_path / "other.tar.gz", "sv-SE")


COLUMNS = {  # release → the columns of its TSVs
    "7.0-2021-07-21": "client_id path sentence up_votes down_votes age gender accent locale segment",
    "8.0-2022-01-19": "client_id path sentence up_votes down_votes age gender accents locale segment",
    "13.0-2023-03-09": "client_id path sentence up_votes down_votes age gender accents variant locale segment",
    "17.0-2024-03-15": "client_id path sentence_id sentence sentence_domain up_votes down_votes age gender accents "
    "variant locale segment",
}


@pytest.mark.parametrize("version", COLUMNS)
def test_releases_of_all_years_are_read(tmp_path, version):
    root = tmp_path / f"cv-corpus-{version}" / "sv-SE"
    (root / "clips").mkdir(parents=True)
    cells = {"client_id": "abc", "sentence": "En å.", "age": "twenties", "gender": "male_masculine"}
    cells |= {"accent": "Skånska", "accents": "Skånska", "segment": "Benchmark", "locale": "sv-SE", "up_votes": "2"}
    columns = COLUMNS[version].split()
    for split, votes in (("train", "3"), ("validated", ""), ("other", "1.0")):
        with open(root / f"{split}.tsv", "w", encoding="utf-8", newline="") as file:
            rows = csv.DictWriter(file, columns, delimiter="\t", extrasaction="ignore", lineterminator="\n")
            rows.writeheader()
            rows.writerow(cells | {"path": "common_voice_sv-SE_1.mp3", "down_votes": votes})
    read = commonvoice.read(root.parent, "sv-SE", ["train", "validated", "other"])
    assert [read.splits[split][0].down_votes for split in ("train", "validated", "other")] == [3, 0, 1]
    clip = read.splits["train"][0]
    assert (clip.id, clip.sentence, clip.accents, clip.seconds) == ("common_voice_sv-SE_1", "En å.", "Skånska", None)
    assert Path(clip.path) == root / "clips" / "common_voice_sv-SE_1.mp3"
    assert (clip.client_id, clip.age, clip.gender) == ("abc", "twenties", "male_masculine")
    assert read.version == version
