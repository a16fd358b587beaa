import json
import os
import shutil
from pathlib import Path

import pytest
from conftest import inside, script

from whisper_lab.corpora import corpus

CLIPS = [clip.path for clip in corpus.read("sample", "sv-SE", ["test"], limit=2).splits["test"]]


def test_files_are_written_beside_mistakes(tmp_path):
    (tmp_path / "words.mp3").write_text("no sound")
    shutil.copy(CLIPS[0], tmp_path / "one.mp3")
    whole = Path(CLIPS[0]).read_bytes()
    strange = os.fsdecode(b"f\xe5r.mp3")  # from a disk of the nineties
    (tmp_path / strange).write_bytes(whole[:6_000] + bytes(1_000) + whole[7_000:])
    done = script(
        *("app.py", "one.mp3", "missing.wav", "words.mp3", strange, CLIPS[1], "--model", "sample"),
        *("--format", "json", "--output-dir", "out"),
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr and not done.stdout
    assert "missing.wav: missing file" in done.stderr and "words.mp3: not audio" in done.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "one.json",
        f"{CLIPS[1]}".split("/")[-1][:-3] + "json",
        strange[:-3] + "json",
    }
    assert "f\ufffdr.mp3: damaged (1,008 bytes that are no sound, at 1.5 s); the rest is transcribed" in done.stderr
    damaged = json.loads((tmp_path / "out" / f"{strange[:-3]}json").read_text(encoding="utf-8"))
    assert damaged["source"] == "f\ufffdr.mp3" and damaged["damage"][0]["at"] == pytest.approx(1.5, abs=0.1)
    assert damaged["segments"]
    found = json.loads((tmp_path / "out" / "one.json").read_text(encoding="utf-8"))
    assert "damage" not in found
    assert found["model"] == "sample" and found["source"] == "one.mp3" and found["versions"]["ctranslate2"]
    assert all(word["end"] >= word["start"] for segment in found["segments"] for word in segment["words"])


@pytest.mark.parametrize("form,first", (("txt", ""), ("srt", "1\n00:00:0"), ("vtt", "WEBVTT\n")))
def test_one_file_is_printed_and_nothing_else(tmp_path, form, first, tiny):
    done = inside("app.py", CLIPS[0], "--model", str(tiny), "--format", form, cwd=tmp_path)
    assert done.stdout.startswith(first) and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ("app.py", "app_youtube.py"))
@pytest.mark.parametrize(
    "arguments,said",
    (
        (["--auth", "anna"], "USER:PASSWORD"),
        (["--max-minutes", "0"], "above 0"),
        (["--format", "doc"], "txt"),
        (["x.wav", "--model", "nowhere/at-all"], "sample"),
    ),
)
def test_mistakes_are_one_line(tmp_path, name, arguments, said):
    if name == "app_youtube.py" and arguments[0] == "x.wav":
        arguments = ["https://youtu.be/dQw4w9WgXcQ", *arguments[1:]]
    done = inside(name, *arguments, cwd=tmp_path, check=False)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


def test_a_link_that_is_none_is_said(tmp_path, tiny):
    done = inside(
        "app_youtube.py", "https://example.org/watch?v=dQw4w9WgXcQ", "--model", str(tiny), cwd=tmp_path, check=False
    )
    assert done.returncode == 2 and "no link to a film on YouTube" in done.stderr and "Traceback" not in done.stderr
