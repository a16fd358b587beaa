"""Clips per second of scoring a split: ours against the original recipe's, on the same weights and clips.

    python benchmarks/evaluation.py [--model models/sample] [--features features/sample] [--split test] [--clips N]
        [--precision auto|float32|bf16]

The original: Seq2SeqTrainer.predict in float32 on a CPU (fp16 on a GPU, as there), batches of 8 in the split's order,
clips padded to 30 s, `generate` to 225 tokens, greedy. Ours: hypotheses.transcribe, as training-pipeline.py and
whisper_lab.evaluation score, in --precision. Both give hypotheses and the loss, from the same feature set, in turns in
one process; the fastest of the rounds counts. The word error rates, with their paired difference, are part of the
claim."""

import argparse
import contextlib
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch  # noqa: E402

from whisper_lab import command  # noqa: E402
from whisper_lab.scores import drafts, hypotheses, scoring  # noqa: E402
from whisper_lab.speech.features import FRAMES, pad  # noqa: E402
from whisper_lab.stores import store  # noqa: E402
from whisper_lab.stores.reading import Part  # noqa: E402
from whisper_lab.whisper import batches, checkpoint, precision  # noqa: E402


class Padded(Part):
    """Rows as the original's data set had them: 30 s, whatever was said."""

    def __getitem__(self, index: int) -> dict:
        row = super().__getitem__(index)
        return row | {"features": pad(row["features"], FRAMES)}


def original(model, processor, split, collator, folder: str):
    """A function without arguments → hypotheses of `split`, by Seq2SeqTrainer."""
    from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments

    arguments = Seq2SeqTrainingArguments(
        output_dir=folder,
        per_device_eval_batch_size=8,
        predict_with_generate=True,
        generation_max_length=225,
        generation_num_beams=1,
        fp16_full_eval=torch.cuda.is_available(),
        remove_unused_columns=False,
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
        report_to=[],
    )
    more = {
        "data_collator": collator,
        "processing_class": processor,
        "compute_metrics": lambda _: {},
    }  # or it only has losses
    trainer = Seq2SeqTrainer(model, arguments, **more)

    def read() -> list[str]:
        ids = trainer.predict(Padded(split, slice(None))).predictions
        ids[ids == -100] = model.config.pad_token_id
        return [text.strip() for text in processor.tokenizer.batch_decode(ids, skip_special_tokens=True)]

    return read


@contextlib.contextmanager
def timed(model, parts: Counter):
    """Adds up the seconds of our parts; those within another count there."""
    places = {
        "encoder": (model.get_encoder(), "forward"),
        "greedy steps": (drafts.Writer, "write"),
        "beams": (drafts.Writer, "search"),
        "30 s again": (hypotheses, "_at_30_s"),
        "right text, loss": (hypotheses, "_begin"),
    }
    running = []

    def clock(name, call):
        def run(*args, **options):
            running.append(name)
            began = time.perf_counter()
            try:
                return call(*args, **options)
            finally:
                seconds = time.perf_counter() - began
                running.pop()
                parts[name] += seconds
                if running:
                    parts[running[-1]] -= seconds

        return run

    with contextlib.ExitStack() as stack:
        for name, (owner, attribute) in places.items():
            stack.enter_context(mock.patch.object(owner, attribute, clock(name, getattr(owner, attribute))))
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/sample" if Path("models/sample/config.json").is_file() else "sample")
    parser.add_argument("--features", default="features/sample")
    parser.add_argument("--split", default="test")
    parser.add_argument("--clips", type=int, default=10**9, metavar="N", help="only the split's first N, for both")
    parser.add_argument("--rounds", type=int, default=2, metavar="N", help="turns of each (default 2)")
    parser.add_argument("--precision", choices=precision.NAMES, default="auto", help="of ours")
    args = parser.parse_args()
    features = store.FeatureSet(args.features)
    split = Part(features.split(args.split), slice(args.clips))
    processor, model = checkpoint.load_processor(args.model), checkpoint.load_model(args.model)
    language = features.manifest["language"]
    checkpoint.set_language(model, language)
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    prompt = checkpoint.prompt_ids(processor.tokenizer, language)
    collator = batches.Collator(prompt[0], processor.tokenizer.convert_tokens_to_ids("<|endoftext|>"))
    lengths = getattr(model.config, "trained_windows", [FRAMES])
    batch_size = 64 if torch.cuda.is_available() else 16
    parts, ours_in = Counter(), precision.choose(args.precision, model.device.type)

    def ours() -> list[str]:
        parts.clear()
        with timed(model, parts):
            some = model, split, processor.tokenizer, collator, prompt, lengths, batch_size, "Ours", ours_in
            return hypotheses.transcribe(*some).texts

    with tempfile.TemporaryDirectory() as folder:
        readers = {"ours": ours, "original": original(model, processor, split, collator, folder)}
        texts, rates, busy = {}, Counter(), {}
        for _ in range(args.rounds):
            for name, read in readers.items():
                began, began_cpu = time.perf_counter(), time.process_time()
                texts[name] = read()
                seconds, cpu = time.perf_counter() - began, time.process_time() - began_cpu
                rates[name] = max(rates[name], len(split) / seconds)
                busy[name] = min(busy.get(name, cpu), cpu)
                print(f"{name:9} {len(split) / seconds:7.2f} clips/s, {cpu:.1f} s of processor time", flush=True)
                if name == "ours":
                    print("          of which " + ", ".join(f"{k} {v:.2f} s" for k, v in parts.most_common()))
    print(f"{args.model}, {args.split}, {len(split)} clips, {torch.get_num_threads()} threads, ours in {ours_in}")
    print("WER normalised, %:")
    references = split.column("sentence")
    for name, said in texts.items():
        print(f"{name:9} {rates[name]:7.2f} clips/s   {scoring.scores(references, said)['wer_normalised']}")
    gap = scoring.difference(references, texts["ours"], texts["original"])
    print(
        f"ratio     {rates['ours'] / rates['original']:7.2f}           "
        f"ours minus the original's, paired: {gap.value:+.1f} ({gap.low:+.1f} to {gap.high:+.1f})"
    )
    print(f"of processor time {busy['original'] / busy['ours']:5.2f}   (what counts where others use the machine too)")


if __name__ == "__main__":
    command.quiet_libraries()
    main()
