#!/usr/bin/env python3
"""Recorded speech → log-mel features and token labels in a feature store.

    python feature-pipeline.py                                              the bundled sample, in seconds
    python feature-pipeline.py --corpus ~/cv-corpus-17.0-2024-03-15 --store features/cv17
    python feature-pipeline.py --corpus … --store … --limit 100             a first try of a large corpus
    python feature-pipeline.py --model openai/whisper-large-v3-turbo --store features/cv17-turbo    128 mels

Clips are read, resampled and turned into Whisper's log-mel features without the 30 s of padding, by one process a
core. A run that was killed goes on where it stopped when the same command is given again. What could not be used is
counted here and listed, with the reason, in rejected.tsv beside the features. Next: training-pipeline.py.
"""

import argparse
from collections import Counter
from pathlib import Path

from whisper_lab import command


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    group = parser.add_argument_group("what to read")
    group.add_argument(
        "--corpus",
        default="sample",
        metavar="SOURCE",
        help="'sample' (default), or the folder of a Common Voice release",
    )
    group.add_argument(
        "--language",
        default="sv-SE",
        help="the release's locale (default sv-SE): which folder is read, and the language that Whisper is told",
    )
    group.add_argument(
        "--splits",
        nargs="+",
        metavar="SPLIT",
        help="default: train dev test, and the sample's aside; any TSV of the release works",
    )
    group.add_argument("--limit", type=int, metavar="N", help="at most N clips of each split, to try things out")
    group = parser.add_argument_group("what to make")
    group.add_argument(
        "--model",
        default="sample",
        help="whose tokens and number of mels: 'sample' (the embedded Whisper base, default), a folder or a Hub id; "
        "all sizes of Whisper but large-v3 and turbo share one feature set",
    )
    group.add_argument(
        "--store",
        default="features/sample",
        metavar="FOLDER",
        help="where the features go (default features/sample); a set made with other settings is never overwritten",
    )
    group = parser.add_argument_group("how fast")
    group.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes (default: one a core); fewer where memory is short, 0.5 GB each",
    )
    args = parser.parse_args(argv)
    for name in ("limit", "workers"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name} is a number from 1 up")
    return args


def main() -> None:
    args = parse_args()
    from tqdm import tqdm

    from whisper_lab import checkpoint, corpus, engine, features, store

    language = checkpoint.whisper_language(args.language)
    release = corpus.read(args.corpus, args.language, args.splits, args.limit)
    processor = checkpoint.load_processor(args.model)
    splits = {name: rows(clips, processor.tokenizer, language) for name, clips in release.splits.items()}
    front_end = features.FrontEnd(processor.feature_extractor.feature_size).prepared()
    settings = {
        "corpus": release.identity(),
        "language": language,
        "front_end": front_end.settings(),
        "labels": checkpoint.LABELS,
        "tokenizer": checkpoint.tokenizer_fingerprint(processor.tokenizer),
        "clips": {name: len(clips) for name, clips in splits.items()},
    }  # fmt: skip
    with tqdm(total=sum(settings["clips"].values()), unit="clip", desc="Features") as bar:
        manifest = store.build(
            Path(args.store),
            settings,
            splits,
            features.Extract(front_end),
            engine.workers(args.workers),
            bar.update,
        )
    report(Path(args.store), manifest)


def rows(clips, tokenizer, language: str) -> list[dict]:
    """The clips as rows for the store, with their token labels."""
    from dataclasses import asdict

    from whisper_lab import checkpoint

    labels = checkpoint.label_ids(tokenizer, [clip.sentence for clip in clips], language)
    return [asdict(clip) | {"labels": ids} for clip, ids in zip(clips, labels, strict=True)]


def report(folder: Path, manifest: dict) -> None:
    print(
        f"\n{manifest['corpus']['name']} {manifest['corpus']['version']}, {manifest['corpus']['language']} → {folder}"
    )
    for name, split in manifest["splits"].items():
        print(
            f"  {name:10} {split['rows']:7,} clips {split['seconds'] / 3600:8.2f} h {split['bytes'] / 1e6:9.1f} MB"
            f" {split['bytes'] / split['rows'] / 1e3:6.1f} kB a clip"
        )
    reasons = sum((Counter(split["rejected"]) for split in manifest["splits"].values()), Counter())
    for reason, count in reasons.most_common():
        print(f"  left out: {count:,} clips, {reason}")
    if reasons:
        print(f"  which ones: {folder / 'rejected.tsv'}")
    print(f"Next: python training-pipeline.py --features {folder}")


if __name__ == "__main__":
    command.run(main)
