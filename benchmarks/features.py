"""Time, bytes and memory of making features: ours against the usual recipe (`datasets.map`, padded to 30 s).

    python benchmarks/features.py [--corpus sample] [--clips 200] [--grow 5]

The usual recipe is that of the Hugging Face course and of the lab this project grew from: librosa reads and resamples,
WhisperFeatureExtractor pads to 30 s, `datasets` writes Arrow. Each side runs in a process of its own with one thread,
on the same clips, and is timed from the first clip read to the last byte written. Ours runs once more on `--grow`
times as many clips, to see whether its memory grows with them.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))


def clips_of(source: str, count: int) -> list:
    """`count` clips of train, each as often as it takes, under names of their own."""
    from whisper_lab import corpus

    clips = corpus.read(source, "sv-SE", ["train"]).splits["train"]
    return [replace(clips[i % len(clips)], id=f"{clips[i % len(clips)].id}-{i}") for i in range(count)]


def usual(clips: list, folder: Path) -> float:
    import librosa
    from datasets import Dataset

    from whisper_lab import checkpoint

    processor = checkpoint.load_processor("sample")

    def prepare(row: dict) -> dict:
        audio, _ = librosa.load(row["path"], sr=16_000)
        features = processor.feature_extractor(audio, sampling_rate=16_000).input_features[0]
        return {"input_features": features, "labels": processor.tokenizer(row["sentence"]).input_ids}

    rows = Dataset.from_dict({"path": [clip.path for clip in clips], "sentence": [clip.sentence for clip in clips]})
    prepare(rows[0])  # what is loaded once is not counted, on either side
    began = time.perf_counter()
    rows.map(prepare, remove_columns=rows.column_names).save_to_disk(str(folder))
    return time.perf_counter() - began


def ours(clips: list, folder: Path) -> float:
    from whisper_lab import checkpoint, store
    from whisper_lab.features import Extract, FrontEnd

    extract, tokenizer = Extract(FrontEnd()), checkpoint.load_processor("sample").tokenizer
    extract(asdict(clips[0]) | {"labels": []})
    began = time.perf_counter()
    labels = checkpoint.label_ids(tokenizer, [clip.sentence for clip in clips], "sv")
    rows = [asdict(clip) | {"labels": ids} for clip, ids in zip(clips, labels)]
    store.build(folder, {"benchmark": True}, {"train": rows}, extract, 1)
    return time.perf_counter() - began


def side(name: str, args, count: int) -> dict:
    """Run `name` in a process of its own: {"seconds", "bytes", "peak_mb"}."""
    command = [sys.executable, __file__, "--side", name, "--corpus", args.corpus, "--clips", str(count)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    result = json.loads(done.stdout.splitlines()[-1])
    print(
        f"{name:6} {count:6,} clips  {count / result['seconds']:7.1f} clips/s  "
        f"{result['bytes'] / count / 1e3:7.1f} kB a clip  peak {result['peak_mb']:,.0f} MB",
        flush=True,
    )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", default="sample")
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--grow", type=int, default=5)
    parser.add_argument("--side", choices=("usual", "ours"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "features"
            seconds = globals()[args.side](clips_of(args.corpus, args.clips), folder)
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        print(json.dumps({"seconds": seconds, "bytes": size, "peak_mb": peak}))
        return
    theirs, us = side("usual", args, args.clips), side("ours", args, args.clips)
    grown = side("ours", args, args.clips * args.grow)
    print(
        f"ratio: {theirs['seconds'] / us['seconds']:.1f} times as fast, "
        f"{theirs['bytes'] / us['bytes']:.1f} times smaller"
    )
    print(f"memory at {args.grow} times the clips: {grown['peak_mb'] - us['peak_mb']:+,.0f} MB")


if __name__ == "__main__":
    main()
