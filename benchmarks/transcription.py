"""Time, word error rate and memory of transcription: ours against faster-whisper and the pipeline of transformers.

    python benchmarks/transcription.py [--model models/sample] [--threads 1 2] [--minutes 10 60]

The same weights and files for all, each in a process of its own, one after the other, with each number of threads; the
faster counts. Short clips: the sample's test
split, one at a time, in memory, the language given; seconds a clip are means over the clips of 3.5 to 4.5 s, the error
rate is of all clips. A long recording: the sample's dev and test clips in random order with pauses of 0.2 to 1.5 s and
faint hiss, in a WAV file; from the file to the last segment. Memory: the process' peak, model included, with recordings
of the two lengths. Ours is also run in float32 by transformers, to show what int8 costs."""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

SHORT = {
    "ours": "ours, its defaults (5 beams where in doubt)",
    "ours-1": "ours, greedy",
    "ours-float32": "ours, transformers float32",
    "faster-whisper": "faster-whisper, its defaults (5 beams, fallback)",
    "faster-whisper-1": "faster-whisper, greedy",
    "pipeline": "transformers pipeline, its defaults",
}
LONG = {
    "ours": "ours, its defaults (5 beams where in doubt)",
    "ours-1": "ours, greedy",
    "batched": "faster-whisper batched, its defaults (5 beams)",
    "batched-1": "faster-whisper batched, greedy",
}


def clips(splits: list[str]) -> list:
    from whisper_lab.corpora import corpus

    found = corpus.read("sample", "sv-SE", splits).splits
    return [clip for split in splits for clip in found[split]]


def talk(minutes: float, path: Path) -> list[str]:
    """Write a recording; the sentences said in it."""
    import soundfile

    from whisper_lab.speech import audio

    rng, said, written = np.random.default_rng(0), [], 0
    sounds = [(clip.sentence, audio.read(clip.path)) for clip in clips(["dev", "test"])]
    with soundfile.SoundFile(path, "w", audio.SAMPLE_RATE, 1, "PCM_16") as file:
        while written < minutes * 60 * audio.SAMPLE_RATE:
            sentence, sound = sounds[rng.integers(len(sounds))]
            sound = np.pad(sound, (0, int(rng.uniform(0.2, 1.5) * audio.SAMPLE_RATE)))
            file.write(sound + 1e-4 * rng.standard_normal(sound.size).astype(np.float32))
            written += sound.size
            said.append(sentence)
    return said


def reader(system: str, model: str, threads: int):
    """A function from samples, or a file's path, to text."""
    from whisper_lab.serving.transcription import Transcriber
    from whisper_lab.whisper import backends, checkpoint
    from whisper_lab.whisper.decoding import Decoding

    if system.startswith("ours"):
        engine = {"engine": "transformers", "precision": "float32"} if system == "ours-float32" else {}
        ours, decoding = Transcriber(model, threads=threads, **engine), Decoding(beams=1 if system == "ours-1" else 5)
        return lambda source: " ".join(segment.text for segment in ours.segments(source, decoding))
    folder, _ = checkpoint.folder(model)
    if system == "pipeline":
        import torch
        from transformers import pipeline

        torch.set_num_threads(threads)
        run = pipeline("automatic-speech-recognition", str(folder))
        return lambda source: run(source, generate_kwargs={"language": "swedish", "task": "transcribe"})["text"]
    from faster_whisper import BatchedInferencePipeline, WhisperModel

    theirs = WhisperModel(str(backends.convert(folder, "int8")), compute_type="int8", cpu_threads=threads)
    if system.startswith("batched"):
        theirs = BatchedInferencePipeline(theirs)
    beams = {"beam_size": 1} if system.endswith("-1") else {}
    return lambda source: " ".join(s.text.strip() for s in theirs.transcribe(source, language="sv", **beams)[0])


def child(system: str, job: str, model: str, threads: int, path: str) -> dict:
    from whisper_lab import command
    from whisper_lab.speech import audio

    command.quiet_libraries()
    read = reader(system, model, threads)
    if job == "short":
        sounds = [audio.read(clip.path) for clip in clips(["test"])]
        for sound in sounds[:2]:
            read(sound)
        texts, seconds = [], []
        for sound in sounds:
            began = time.perf_counter()
            texts.append(read(sound))
            if 3.5 <= sound.size / audio.SAMPLE_RATE <= 4.5:
                seconds.append(time.perf_counter() - began)
        return {"texts": texts, "seconds": float(np.mean(seconds)), "clips": len(seconds)}
    read(audio.read(clips(["test"])[0].path))
    began = time.perf_counter()
    text = read(path)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"text": text, "seconds": seconds, "megabytes": peak}


def run(system: str, job: str, args, path: str = "-") -> dict:
    """What `child` gives with the number of threads that is faster."""
    found = []
    for threads in args.threads:
        command = [sys.executable, __file__, "--child", system, job, args.model, str(threads), path]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True)
        found.append(json.loads(done.stdout.splitlines()[-1]) | {"threads": threads})
    return min(found, key=lambda one: one["seconds"])


def errors(said: list[str], heard: str) -> np.ndarray:
    """(sentences, 2) int: word errors in each sentence of a long recording, and its words, by one alignment of all."""
    import jiwer

    from whisper_lab.text import normalise

    lengths = [len(normalise(sentence).split()) for sentence in said]
    owner = np.repeat(np.arange(len(said)), lengths)
    table = np.stack([np.zeros(len(said), int), lengths], axis=1)
    aligned = jiwer.process_words(normalise(" ".join(said)), normalise(heard) or "-").alignments[0]
    for chunk in aligned:
        if chunk.type == "insert":
            table[owner[min(chunk.ref_start_idx, owner.size - 1)], 0] += chunk.hyp_end_idx - chunk.hyp_start_idx
        elif chunk.type != "equal":
            np.add.at(table[:, 0], owner[chunk.ref_start_idx : chunk.ref_end_idx], 1)
    return table


def rate(table: np.ndarray) -> str:
    from whisper_lab.scores.scoring import bootstrap

    low, high = np.percentile(bootstrap(table), (2.5, 97.5))
    return f"{100 * table[:, 0].sum() / table[:, 1].sum():.1f} ({low:.1f}–{high:.1f})"


def paired(ours: np.ndarray, theirs: np.ndarray) -> str:
    from whisper_lab.scores import scoring

    return str(scoring.paired(ours[None], theirs[None]))


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        system, job, model, threads, path = sys.argv[2:]
        print(json.dumps(child(system, job, model, int(threads), path)))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/sample" if Path("models/sample/config.json").is_file() else "sample")
    parser.add_argument("--threads", type=int, nargs="+", default=(1, 2), metavar="N")
    parser.add_argument("--minutes", type=float, nargs=2, default=(10, 60), metavar="N")
    args = parser.parse_args()

    from whisper_lab.scores.scoring import counts
    from whisper_lab.text import normalise

    head = f"{'':50} {'seconds':>9} {'ours is':>9}  {'WER normalised, %':20} ours minus this"
    said = [normalise(clip.sentence) for clip in clips(["test"])]
    found = {system: run(system, "short", args) for system in SHORT}
    tables = {s: counts(said, [normalise(text) for text in f["texts"]], "word") for s, f in found.items()}
    print(f"{args.model}. A clip of 4 s ({found['ours']['clips']} clips):\n{head}   threads")
    for system, title in SHORT.items():
        seconds = found[system]["seconds"]
        ratio, difference = seconds / found["ours"]["seconds"], ""
        if system != "ours":
            difference = paired(tables["ours"], tables[system])
        print(
            f"{title:50} {seconds:9.3f} {ratio:8.1f}×  {rate(tables[system]):20} {difference:24}"
            f"{found[system]['threads']:5}"
        )
    print(f"greedy to greedy: {found['faster-whisper-1']['seconds'] / found['ours-1']['seconds']:.1f}×", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        short, long = Path(folder) / "short.wav", Path(folder) / "long.wav"
        said = talk(args.minutes[0], short)
        found = {system: run(system, "long", args, str(short)) for system in LONG}
        tables = {system: errors(said, f["text"]) for system, f in found.items()}
        print(f"\nA recording of {args.minutes[0]:g} minutes:\n{head}   threads   peak MB")
        for system, title in LONG.items():
            ratio = found[system]["seconds"] / found["ours"]["seconds"]
            difference = "" if system == "ours" else paired(tables["ours"], tables[system])
            print(
                f"{title:50} {found[system]['seconds']:9.1f} {ratio:8.1f}×  {rate(tables[system]):20} {difference:24}"
                f"{found[system]['threads']:5} {found[system]['megabytes']:13.0f}"
            )
        talk(args.minutes[1], long)
        for system in ("ours", "batched"):
            peak = run(system, "long", args, str(long))
            print(
                f"{args.minutes[1]:g} minutes, {LONG[system]}: {peak['seconds']:.0f} s, {peak['megabytes']:.0f} MB "
                f"({peak['megabytes'] - found[system]['megabytes']:+.0f})"
            )


if __name__ == "__main__":
    main()
