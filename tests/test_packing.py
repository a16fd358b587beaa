from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch

from whisper_lab.corpora import corpus
from whisper_lab.speech import audio
from whisper_lab.speech.features import FRAMES, FrontEnd, pad
from whisper_lab.whisper import checkpoint, packing
from whisper_lab.whisper.batches import Collator, WindowBatches, Windowed
from whisper_lab.whisper.windows import shortest

RATE, START = audio.SAMPLE_RATE, 50_258


@pytest.fixture(scope="module")
def tokens(processor) -> packing.Tokens:
    return packing.Tokens.of(processor.tokenizer)


@pytest.fixture(scope="module")
def sounds() -> list[np.ndarray]:
    """Of twelve clips, some louder than others; lengths are no multiples of a hop."""
    clips = corpus.read("sample", "sv-SE", ["train"], limit=12).splits["train"]
    return [audio.read(clip.path)[: -(i + 1)] * 10.0 ** -(i % 3 / 2) for i, clip in enumerate(clips)]


@pytest.fixture(scope="module")
def rows(sounds, processor) -> list[dict]:
    """As a split of a feature set has them."""
    clips = corpus.read("sample", "sv-SE", ["train"], limit=12).splits["train"]
    labels = checkpoint.label_ids(processor.tokenizer, [clip.sentence for clip in clips], "sv")
    log_mels = [FrontEnd().log_mel(sound).astype(np.float16) for sound in sounds]
    return [
        {
            "id": f"clip{i}",
            "sentence": clip.sentence,
            "seconds": sound.size / RATE,
            "frames": log_mel.shape[1],
            "labels": ids,
            "features": log_mel,
        }
        for i, (clip, sound, ids, log_mel) in enumerate(zip(clips, sounds, labels, log_mels))
    ]


def one_after_another(sounds: list[np.ndarray]) -> tuple[np.ndarray, list[int]]:
    """Their sound, each filled with zeros to a multiple of a hop, and the frame at which each ends."""
    filled = [np.pad(sound, (0, -sound.size % 160)) for sound in sounds]
    return np.concatenate(filled), np.cumsum([sound.size // 160 for sound in filled]).tolist()


def text(ids: list[int]) -> list[int]:
    return [token for token in ids if token < 50_257]


def written(labels: list[int], tokens) -> list[int | str]:
    """Timestamps in hundredths of a second, and "text" for what is between."""
    names = [
        (t - tokens.zero) * 2 if t >= tokens.zero else "text" for t in labels if t < tokens.end or t >= tokens.zero
    ]
    return [name for i, name in enumerate(names) if name != "text" or names[i - 1] != "text"]


@pytest.mark.parametrize("chosen", [range(5), [3], [5, 2, 8, 1], range(5, 11)])
def test_the_joined_log_mel_is_that_of_the_joined_sound(chosen, sounds, rows, tokens):
    sound, ends = one_after_another([sounds[i] for i in chosen])
    whole = FrontEnd().log_mel(sound)
    joined = packing.join([rows[i] for i in chosen], tokens=tokens)
    assert joined["frames"] == joined["features"].shape[1] == whole.shape[1]
    seams = [frame for end in ends[:-1] for frame in (end - 1, end, end + 1) if end <= whole.shape[1]]
    elsewhere = np.setdiff1d(np.arange(whole.shape[1]), seams)
    assert np.abs(joined["features"] - whole)[:, elsewhere].max() < 1e-3  # float16
    assert np.abs(pad(joined["features"], FRAMES) - pad(whole, FRAMES))[:, whole.shape[1] :].max(initial=0) < 1e-3


def test_quiet_clips_lose_what_the_loud_ones_drown(rows, tokens):
    loud, quiet = rows[0], rows[2]  # 10 dB apart
    assert loud["features"].max() - 2 > quiet["features"].min()
    joined = packing.join([quiet, loud], tokens=tokens)["features"]
    assert joined.min() == joined.max() - 2 > quiet["features"].min()


def test_every_segment_has_its_times_and_its_text(rows, sounds, tokens, processor):
    joined = packing.join(rows[:5], tokens=tokens)
    labels = joined["labels"]
    assert processor.tokenizer.convert_ids_to_tokens(labels[:2]) == ["<|sv|>", "<|transcribe|>"]
    assert labels[2] == tokens.zero == processor.tokenizer.convert_tokens_to_ids("<|0.00|>")
    assert labels.count(tokens.end) == 1 and labels[-1] == tokens.end and joined["given"] == 2
    ends = one_after_another(sounds[:5])[1]
    times = [time for time in written(labels, tokens) if time != "text"]
    assert times[0::2] == [0, *times[1:-1:2]]  # each begins where the one before ends
    assert np.abs(np.array(times[1::2]) - ends).max() <= 1 and times[1::2] == sorted(times)[1::2]
    assert written(labels, tokens)[1::3] == ["text"] * 5
    said = " ".join(row["sentence"] for row in rows[:5])
    assert processor.tokenizer.decode(text(labels)).strip() == said == joined["sentence"]
    assert joined["id"] == "clip0+clip1+clip2+clip3+clip4"
    assert joined["seconds"] == pytest.approx(sum(row["seconds"] for row in rows[:5]))


def test_a_single_clip_with_timestamps(rows, tokens):
    joined = packing.join(rows[:1], tokens=tokens)
    end = round(rows[0]["seconds"] * 50 + 0.49) * 2
    assert written(joined["labels"], tokens) == [0, "text", end] and joined["before"] == []
    np.testing.assert_allclose(joined["features"], rows[0]["features"], rtol=0, atol=5e-4)  # the floor, in float16


def test_without_timestamps_it_is_one_text(rows, tokens):
    joined = packing.join(rows[:3], timestamps=False, tokens=tokens)
    texts = [row["labels"][3:-1] for row in rows[:3]]
    assert joined["labels"] == [*rows[0]["labels"][:3], *texts[0], *texts[1], *texts[2], tokens.end]
    assert joined["given"] == 3


def test_of_a_clip_that_is_cut_off_only_the_beginning_is_learnt(rows, tokens):
    rows = [*rows, *rows]
    count = next(i for i in range(len(rows)) if sum(row["frames"] - 3 for row in rows[: i + 1]) > FRAMES)
    whole, cut = packing.join(rows[:count], tokens=tokens), packing.join(rows[: count + 1], tokens=tokens)
    assert cut["labels"] == [*whole["labels"][:-1], whole["labels"][-2], tokens.end]
    assert cut["frames"] == FRAMES and cut["sentence"] == whole["sentence"] and cut["seconds"] == 30
    without = packing.join(rows[: count + 1], timestamps=False, tokens=tokens)
    assert without["sentence"] == whole["sentence"] and without["frames"] == whole["frames"]


def test_the_text_before_goes_before_and_is_cut_from_the_left(rows, tokens):
    said, end = rows[1]["labels"][3:-1], tokens.zero + (rows[1]["frames"] - 2) // 2
    before = [packing.join(rows[:1], rows[1], timed, tokens=tokens)["before"] for timed in (True, False)]
    assert before == [[tokens.previous, tokens.zero, *said, end], [tokens.previous, *said]]
    long = rows[1] | {"labels": [*rows[1]["labels"][:3], *range(400), tokens.end]}
    assert packing.join(rows[:1], long, False, tokens=tokens)["before"] == [tokens.previous, *range(177, 400)]  # 223
    for length in (100, 200, 219, 300, 443, 444):
        talkative = rows[0] | {"labels": [*rows[0]["labels"][:3], *range(length), tokens.end]}
        for some in ([talkative], [talkative, talkative], [talkative, rows[0]]):
            joined = packing.join(some, long, tokens=tokens)
            used = len(joined["before"]) + len(joined["labels"])
            assert used <= packing.POSITIONS and (used >= packing.POSITIONS - 1 or len(joined["before"]) == 224)
            assert text(joined["labels"])[:length] == list(range(length))


def test_what_does_not_fit_into_the_decoder_is_left_out(rows, tokens):
    long = rows[0] | {"labels": [*rows[0]["labels"][:3], *range(200), tokens.end]}
    joined = packing.join([long, long, long], tokens=tokens)
    assert len(text(joined["labels"])) == 400 and joined["id"] == "clip0+clip0"


def corpus_of(clips: int, speakers: int) -> dict:
    rng = np.random.default_rng(1)
    return {
        "frames": rng.integers(80, 1_200, clips).tolist(),
        "speakers": [f"speaker{i}" for i in rng.integers(0, speakers, clips)],
        "tokens": rng.integers(8, 60, clips).tolist(),
    }


@pytest.mark.parametrize("clips, speakers", [(300, 4), (300, 250), (1, 1), (2, 2)])
def test_packs_hold_each_clip_once_and_fit(clips, speakers):
    about = corpus_of(clips, speakers)
    found = packing.packs(**about, rng=np.random.default_rng(0))
    assert Counter(i for pack in found for i in pack) == Counter(range(clips))
    sizes = [sum(about["frames"][i] - 3 for i in pack) for pack in found]
    labels = [sum(about["tokens"][i] - 2 for i in pack) + 4 for pack in found]
    assert max(sizes) <= FRAMES and max(labels) <= 224
    for (size, pieces), following in zip(zip(sizes, labels), found[1:]):  # greedily
        first = following[0]
        assert size + about["frames"][first] - 3 > FRAMES or pieces + about["tokens"][first] - 2 > 224
    turns = [about["speakers"][i] for pack in found for i in pack]
    assert sum(a != b for a, b in pairwise(turns)) == len(set(turns)) - 1  # a speaker's clips are neighbours
    again = packing.packs(**about, rng=np.random.default_rng(0))
    assert again == found and (clips < 3 or packing.packs(**about, rng=np.random.default_rng(1)) != found)


def test_clips_of_nobody_and_clips_too_long_for_company():
    found = packing.packs([3_000, 2_999, 400, 400], [None] * 4, [20, 20, 400, 20], np.random.default_rng(0))
    assert sorted(found) == [(0,), (1,), (2,), (3,)]


def drawn(about: dict, count: int, **changes) -> list:
    settings = {"batch_size": 8, "count": count, "window": "packed", "seed": 3} | about | changes
    return list(WindowBatches(**settings))


def test_half_of_the_clips_are_in_packs_as_long_as_other_batches():
    about = corpus_of(2_000, 90)
    batches = drawn(about, 200)
    packed = [batch for batch in batches if max(len(example.clips) for example in batch) > 1]
    assert all(example.window == FRAMES for batch in packed for example in batch)
    whole = [sum(len(example.clips) for example in batch) for batch in packed]
    assert 5 < np.mean(whole) < 11 and 0.4 < len(packed) / len(batches) < 0.6
    examples = [example for batch in packed for example in batch]
    timed = [example for example in examples if example.timestamps]
    filled = [sum(about["frames"][i] - 3 for i in example.clips) for example in examples]
    assert 0.65 < len(timed) / len(examples) < 0.85
    assert 0.4 < np.mean([example.previous is not None for example in examples]) < 0.6
    assert not any(total > FRAMES for total, example in zip(filled, examples) if not example.timestamps)
    cut = [(total - FRAMES, example) for total, example in zip(filled, examples) if total > FRAMES]
    assert 0.3 < len(cut) / len(timed) < 0.5
    for over, example in cut:
        assert packing.PART <= over <= about["frames"][example.clips[-1]] - 3 - packing.PART
    single = [batch for batch in batches if batch not in packed]
    assert all(len(batch) == 8 and len({e.timestamps for e in batch}) == 1 for batch in single)
    assert 0.15 < np.mean([batch[0].timestamps for batch in single]) < 0.35
    least = [shortest(max(about["frames"][example.clips[0]] for example in batch)) for batch in single]
    assert np.mean([batch[0].window == length for batch, length in zip(single, least)]) > 0.5


@pytest.mark.parametrize("clips, speakers, size", [(400, 20, 8), (400, 20, 64), (5, 5, 8), (1, 1, 8)])
def test_packed_shows_every_clip_alike_and_goes_on_as_it_began(clips, speakers, size):
    about = corpus_of(clips, speakers)
    batches = drawn(about, 150, batch_size=size)
    assert batches[:40] == drawn(about, 40, batch_size=size) != drawn(about, 40, batch_size=size, seed=4)
    seen = Counter(i for batch in batches for e in batch for i in e.clips)
    assert len(seen) == clips
    assert max(seen.values()) < 1.7 * np.mean(list(seen.values())) + 3
    assert len({example.seed for batch in batches for example in batch}) == sum(map(len, batches))


def test_streamed_packs_are_of_shards_that_are_here():
    about, rows_of_shard = corpus_of(1_200, 60), 40
    shards = np.repeat(np.arange(30), rows_of_shard)
    batches = drawn(about, 60, shards=shards)
    here = [{int(shards[i]) for e in batch for i in e.read} for batch in batches]
    first = {s: min(n for n, used in enumerate(here) if s in used) for s in set().union(*here)}
    last = {s: max(n for n, used in enumerate(here) if s in used) for s in first}
    assert max(sum(first[s] <= n <= last[s] for s in first) for n in range(60)) <= 10
    assert any(len(example.clips) > 1 for batch in batches for example in batch)


def test_a_packed_batch_is_learnt_by_a_model(tiny, rows, tokens):
    rows = rows * 4
    about = {
        "frames": [row["frames"] for row in rows],
        "speakers": ["a", "b"] * 24,
        "tokens": [len(row["labels"]) for row in rows],
    }
    collate, join = Collator(START, tokens.end), lambda *given: packing.join(*given, tokens=tokens)
    model = checkpoint.load_model(str(tiny))
    split, kinds = Windowed(rows, join), set()
    for batch in drawn(about, 60, batch_size=4):
        made = [split[example] for example in batch]
        out = collate(made)
        for row, inputs, labels in zip(made, out["decoder_input_ids"].tolist(), out["labels"].tolist()):
            before = row.get("before", [])
            assert inputs[: len(before) + 1] == [*before, START]
            learnt = [i for i, label in enumerate(labels) if label != -100]
            assert learnt[0] == len(before) + row.get("given", 3)
            assert [labels[i] for i in learnt] == row["labels"][row.get("given", 3) :]
            kinds.add((len(before) > 0, row.get("given", 3), "+" in row["id"]))
    with torch.no_grad():
        assert model(**out).loss.isfinite()
    assert {(False, 3, False), (False, 2, False), (False, 2, True), (True, 2, True)} <= kinds


def test_the_labels_are_what_whisper_itself_writes(rows, tokens):
    """Untuned Whisper base, given our labels so far: when a segment ends, what follows one that is cut off, and how
    likely timestamps are after a text with and without them."""
    model = checkpoint.load_model("sample").eval()
    count = next(i for i in range(len(rows)) if sum(row["frames"] - 3 for row in rows[: i + 1]) > FRAMES)

    def likelihoods(joined: dict, encoded, before: list[int]) -> torch.Tensor:
        """(labels, vocabulary) log probabilities."""
        inputs = torch.tensor([[*before, START, *joined["labels"][:-1]]])
        logits = model(encoder_outputs=encoded, decoder_input_ids=inputs).logits
        return logits[0, len(before) :].log_softmax(-1)

    def timestamps(found: torch.Tensor, labels: torch.Tensor) -> float:
        return float(found[labels >= tokens.zero][:, tokens.zero :].logsumexp(-1).mean())

    joined = packing.join(rows[: count + 1], rows[count + 1], tokens=tokens)
    labels = torch.tensor(joined["labels"])
    with torch.no_grad():
        encoded = model.get_encoder()(torch.from_numpy(joined["features"][None]))
        alone = likelihoods(joined, encoded, [])
        after = {
            timed: likelihoods(joined, encoded, packing.join(rows[:1], rows[count + 1], timed, tokens=tokens)["before"])
            for timed in (True, False)
        }
    ends = [i for i in range(3, len(labels)) if labels[i] >= tokens.zero > labels[i - 1]]
    heard = alone[ends, tokens.zero :].argmax(-1) * 0.02
    errors = (heard - (labels[ends] - tokens.zero) * 0.02).abs()
    assert len(ends) == count and errors.median() < 0.15
    assert alone[-2].argmax() == labels[-2] and alone[-1, tokens.end].exp() > 0.5
    assert timestamps(after[True], labels) > timestamps(after[False], labels) + 0.5
