"""Clips per second of training: windows as short as the speech (`mixed`, the default) against 30 s (`full`, classic).

    python benchmarks/training.py [--model sample] [--store features/sample] [--clips 512]
        [--precision auto|float32|bf16]

The same model, clips, batch size and optimiser, one after the other in one process, on whatever the machine has. Full
reads a quarter as many clips as mixed; a step of each window length comes first and is not counted.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch  # noqa: E402

from whisper_lab import command  # noqa: E402
from whisper_lab.stores import store  # noqa: E402
from whisper_lab.tuning import blending, processes, recipes, training  # noqa: E402
from whisper_lab.whisper import checkpoint, precision  # noqa: E402


def seconds(model, start: dict, splits: dict, processor, prompt, recipe: recipes.Recipe, folder: Path) -> float:
    """Wall time of a training by `recipe`, from the start weights, without scoring or saving."""
    model.load_state_dict(start)
    trainer = training.Trainer(model, recipe, folder, splits, processor, prompt)
    trainer.args.save_strategy = trainer.args.eval_strategy = "no"
    trainer.args.load_best_model_at_end = False
    loader = trainer.get_train_dataloader()
    for length in {batch["input_features"].shape[-1]: batch for batch in loader}.values():
        with precision.autocast(model.device.type, recipe.precision):
            loss = model(**{k: v.to(model.device) for k, v in length.items() if torch.is_tensor(v)}).loss
        loss.backward()
    model.zero_grad()
    if model.device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    trainer.train()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sample")
    parser.add_argument("--store", default="features/sample")
    parser.add_argument("--clips", type=int, default=512, help="clips that mixed reads; full reads a quarter of them")
    parser.add_argument("--precision", choices=precision.NAMES, default="auto")
    args = parser.parse_args()
    root = Path(__file__).parent.parent
    subprocess.run(
        [sys.executable, root / "feature-pipeline.py", "--store", args.store], check=True, stdout=subprocess.DEVNULL
    )
    features = store.FeatureSet(args.store)
    splits = {name: features.split(name) for name in ("train", "dev")}
    processor, model = checkpoint.load_processor(args.model), checkpoint.load_model(args.model)
    prompt, start = checkpoint.prompt_ids(processor.tokenizer, "sv"), blending.weights(model)
    rates, chosen = {}, precision.choose(args.precision, processes.device())
    for window, clips in (("full", args.clips // 4), ("mixed", args.clips)):
        steps = clips // 8
        recipe = recipes.Recipe("adamw", 1e-5, steps, 8, 1, 1, 0.01, window, steps + 1, 1.0, 1, precision=chosen)
        with tempfile.TemporaryDirectory() as folder:
            spent = seconds(model, start, splits, processor, prompt, recipe, Path(folder))
        rates[window] = clips // 8 * 8 / spent
        print(f"{window:6} {rates[window]:6.2f} clips/s  ({spent:.0f} s for {clips} clips)", flush=True)
    print(f"ratio  {rates['mixed'] / rates['full']:6.2f}  (both in {chosen})")


if __name__ == "__main__":
    command.quiet_libraries()
    main()
