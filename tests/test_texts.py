"""What visitors are told, in either language, of whatever goes wrong."""

import ast
import errno
from pathlib import Path

import pytest
from conftest import ROOT

from whisper_lab import LabError
from whisper_lab.corpora import collection
from whisper_lab.serving import pages, refusals, texts
from whisper_lab.speech import audio

FACTS = {"minutes": 3, "limit": 2, "megabytes": 500, "text": "1:75", "time": "1:00", "length": "0:40", "start": "1:00"}
FACTS |= {"end": "0:30", "detail": "no such file: '/srv/lab/film-x/a b.m4a'"}
RAISED = {"AudioError": 1, "Refused": 0, "Damage": 0}  # where among its arguments each has its reason


def reasons() -> set[str]:
    """Every reason that the code gives to an error which a visitor can meet."""
    found = {*refusals.REASONS}
    folders = (ROOT / "whisper_lab" / name for name in ("speech", "serving"))
    for path in (*(path for folder in folders for path in folder.rglob("*.py")), Path(collection.__file__)):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            given = None
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in RAISED:
                given = node.args[RAISED[node.func.id]]
            elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "reason":
                given = node.value
            either = [given.body, given.orelse] if isinstance(given, ast.IfExp) else [given]
            found |= {one.value for one in either if isinstance(one, ast.Constant)}
    return found


def texts_of(language: str) -> dict[str, str]:
    return texts.TEXTS[language] | texts.ERRORS[language]


def test_every_reason_has_a_sentence_in_both_languages():
    raised = reasons()
    assert {"unknown coding", "not scaled", "not a file", "cannot be opened", "wrong type", "wrong shape"} <= raised
    assert {"damaged", "truncated", "no sound in it", "silent", "no clip", "beyond", "bot"} <= raised
    for language in texts.TEXTS:
        assert not raised - {*texts_of(language)}
    assert texts.ENGLISH.keys() == texts.SWEDISH.keys() and texts.ERRORS["en"].keys() == texts.ERRORS["sv"].keys()


@pytest.mark.parametrize("language", texts.TEXTS)
def test_no_sentence_names_a_path_of_this_computer(language, capsys):
    for reason in reasons():
        error = LabError("/srv/lab/x.wav: " + reason)
        error.reason, error.details = reason, FACTS
        said = texts.plain(error, language)
        assert said and "{" not in said
        assert "/" not in said.replace("https://www.youtube.com/watch?v=…", ""), said
    assert not capsys.readouterr().err
    for error in (
        audio.AudioError("/srv/lab/a.wav", "no such reason"),
        OSError(2, "gone", "/srv/lab/b"),
        KeyError("/c"),
    ):
        said = texts.plain(error, language)
        assert said == texts.TEXTS[language]["wrong"]
        assert str(error) in capsys.readouterr().err, "who runs the page is told"
    full = texts.plain(OSError(errno.ENOSPC, "No space left", "/srv/lab/b"), language)
    assert full == texts.TEXTS[language]["disk_full"] and not capsys.readouterr().err


def test_a_mistake_of_a_program_is_told_in_english():
    assert texts.plain(LabError("11 beams: 1 (greedy) to 10 make sense"), "en").startswith("11 beams: 1 (greedy)")
    said = pages.TooLong(7.2, 5)
    assert texts.plain(said, "sv") == "Det är 7 minuter; sidan tar 5. Välj en del, eller klipp filen."
