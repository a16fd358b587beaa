"""Whisper on windows as short as the speech, in training and in serving.

Whisper's encoder takes 30 s, always; four fifths of the work on a Common Voice clip is spent on silence. Its position
table is sinusoids, so the first n rows serve a window of n positions, and the same weights run at any length. Untuned,
Whisper needs the silence after the speech to know where it ends; tuned on short windows, it does not.

Windows come in a few fixed lengths, because GPU kernels are planned per shape; on a GPU, so does the memory of a text.
"""

import copy
from collections import Counter
from collections.abc import Sequence

import torch

from ..speech.features import FRAMES
from .decoding import Decoded

LENGTHS = (200, 300, 400, 500, 600, 800, 1_000, 1_500, 2_000, FRAMES)  # frames of 10 ms
ROOM = 64  # tokens, of which a text's memory on a GPU takes as many times as it needs
SEEN = 8  # training clips that a window length takes before the model may be served with it


def shortest(frames: int, lengths: Sequence[int] = LENGTHS) -> int:
    """The shortest of `lengths` (ascending, `FRAMES` last) that holds `frames`."""
    return next(length for length in lengths if length >= min(frames, FRAMES))


def trained_lengths(frames: Sequence[int], window: str) -> list[int]:
    """The window lengths that a model may be served with, given the frames of its training clips and the recipe.

    Those that enough clips filled, and 30 s, which Whisper was made for: on a short window of a length that tuning
    never saw full of speech, it rambles as the untuned model does.
    """
    filled = Counter(map(shortest, frames) if window != "full" else ())
    return [length for length in LENGTHS if filled[length] >= SEEN or length == FRAMES]


def allow(model):
    """Let `model` (WhisperForConditionalGeneration) take `input_features` of any even number of frames up to 3,000.

    transformers refuses other lengths (huggingface/transformers#25744), so for the time of the encoder's forward its
    config and position table are told the length at hand. Weights and saved files stay as they are.
    """
    encoder, full = model.get_encoder(), model.config.max_source_positions
    encoder.embed_positions.requires_grad_(False)  # sinusoids; from_pretrained of transformers 5 makes them trainable

    def set_positions(count: int) -> None:
        encoder.config.max_source_positions = count
        encoder.embed_positions.num_embeddings = count

    def before(_, args, kwargs):
        features = args[0] if args else kwargs["input_features"]
        positions = features.shape[-1] // 2  # the second convolution halves the frames
        if positions > full or features.shape[-1] % 2:
            raise ValueError(f"a window of {features.shape[-1]} frames: Whisper takes an even number up to {2 * full}")
        set_positions(positions)

    encoder.register_forward_pre_hook(before, with_kwargs=True)
    encoder.register_forward_hook(lambda *_: set_positions(full), always_call=True)
    return model


def decode(model, encoded, prompt: list[int], limit: int, beams: int = 1, temperature: float = 0) -> list[Decoded]:
    """The hypotheses for an encoder's output over a batch, of at most `limit` tokens.

    Greedy, the same tokens as `model.generate` on 30 s windows gives (a test holds them together), without its loop
    over segments, which pads every window to 30 s again.
    """
    from transformers import GenerationMixin

    settings = copy.deepcopy(model.generation_config)
    settings.update(
        max_length=len(prompt) + limit,
        return_timestamps=False,
        num_beams=1 if temperature else beams,
        early_stopping=beams > 1 and not temperature,  # with as many texts as beams, as CTranslate2
        do_sample=temperature > 0,
        temperature=temperature or None,
        use_cache=True,
        disable_compile=True,  # which a memory of fixed length starts on a GPU: a wait for each shape, and a C compiler
        return_dict_in_generate=True,
        output_scores=True,
    )
    start = torch.tensor([prompt] * len(encoded.last_hidden_state), device=model.device)
    out = GenerationMixin.generate(
        model,
        encoder_outputs=type(encoded)(last_hidden_state=encoded.last_hidden_state),  # for beams repeated in place
        decoder_input_ids=start,
        generation_config=settings,
        past_key_values=_cache(model.config, settings.max_length if model.device.type == "cuda" else None),
    )
    scores = model.compute_transition_scores(
        out.sequences, out.scores, getattr(out, "beam_indices", None), normalize_logits=True
    )
    end = settings.eos_token_id
    result = []
    for text, steps in zip(out.sequences[:, len(prompt) :].tolist(), scores.tolist()):
        ended = end in text
        tokens = text[: text.index(end)] if ended else text
        result.append(Decoded(tokens, sum(steps[: len(tokens) + 1]) / (len(tokens) + 1), None, ended))
    return result


def _cache(config, tokens: int | None):
    """A cache whose part for the encoder's output stays where it is when beams change places: all beams of a window
    look at the same sound, and moving it is most of a step's time. With room for so many `tokens` from the start, or
    growing."""
    from transformers import DynamicCache, EncoderDecoderCache, StaticCache

    class Cache(EncoderDecoderCache):
        def reorder_cache(self, beam_idx):
            self.self_attention_cache.reorder_cache(beam_idx)

    written = StaticCache(config, max_cache_len=-(-tokens // ROOM) * ROOM) if tokens else DynamicCache(config=config)
    return Cache(written, DynamicCache(config=config))
