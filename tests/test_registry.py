"""What of a finished run leaves this machine for a registry, and what becomes of it there."""

import finished
import pytest

from whisper_lab.sharing import registry
from whisper_lab.stores import publishing
from whisper_lab.tuning import outcome, recipes
from whisper_lab.whisper import checkpoint, leaving

pytest_plugins = ["elsewhere"]


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("WHISPER_LAB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def run(tiny, tmp_path):
    return finished.run(tiny, tmp_path / "my runs" / "run-7", finished.plan(model=str(tiny)))


@pytest.mark.parametrize("where", ["memory", "file"])
def test_what_arrives_is_what_may_leave_and_it_is_a_model(run, tiny, memory, tmp_path, where, capsys):
    url = memory.replace("features", "swedish") if where == "memory" else f"file://{tmp_path}/there/swedish/"
    outcome.hand_on(run, recipes.Options(registry=url))  # as a run does, and a study with its best
    there = url.rstrip("/")
    assert capsys.readouterr().out == f"Registered: {there}/v1\n"
    fetched = publishing.fetch(url)
    assert {path.relative_to(fetched).as_posix() for path in fetched.rglob("*")} == finished.LEAVES
    for name in finished.LEAVES - {"README.md"}:
        assert (fetched / name).read_bytes() == (run / name).read_bytes(), name
    card = (fetched / "README.md").read_text(encoding="utf-8")
    assert "# swedish\n" in card and '- name: "swedish"\n' in card and "--model swedish\n" in card
    assert not any(str(folder) in card for folder in (tmp_path, tiny.parent)) and run.name not in card
    assert checkpoint.load_model(str(fetched)).config.d_model == 32
    assert registry.scores(fetched) == registry.scores(run)
    assert registry.register(run, url) == f"{there}/v1", "nothing is new"


def test_a_whole_run_that_was_published_is_named_and_stays_as_it_is(run, memory, capsys):
    assert publishing.publish(run, memory) == f"{memory}/v1"  # as earlier versions did
    assert registry.register(run, memory) == f"{memory}/v2"
    said = capsys.readouterr().out
    assert f"{memory}/v1, published earlier, holds " in said and said.count("\n") == 1
    assert "predictions.tsv" in said and "report.html" in said and "README.md" not in said
    assert (publishing.fetch(f"{memory}/v1") / "predictions.tsv").read_bytes() == (run / "predictions.tsv").read_bytes()
    assert registry.register(run, memory) == f"{memory}/v2" and not capsys.readouterr().out


def test_what_may_leave_is_named_and_nothing_else_is():
    assert leaving.may("config.json") and leaving.may("model-00001-of-00002.safetensors")
    for name in (".partial-1.safetensors", "checkpoints/1/model.safetensors", "predictions.tsv", "new.json", "a.html"):
        assert not leaving.may(name), name
