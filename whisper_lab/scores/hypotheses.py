"""A split decoded fast → hypotheses → scores."""

import gc
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from tqdm import tqdm

from .. import cuda
from ..speech.features import FRAMES, pad
from ..whisper import attention
from ..whisper.batches import Collator, Example, Windowed, by_length
from ..whisper.decoding import DEFAULT, Decoded, read_again, token_limit, unlooped
from ..whisper.precision import autocast
from . import scoring
from .drafts import Memory, Writer, there

SHORTER = 3  # on a CPU, which is no faster with more; on a GPU, clips of as much sound as at 30 s, since that fits
READY = 2  # batches that are made before they are wanted


@dataclass(frozen=True)
class Hypotheses:
    """What a model wrote for a split, in the split's order. `loss` is per token, given the right text so far."""

    ids: list[str]
    references: list[str]
    texts: list[str]
    loss: float
    tokens: int = 0  # that the loss is the mean of

    def every(self, step: int) -> "Hypotheses":
        """Of every `step`-th clip; the loss stays that of all."""
        return replace(self, ids=self.ids[::step], references=self.references[::step], texts=self.texts[::step])

    def scores(self, language: str = "") -> dict[str, scoring.Score]:
        return scoring.scores(self.references, self.texts, language)


@torch.inference_mode()
@attention.without_cudnn()
def transcribe(
    model,
    split,
    tokenizer,
    collator: Collator,
    prompt: list[int],
    lengths: Sequence[int],
    batch_size: int,
    title: str,
    precision: str = "float32",
) -> Hypotheses:
    """The hypotheses of every clip in `split`, at the shortest of the window `lengths` (in frames) that holds it.

    Clips are sorted by length, in batches of `batch_size` at 30 s and of more on shorter windows; each is encoded once,
    for the loss and for the text, of which only what differs from the right one is decoded step by step (`drafts`).
    What is in doubt is read with beams, and what rambles at 30 s, as it is when the model is served; that at the end,
    since it takes as many steps for one clip as for a batch.
    """
    writer, clips, texts = Writer(model, prompt), Windowed(split), [""] * len(split)
    losses, tokens, waiting, rambling = 0.0, 0, [], []
    batches = list(_batches(split.column("frames"), batch_size, lengths, writer.static))

    def written(clip: int, one: Decoded) -> None:
        texts[clip] = tokenizer.decode(unlooped(one.tokens), skip_special_tokens=True).strip()
        bar.update()

    with (
        tqdm(total=len(split), desc=title, unit="clip", leave=False) as bar,
        autocast(model.device.type, precision),
        evaluated(model),
    ):
        with closing(_collated(batches, clips, collator, model.device)) as collated:
            for batch, inputs, following in zip(batches, collated, [*batches[1:], None]):
                unread, loss, count = _begin(writer, inputs, batch)
                losses, tokens, waiting = losses + loss, tokens + count, [*waiting, unread]
                size = sum(one.settled.count(None) * one.frames for one in waiting)
                if following and size < batch_size * FRAMES and unread.frames < FRAMES:
                    continue  # what is not finished is finished together with that of other batches
                for clip, one in _finish(writer, waiting):
                    if one:
                        written(clip, one)
                    else:
                        rambling.append(clip)
                waiting = []
        for clip, one in zip(rambling, _at_30_s(writer, split, batch_size, rambling)):
            written(clip, one)
    return Hypotheses(split.column("id"), split.column("sentence"), texts, losses / max(tokens, 1), tokens)


@contextmanager
def evaluated(model) -> Iterator[None]:
    """Without dropout."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def in_memory(batch_size: int, read: Callable[[int], Hypotheses]) -> tuple[Hypotheses, int]:
    """`read(batch_size)`, halved for as long as a GPU's memory does not hold it, and what it was in the end."""
    while True:
        try:
            return read(batch_size), batch_size
        except torch.OutOfMemoryError:
            if batch_size == 1:
                raise cuda.no_room("scoring one clip at a time") from None
        # Out of the except clause, whose traceback would hold the memory that is to be freed.
        gc.collect()
        torch.cuda.empty_cache()
        batch_size //= 2
        print(f"\nOut of GPU memory while scoring: from now on {batch_size} clips at a time.", flush=True)


def _batches(frames: Sequence[int], batch_size: int, lengths: Sequence[int], fill: bool) -> Iterator[list[Example]]:
    """As `by_length`, with more clips the shorter windows are: up to `SHORTER` times, or what is as long together."""
    for window in by_length(frames, max(1, len(frames)), lengths):
        times = FRAMES // window[0].window
        size = batch_size * (times if fill else min(SHORTER, times))
        yield from (window[i : i + size] for i in range(0, len(window), size))


def _collated(
    batches: list[list[Example]], clips: Windowed, collator: Collator, device: torch.device
) -> Iterator[dict]:
    """The tensors of each of `batches`, which a thread makes beside the work on those before. close() ends that."""

    def made(batch: list[Example]) -> dict:
        inputs = collator([clips[item] for item in batch])
        if device.type == "cuda":  # so that the GPU fetches it by itself
            inputs["input_features"] = inputs["input_features"].pin_memory()
        return inputs

    left, aside = iter(batches), ThreadPoolExecutor(1)
    try:
        coming = deque(aside.submit(made, batch) for batch in islice(left, READY))
        while coming:
            inputs = coming.popleft().result()
            coming.extend(aside.submit(made, batch) for batch in islice(left, 1))
            yield inputs
    finally:
        aside.shutdown(cancel_futures=True)


@dataclass
class Begun:
    """Clips of one window, with what is known of their texts; `memory` is of those that are not `settled`."""

    clips: list[int]
    frames: int
    texts: list[list[int]]
    scores: list[float]
    settled: list[Decoded | None]
    memory: Memory | None


def _begin(writer: Writer, inputs: dict, batch: list[Example]) -> tuple[Begun, float, int]:
    """What the right texts tell of the texts of a collated `batch`; the sum of their tokens' losses; their number."""
    frames, prompt, device = batch[0].window, writer.prompt, writer.model.device
    given, labels = inputs["decoder_input_ids"], inputs["labels"]
    if not writer.static:  # a CPU computes what it is given
        longest = int((labels != -100).any(0).nonzero().max()) + 1
        given, labels = given[:, :longest], labels[:, :longest]
    learnt, start = labels != -100, torch.tensor(prompt)  # on the CPU, where nothing waits for them
    wanted = labels[learnt]
    parts = inputs["input_features"], given, learnt.flatten().nonzero()[:, 0], wanted, learnt.cumsum(1)[learnt] == 1
    features, ids, places, *judged = (part.to(device, non_blocking=True) for part in parts)
    memory = writer.listen(writer.model.get_encoder()(features).last_hidden_state)
    loss, *likeliest = writer.judged(writer.read(memory, ids).flatten(0, 1)[places], *judged)
    if given.shape[1] >= len(prompt) and (given[:, : len(prompt)] == start).all() and learnt[:, len(prompt) - 1].all():
        drafts = [draft.tolist() for draft in wanted.split(learnt.sum(1).tolist())]
        texts, scores = writer.verified(drafts, *(part.tolist() for part in likeliest), token_limit(frames))
    else:  # labels for another prompt
        memory = memory.up_to(0)
        writer.read(memory, there(prompt[:-1], device).expand(len(ids), -1))
        texts, scores = [[] for _ in batch], [0.0] * len(batch)
    settled = [writer.decoded(*one) if writer.done(one[0], token_limit(frames)) else None for one in zip(texts, scores)]
    settled = [None if one is None or one.doubtful else one for one in settled]
    kept, open_ = None, [i for i, one in enumerate(settled) if one is None]
    if open_:
        read = [len(prompt) - 1 + len(texts[i]) for i in open_]
        some = there(open_, device)
        kept = memory.up_to(max(read)).of(some, some)
        kept.read = there(read, device)
    begun = Begun([example.clips[0] for example in batch], frames, texts, scores, settled, kept)
    return begun, loss.item(), len(wanted)


def _finish(writer: Writer, begun: list[Begun]) -> Iterator[tuple[int, Decoded | None]]:
    """Each clip and its text: those that were not settled are written to their ends, and read again if in doubt. None:
    it rambles even so, and is to be read at 30 s."""
    open_ = []
    for one in begun:
        for clip, text, score, settled in zip(one.clips, one.texts, one.scores, one.settled):
            if settled:
                yield clip, settled
            else:
                open_.append((clip, text, score, token_limit(one.frames)))
    if not open_:
        return
    clips, texts, scores, limits = map(list, zip(*open_))
    memory = Memory.joined([one.memory for one in begun if one.memory])
    for one in begun:
        one.memory = None  # or there would be two of each
    start = memory.up_to(len(writer.prompt) - 1)
    greedy = writer.write(memory, texts, scores, limits)

    def with_beams(chosen: list[int]) -> list[Decoded]:
        some = there(chosen, start.read.device)
        return writer.search(start.of(some, some), DEFAULT.beams, [limits[i] for i in chosen])

    frames = max(one.frames for one in begun)
    yield from zip(clips, read_again(greedy, frames, DEFAULT.beams, with_beams, lambda chosen: [None] * len(chosen)))


def _at_30_s(writer: Writer, split, batch_size: int, chosen: list[int]) -> list[Decoded]:
    """The `chosen` clips of `split`, read at 30 s windows."""
    read = []
    for some in (chosen[i : i + batch_size] for i in range(0, len(chosen), batch_size)):
        features = torch.from_numpy(np.stack([pad(split[i]["features"], FRAMES) for i in some])).to(writer.model.device)
        memory = writer.listen(writer.model.get_encoder()(features).last_hidden_state)
        writer.read(memory, torch.tensor([writer.prompt[:-1]] * len(some), device=writer.model.device))
        read += writer.search(memory, DEFAULT.beams, [token_limit(FRAMES)] * len(some))
    return read
