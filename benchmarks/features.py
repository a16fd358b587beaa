"""Time, bytes and memory of making features: ours against the usual recipe (`datasets.map`, padded to 30 s).

    python benchmarks/features.py [--clips 500] [--grow 10] [--repeat 3]

The clips are like Common Voice's: MP3, mono, 48 kHz, made from the sample's, each a file of its own. The usual recipe
is that of the Hugging Face course and of the lab this project grew from: librosa reads and resamples,
WhisperFeatureExtractor pads to 30 s, `datasets` writes Arrow. The floor is what nobody can do without: soundfile
decodes and soxr resamples, and nothing is kept. Each side runs in processes of its own with one thread each, on the
same files, timed from the first clip read to the last byte on disk, in turns, the best of `--repeat`. Ours also runs on
`--grow` times the clips, with one worker, to see whether memory grows, and with two, where starting them hardly counts.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))


def make_clips(count: int, folder: Path) -> None:
    """`count` MP3 files of 48 kHz from the sample's training clips, each a little louder or softer than the last."""
    import soundfile
    import soxr

    from whisper_lab.corpora import corpus

    clips = corpus.read("sample", "sv-SE", ["train"]).splits["train"]
    for i in range(count):
        sound, rate = soundfile.read(clips[i % len(clips)].path, dtype="float32")
        soundfile.write(folder / f"{i:04}.mp3", (0.5 + 0.4 * i / count) * soxr.resample(sound, rate, 48_000), 48_000)


def clips_of(folder: Path, count: int) -> list:
    """`count` clips of the files in `folder`, each as often as it takes, under names of their own."""
    from whisper_lab.corpora.corpus import Clip

    paths = sorted(folder.glob("*.mp3"))
    return [Clip(f"{i:05}", str(paths[i % len(paths)]), "Katterna väntar längs stigen.") for i in range(count)]


def floor(clips: list, folder: Path, workers: int) -> None:
    import soundfile
    import soxr

    for clip in clips:
        sound, rate = soundfile.read(clip.path, dtype="float32")
        soxr.resample(sound, rate, 16_000)


def usual(clips: list, folder: Path, workers: int) -> None:
    import librosa
    from datasets import Dataset

    def prepare(row: dict) -> dict:
        audio, _ = librosa.load(row["path"], sr=16_000)
        features = PROCESSOR.feature_extractor(audio, sampling_rate=16_000).input_features[0]
        return {"input_features": features, "labels": PROCESSOR.tokenizer(row["sentence"]).input_ids}

    rows = Dataset.from_dict({"path": [clip.path for clip in clips], "sentence": [clip.sentence for clip in clips]})
    rows.map(prepare, remove_columns=rows.column_names).save_to_disk(str(folder))


def ours(clips: list, folder: Path, workers: int) -> None:
    from whisper_lab.speech.features import Extract, FrontEnd
    from whisper_lab.stores import store
    from whisper_lab.stores.engine import Local
    from whisper_lab.whisper import checkpoint

    rows = checkpoint.labelled(clips, PROCESSOR.tokenizer, "sv")
    store.build(folder, {"benchmark": True}, {"train": rows}, Extract(FrontEnd().prepared()), Local(workers))


def child(name: str, source: str, count: int, workers: int) -> dict:
    """Run a side: {"seconds", "bytes", "peak_mb"}."""
    global PROCESSOR
    from whisper_lab import command
    from whisper_lab.stores import engine
    from whisper_lab.whisper import checkpoint

    command.quiet_libraries()
    if workers > 1:
        engine.begin()  # as feature-pipeline.py does before it reads the corpus
    PROCESSOR = checkpoint.load_processor("sample")
    run, clips = globals()[name], clips_of(Path(source), count)
    with tempfile.TemporaryDirectory() as scratch:
        run(clips[:2], Path(scratch) / "first", 1)  # what is loaded once is not counted, on any side
        began, folder = time.perf_counter(), Path(scratch) / "features"
        run(clips, folder, workers)
        seconds = time.perf_counter() - began
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1e3
    return {"seconds": seconds, "bytes": size, "peak_mb": peak}


def side(name: str, source: str, count: int, workers: int = 1) -> dict:
    command = [sys.executable, __file__, "--child", name, source, str(count), str(workers)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        name, source, count, workers = sys.argv[2:]
        print(json.dumps(child(name, source, int(count), int(workers))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=500)
    parser.add_argument("--grow", type=int, default=10)
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as source:
        make_clips(args.clips, Path(source))
        runs = [
            {name: side(name, source, args.clips) for name in ("floor", "usual", "ours")} for _ in range(args.repeat)
        ]
        best = {name: min((run[name] for run in runs), key=lambda one: one["seconds"]) for name in runs[0]}
        grown = {workers: side("ours", source, args.clips * args.grow, workers) for workers in (1, 2)}
        hours = sum(clip_seconds(source)) / 3600

    def line(name: str, found: dict, count: int) -> None:
        megabytes = f"{found['bytes'] / 1e6 / (hours * count / args.clips):9.0f} MB an hour" if found["bytes"] else ""
        print(
            f"{name:16} {count:6,} clips {count / found['seconds']:8.1f} clips/s  peak {found['peak_mb']:6,.0f} MB"
            f"{megabytes}"
        )

    for name, found in best.items():
        line(name, found, args.clips)
    for workers, found in grown.items():
        line(f"ours, {workers} worker{'s' * (workers > 1)}", found, args.clips * args.grow)
    seconds = {name: found["seconds"] for name, found in best.items()}
    print(
        f"{seconds['usual'] / seconds['ours']:.1f} times the usual recipe's clips a second; "
        f"{seconds['ours'] / seconds['floor']:.2f} times the floor's time; "
        f"{best['usual']['bytes'] / best['ours']['bytes']:.1f} times smaller\n"
        f"two workers: {grown[1]['seconds'] / grown[2]['seconds']:.2f} times one; "
        f"memory at {args.grow} times the clips: {grown[1]['peak_mb'] - best['ours']['peak_mb']:+,.0f} MB"
    )


def clip_seconds(source: str) -> list[float]:
    import soundfile

    return [soundfile.info(path).duration for path in Path(source).glob("*.mp3")]


if __name__ == "__main__":
    main()
