#!/usr/bin/env python3
"""Recorded speech → log-mel features and token labels in a feature store.

    python feature-pipeline.py                                              the bundled sample, in seconds
    python feature-pipeline.py --corpus ~/cv-corpus-17.0-2024-03-15-sv-SE.tar.gz --store features/cv17
    python feature-pipeline.py --corpus mdc:sv-SE --store features/cv       the newest Common Voice; needs MDC_API_KEY
    python feature-pipeline.py --corpus hub:google/fleurs:sv_se --store features/fleurs
    python feature-pipeline.py --corpus mine.csv --columns audio=file text=said --store features/mine
    python feature-pipeline.py --corpus recordings/ --unlabelled --store features/sound        for --adapt-windows
    python feature-pipeline.py --corpus … --store … --limit 100             a first try of a large corpus
    python feature-pipeline.py --corpus … --store … --train-splits validated --max-repeats 5 --max-down-votes 0
    python feature-pipeline.py --corpus … --store … --model openai/whisper-large-v3-turbo      128 mels
    python feature-pipeline.py --corpus … --store s3://bucket/features/cv17                    published as a version
    python feature-pipeline.py --corpus … --store hopsworks://lab/Resources/cv17 --feature-group cv17_clips
    python feature-pipeline.py --corpus … --store /shared/cv17 --engine ray --ray-address 10.0.0.1:6379

Clips are read, resampled and turned into Whisper's log-mel features without the 30 s of padding, by one process a
core. A run that was killed goes on where it stopped when the same command is given again, also in publishing. What was
left out is counted here and listed, with the reason, in rejected.tsv beside the features; survey.png there shows what
is left. Common Voice draws its splits anew in each release: compare scores within one. Next: training-pipeline.py.
"""

import argparse
import shlex
from dataclasses import asdict
from pathlib import Path

from whisper_lab import command


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    # fmt: off
    add = parser.add_argument_group("what to read").add_argument
    add("--corpus", type=command.path, default="sample", metavar="SOURCE",
        help="'sample' (default); a Common Voice release, scripted or spontaneous, as a folder or .tar.gz; mdc:sv-SE "
        "(the newest) or mdc:ID of Mozilla Data Collective; hub:NAME[:CONFIG][@REVISION]; one's own: a TSV, CSV or "
        "JSONL file, a folder of such, a folder in audiofolder or Parquet layout, or of datasets' save_to_disk")
    add("--columns", nargs="+", type=command.pair, default=[], metavar="KEY=NAME",
        help="what columns are called, where the guess is wrong; keys: audio text speaker split id age gender accents "
        "seconds start end down_votes; with start and end (or seconds), a clip is that part of its file")
    add("--unlabelled", action="store_true",
        help="--corpus is a file or a folder of sound alone, without sentences: its speech, cut at pauses, is what "
        "training-pipeline.py --adapt-windows learns from")
    add("--language", default="sv-SE", metavar="LOCALE", help="of the corpus (default sv-SE), as it writes it")
    add("--whisper-language", metavar="CODE", help="what Whisper is told (default: the locale's own language); where "
        "it knows none, that of a relative, as kk for Kyrgyz: the model borrows its token, and its card says so")
    add("--splits", nargs="+", metavar="SPLIT", help="default: train dev test, and the sample's own out_of_domain")
    add("--train-splits", nargs="+", default=["train"], metavar="SPLIT",
        help="what train is made of (default: train). 'train dev': both, and a new dev is held out of them; "
        "'validated': all that listeners approved; 'train validated other': all but what they turned down. Splits "
        "beyond train and dev come without the clips, sentences and speakers of test and dev")
    add("--dev-clips", type=command.count, metavar="N",
        help="move clips of train to dev, whole speakers, until it has N: on few clips, what is chosen there is chosen "
        "by luck")
    add("--limit", type=int, metavar="N", help="at most N clips of each split, to try things out")
    add = parser.add_argument_group("what to leave out of train", """\
Nothing, unless said. The other splits stay as the release has them, so that scores remain comparable. In every split
a clip is left out that cannot be used at all: without a sentence, longer than 30 s, not to be decoded.""").add_argument
    add("--max-seconds", type=float, metavar="S", default=30.0, help="longer clips (default 30, which is the most)")
    add("--min-seconds", type=float, metavar="S", default=0.0, help="shorter clips")
    add("--max-characters-per-second", type=float, metavar="N",
        help="clips that say more than can be said: cut short, or with the wrong sentence")
    add("--max-down-votes", type=int, metavar="N", help="clips that more listeners turned down")
    add("--max-repeats", type=int, metavar="N", help="of clips of one sentence, those after the first N")
    add = parser.add_argument_group("what to make").add_argument
    add("--model", type=command.path, default="sample",
        help="whose tokens and number of mels: 'sample' (the embedded Whisper base, default), a folder or a Hub id; "
        "all sizes of Whisper but large-v3 and turbo share one feature set")
    add("--store", type=command.path, default="features/sample", metavar="FOLDER-or-URL",
        help="where the features go (default features/sample); a set made with other settings is never overwritten. "
        "At a URL (s3:// gs:// gdrive:// hf://datasets/… hopsworks://PROJECT/Resources/…) they are a new version")
    add("--feature-group", metavar="NAME",
        help="with hopsworks://, the feature group that gets a row about each clip")
    add = parser.add_argument_group("how fast").add_argument
    add("--engine", choices=("local", "ray"), default="local", help="this machine's processes (default), or Ray")
    add("--ray-address", metavar="HOST:PORT", help="a running Ray cluster; without it, one is started here for the run")
    add("--workers", type=int, metavar="N",
        help="processes (default: one a core); fewer where memory is short, 0.5 GB each")
    # fmt: on
    args = parser.parse_args(argv)
    for name in ("limit", "workers"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name} is a number from 1 up")
    if args.ray_address and args.engine != "ray":
        parser.error("--ray-address needs --engine ray")
    if args.unlabelled and (args.columns or args.dev_clips or args.train_splits != ["train"]):
        parser.error("--unlabelled goes by the sound alone: leave out --columns, --dev-clips and --train-splits")
    if args.feature_group and not args.store.startswith("hopsworks://"):
        parser.error("--feature-group needs --store hopsworks://PROJECT/Resources/…")
    return args


def main() -> None:
    args = parse_args()
    from tqdm import tqdm

    from whisper_lab.stores import engine

    if args.engine == "local" and engine.workers(args.workers) > 1:
        engine.begin()
    from whisper_lab import files
    from whisper_lab.corpora import cleaning, sound, splits
    from whisper_lab.speech import features
    from whisper_lab.stores import cluster, places, store, survey
    from whisper_lab.whisper import checkpoint, languages

    language = languages.of_corpus(args.language, args.whisper_language)
    limits = cleaning.Limits(**{name: getattr(args, name) for name in asdict(cleaning.Limits())})
    url = args.store if places.is_url(args.store) else None
    if url:
        places.open_place(url)  # what is wrong with it had better be known before the work than after
    columns = dict(pair.split("=", 1) for pair in args.columns)
    if args.unlabelled:
        corpus, kept_out = sound.read(Path(args.corpus), args.language, args.splits, args.limit), {}
    else:
        read = args.corpus, args.language, args.splits, args.train_splits, args.limit, columns, args.dev_clips
        corpus, kept_out = splits.read(*read)
    processor = checkpoint.load_processor(args.model)
    rows = {name: checkpoint.labelled(clips, processor.tokenizer, language) for name, clips in corpus.splits.items()}
    rows = {name: limits.applied_to(part) if name == "train" else part for name, part in rows.items()}
    front_end = features.FrontEnd(processor.feature_extractor.feature_size).prepared()
    settings = {
        "corpus": corpus.identity(),
        "language": language,
        "train_splits": args.train_splits,
        **({"dev_clips": args.dev_clips} if args.dev_clips else {}),
        "cleaning": asdict(limits),
        "front_end": front_end.settings(),
        "labels": checkpoint.LABELS,
        "tokenizer": checkpoint.tokenizer_fingerprint(processor.tokenizer),
        "clips": {name: len(clips) for name, clips in rows.items()},
        **({"unlabelled": True} if args.unlabelled else {}),
    }  # fmt: skip
    mark = files.digest([store.SCHEMA_VERSION, settings])[:16]
    folder = files.cache_folder() / "built" / mark if url else Path(args.store)
    runner = cluster.Ray(args.ray_address, args.workers) if args.engine == "ray" else engine.Local(args.workers)
    with tqdm(total=sum(settings["clips"].values()), unit="clip", desc="Features") as bar:
        manifest = store.build(
            folder,
            settings,
            rows,
            features.Extract(front_end, unlabelled=args.unlabelled),
            runner,
            bar.update,
            corpus.left_out,
        )
    print(survey.report(folder, manifest, kept_out))
    place = publish(folder, url, args.feature_group) if url else folder
    what = ["--adapt-windows"] * args.unlabelled
    print(f"Next: {shlex.join(['python', 'training-pipeline.py', *what, '--features', str(place)])}")


def publish(folder: Path, url: str, feature_group: str | None) -> str:
    """Send the set to `url`, and a row about each clip to the feature group; the URL of the version that holds it."""
    import pyarrow.parquet

    from whisper_lab.stores import publishing, store

    with publishing.shown("Publishing") as progress:
        place = publishing.publish(folder, url, progress=progress)
    print(f"  published: {place}")
    if feature_group:
        from whisper_lab.stores import hopsworks_place

        clips = pyarrow.parquet.read_table(folder / store.CLIPS)
        print(f"  feature group: {hopsworks_place.insert_clips(hopsworks_place.parse(url)[0], feature_group, clips)}")
    return place


if __name__ == "__main__":
    command.run(main)
