"""Clips per second that the loader delivers, by itself: ours from a folder and streamed, and the usual recipe's.

    python benchmarks/loader.py [--corpus sample] [--clips 4096] [--passes 2]

The same clips for all, repeated from the corpus under other ids. Ours is the loader that training asks for: batches of
16, windows `mixed`; rows read, padded and collated in this process, and once more in the two worker processes that it
has beside a GPU, their start included. Streamed, each pass copies every shard from the folder, checks and unpacks it,
if there are more than stay on the disk (20 of 128 clips). The usual recipe is the Hugging Face course's: rows padded to
30 s as float32 in Arrow by `datasets`, its collator, batches of 16; 64 clips with rows as lists, as there, and 1,024
with `datasets`' format "numpy".
"""

import argparse
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

BATCH = 16
USUAL = 1024  # clips: each takes a megabyte there


def clips_a_second(loader) -> float:
    """From asking for the first batch to having the last."""
    began = time.perf_counter()
    clips = sum(len(batch["labels"]) for batch in loader)
    return clips / (time.perf_counter() - began)


def ours(folder: Path, model: str, passes: int, stream: bool, workers: int = 0) -> float:
    from torch.utils.data import DataLoader

    from whisper_lab.stores import streaming
    from whisper_lab.tuning import recipes, training
    from whisper_lab.whisper import checkpoint

    split = streaming.open_features(str(folder), stream).split("train")
    processor, loaded = checkpoint.load_processor(model), checkpoint.load_model(model)
    steps = passes * len(split) // BATCH
    recipe = recipes.Recipe("adamw", 1e-5, steps, BATCH, 1, 1, 0.01, "mixed", steps + 1, 1.0, 1, stream)
    prompt = checkpoint.prompt_ids(processor.tokenizer, "sv")
    splits = {"train": split, "dev": split}
    loader = training.Trainer(loaded, recipe, folder.parent / "run", splits, processor, prompt).get_train_dataloader()
    if workers:
        some = {"batch_sampler": loader.batch_sampler, "collate_fn": loader.collate_fn}
        loader = DataLoader(loader.dataset, num_workers=workers, **some)
    if not stream:
        _ = split[0], split[len(split) - 1]
    rate = clips_a_second(loader)
    if stream:
        split.close()
    return rate


def usual(folder: Path, model: str, clips: int, form: str | None) -> float:
    from datasets import load_from_disk
    from torch.utils.data import DataLoader, Subset

    from whisper_lab.whisper import checkpoint

    processor = checkpoint.load_processor(model)
    processor.tokenizer.pad_token = "<|endoftext|>"
    start = processor.tokenizer.convert_tokens_to_ids("<|startoftranscript|>")

    def collate(rows: list[dict]) -> dict:
        features = [{"input_features": row["input_features"]} for row in rows]
        batch = processor.feature_extractor.pad(features, return_tensors="pt")
        padded = processor.tokenizer.pad([{"input_ids": row["labels"]} for row in rows], return_tensors="pt")
        labels = padded["input_ids"].masked_fill(padded.attention_mask.ne(1), -100)
        batch["labels"] = labels[:, 1:] if (labels[:, 0] == start).all().cpu().item() else labels
        return batch

    rows = load_from_disk(str(folder)).with_format(form)
    return clips_a_second(
        DataLoader(Subset(rows, range(min(clips, len(rows)))), BATCH, shuffle=True, collate_fn=collate)
    )


def make(source: str, model: str, count: int, ours: Path, usual: Path) -> None:
    """Both feature sets of the same clips."""
    from datasets import Dataset

    from whisper_lab.corpora import corpus
    from whisper_lab.speech.features import FRAMES, Extract, FrontEnd, pad
    from whisper_lab.stores import engine, store
    from whisper_lab.whisper import checkpoint

    front_end, once = FrontEnd().prepared(), corpus.read(source, "sv-SE", ["train"]).splits["train"]
    clips = [replace(once[i % len(once)], id=f"{i}") for i in range(count)]
    rows = checkpoint.labelled(clips, checkpoint.load_processor(model).tokenizer, "sv")
    store.build(ours, {"front_end": front_end.settings()}, {"train": rows}, Extract(front_end), engine.Local())
    split = store.FeatureSet(ours).split("train")

    def padded():
        for i in range(min(USUAL, len(split))):
            row = split[i]
            yield {"input_features": pad(row["features"], FRAMES), "labels": row["labels"]}

    Dataset.from_generator(padded, cache_dir=str(usual.parent / "cache")).save_to_disk(str(usual))


def main() -> None:
    from whisper_lab.whisper import checkpoint

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", default="sample")
    parser.add_argument("--clips", type=int, default=4096)
    parser.add_argument("--passes", type=int, default=2, help="of ours over the clips")
    args = parser.parse_args()
    model = checkpoint.locate("sample")
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["WHISPER_LAB_CACHE"] = f"{scratch}/cache"
        folder, padded = Path(scratch) / "ours", Path(scratch) / "usual"
        make(args.corpus, model, args.clips, folder, padded)
        sides = {
            "usual, rows as lists": lambda: usual(padded, model, 64, None),
            'usual, format "numpy"': lambda: usual(padded, model, USUAL, "numpy"),
            "ours": lambda: ours(folder, model, args.passes, False),
            "ours, two workers": lambda: ours(folder, model, args.passes, False, 2),
            "ours, streamed": lambda: ours(folder, model, args.passes, True),
        }
        rates = {}
        for name, side in sides.items():
            rates[name] = side()
            print(f"{name:22} {rates[name]:8,.0f} clips/s", flush=True)
    best = max(rate for name, rate in rates.items() if name.startswith("usual"))
    print(
        f"ratio to the better of the usual: {rates['ours'] / best:.1f}, streamed {rates['ours, streamed'] / best:.1f}"
    )


if __name__ == "__main__":
    from whisper_lab import command

    command.quiet_libraries()
    main()
