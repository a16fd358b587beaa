import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import ROOT, inside, script

from whisper_lab import LabError
from whisper_lab.corpora import corpus
from whisper_lab.serving import terminal
from whisper_lab.whisper import languages

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
    assert done.returncode == 1 and "Traceback" not in done.stderr and not done.stdout
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


@pytest.fixture
def folder(tmp_path) -> Path:
    """As from three telephones: equal names, another folder below, and what is no sound."""
    for name in ("a/talk.mp3", "b/talk.mp3", "b/talk.m4a.mp3", "b/deep/talk.mp3", "b/--odd.mp3"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CLIPS[0], tmp_path / name)
    (tmp_path / "b" / "notes.txt").write_text("to do")
    (tmp_path / "b" / ".hidden.mp3").write_bytes(b"")
    shutil.copy(ROOT / "sample" / "study.png", tmp_path / "b" / "picture.png")
    return tmp_path


def test_a_folder_is_taken_and_no_transcript_has_the_name_of_another(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert set(terminal.found(["b"], recursive=False).values()) == {"talk", "talk.m4a", "--odd"}
    assert "b: left out, as there is no sound in .hidden.mp3, notes.txt, picture.png\n" in capsys.readouterr().err
    assert set(terminal.found(["b"], recursive=True).values()) == {"talk", "talk.m4a", "--odd", "deep/talk"}
    shutil.copy("a/talk.mp3", "b/talk.wav")
    same = terminal.found(["a/talk.mp3", "b/talk.mp3", "b/talk.wav"], recursive=False)
    assert same == {"a/talk.mp3": "a/talk.mp3", "b/talk.mp3": "b/talk.mp3", "b/talk.wav": "talk.wav"}
    (folder / "empty").mkdir()
    with pytest.raises(LabError, match="nothing to transcribe"):
        terminal.found(["empty"], recursive=False)


def test_what_is_there_is_not_written_over_and_that_is_said_before_the_work(folder, tiny):
    out = folder / "out"
    out.mkdir()
    (out / "talk.txt").write_text("by hand")
    typed = ("app.py", "a", "--model", str(tiny), "--output-dir")
    done = inside(*typed, "out", cwd=folder, check=False)
    assert done.returncode == 2 and "out/talk.txt is there already; --overwrite" in done.stderr
    assert (out / "talk.txt").read_text() == "by hand"
    assert inside(*typed, "out", "--overwrite", cwd=folder).stderr.endswith("out/talk.txt\n")
    assert (out / "talk.txt").read_text() != "by hand"
    done = inside(*typed, "b/notes.txt", cwd=folder, check=False)
    assert done.returncode == 2 and "--output-dir b/notes.txt cannot be written" in done.stderr


def test_odd_names_of_files(tmp_path, tiny):
    """Beginning with a dash, of several lines, that steer the terminal, and as long as may be."""
    long = "å" * 125  # characters, of 250 bytes
    for name in ("-talk.mp3", "two\nlines \x1b[31m😀.mp3", f"{long}.mp3", f"{'x' * 250}a.mp3", f"{'x' * 250}b.mp3"):
        shutil.copy(CLIPS[0], tmp_path / name)
    done = inside("app.py", "-talk.mp3", "--model", str(tiny), cwd=tmp_path, check=False)
    assert done.returncode == 2 and done.stderr.endswith("a file whose name begins with a dash is ./-talk.mp3\n")
    (tmp_path / "out").mkdir()
    typed = ("--model", str(tiny), "--output-dir", "out", "--format", "json")
    done = inside("app.py", *typed, "--", *(path.name for path in tmp_path.glob("*.mp3")), cwd=tmp_path, check=False)
    assert "two\ufffdlines \ufffd[31m😀.mp3:\n" in done.stderr and "\x1b" not in done.stderr
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"-talk.json", "two\nlines \x1b[31m😀.json", f"{long[:120]}.json"}
    assert done.returncode == 1 and done.stderr.count("File name too long") == 2, "and the others all the same"


def test_a_terminal_of_another_coding_gets_what_it_can_show(monkeypatch, capsys):
    terminal_of_old = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", terminal_of_old)
    terminal.printed("Smörgås и чай")
    assert terminal_of_old.buffer.getvalue().decode("cp1252") == "Smörgås ? ???"
    assert "cp1252 has no place for what is written as ?" in capsys.readouterr().err


def test_who_reads_the_first_line_only_has_enough(tmp_path, tiny):
    typed = f"{sys.executable} {ROOT}/app.py {CLIPS[0]} {CLIPS[1]} --model {tiny} --format json"
    done = subprocess.run(f"{typed} | head -1", shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "{\n" and "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr


@pytest.mark.parametrize("form,first", (("txt", ""), ("srt", "1\n00:00:0"), ("vtt", "WEBVTT\n")))
def test_one_file_is_printed_and_nothing_else(tmp_path, form, first, tiny):
    done = inside("app.py", CLIPS[0], "--model", str(tiny), "--format", form, cwd=tmp_path)
    assert done.stdout.startswith(first) and list(tmp_path.iterdir()) == []


def test_the_language_that_was_detected_is_said_with_its_certainty(tmp_path, tiny):
    done = inside("app.py", CLIPS[0], "--model", str(tiny), "--language", "auto", "--format", "json", cwd=tmp_path)
    found = json.loads(done.stdout)
    said = f"{CLIPS[0]}: detected language: {languages.named(found['language'])}, "
    percent = re.search(re.escape(said) + r"(\d+) % \(a guess: --language CODE decides\)\n", done.stderr)[1]
    assert 100 * found["language_probability"] == pytest.approx(int(percent), abs=0.6)
    assert terminal._detected("ja", 0.94, None) == "detected language: Japanese (ja), 94 %"
    assert "94 %; the model was tuned to Swedish (sv), and may not" in terminal._detected("ja", 0.94, "sv")
    done = inside("app.py", CLIPS[0], "--model", str(tiny), "--format", "json", cwd=tmp_path)
    assert "language" not in json.loads(done.stdout) and "language" not in done.stderr


@pytest.mark.parametrize("name", ("app.py", "app_youtube.py"))
@pytest.mark.parametrize(
    "arguments,said",
    (
        (["--auth", "anna"], "USER:PASSWORD"),
        (["--max-minutes", "0"], "above 0"),
        (["--format", "doc"], "txt"),
        (["x.wav", "--model", "nowhere/at-all"], "sample"),
        (["--language", "xx"], "Whisper knows no language 'xx'"),
        (["--port", "99999"], "a port is 1 to 65535"),
        (["--host", "nosuch.invalid"], "no such host: nosuch.invalid"),
        (["--host", "203.0.113.7"], "203.0.113.7 is no address of this computer"),
    ),
)
def test_mistakes_are_one_line(tmp_path, name, arguments, said):
    if name == "app_youtube.py" and arguments[0] == "x.wav":
        arguments = ["https://youtu.be/dQw4w9WgXcQ", *arguments[1:]]
    done = inside(name, *arguments, cwd=tmp_path, check=False)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


def test_an_address_of_the_sixth_version(monkeypatch):
    import app
    from whisper_lab.serving import pages

    monkeypatch.setattr(pages, "check_host", lambda host: None)
    asked = {}
    page = SimpleNamespace(queue=lambda **how: None, launch=lambda **how: (None, asked.update(how), None))
    pages.serve(page, app.parse_args(["--host", "::1"]))
    assert asked["server_name"] == "[::1]"


def test_a_link_that_is_none_is_said(tmp_path, tiny):
    done = inside(
        "app_youtube.py", "https://example.org/watch?v=dQw4w9WgXcQ", "--model", str(tiny), cwd=tmp_path, check=False
    )
    assert done.returncode == 1 and "no link to a film on YouTube" in done.stderr and "Traceback" not in done.stderr
