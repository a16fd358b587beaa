"""Any Whisper on any features or corpus, several beside each other: a table, and a page to read and listen to.

    python -m whisper_lab.evaluation models/sample sample --features features/sample
    python -m whisper_lab.evaluation models/small openai/whisper-small --corpus ~/cv-corpus-17.0-2024-03-15
    python -m whisper_lab.evaluation --hypotheses models/sample             what a run wrote; no model is loaded
    python -m whisper_lab.evaluation --hypotheses theirs.tsv --corpus sample
    python -m whisper_lab.evaluation models/sample --hypotheses theirs/ --corpus sample    both

A model is read at the windows it was trained on (trained_windows in its config.json), any other at 30 s. All are scored
on the same clips and compared in pairs. --output then holds report.html, scores.json and hypotheses.tsv; what was heard
before a kill is kept there.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from . import LabError, command
from .text import DOTTED, guess
from .whisper import precision


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m whisper_lab.evaluation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    # fmt: off
    add = parser.add_argument
    add("models", nargs="*", type=command.path, metavar="MODEL",
        help="folders, Hub ids, or 'sample', the embedded Whisper base")
    add("--hypotheses", nargs="+", type=command.path, default=[], metavar="FILE|FOLDER",
        help="texts to score without a model: the folder or predictions.tsv of a run, a TSV with columns id and text "
        "(and sentence, where no features or corpus are named), a folder of ID.txt files")
    add("--features", type=command.path, metavar="FOLDER|URL", help="a feature set of feature-pipeline.py")
    add("--corpus", type=command.path, metavar="SOURCE",
        help="what feature-pipeline.py --corpus takes: features are made where a model needs others than --features, "
        "and the worst clips can be listened to")
    add("--language", metavar="LOCALE",
        help="of --corpus, as in feature-pipeline.py (default sv-SE), or of --hypotheses that name none: how letters "
        "become small, and whether words can be counted")
    add("--whisper-language", metavar="CODE", help="of --corpus, as in feature-pipeline.py: what models are told")
    add("--columns", nargs="+", type=command.pair, default=[], metavar="KEY=NAME",
        help="of --corpus, as in feature-pipeline.py")
    add("--split", default="test", help="default test")
    add("--limit", type=int, metavar="N", help="only the split's first N clips")
    add("--batch-size", type=int, metavar="N", help="clips at 30 s, more on short windows (default 16; 64 on a GPU)")
    add("--precision", choices=precision.NAMES, default="auto", help=precision.HELP)
    add("--output", type=command.path, metavar="FOLDER",
        help="default evaluations/ and what is scored; another's folder is never touched")
    # fmt: on
    args = parser.parse_args(argv)
    if not args.models and not args.hypotheses:
        parser.error("name a model, or --hypotheses")
    if args.models and not (args.features or args.corpus):
        parser.error("a model needs something to listen to: --features or --corpus")
    if args.whisper_language and (args.features or not args.corpus):
        parser.error("--whisper-language goes with --corpus alone: features say what models are told")
    for name in ("limit", "batch_size"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} is a number from 1 up")
    return args


def main() -> None:
    args = parse_args()
    from . import cuda, files
    from .corpora import corpus
    from .scores import sources
    from .stores import streaming
    from .whisper import checkpoint

    features = streaming.open_features(args.features) if args.features else None
    columns = dict(pair.split("=", 1) for pair in args.columns)
    locale = args.language or "sv-SE"
    read = corpus.read(args.corpus, locale, [args.split], args.limit, columns) if args.corpus else None
    if read and any(read.left_out.values()):
        print(f"{args.corpus}{corpus.unused(read.left_out)}")
    if features:
        features.split(args.split)  # raises, if there is none, before anything is read
    if not read and features and corpus.bundled(features.manifest["corpus"]):
        read = corpus.read("sample", features.manifest["corpus"]["language"], [args.split], args.limit)
    found = {name: rows for path in args.hypotheses for name, rows in sources.texts(Path(path), args.split).items()}
    given = {name: sources.by_id(name, rows) for name, rows in found.items()}
    clips = subject(args, features, read, found)
    common(clips, given)  # what is missing had better be known before the work than after
    args.models = [*dict.fromkeys(map(checkpoint.plain, args.models))]
    fitting = {
        name: sources.fitting(name, checkpoint.load_processor(name), features, read, args.whisper_language)
        for name in args.models
    }
    marks = {name: sources.mark(name) for name in args.models}
    plan = {
        "split": args.split,
        "clips": files.digest([[clip["id"], clip["sentence"]] for clip in clips]),
        "models": marks,
        "hypotheses": {name: files.digest(texts) for name, texts in given.items()},
        **({"whisper_language": args.whisper_language} if args.whisper_language else {}),
    }
    output = Path(args.output or Path("evaluations") / f"{'-'.join(map(_short, [*marks, *given]))}-{args.split}")

    def as_now(plan: dict) -> dict:  # names as they were typed
        return plan | {"models": {checkpoint.plain(name): mark for name, mark in plan.get("models", {}).items()}}

    settled = precision.choose(args.precision, cuda.device().type) if marks else ""
    places = {name: output / f"heard-{files.digest([name, mark, settled])[:12]}.json" for name, mark in marks.items()}
    for name in (name for name, place in places.items() if not place.is_file()):
        checkpoint.load_model(name)  # one that is not whole is refused now, before the folder is claimed
    files.claim(output, plan, "--output", as_now)
    heard, short = {}, len({_short(name) for name in marks}) == len(marks)
    for name, place in places.items():
        if not place.is_file():
            files.write_json(place, hear(name, fitting[name], args, settled))
        heard[_short(name) if short else name] = files.read_json(place)
    heard |= {f"{name} (file)" if name in heard else name: texts for name, texts in given.items()}
    facts = about(args, features, read) | ({"precision": settled} if marks else {})
    finish(output, clips, heard, facts, sources.sounds(read), spoken(args, features, read, clips))


def subject(args, features, read, given: dict[str, list[dict]]) -> list[dict]:
    """The clips to score: of the feature set, of the corpus, or as the first file of hypotheses names them."""
    if features:
        return features.clips(args.split).to_pylist()[: args.limit]
    if read:
        return [asdict(clip) for clip in read.splits[args.split]]
    name, rows = next(iter(given.items()))
    if "sentence" not in rows[0]:
        raise LabError(f"{name} has no column sentence to score against; name --features or --corpus")
    return rows[: args.limit]


def about(args, features, read) -> dict[str, str]:
    """What is said of the clips: the corpus and its version."""
    if not (features or read):
        return {"split": args.split}
    corpus = features.manifest["corpus"] if features else read.identity()
    return {"split": args.split, "corpus": f"{corpus['name']} {corpus['version']}, {corpus['language']}"}


def spoken(args, features, read, clips: list[dict]) -> str:
    """The locale that texts are scored in; where nothing names one, guessed by the letters of the sentences."""
    if features or read:
        return features.manifest["corpus"]["language"] if features else read.language
    if args.language:
        return args.language
    found = guess(clip["sentence"] for clip in clips)
    if found in DOTTED:
        print(f"No --language is named: by its letters, this is scored as {DOTTED[found]}")
    return found


def hear(name: str, features, args, settled: str) -> dict[str, str]:
    """What the model `name` writes for the clips of the split of `features`, computed as `settled`: id → text."""
    from . import cuda
    from .scores import hypotheses
    from .speech.features import FRAMES
    from .stores import reading
    from .whisper import batches, checkpoint

    processor, model = checkpoint.load_processor(name), checkpoint.load_model(name)
    language = features.manifest["language"]
    checkpoint.set_language(model, language)
    device = cuda.device()
    prompt = checkpoint.prompt_ids(processor.tokenizer, language)
    clips = reading.Part(features.split(args.split), slice(args.limit))
    collator = batches.Collator(prompt[0], processor.tokenizer.convert_tokens_to_ids("<|endoftext|>"))
    lengths = getattr(model.config, "trained_windows", None) or [FRAMES]
    what = clips, processor.tokenizer, collator, prompt, lengths
    with cuda.explained(f"scoring with {name}"):
        model.to(device)
        heard, _ = hypotheses.in_memory(
            args.batch_size or (64 if device.type == "cuda" else 16),
            lambda size: hypotheses.transcribe(model, *what, size, name, settled),
        )
    return dict(zip(heard.ids, heard.texts))


def finish(
    output: Path, clips: list[dict], heard: dict[str, dict[str, str]], about: dict[str, str], sound, language: str
) -> None:
    """Score, print, and write what --output is to hold. Clips that no model could read are left out for all."""
    from . import files
    from .scores import report, scoring

    clips, all_of_them = common(clips, heard), len(clips)
    if left := all_of_them - len(clips):
        print(f"{left:,} of {all_of_them:,} clips are left out: not every system has a text for them")
    texts = {name: [each[clip["id"]] for clip in clips] for name, each in heard.items()}
    references = [clip["sentence"] for clip in clips]
    try:
        rates = {name: scoring.scores(references, each, language) for name, each in texts.items()}
    except ValueError as error:
        raise LabError(f"{error}; choose another --split") from error
    pairs = report.differences(references, texts, language)
    title = " and ".join([", ".join([*texts][:-1]), [*texts][-1]]).removeprefix(" and ")
    report.write(output / "report.html", title, clips, texts, about, sound, language)
    rows = zip((clip["id"] for clip in clips), references, *texts.values())
    files.write_tsv(output / "hypotheses.tsv", ["id", "sentence", *texts], rows)
    scores = {
        "about": {**about, "clips": len(clips)},
        "headline": scoring.headline(language),
        "scores": {name: scoring.as_json(each) for name, each in rates.items()},
        "differences": [{"of": a, "minus": b, **asdict(gap)} for a, b, gap in pairs],
    }
    files.write_json(output / "scores.json", scores)
    print(table(rates, scoring.headline(language)))
    if why := scoring.because(language):
        print(f"\n{why}")
    if "precision" in about:
        print(f"\nComputed in {about['precision']}.")
    print("\n".join(["", *(report.verdict(*pair) for pair in pairs)]))
    print(f"  report  {output / 'report.html'}\n  scores  {output / 'scores.json'}")
    print(f"  every hypothesis  {output / 'hypotheses.tsv'}")


def common(clips: list[dict], heard: dict[str, dict[str, str]]) -> list[dict]:
    """The clips that everybody has a text for; features leave out clips that cannot be decoded.

    Raises LabError where that is not most of them.
    """
    if not heard:
        return clips
    kept = [clip for clip in clips if all(clip["id"] in texts for texts in heard.values())]
    if len(kept) < 0.9 * len(clips):
        name, texts = min(heard.items(), key=lambda one: sum(clip["id"] in one[1] for clip in clips))
        missing = [clip["id"] for clip in clips if clip["id"] not in texts]
        raise LabError(
            f"{name} has no text for {len(missing):,} of {len(clips):,} clips ({missing[0]}, …); name the split that "
            "it is of with --split, or give it an empty text for what it did not hear"
        )
    return kept


def _short(name: str) -> str:
    """A model's name without its path."""
    return Path(name).name or name


def table(rates: dict[str, dict], headline: str) -> str:
    """Lines for the terminal: systems, and their four rates with intervals, those of the headline's unit first."""
    from .scores.card import NAMES
    from .scores.scoring import ordered

    def line(cells: Sequence[str]) -> str:
        return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths)).rstrip()

    measures = ordered(headline)
    rows = [["% (95 % interval)", *map(NAMES.get, measures)]]
    rows += [[name, *(str(scores[measure]) for measure in measures)] for name, scores in rates.items()]
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join(map(line, [rows[0], ["─" * width for width in widths], *rows[1:]]))


if __name__ == "__main__":
    command.run(main)
