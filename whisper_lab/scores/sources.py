"""What is evaluated, and on what: clips of a feature set or a corpus, features that fit a model, texts from files."""

from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from .. import LabError, files
from ..corpora import corpus
from ..speech import features
from ..stores import engine, store
from ..whisper import checkpoint, languages

TAKEN = "a run's folder or predictions.tsv, a TSV with columns id and text, or a folder of ID.txt files"


def sounds(read: corpus.Corpus | None) -> Callable[[str], corpus.Clip | None] | None:
    """The clip with an id, for its sound."""
    found = {clip.id: clip for clips in read.splits.values() for clip in clips} if read else {}
    return found.get if found else None


def fitting(
    name: str, processor, there: store.FeatureSet | None, read: corpus.Corpus | None, language: str | None = None
) -> store.FeatureSet:
    """Features that the model `name` can read: the set `there`, or one that is made of the corpus, in the cache.

    Models are told the set's language, or `language`, which is by default the corpus'.

    Raises LabError where the set is for other mels or another vocabulary, and there is no corpus.
    """
    if there:
        wrong = misfit(name, processor, there)
        if not wrong:
            return there
        if not read:
            raise LabError(f"{there.folder} holds {wrong}; name its corpus with --corpus, and features are made for it")
    return made(processor, read, there.manifest["language"] if there else language)


def misfit(name: str, processor, there: store.FeatureSet) -> str:
    """What features are that the model `name` cannot read, in words; "" where it can."""
    mels = processor.feature_extractor.feature_size
    if mels != there.mels:
        return f"{there.mels} mels, {name} takes {mels}"
    if checkpoint.tokenizer_fingerprint(processor.tokenizer) != there.manifest["tokenizer"]:
        return f"labels in another vocabulary than {name}'s"
    return ""


def made(processor, read: corpus.Corpus, language: str | None = None) -> store.FeatureSet:
    """The features of a corpus for one model's front-end and vocabulary; from the cache, if they are there."""
    language = languages.of_corpus(read.language, language)
    front_end = features.FrontEnd(processor.feature_extractor.feature_size)
    rows = {split: checkpoint.labelled(clips, processor.tokenizer, language) for split, clips in read.splits.items()}
    settings = {
        "corpus": read.identity(),
        "language": language,
        "front_end": front_end.settings(),
        "labels": checkpoint.LABELS,
        "tokenizer": checkpoint.tokenizer_fingerprint(processor.tokenizer),
    }
    folder = files.cache_folder() / "evaluated" / files.digest([store.SCHEMA_VERSION, settings])[:16]
    if not (folder / "manifest.json").is_file():
        with tqdm(total=sum(map(len, rows.values())), unit="clip", desc="Features", leave=False) as bar:
            store.build(
                folder,
                settings,
                rows,
                features.Extract(front_end.prepared()),
                engine.Local(),
                bar.update,
                read.left_out,
            )
    return store.FeatureSet(folder)


def mark(name: str) -> str:
    """What a model's name stands for: a digest of its weights and settings, or the Hub's commit."""
    folder, commit = checkpoint.folder(name)
    kept = sorted({path for kind in ("*.safetensors", "*.bin", "*config.json") for path in folder.glob(kind)})
    return commit or files.digest([[path.name, files.file_digest(path)] for path in kept])[:16]


def texts(path: Path, split: str) -> dict[str, list[dict]]:
    """The hypotheses at `path`, by name: rows with id, text and, where it is told, sentence.

    Of a run, what its tuned and untuned models wrote for `split`. Raises LabError.
    """
    if (path / "predictions.tsv").is_file():
        path = path / "predictions.tsv"
    if path.is_dir():
        found = sorted(path.glob("*.txt"))
        if not found:
            raise LabError(f"{path} holds no ID.txt files; --hypotheses takes {TAKEN}")
        return {path.name: [{"id": file.stem, "text": _text(file).strip()} for file in found]}
    if not path.is_file():
        raise LabError(f"{path} is not there; --hypotheses takes {TAKEN}")
    lines = [line.split("\t") for line in _text(path).splitlines() if line.strip()]
    if not lines:
        raise LabError(f"{path} is empty; --hypotheses takes {TAKEN}")
    head, *lines = lines
    wrong = next((i for i, line in enumerate(lines, 2) if len(line) != len(head)), None)
    if wrong:
        raise LabError(f"{path} has another number of columns in line {wrong} than in its first; mend it")
    if not lines:
        raise LabError(f"{path} holds the names of its columns and no line more; --hypotheses takes {TAKEN}")
    rows = [dict(zip(head, line)) for line in lines]
    columns = [name for name in ("tuned", "untuned", "text") if name in head]
    if "id" not in head or not columns:
        raise LabError(f"{path} has the columns {', '.join(head)}; --hypotheses takes {TAKEN}")
    rows = [row for row in rows if row.get("split", split) == split]
    if not rows:
        raise LabError(f"{path} has no texts for {split}; choose another --split")
    name = path.parent.resolve().name if path.name == "predictions.tsv" else path.stem
    return {
        name if column == "text" else f"{name} ({column})": [{**row, "text": row[column]} for row in rows]
        for column in columns
    }


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise LabError(f"{path} is no UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from error


def by_id(name: str, rows: list[dict]) -> dict[str, str]:
    """id → text. Raises LabError where a clip is there twice."""
    found = {row["id"]: row["text"] for row in rows}
    if len(found) < len(rows):
        ids = [row["id"] for row in rows]
        twice = next(one for one in ids if ids.count(one) > 1)
        raise LabError(f"{name} has two texts for {twice}; keep one")
    return found
