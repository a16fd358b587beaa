"""Where a finished model is put: the model registry of a Hopsworks project, or a folder elsewhere."""

from pathlib import Path

from .. import LabError, files
from . import places, publishing


def check(url: str) -> None:
    """Raises LabError where `register` would, for what can be known without a model."""
    if _in_hopsworks(url):
        _project_and_name(url)
    else:
        places.open_place(url)


def register(folder: Path, url: str) -> str:
    """Put the model in `folder` at `url`, its scores with it; where it is found there.

    hopsworks://PROJECT/NAME is a model in that project's registry, every other URL a place to publish to. The same
    model is not sent twice to a place. Raises LabError where only the user can help.
    """
    if not _in_hopsworks(url):
        return publishing.publish(folder, url)
    from . import hopsworks_place

    return hopsworks_place.register_model(folder, *_project_and_name(url), scores(folder))


def scores(folder: Path) -> dict[str, float]:
    """Those of the tuned model, {"test_wer_normalised": 11.4, …} in per cent."""
    tuned = files.read_json(folder / "metrics.json")["tuned"]
    return {f"{split}_{name}": score["value"] for split, found in tuned.items() for name, score in found.items()}


def _in_hopsworks(url: str) -> bool:
    return url.startswith("hopsworks://")


def _project_and_name(url: str) -> tuple[str, str]:
    from . import hopsworks_place

    project, name = hopsworks_place.parse(url)
    if "/" in name:
        raise LabError(f"{url} is no model of a project; write --registry hopsworks://PROJECT/NAME")
    return project, name
