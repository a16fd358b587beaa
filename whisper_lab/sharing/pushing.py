"""A finished run → a model on the Hugging Face Hub, in one commit.

    config.json, generation_config.json, *.safetensors      the model, its language and task
    processor_config.json, tokenizer.json, …                 the processor, in the forms of transformers 4 and 5
    README.md, metrics.json, curves.png                      its card, scores and curves
    model.bin, vocabulary.json                               "ctranslate2": int8, for faster-whisper
    ggml-model-f16.bin                                       "ggml": for whisper.cpp

All is in the repository's root, where faster-whisper looks: WhisperModel("USER/NAME"). Large files are sent first, and
belong to nothing until the commit: whoever fetches the model meanwhile gets the one before, or none. What a push that
failed had sent is not sent again. What stays here: see whisper/leaving.py.
"""

import fnmatch
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .. import LabError, faults, files
from ..stores import transfers
from ..whisper import backends, checkpoint, ggml, leaving
from . import licences, model_card

FORMATS = ("ctranslate2", "ggml")
GGML = "ggml-model-f16.bin"
CONVERTED = ("model.bin", "vocabulary.json")  # CTranslate2's, beside config.json
PUSHED = (*leaving.MODEL, *leaving.SAID, *CONVERTED, GGML)
TOKENS = "https://huggingface.co/settings/tokens"


def check(name: str) -> str:
    """USER/NAME for `--push-to-hub name`, which may leave out the user.

    Raises LabError where no push could work: no token, one that may not write, a name that is another's.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise LabError(f"--push-to-hub {name}: {faults.in_a_line(error)}; write USER/NAME") from error
    if constants.HF_HUB_OFFLINE:
        raise LabError("--push-to-hub needs the Hugging Face Hub, and HF_HUB_OFFLINE is set; unset it")
    me = _asked(name, HfApi().whoami)
    user, orgs = me["name"], {org["name"]: org.get("roleInOrg") for org in me.get("orgs", ())}
    owner, _, bare = name.rpartition("/")
    if owner not in ("", user) and orgs.get(owner, "read") == "read":
        others = [org for org, role in orgs.items() if role != "read"]
        raise LabError(
            f"--push-to-hub {name}: {owner} is not yours to write to; the token is that of {user}"
            f"{' with ' + ', '.join(others) if others else ''}: write {user}/{bare}"
        )
    token = me.get("auth", {}).get("accessToken", {})
    scopes = token.get("fineGrained", {}).get("scoped", ())
    if token.get("role") == "read" or (scopes and not any("repo.write" in one["permissions"] for one in scopes)):
        raise LabError(f"--push-to-hub {name}: the token may only read; make one that may write at {TOKENS}")
    return f"{owner or user}/{bare}"


def push(folder: Path, name: str, *, private: bool | None = None, formats: tuple[str, ...] = ()) -> str:
    """The finished run in `folder` as the Hub's model `name`; its address. A later push is a commit on top.

    `private` None stands for private where the model may not be shown to anyone (licences.why_private). `formats`: more
    of `FORMATS`. Raises LabError where only the user can help, or trying again has not helped.
    """
    from huggingface_hub import HfApi

    api, folder = HfApi(), Path(folder)
    if missing := [one for one in ("plan.json", *leaving.SAID[:2]) if not (folder / one).is_file()]:
        raise LabError(
            f"{folder} holds no finished run (no {missing[0]}); finish it with the command that began it, then push it"
        )
    plan, repository = files.read_json(folder / "plan.json")["plan"], check(name)
    reason = licences.why_private(plan) or _asked(repository, lambda: _closed_start(api, plan["model"]))
    hidden = bool(reason) if private is None else private
    with tempfile.TemporaryDirectory() as scratch:
        sent, card = contents(folder, formats, Path(scratch)), (folder / "README.md").read_text(encoding="utf-8")
        sent["README.md"] = model_card.pushed(card, repository, plan, formats).encode()
        size = sum(len(one) if isinstance(one, bytes) else one.stat().st_size for one in sent.values())
        because = f", as {reason} (--public overrides)" if hidden and private is None else ""
        _say(f"Pushing {len(sent)} files, {size / 1e6:,.1f} MB, {'private' if hidden else 'public'}{because} …")
        _asked(repository, lambda: api.create_repo(repository, private=hidden, exist_ok=True))
        return _asked(repository, lambda: _commit(api, repository, sent, hidden, reason))


def contents(folder: Path, formats: tuple[str, ...], scratch: Path) -> dict[str, Path | bytes]:
    """What of a run goes to others, by its name there; what has to be made for it first goes into `scratch`."""
    found = leaving.files(folder)
    if "ctranslate2" in formats:
        converted = backends.convert(folder, "int8")
        found |= {name: converted / name for name in CONVERTED}
        # transformers passes over the keys that CTranslate2 reads, and the other way round
        config = checkpoint.config(folder) | files.read_json(converted / "config.json")
        found["config.json"] = (json.dumps(config, indent=2, sort_keys=True) + "\n").encode()
    if "ggml" in formats:
        ggml.write(folder, scratch / GGML)
        found[GGML] = scratch / GGML
    return found


def _closed_start(api, model: str) -> str | None:
    """Why the model that a run started from keeps it private, if it is on the Hub and not open to everyone."""
    if model == checkpoint.SAMPLE or Path(model).is_dir():
        return None
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        info = api.model_info(model.partition("@")[0])
    except RepositoryNotFoundError:
        return f"{model}, which it started from, is not on the Hub"
    return f"{model}, which it started from, is private or gated" if info.private or info.gated else None


def _commit(api, repository: str, sent: dict[str, Path | bytes], hidden: bool, reason: str | None) -> str:
    """Everything in one commit, and out with what an earlier push left that this one has not."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    address = f"{api.endpoint}/{repository}"
    info = api.model_info(repository)
    there = {file.rfilename for file in info.siblings or ()}
    if there - {".gitattributes", "README.md"} and model_card.TAG not in (info.tags or ()):
        raise LabError(f"{address} is there and was not pushed by this program; choose another name")
    if hidden and not info.private:
        why = f", and {reason}" if reason else ""
        raise LabError(f"{address} is public{why}; make it private at {address}/settings, or say --public")
    if not hidden and info.private:
        _say(f"{address} is private, and stays so until that is changed at {address}/settings")
    ours = [name for name in there - set(sent) if any(fnmatch.fnmatch(name, one) for one in PUSHED)]
    operations = [CommitOperationAdd(name, content) for name, content in sent.items()]
    operations += [CommitOperationDelete(name) for name in sorted(ours)]
    done = api.create_commit(
        repository, operations, commit_message=f"Model of {len(sent)} files", parent_commit=info.sha
    )
    if there & set(PUSHED) and done.oid != info.sha:
        _say(f"The model before is commit {info.sha[:8]}: {address}/tree/{info.sha}")
    return address


def _asked(repository: str, act):
    """`act()`, again where that may help. Every error is a LabError of one line."""
    from huggingface_hub import constants

    address = f"{constants.ENDPOINT}/{repository}"

    def act_or_explain():
        with _refusals(repository):
            return act()

    try:
        return transfers.ask(address, act_or_explain)
    except LabError:
        raise
    except Exception as error:  # hf_xet's and the Hub's own, without a status
        raise LabError(f"{address}: {faults.in_a_line(error)}; run the same command again to go on") from error


@contextmanager
def _refusals(repository: str) -> Iterator[None]:
    """What only the user can mend, as a LabError that says how."""
    from huggingface_hub.errors import LocalTokenNotFoundError

    try:
        yield
    except LocalTokenNotFoundError as error:
        raise LabError(
            f"pushing {repository} takes a token that may write: make one at {TOKENS}, then run `hf auth login` or set "
            "HF_TOKEN to it"
        ) from error
    except Exception as error:
        status, said = faults.status(error), faults.in_a_line(error)
        if status in (402, 403, 413) and any(word in said.lower() for word in ("storage", "quota", "too large")):
            raise LabError(
                f"the Hub has no room for {repository} ({said}); delete there what is not needed, or get more at "
                "https://huggingface.co/settings/billing"
            ) from error
        if status == 401:
            raise LabError(f"the Hub does not take the token ({said}); make another at {TOKENS}") from error
        if status == 403:
            raise LabError(
                f"the token may not write to {repository} ({said}); give it the right to at {TOKENS}, or choose a name "
                "of your own"
            ) from error
        if status == 429:
            raise TooMany(error) from error
        raise


class TooMany(Exception):
    """The Hub's limit of requests, which counts by five minutes."""

    status_code = 429

    def __init__(self, error: Exception):
        super().__init__(f"too many requests for now, wait five minutes ({faults.in_a_line(error)})")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
