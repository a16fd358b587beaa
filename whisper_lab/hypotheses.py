"""A split decoded fast → hypotheses → scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from tqdm import tqdm

from . import scoring
from .batches import Collator, Windowed, by_length
from .decoding import DEFAULT, Decoded, read_again, token_limit, unlooped
from .features import FRAMES, pad
from .windows import decode


@dataclass(frozen=True)
class Hypotheses:
    """What a model wrote for a split, in the split's order. `loss` is per token, given the right text so far."""

    ids: list[str]
    references: list[str]
    texts: list[str]
    loss: float
    tokens: int = 0  # that the loss is the mean of

    def scores(self) -> dict[str, scoring.Score]:
        return scoring.scores(self.references, self.texts)


@torch.inference_mode()
def transcribe(
    model, split, tokenizer, collator: Collator, prompt: list[int], lengths: Sequence[int], batch_size: int, title: str
) -> Hypotheses:
    """The hypotheses of every clip in `split`, at the shortest of the window `lengths` (in frames) that holds it.

    Clips are sorted by length, so that a batch ends when its last clip does and all of its clips do about together;
    each is encoded once, for the loss and for the text. What is in doubt is read with beams, and what
    rambles at 30 s, as it is when the model is served.
    """
    was_training = model.training
    model.eval()
    precision = autocast(model.device)
    clips, texts, losses, tokens = Windowed(split), [""] * len(split), 0.0, 0
    batches = list(by_length(split.column("frames"), batch_size, lengths))
    with tqdm(total=len(split), desc=title, unit="clip", leave=False) as bar:
        for batch in batches:
            inputs = {k: v.to(model.device) for k, v in collator([clips[item] for item in batch]).items()}
            with precision:
                encoded = model.get_encoder()(inputs.pop("input_features"))
                logits = model(encoder_outputs=encoded, decoder_input_ids=inputs["decoder_input_ids"]).logits
                frames = batch[0].window
                read = read_again(
                    decode(model, encoded, prompt, token_limit(frames)),
                    frames,
                    DEFAULT.beams,
                    partial(_with_beams, model, encoded, prompt, frames),
                    partial(_at_30_s, model, split, prompt, [example.clips[0] for example in batch]),
                )
            labels = inputs["labels"]
            losses += torch.nn.functional.cross_entropy(
                logits.float().flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum"
            ).item()
            tokens += (labels != -100).sum().item()
            written = tokenizer.batch_decode([unlooped(one.tokens) for one in read], skip_special_tokens=True)
            for example, text in zip(batch, written):
                texts[example.clips[0]] = text.strip()
            bar.update(len(batch))
    model.train(was_training)
    return Hypotheses(split.column("id"), split.column("sentence"), texts, losses / max(tokens, 1), tokens)


def _with_beams(model, encoded, prompt: list[int], frames: int, chosen: list[int]) -> list[Decoded]:
    """The `chosen` of a batch, read with beams."""
    some = type(encoded)(last_hidden_state=encoded.last_hidden_state[chosen])
    return decode(model, some, prompt, token_limit(frames), DEFAULT.beams)


def _at_30_s(model, split, prompt: list[int], batch: list[int], chosen: list[int]) -> list[Decoded]:
    """The `chosen` of a `batch` of clips, read at 30 s windows."""
    features = np.stack([pad(split[batch[i]]["features"], FRAMES) for i in chosen])
    encoded = model.get_encoder()(torch.from_numpy(features).to(model.device))
    return decode(model, encoded, prompt, token_limit(FRAMES), DEFAULT.beams)


def autocast(device: torch.device) -> torch.autocast:
    """bf16 on a GPU that has it, fp16 on one that has not, float32 on a CPU, where the short formats are slower."""
    dtype = torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float16
    return torch.autocast(device.type, dtype, enabled=device.type == "cuda")
