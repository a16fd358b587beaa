"""Where a finished model is put: the model registry of a Hopsworks project, or a folder elsewhere.

What goes there is what may leave this machine (whisper/leaving.py), with the card as it is for others.
"""

import tempfile
from pathlib import Path

from .. import LabError, files
from ..stores import places, publishing
from ..whisper import leaving
from . import model_card


def check(url: str) -> None:
    """Raises LabError where `register` would, for what can be known without a model."""
    if _in_hopsworks(url):
        _project_and_name(url)
    else:
        places.open_place(url)


def register(folder: Path, url: str) -> str:
    """Put the model of the finished run in `folder` at `url`, its scores with it; where it is found there.

    hopsworks://PROJECT/NAME is a model in that project's registry, every other URL a place to publish to. The same
    model is not sent twice to a place. Raises LabError where only the user can help.
    """
    folder, name = Path(folder), url.rstrip("/").rpartition("/")[2]
    card, plan = (folder / "README.md").read_text(encoding="utf-8"), files.read_json(folder / "plan.json")["plan"]
    with tempfile.TemporaryDirectory() as scratch:
        outgoing = Path(scratch)
        for file, path in leaving.files(folder).items():
            (outgoing / file).symlink_to(path.resolve())
        files.write_text(outgoing / "README.md", model_card.pushed(card, name, plan))
        if _in_hopsworks(url):
            from ..stores import hopsworks_place

            return hopsworks_place.register_model(outgoing, *_project_and_name(url), scores(folder))
        _say_what_is_there(url)
        return publishing.publish(outgoing, url)


def _say_what_is_there(url: str) -> None:
    """Earlier versions of this program published the whole folder of a run."""
    try:
        there = publishing.listing(url)
    except LabError:  # nothing is there yet; what else is wrong, publishing says
        return
    if private := [name for name in there["files"] if not leaving.may(name)]:
        print(
            f"{there['url']}, published earlier, holds {', '.join(private)}, and in them the corpus' sentences or "
            "recordings: delete that version there, if it is not for you alone"
        )


def scores(folder: Path) -> dict[str, float]:
    """Those of the tuned model, {"test_wer_normalised": 11.4, …} in per cent; none where no sentences were there."""
    metrics = files.read_json(folder / "metrics.json")
    tuned = {} if "unlabelled" in metrics else metrics["tuned"]
    return {f"{split}_{name}": score["value"] for split, found in tuned.items() for name, score in found.items()}


def _in_hopsworks(url: str) -> bool:
    return url.startswith("hopsworks://")


def _project_and_name(url: str) -> tuple[str, str]:
    from ..stores import hopsworks_place

    project, name = hopsworks_place.parse(url)
    if "/" in name:
        raise LabError(f"{url} is no model of a project; write --registry hopsworks://PROJECT/NAME")
    return project, name
