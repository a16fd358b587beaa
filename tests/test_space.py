"""The folder for Hugging Face Spaces holds what the page needs, nothing from elsewhere, and says the same."""

import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import finished
import pytest
import yaml
from conftest import ROOT

from whisper_lab import LabError, needs, space

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PAGES = [
    pytest.param(name, marks=pytest.mark.skipif(not (ROOT / name).is_file(), reason=f"{name} is not written yet"))
    for name in space.PAGES
]

# Runs a space's page where only the distributions in argv[1] exist, then imports each of its modules, and writes into
# the file argv[2] where these came from. The rest of argv is the page's.
ONLY = """
import importlib, importlib.machinery, importlib.metadata, json, pathlib, re, runpy, sys

allowed, report = set(sys.argv[1].split()), sys.argv[2]
plain = lambda name: re.sub(r"[-_.]+", "-", name).lower()
provided = importlib.metadata.packages_distributions().items()
hidden = {package for package, names in provided if not allowed & set(map(plain, names))}

class Only(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if path is None and name in hidden else super().find_spec(name, path, target)

    @classmethod
    def find_distributions(cls, *args, **options):
        return (one for one in super().find_distributions(*args, **options) if plain(one.name) in allowed)

sys.meta_path[:] = [Only if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path]
sys.argv = ["app.py", *sys.argv[3:]]
try:
    runpy.run_path("app.py", run_name="__main__" if sys.argv[1:] else "app")
except SystemExit as end:
    status = end.code
else:
    status = 0
for module in pathlib.Path("whisper_lab").rglob("[a-z]*.py"):
    importlib.import_module(".".join(module.with_suffix("").parts))
modules = {name: one.__file__ for name, one in sys.modules.items() if name.split(".")[0] == "whisper_lab"}
pathlib.Path(report).write_text(json.dumps({"modules": modules, "hidden": sorted(hidden)}))
sys.exit(status)
"""


@pytest.fixture(scope="module")
def model(tiny, tmp_path_factory) -> Path:
    """A model as training leaves it: with a card, and much that serving does not need."""
    folder = tmp_path_factory.mktemp("trained") / "small"
    shutil.copytree(tiny, folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# small\n", encoding="utf-8")
    for name in ("untuned.json", "predictions.tsv", "checkpoints/1/model.safetensors", "log/events"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    return folder


@pytest.fixture(scope="module")
def built(model, tmp_path_factory):
    """The space of a page, built once."""
    folders = {}

    def of(page: str) -> Path:
        if page not in folders:
            folders[page] = tmp_path_factory.mktemp("spaces") / "space"
            space.build(space.find(str(model)), page, None, folders[page])
        return folders[page]

    return of


def head(folder: Path) -> dict:
    return yaml.safe_load((folder / "README.md").read_text(encoding="utf-8").split("---\n")[1])


def served(folder: Path) -> list[str]:
    return (folder / "requirements.txt").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("page", PAGES)
def test_the_folder_is_what_spaces_wants(page, built, model):
    folder, project = built(page), (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    front, films = head(folder), page == "app_youtube.py"
    assert front["sdk"] == "gradio" and any(line.startswith(f"gradio=={front['sdk_version']} ") for line in project)
    assert front["python_version"] == f"3.{sys.version_info.minor}" and front["license"] == "apache-2.0"
    assert "models" not in front
    assert (folder / front["app_file"]).read_bytes() == (ROOT / page).read_bytes()
    assert served(folder)[0].startswith("--extra-index-url") and served(folder)[0].endswith("/cpu")
    assert set(served(folder)[1:]) < set(project)
    names = {line.split("=")[0] for line in served(folder)[1:]}
    assert {"torch", "transformers", "ctranslate2", "faster-whisper"} < names
    assert not names & {"gradio", "accelerate", "matplotlib", "tensorboard", "hopsworks"}
    assert names & {"pytube", "yt-dlp", "yt-dlp-ejs"} == ({"pytube", "yt-dlp", "yt-dlp-ejs"} if films else set())
    assert space.default_model(folder) == str(folder / "model")
    weights = (folder / "model" / "model.safetensors").read_bytes()
    assert weights == (model / "model.safetensors").read_bytes()
    assert set(os.listdir(folder / "model")) == set(finished.MODEL)
    assert (folder / "whisper_lab" / "serving" / "web" / "page.css").is_file()
    assert not (folder / "whisper_lab" / "tuning").exists() and not list(folder.rglob("__pycache__"))
    clips = (folder / "sample" / "cv-corpus-sample-2.0" / "sv-SE" / "clips").iterdir()
    assert len(list(clips)) == 60
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert "PRO" in readme and "November 2026" in readme and ("robots" in readme) == films


CLIP = ROOT / "sample" / "cv-corpus-sample-2.0" / "sv-SE" / "clips" / "common_voice_sv-SE_1000261.mp3"
TRANSCRIPT = [str(CLIP), "--format", "json", "--language", "sv"]


@pytest.fixture(scope="module")
def ran(built, tmp_path_factory) -> dict:
    """Pages in their spaces with only what their requirements bring, both at once: app.py reads a clip.

    For each, the exit status, stdout, stderr, and what `ONLY` reports.
    """
    home, processes = tmp_path_factory.mktemp("home"), {}
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "OMP_NUM_THREADS": "1"}
    environment |= {"HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False"}
    for page in space.PAGES:
        if (ROOT / page).is_file():
            folder = built(page)
            allowed = needs.installed_by([*served(folder)[1:], needs.pins()["gradio"]])
            arguments = [" ".join(allowed), home / page, *(TRANSCRIPT if page == "app.py" else [])]
            processes[page] = subprocess.Popen(
                [sys.executable, "-s", "-E", "-B", "-c", ONLY, *arguments],
                cwd=folder,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
    ends = {}
    for page, process in processes.items():
        out, error = process.communicate(timeout=120)
        report = json.loads((home / page).read_text()) if (home / page).is_file() else None
        ends[page] = process.returncode, out, error, report
    return ends


@pytest.mark.parametrize("page", PAGES)
def test_a_space_runs_on_its_own_modules_and_requirements(page, ran, built):
    status, _, error, report = ran[page]
    assert status == 0, error[-3000:]
    folder = built(page).resolve() / "whisper_lab"
    assert all(folder in Path(file).resolve().parents for file in report["modules"].values())
    assert len(report["modules"]) == len(list(folder.rglob("*.py")))
    assert {"accelerate", "matplotlib", "hopsworks"} <= set(report["hidden"])  # so hiding did something


@pytest.mark.parametrize("page", PAGES[:1])
def test_the_hosted_transcript_is_the_checkouts(page, ran, model, tmp_path, monkeypatch, capsys):
    import app

    monkeypatch.setattr(sys, "argv", ["app.py", *TRANSCRIPT, "--model", str(model)])
    monkeypatch.setenv("WHISPER_LAB_CACHE", str(tmp_path))
    assert not app.main()
    ours, hosted = json.loads(capsys.readouterr().out), json.loads(ran[page][1])
    assert ours.pop("model") != hosted.pop("model")
    assert ours["segments"] and ours == hosted


def test_built_again_it_is_replaced_as_a_whole_and_keeps_git(tmp_path, tiny):
    folder = tmp_path / "space"
    space.build(space.find(str(tiny)), output=folder)
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("mine")
    (folder / "stale.py").write_text("")
    space.build(space.find("sample"), output=folder, title="Åsas: öra")
    assert (folder / ".git" / "config").read_text() == "mine"
    assert not (folder / "stale.py").exists() and not (folder / "model").exists()
    assert space.default_model(folder) == "sample" and head(folder)["title"] == "Åsas: öra"
    assert os.listdir(tmp_path) == ["space"]


def test_a_build_that_fails_leaves_what_was_there(tmp_path):
    folder = tmp_path / "space"
    folder.mkdir()
    (folder / "space.json").write_text('{"model": "sample", "revision": null}')
    with pytest.raises(OSError, match="disk"), space._replacing(folder) as new:
        (new / "app.py").write_text("")
        raise OSError("disk full")
    assert os.listdir(tmp_path) == ["space"] and os.listdir(folder) == ["space.json"]


def test_the_command_builds_and_never_touches_a_folder_that_it_did_not_make(tmp_path):
    def run(output: str):
        command = [sys.executable, "-m", "whisper_lab.space", "--output", tmp_path / output]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    done = run("mine")
    assert done.returncode == 0, done.stderr
    assert "pinned packages" in done.stdout and space.default_model(tmp_path / "mine") == "sample"
    (tmp_path / "theirs").mkdir()
    done = run("theirs")
    assert done.returncode == 2 and "choose another --output" in done.stderr and done.stderr.count("\n") == 1
    assert os.listdir(tmp_path / "theirs") == []


def test_no_default_model_where_no_space_was_built():
    assert space.default_model(ROOT) is None


def test_what_is_imported_in_functions_counts_and_what_no_line_brings_is_said(tmp_path):
    script = tmp_path / "page.py"
    script.write_text("def late():\n    from whisper_lab.text import normalise\n    import av, nowhere\n")
    modules, packages = needs.imports(script)
    assert {path.name for path in modules} == {"__init__.py", "text.py"} and packages == {"av", "nowhere"}
    with pytest.raises(LabError, match="brings nowhere"):
        needs.requirements(packages | {"faster_whisper"})
    names = {line.split("==")[0] for line in needs.requirements({"faster_whisper"})}
    assert {"ctranslate2", "tqdm", "faster-whisper"} <= names and not names & {"torch", "yt-dlp"}


@pytest.fixture
def hub(monkeypatch):
    """A Hub of our own on this machine, asked by the real client: it has a gated Whisper, a GPT-2 and an adapter."""
    from huggingface_hub import constants

    known = {
        "me/whisper": {"config": {"model_type": "whisper"}, "gated": "manual", "cardData": {"license": "mit"}},
        "me/gpt2": {"config": {"model_type": "gpt2"}},
        "me/lora": {"siblings": [{"rfilename": "adapter_config.json"}, {"rfilename": "adapter_model.safetensors"}]},
    }

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self):
            name, _, revision = self.path.removeprefix("/api/models/").partition("?")[0].partition("/revision/")
            code = None if name in known else "RepoNotFound"
            code = "RevisionNotFound" if not code and revision not in ("", "main", COMMIT) else code
            self.send_response(404 if code else 200)
            if code:
                self.send_header("X-Error-Code", code)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            body = {"error": code} if code else {"id": name, "sha": COMMIT, "private": False, "siblings": []}
            self.wfile.write(json.dumps(body | known.get(name, {})).encode())

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield
        server.shutdown()


def test_a_model_on_the_hub_is_pinned_to_its_commit(hub, tmp_path):
    assert space.find("me/whisper") == space.find("me/whisper@main") == space.find("me/whisper", "main")
    space.build(space.find("me/whisper"), output=tmp_path / "space")
    assert space.default_model(tmp_path / "space") == f"me/whisper@{COMMIT}"
    assert head(tmp_path / "space")["models"] == ["me/whisper"] and head(tmp_path / "space")["license"] == "mit"
    assert "secret `HF_TOKEN`" in (tmp_path / "space" / "README.md").read_text(encoding="utf-8")
    assert not (tmp_path / "space" / "model").exists()


@pytest.mark.parametrize(
    "name, revision, message",
    [
        ("me/whisper", "v2", "no revision 'v2'"),
        ("me/nothing", None, "no such model"),
        ("no/such/folder", None, "no such model"),
        ("me/gpt2", None, "of type gpt2"),
        ("me/lora", None, "is an adapter.*hf download me/lora --local-dir"),
        ("sample", "main", "leave it out"),
    ],
)
def test_a_model_that_cannot_be_served(hub, name, revision, message):
    with pytest.raises(LabError, match=message):
        space.find(name, revision)


def test_offline_the_commit_has_to_be_given():  # conftest sets HF_HUB_OFFLINE
    for revision in (None, "main"):
        with pytest.raises(LabError, match="--revision"):
            space.find("me/whisper", revision)
    assert space.find("me/whisper", COMMIT) == space.Source("me/whisper", COMMIT, closed=None)


def test_a_folder_without_weights_is_no_model(tmp_path, tiny):
    shutil.copy(tiny / "config.json", tmp_path)
    with pytest.raises(LabError, match="no weights"):
        space.find(str(tmp_path))
