"""What corpora and models may be used for, as far as it is known here, and whether what is tuned on them may be public.

"Not known" counts as "no": a model remembers whom it was tuned on, and what is public once cannot be called back.
"""

import re
from pathlib import Path

from .. import files
from ..corpora import spontaneous
from ..corpora.corpus import bundled
from ..corpora.hub import stated_licence
from ..whisper import checkpoint

NAMES = {  # as the Hub writes them, huggingface.co/docs/hub/repositories-licenses
    "cc0-1.0": "CC0 1.0",
    "cc-by-3.0": "CC BY 3.0",
    "cc-by-4.0": "CC BY 4.0",
    "mit": "MIT",
    "apache-2.0": "Apache 2.0",
    "odc-by": "ODC-By 1.0",
    "pddl": "PDDL 1.0",
    "unlicense": "Unlicense",
}  # of these, a model tuned on the data may be given to anyone
RELEASE = re.compile(r"\d+\.\d+-(delta-)?\d{4}-\d\d-\d\d")  # Common Voice's versions; a folder of one's own has none
MODELS = {"openai/whisper-": "apache-2.0", "KBLab/kb-whisper-": "apache-2.0", "distil-whisper/": "mit"}


def of_corpus(corpus: dict) -> str | None:
    """The Hub's name of the licence of a manifest's corpus: what it says of itself, or what is known of Common Voice.

    Mozilla Data Collective gives Common Voice to those who promise not to pass the clips on; the licence stays CC0:
    https://community.mozilladatacollective.com/faq-why-cant-i-re-host-or-share-common-voice-datasets-that-i-download-from-mdc
    """
    if stated := corpus.get("licence"):
        return stated.lower().replace(" ", "-")
    known = corpus["name"] in ("Common Voice", spontaneous.NAME) and RELEASE.fullmatch(corpus["version"])
    return "cc0-1.0" if known else None


def may_be_public(corpus: dict) -> bool:
    """Whether a model tuned on a manifest's corpus, and a few of its sentences, may be shown to anyone."""
    return bundled(corpus) or of_corpus(corpus) in NAMES


def of_model(name: str) -> tuple[str | None, str | None]:
    """The licence and the Hub id of `--model name`; None for what is not known."""
    if name == checkpoint.SAMPLE:
        return "mit", "openai/whisper-base"
    if Path(name).is_dir():
        from huggingface_hub import ModelCard

        card = Path(name) / "README.md"
        text = card.read_text(encoding="utf-8") if card.is_file() else ""
        if not text.startswith("---"):
            return None, None
        data = ModelCard(text, ignore_metadata_errors=True).data
        return stated_licence(data.to_dict()), data.base_model if isinstance(data.base_model, str) else None
    name = name.partition("@")[0]
    return next((licence for start, licence in MODELS.items() if name.startswith(start)), None), name


def why_private(plan: dict) -> str | None:
    """Why the model of a run with this plan (of its plan.json) must not be public; None where it may be.

    Of the model that it started from, a Hub id counts as public: whether it is, the Hub has to be asked.
    """
    start = plan["model"]
    for corpus in filter(None, (plan["corpus"], plan.get("replay"))):
        if may_be_public(corpus):
            continue
        licence = of_corpus(corpus)
        name = f"{corpus['name']} {corpus['version']}".strip()
        return f"{name} has the licence {licence}" if licence else f"the licence of {name} is not known"
    if not Path(start).is_dir():
        return None
    if (Path(start) / "plan.json").is_file():  # a run of this program, which stands for what it was tuned on
        return why_private(files.read_json(Path(start) / "plan.json")["plan"])
    licence, _ = of_model(start)
    return None if licence in NAMES else f"the licence of {start}, which it started from, is not known"
