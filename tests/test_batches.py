import hashlib
import json
from collections import Counter

import numpy as np
import pytest
import torch

from whisper_lab import LabError
from whisper_lab.whisper.batches import GROUP, Collator, Parts, WindowBatches, by_length, pieces
from whisper_lab.whisper.windows import LENGTHS, shortest

FRAMES = np.random.default_rng(0).integers(80, 900, 230).tolist()


def batches(**changes) -> list:
    settings = {"frames": FRAMES, "batch_size": 8, "count": 56, "window": "mixed", "seed": 3} | changes
    return list(WindowBatches(**settings))


def clips_of(batch) -> list[int]:
    return [clip for example in batch for clip in example.clips]


def test_every_clip_comes_once_a_pass_but_for_the_incomplete_batch():
    passes = batches()[:28], batches()[28:]
    for one in passes:
        seen = Counter(clip for batch in one for clip in clips_of(batch))
        assert set(seen.values()) == {1} and len(seen) == 224
    assert passes[0] != passes[1]


def test_the_same_seed_gives_the_same_batches_and_a_longer_run_begins_alike():
    assert batches() == batches() != batches(seed=4)
    assert batches(count=100)[:56] == batches()


def test_the_order_is_the_one_that_earlier_runs_had():
    drawn = [[(example.clips[0], example.window) for example in batch] for batch in batches()]
    digest = hashlib.sha256(json.dumps(drawn).encode()).hexdigest()
    assert digest == "0483d02cddc6551b51871ab636f9c5f4effb545157bb8be7759d71d6daa65144"


@pytest.mark.parametrize("rows", [4, 9, 40])
@pytest.mark.parametrize("count", [5, GROUP, GROUP + 1, 30])
def test_shard_by_shard_every_clip_comes_once_a_pass_and_few_shards_are_in_use(rows, count):
    shards = np.repeat(np.arange(count), rows + np.arange(count) % 3)  # of unlike sizes, as clips are left out
    whole = len(shards) // 8  # batches of a pass
    settings = {"frames": (FRAMES * 6)[: len(shards)], "shards": shards, "count": 2 * whole}
    drawn = batches(**settings)
    assert drawn == batches(**settings) != batches(**settings | {"seed": 4})
    passes = drawn[:whole], drawn[whole:]
    for one in passes:
        seen = Counter(clip for batch in one for clip in clips_of(batch))
        assert set(seen.values()) == {1} and len(seen) == whole * 8
        used = [{shards[clip] for clip in clips_of(batch)} for batch in one]
        first = {shard: min(n for n, batch in enumerate(used) if shard in batch) for shard in range(count)}
        last = {shard: max(n for n, batch in enumerate(used) if shard in batch) for shard in range(count)}
        in_use = [sum(first[s] <= n <= last[s] for s in first) for n in range(whole)]
        assert max(in_use) <= GROUP + 2
    assert passes[0] != passes[1]


@pytest.mark.parametrize("window", ["short", "mixed", "full"])
def test_a_batch_has_one_window_that_holds_its_clips(window):
    drawn = []
    for batch in batches(window=window, count=1_000):
        (length,) = {example.window for example in batch}
        least = shortest(max(FRAMES[clip] for clip in clips_of(batch)))
        assert length in LENGTHS and length >= least
        drawn.append((length, length == least))
    full = np.mean([length == 3_000 for length, _ in drawn])
    short = np.mean([is_least for _, is_least in drawn])
    assert {"short": full == 0 and short == 1, "full": full == 1, "mixed": 0.04 < full < 0.09 and short > 0.6}[window]


def test_clips_of_like_length_meet():
    padding = np.mean([e.window - FRAMES[e.clips[0]] for batch in batches(window="short") for e in batch])
    at_random = np.mean([shortest(max(FRAMES[i : i + 8])) - np.mean(FRAMES[i : i + 8]) for i in range(0, 224, 8)])
    assert padding < at_random / 2


def test_a_corpus_smaller_than_a_batch():
    assert [len(batch) for batch in batches(frames=[100, 300, 200], count=4)] == [3, 3, 3, 3]


@pytest.mark.parametrize("processes", [1, 2, 5])
def test_the_parts_of_a_batch_are_the_batch(processes):
    whole = batches(count=20)
    seen = [list(Parts(whole, processes, rank)) for rank in range(processes)]
    assert {len(parts) for parts in seen} == {20} == {len(Parts(whole, processes, 0))}
    for i, batch in enumerate(whole):
        parts = [one[i] for one in seen]
        learnt = [example for part in parts for example in part if example.learnt]
        assert sorted(learnt) == sorted(batch) and all(parts)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        assert all(example.window == batch[0].window for part in parts for example in part)


@pytest.mark.parametrize("clips", [1, 7, 8, 13, 144])
def test_the_pieces_of_a_batch_are_the_batch_and_of_few_sizes(clips):
    for window, at_once in ((400, 600 * clips), (3_000, 600 * clips), (3_000, 100), (200, 10**6)):
        batch = {"input_features": torch.randn(clips, 2, window), "labels": torch.randn(clips, 5)}
        cut = pieces(batch, at_once)
        assert all(torch.equal(torch.cat([part[name] for part in cut]), batch[name]) for name in batch)
        sizes = [len(part["labels"]) for part in cut]
        assert max(sizes) == 1 or max(sizes) * window <= at_once
        assert len(set(sizes)) <= 2 and len(cut) <= 2 * -(-clips // max(1, at_once // window))


def test_an_epoch_shows_the_model_few_shapes():
    """Of 10,000 clips as long as Common Voice's, whose speakers are not equally fast; at little padding."""
    rng = np.random.default_rng(1)
    seconds = np.clip(rng.gamma(9, 3.96 / 9, 10_000), 1, 12)
    frames, tokens = np.ceil(100 * seconds).astype(int) + 3, 4 + np.maximum(2, seconds * rng.normal(4, 0.8, 10_000))
    for size in (8, 16, 64, 128):
        shapes, given, longest = set(), 0, 0
        for batch in batches(frames=frames.tolist(), batch_size=size, count=10_000 // size):
            labels = [int(tokens[example.clips[0]]) for example in batch]
            rows = [{"id": "", "labels": [1] * n, "features": np.zeros((1, batch[0].window), bool)} for n in labels]
            whole = Collator(0, 1)(rows)
            for part in pieces(whole, 600 * max(16, size)):
                shapes.add((*part["input_features"].shape, part["labels"].shape[1]))
            given, longest = given + whole["labels"].numel(), longest + size * max(labels)
        assert len(shapes) <= 60 and given < 1.15 * longest


def test_what_stands_in_is_not_learnt(processor):
    from whisper_lab.whisper import checkpoint

    (labels,) = checkpoint.label_ids(processor.tokenizer, ["Hej."], "sv")
    row = {"id": "a", "labels": labels, "features": np.zeros((80, 200), np.float32)}
    out = Collator(50258, 50257)([row, row | {"learnt": False}])
    assert (out["labels"][0] != -100).any() and (out["labels"][1] == -100).all()


def test_every_example_has_an_augmentation_of_its_own():
    seeds = [example.seed for batch in batches() for example in batch]
    assert len(set(seeds)) == len(seeds)


def test_decoding_takes_every_clip_once_in_its_own_window():
    for lengths in (LENGTHS, [400, 3_000], [3_000]):
        batches = list(by_length(FRAMES, 16, lengths))
        assert sorted(clip for batch in batches for clip in clips_of(batch)) == list(range(len(FRAMES)))
        for batch in batches:
            assert len({example.window for example in batch}) == 1 and len(batch) <= 16
            assert all(e.window == shortest(FRAMES[e.clips[0]], lengths) for e in batch)


def test_the_decoder_sees_the_start_once_and_learns_the_text(processor):
    from whisper_lab.whisper import checkpoint

    token = processor.tokenizer.convert_tokens_to_ids
    start, end = token("<|startoftranscript|>"), token("<|endoftext|>")
    sentences = ["Hej.", "Åsa åt sex kex på ön i går kväll."]
    rows = [
        {"id": str(i), "labels": ids, "features": np.zeros((80, 200), np.float32)}
        for i, ids in enumerate(checkpoint.label_ids(processor.tokenizer, sentences, "sv-SE"))
    ]
    out = Collator(start, end)(rows)
    for row, sentence in zip(range(2), sentences):
        inputs, labels = out["decoder_input_ids"][row].tolist(), out["labels"][row].tolist()
        assert inputs[:4] == checkpoint.prompt_ids(processor.tokenizer, "sv") and inputs.count(start) == 1
        assert labels[:3] == [-100] * 3
        learnt = [i for i in labels if i != -100]
        assert learnt[-1] == end and processor.tokenizer.decode(learnt[:-1]) == f" {sentence}"
        assert inputs[4 : 3 + len(learnt)] == learnt[:-1]  # each token is predicted from those before it
    with pytest.raises(LabError, match="labels of 0"):
        Collator(start, end)([rows[0] | {"labels": [start, *rows[0]["labels"]]}])
