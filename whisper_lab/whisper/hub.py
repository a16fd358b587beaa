"""A Whisper on the Hugging Face Hub, whole or an adapter: NAME, or NAME@REVISION."""

from pathlib import Path

from .. import LabError

WAYS_OUT = "name a local folder, or use the embedded Whisper base with --model sample"


def split(name: str) -> tuple[str, str]:
    """The Hub id in NAME@REVISION, and the revision."""
    hub_id, _, revision = name.partition("@")
    return hub_id, revision or "main"


def find(name: str) -> str:
    """What `from_pretrained` takes for it: the id, or a folder where the Hub cannot be reached, or for an adapter.

    Raises LabError where neither the Hub nor its cache here gives it.
    """
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url, snapshot_download, try_to_load_from_cache

    from . import merged

    hub_id, revision = split(name)
    try:  # asked for by itself, because from_pretrained words every failure the same, after half a minute of retries
        try:
            get_hf_file_metadata(hf_hub_url(hub_id, "config.json", revision=revision))
        except errors.RemoteEntryNotFoundError:
            wanted = ["adapter_config.json", "adapter_model.*", "README.md"]
            there = snapshot_download(hub_id, revision=revision, allow_patterns=wanted)
            if adapted := merged.whole(Path(there), name):
                return str(adapted)
            raise
        return hub_id
    except LabError:
        raise
    except errors.GatedRepoError as error:
        raise LabError(
            f"{name} wants its terms accepted first, at https://huggingface.co/{hub_id}; {WAYS_OUT}"
        ) from error
    except (errors.RepositoryNotFoundError, errors.RemoteEntryNotFoundError, errors.HFValidationError) as error:
        raise LabError(f"there is no folder {name!r}, and no such model on the Hugging Face Hub; {WAYS_OUT}") from error
    except errors.RevisionNotFoundError as error:
        raise LabError(f"{hub_id} has no revision {revision!r}; look at https://huggingface.co/{hub_id}") from error
    except Exception as error:  # whatever the Hub's HTTP library raises without a network
        if isinstance(cached := try_to_load_from_cache(hub_id, "config.json", revision=revision), str):
            return str(Path(cached).parent)
        if isinstance(cached := try_to_load_from_cache(hub_id, "adapter_config.json", revision=revision), str):
            return str(merged.whole(Path(cached).parent, name))
        raise LabError(
            f"the Hugging Face Hub cannot be reached for {name!r}, and there is no such folder; {WAYS_OUT}"
        ) from error


def fetch(name: str) -> Path:
    """The folder of its files, downloaded. Raises LabError."""
    from huggingface_hub import snapshot_download

    hub_id, revision = split(name)
    wanted = ["*.json", "*.safetensors", "pytorch_model*.bin", "model.bin", "*.txt", "README.md"]
    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=wanted))
    except Exception as error:  # the Hub's HTTP library's, or the Hub's own
        first = (str(error).strip() or repr(error)).splitlines()[0]
        raise LabError(f"{name} could not be fetched from the Hugging Face Hub ({first}); {WAYS_OUT}") from error
