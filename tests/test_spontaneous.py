import tarfile
from pathlib import Path

import pytest

from whisper_lab import LabError
from whisper_lab.corpora import corpus, splits
from whisper_lab.sharing import licences

RELEASE = "sps-corpus-2.0-2025-12-05-fi"
COLUMNS = "client_id audio_id audio_file duration_ms prompt_id prompt transcription votes age gender split"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("WHISPER_LAB_CACHE", str(tmp_path / "cache"))


def made(folder: Path, *rows: tuple[str, str, str, str]) -> Path:
    """A release in Finnish of rows: the number of its recording, a transcription, its votes, a split."""
    release = folder / RELEASE
    (release / "audios").mkdir(parents=True)
    lines = [COLUMNS.split()]
    for number, text, votes, split in rows:
        name = f"spontaneous-speech-fi-{number}.mp3"
        (release / "audios" / name).touch()
        lines.append([f"c{number}", number, name, "1900", "1", "Mitä?", text, votes, "", "", split])
    (release / "ss-corpus-fi.tsv").write_text("".join("\t".join(line) + "\n" for line in lines), encoding="utf-8")
    (release / "ss-reported-audios-fi.tsv").write_text("audio_id\treason\n", encoding="utf-8")
    return release


def ids(found: corpus.Corpus) -> dict[str, list[str]]:
    return {split: [clip.id.rpartition("-")[2] for clip in clips] for split, clips in found.splits.items()}


def test_a_release_as_a_folder_a_table_and_an_archive(tmp_path):
    rows = [("1", "Hei.", "2", "train"), ("2", "No niin.", "2", "dev"), ("3", "Joo.", "2", "test"), ("4", "", "0", "")]
    release = made(tmp_path, *rows, ("5", "Ei.", "0", "unassigned"))
    read = corpus.read(str(release), "fi")
    assert ids(read) == {"train": ["1"], "dev": ["2"], "test": ["3"]}
    clip = read.splits["train"][0]
    assert (clip.sentence, clip.client_id, clip.seconds) == ("Hei.", "c1", None) and Path(clip.path).is_file()
    assert (read.name, read.version) == ("Common Voice Spontaneous Speech", "2.0-2025-12-05")
    assert licences.of_corpus(read.identity()) == "cc0-1.0"
    for name, top in (("whole.tar.gz", RELEASE), ("bare.tgz", "."), (f"{RELEASE}.tar.gz", ".")):
        with tarfile.open(tmp_path / name, "w:gz") as tar:
            tar.add(release, top)
    for source in (
        release / "ss-corpus-fi.tsv",
        release.parent,
        tmp_path / "whole.tar.gz",
        tmp_path / f"{RELEASE}.tar.gz",
    ):
        assert corpus.read(str(source), "fi").identity() == read.identity()
    assert ids(corpus.read(str(tmp_path / "bare.tgz"), "fi")) == ids(read)
    assert ids(corpus.read(str(release), "fi", ["unassigned"])) == {"unassigned": ["4", "5"]}
    assert ids(splits.read(str(release), "fi", None, ["train", "unassigned"])[0])["train"] == ["1", "4", "5"]
    with pytest.raises(LabError, match=r"holds no sv-SE \(languages found: fi\); choose with --language"):
        corpus.read(str(release), "sv-SE")


def test_what_nobody_has_split_is_drawn_from_what_is_written_down(tmp_path, capfd):
    rows = [(str(n), f"Lause {n}." if n % 2 else "", "1", "unassigned") for n in range(40)]
    found = corpus.read(str(made(tmp_path, *rows)), "fi")
    assert {split: len(clips) for split, clips in found.splits.items()} == {"train": 16, "dev": 2, "test": 2}
    assert "drawn from what has a transcription" in capfd.readouterr().err
    assert [reason for _, reason, _ in found.left_out[""]] == ["empty sentence"] * 20


def test_of_several_transcriptions_the_one_with_most_votes_is_taken_and_all_are_named(tmp_path):
    several = [("2", "Ehkä.", "1", "train"), ("2", "Ei.", "3", "train"), ("2", "", "9", "train")]
    equal = [("3", "Kyllä.", "2", "train"), ("3", "Joo.", "2", "train")]
    found = corpus.read(str(made(tmp_path, ("1", "Hei.", "2", "train"), *several, *equal)), "fi", ["train"])
    assert [clip.sentence for clip in found.splits["train"]] == ["Hei.", "Ei."]
    assert sorted(
        (place.removeprefix("ss-corpus-fi.tsv, line "), reason) for place, reason, _ in sum(found.left_out.values(), [])
    ) == [
        ("3", "another transcription has more votes"),
        ("5", "another transcription has more votes"),
        ("6", "a clip with several sentences"),
        ("7", "a clip with several sentences"),
    ]
