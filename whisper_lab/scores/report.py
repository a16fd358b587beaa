"""What models wrote for a split, as one HTML page: it asks for nothing from elsewhere and opens from a file.

The numbers are in the page as it stands; the clips, word by word, are shown by the script in report.html. What
models and corpora say is text there, never HTML.
"""

import base64
import html
import io
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from .. import files
from ..corpora.corpus import Clip
from ..speech import audio
from ..text import normalise, units, unspaced
from . import breakdown, scoring

PAGE = Path(__file__).with_name("report.html")
WORST = 12  # clips to listen to
LARGEST = 300_000  # bytes of a file that goes into the page as it is


def write(
    path: Path,
    title: str,
    clips: Sequence[dict],
    hypotheses: dict[str, Sequence[str]],
    facts: dict[str, str] | None = None,
    sound: Callable[[str], Clip | None] | None = None,
    language: str = "",
) -> None:
    """Write the report of one split to `path`, a file like report.html.

    `clips` are rows of the split, in any order: id and sentence, and where the corpus tells seconds, client_id, age,
    gender, accents. `hypotheses` are the texts of each system in the order of `clips`, by the name to show; the page is
    about the first, the others (the untuned model, say) stand beside it. `facts` are said at the top ({"model": …}).
    `sound` gives the corpus' clip with an id, or None; the worst clips are embedded. `language` is the locale, where
    it is known. Raises ValueError where there is no word to score or the numbers of texts and clips differ.
    """
    references = [clip["sentence"] for clip in clips]
    rates = {name: scoring.scores(references, list(texts), language) for name, texts in hypotheses.items()}
    said = [normalise(sentence, language) for sentence in references]
    lines = {
        name: [aligned(a, normalise(b, language), language) for a, b in zip(said, texts)]
        for name, texts in hypotheses.items()
    }
    tables = {
        name: np.array([[errors(steps), len(units(a, language))] if a else [0, 0] for a, steps in zip(said, every)])
        for name, every in lines.items()
    }  # clips whose reference is empty once normalised count in no normalised rate, as in scoring
    first = next(iter(tables))
    worst = np.argsort(-tables[first][:, 0], kind="stable")[:WORST]
    worst = [int(i) for i in worst if tables[first][i, 0]]
    sounds = {clips[i]["id"]: embedded(sound(clips[i]["id"])) if sound else None for i in worst}
    sounds = {key: address for key, address in sounds.items() if address}
    unit = "character" if unspaced(language) else "word"
    what = f"Those with most {unit} errors of {first}."
    what += "" if sounds else " There is no audio beside these features: name the corpus to hear them."
    body = [
        f"<h1>{html.escape(title)}</h1>",
        f'<p class="soft">{_facts(clips, facts or {})}</p>',
        breakdown.headline(rates, language),
        breakdown.models(rates, [verdict(*pair) for pair in differences(references, hypotheses, language)], language),
        breakdown.groups(clips, tables),
        breakdown.confusions(lines[first], first, language),
    ]
    data = {
        "models": list(hypotheses),
        "language": language,
        "unit": unit,
        "worst": worst,
        "sounds": sounds,
        "clips": [
            {
                "id": clip["id"],
                "sentence": clip["sentence"],
                "seconds": clip.get("seconds") or 0,
                "units": int(tables[first][i, 1]),
                "facts": _of(clip),
                "errors": [int(table[i, 0]) for table in tables.values()],
                "steps": [every[i] for every in lines.values()],
                "texts": [texts[i] for texts in hypotheses.values()],
            }
            for i, clip in enumerate(clips)
        ],
    }
    parts = {"title": html.escape(title), "body": "\n".join(body), "sound": html.escape(what), "unit": unit}
    parts["data"] = in_script(data)
    page = PAGE.read_text(encoding="utf-8")
    files.write_text(path, re.sub(r"\{(title|body|sound|unit|data)\}", lambda found: parts[found[1]], page))


def in_script(value) -> str:
    """JSON for a script element: nothing in it ends the element, begins a comment or ends a line."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def aligned(reference: str, hypothesis: str, language: str = "") -> list[tuple[str, str, str]]:
    """(kind, said, written) of each stretch: kind is equal, substitute (one word), delete or insert (one word each).

    Of normalised texts; in languages without spaces, of characters instead of words.
    """
    import jiwer

    said, written, gap = units(reference, language), units(hypothesis, language), "" if unspaced(language) else " "
    if not said or not written:
        return [("delete", word, "") for word in said] + [("insert", "", word) for word in written]
    steps = []
    for chunk in jiwer.process_words(" ".join(said), " ".join(written)).alignments[0]:
        ours, theirs = said[chunk.ref_start_idx : chunk.ref_end_idx], written[chunk.hyp_start_idx : chunk.hyp_end_idx]
        if chunk.type == "equal":
            steps.append(("equal", gap.join(ours), gap.join(theirs)))
        else:
            size = max(len(ours), len(theirs))
            steps += [(chunk.type, *pair) for pair in zip(ours or [""] * size, theirs or [""] * size)]
    return steps


def errors(steps: list[tuple[str, str, str]]) -> int:
    return sum(kind != "equal" for kind, _, _ in steps)


def embedded(clip: Clip | None) -> str | None:
    """A data: address of a clip's file if browsers play it, else of an MP3 at 16 kHz; None where it cannot be read."""
    import soundfile

    if clip is None:
        return None
    try:
        raw = b"" if clip.part else Path(clip.path).read_bytes()
        kind = next((k for k, sign in SIGNS.items() if raw.startswith(sign)), None)
        if kind is None or len(raw) > LARGEST:
            made = io.BytesIO()
            samples = audio.read(clip.path, start=clip.start, end=clip.end)
            soundfile.write(made, samples, audio.SAMPLE_RATE, format="MP3")
            kind, raw = "audio/mpeg", made.getvalue()
    except (OSError, audio.AudioError, soundfile.SoundFileError):
        return None
    return f"data:{kind};base64,{base64.b64encode(raw).decode()}"


SIGNS = {"audio/mpeg": (b"ID3", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2"), "audio/ogg": b"OggS", "audio/flac": b"fLaC"}


def verdict(first: str, second: str, gap: scoring.Score) -> str:
    """What a careful author says of `gap`, the first's rate minus the second's, in points."""
    low, high = sorted((abs(gap.low), abs(gap.high)))
    if gap.high < 0:
        return f"{first} is better than {second} by {low:.1f} to {high:.1f} points."
    if gap.low > 0:
        return f"{first} is worse than {second} by {low:.1f} to {high:.1f} points."
    return f"No difference shown between {first} and {second} ({gap.low:+.1f} to {gap.high:+.1f} points)."


def differences(
    references: list[str], hypotheses: dict[str, Sequence[str]], language: str = ""
) -> list[tuple[str, str, scoring.Score]]:
    """Each pair of systems, in order, with the first's normalised WER (or CER, as scoring.headline says) minus the
    second's."""
    names = list(hypotheses)
    return [
        (a, b, scoring.difference(references, list(hypotheses[a]), list(hypotheses[b]), language))
        for i, a in enumerate(names)
        for b in names[i + 1 :]
    ]


def _facts(clips: Sequence[dict], facts: dict[str, str]) -> str:
    speakers = len({clip.get("client_id") for clip in clips} - {"", None})
    minutes = sum(clip.get("seconds") or 0 for clip in clips) / 60
    length = f", {minutes:,.1f} minutes" if minutes else ""
    about = f"{len(clips):,} clips{length}" + (f", {speakers:,} speakers" if speakers else "")
    return " · ".join(map(html.escape, [about, *(f"{name} {fact}" for name, fact in facts.items())]))


def _of(clip: dict) -> list[str]:
    """What is said of a clip above its text."""
    seconds = [f"{clip['seconds']:.1f} s"] if clip.get("seconds") else []
    speaker = [f"speaker {clip['client_id'][:12]}"] if clip.get("client_id") else []
    return [*seconds, *(clip[key] for key in ("age", "gender", "accents") if clip.get(key)), *speaker, clip["id"]]
