import base64
import json
import re
import shutil
import sys
import threading
from collections import Counter
from dataclasses import replace
from functools import partial

import browser
import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration

from whisper_lab import LabError, evaluation, files
from whisper_lab.corpora import corpus
from whisper_lab.scores import drafts, hypotheses, report, scoring
from whisper_lab.scores.drafts import Writer, highest
from whisper_lab.speech import audio
from whisper_lab.speech.features import FRAMES
from whisper_lab.whisper import batches, checkpoint, windows
from whisper_lab.whisper.decoding import DEFAULT, token_limit

WINDOWS = [200, 300, 400]


class Split:
    """Noise of 1 to 3.9 s, or of as many frames as `sizes`, of another colour in each clip, and labels."""

    def __init__(self, labels: list[list[int]], sizes=None, mels: int = 80):
        rng = np.random.default_rng(0)
        sizes = rng.integers(100, 390, len(labels)) if sizes is None else sizes
        self.rows = [
            {"id": f"c{i}", "sentence": "ett", "labels": ids, "frames": int(size)}
            | {"features": (rng.normal(size=(mels, size)) + 3 * rng.normal(size=(mels, 1))).astype(np.float16)}
            for i, (size, ids) in enumerate(zip(sizes, labels))
        ]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        return self.rows[index]

    def column(self, name: str) -> list:
        return [row[name] for row in self.rows]


@pytest.fixture(scope="module")
def reader(tiny, processor):
    """A model that writes a dozen words in any order, its prompt, and a function: split, batch size → Hypotheses."""
    model, prompt = checkpoint.load_model(str(tiny)).eval(), checkpoint.prompt_ids(processor.tokenizer, "sv")
    with torch.no_grad():
        for name, weights in model.named_parameters():
            weights *= 6 if weights.dim() == 2 and "embed" not in name else 1
        model.model.decoder.layer_norm.bias.zero_()
        model.model.decoder.layer_norm.weight *= 20
        model.model.decoder.embed_tokens.weight[50257] *= 0.5
    model.generation_config.suppress_tokens = [i for i in range(50257) if not 300 <= i < 312] + [*range(50258, 51865)]
    collator = batches.Collator(prompt[0], processor.tokenizer.convert_tokens_to_ids("<|endoftext|>"))

    def read(split, batch_size=4):
        return hypotheses.transcribe(model, split, processor.tokenizer, collator, prompt, WINDOWS, batch_size, "")

    return model, prompt, collator, read


def encoded(model, collator, split, batch):
    rows = batches.Windowed(split)
    return collator([rows[example] for example in batch])


as_on_a_gpu = pytest.mark.parametrize("static", (False, True))


@as_on_a_gpu
@torch.inference_mode()
def test_what_is_written_after_a_draft_is_what_greedy_decoding_writes(reader, static, monkeypatch):
    """Drafts that are right throughout, right at first, too short, too long and of another prompt."""
    model, prompt, collator, read = reader
    end = collator.end
    blank = Split([[*prompt[1:], end]] * 10)
    (batch,) = batches.by_length(blank.column("frames"), 10, [400])
    inputs = encoded(model, collator, blank, batch)
    greedy = windows.decode(model, model.get_encoder()(inputs["input_features"]), prompt, token_limit(400))
    right = {example.clips[0]: [*one.tokens, end] for example, one in zip(batch, greedy)}
    assert max(map(len, right.values())) > 3
    changes = [
        lambda t: t,
        lambda t: [*t[: len(t) // 2], 500, *t[len(t) // 2 :]],
        lambda t: t[:1],
        lambda t: t[:-1] * 2,
    ]
    drafted = Split([[*prompt[1:], *changes[i % 4](right[i])[:400], end] for i in range(10)])
    inputs = encoded(model, collator, drafted, batch)
    writer = Writer(model, prompt, static)
    monkeypatch.setattr(drafts, "JUDGED", 7)
    begun, loss, count = hypotheses._begin(writer, inputs, batch)
    limits = [token_limit(400)] * 10
    memory = writer.listen(model.get_encoder()(inputs["input_features"]).last_hidden_state)
    writer.read(memory, inputs["decoder_input_ids"])
    memory.read = torch.tensor([len(prompt) - 1 + len(text) for text in begun.texts])
    written = writer.write(memory, begun.texts, begun.scores, limits)
    assert [one.tokens for one in written] == [one.tokens for one in greedy]
    assert [one.ended for one in written] == [one.ended for one in greedy]
    assert np.allclose([one.logprob for one in written], [one.logprob for one in greedy], atol=1e-4)
    assert sum(len(text) > 1 for text in begun.texts) >= 3  # the drafts were of use
    logits = model(**{k: v for k, v in inputs.items() if k != "labels"}).logits
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), inputs["labels"].flatten(), reduction="sum")
    assert loss == pytest.approx(expected.item(), rel=1e-4) and count == (inputs["labels"] != -100).sum()


@as_on_a_gpu
@torch.inference_mode()
def test_the_search_with_beams_finds_what_that_of_transformers_finds(reader, static):
    model, prompt, collator, _ = reader
    split = Split([[*prompt[1:], collator.end]] * 6)
    (batch,) = batches.by_length(split.column("frames"), 6, [400])
    out = model.get_encoder()(encoded(model, collator, split, batch)["input_features"])
    theirs = windows.decode(model, out, prompt, 20, DEFAULT.beams)
    writer = Writer(model, prompt, static)
    memory = writer.listen(out.last_hidden_state)
    writer.read(memory, torch.tensor([prompt[:-1]] * 6))
    ours = writer.search(memory, DEFAULT.beams, [20] * 6)
    assert [one.tokens for one in ours] == [one.tokens for one in theirs]
    assert [one.ended for one in ours] == [one.ended for one in theirs]


@as_on_a_gpu
@torch.inference_mode()
def test_texts_that_begin_at_different_places_end_at_their_limits(reader, static):
    """A text that is at its end waits for the others, past the decoder's last position."""
    model, prompt, _, _ = reader
    writer = Writer(model, prompt, static)
    writer.end = -1
    memory = writer.listen(torch.zeros(3, 50, 32))
    texts = [[300] * 223, [], []]
    writer.read(memory, torch.tensor([[*prompt[:-1], *[prompt[-1]] * 223]] * 3))
    memory.read = torch.tensor([len(prompt) + 222, len(prompt) - 1, len(prompt) - 1])
    written = writer.write(memory, texts, [0.0] * 3, [224] * 3)
    assert [len(one.tokens) for one in written] == [224] * 3 and written[1].tokens == written[2].tokens


def test_the_right_text_does_not_change_what_is_heard_nor_do_batches(reader, monkeypatch):
    _, prompt, collator, read = reader
    plain = Split([[*prompt[1:], collator.end]] * 6)
    heard = read(plain)
    other = Split([[*prompt[1:], *range(300, 300 + i), collator.end] for i in range(6)])
    english = Split([[prompt[1] + 1, *prompt[2:], 500, collator.end]] * 6)
    assert any(heard.texts) and heard.ids == plain.column("id")
    assert read(other).texts == heard.texts == read(english).texts == read(other, 1).texts
    monkeypatch.setattr(hypotheses, "Writer", partial(Writer, static=True))
    assert read(other).texts == heard.texts == read(english).texts and read(plain).loss == pytest.approx(heard.loss)


class Waits(TorchDispatchMode):
    """Counts what a GPU's answer would be waited for."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.counted = Counter()
        for name in ("tolist", "item", "__int__", "__float__"):
            monkeypatch.setattr(torch.Tensor, name, self._counting(getattr(torch.Tensor, name)))

    def _counting(self, look):
        def counted(tensor):
            self.counted["looks"] += 1
            return look(tensor)

        return counted

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function)
        by_mask = "aten.index" in name and any(one is not None and one.dtype is torch.bool for one in args[1])
        if by_mask or any(word in name for word in ("nonzero", "equal", "masked_select")):
            self.counted[name] += 1
        return function(*args, **kwargs or {})


@torch.inference_mode()
def test_a_gpu_is_waited_for_every_few_tokens_only(reader, monkeypatch):
    model, prompt, _, _ = reader
    writer = Writer(model, prompt, static=True)
    writer.end = -1
    memory = writer.listen(torch.zeros(3, 50, 32))
    writer.read(memory, torch.tensor([prompt[:-1]] * 3))
    with Waits(monkeypatch) as waits:
        writer.write(memory, [[], [], []], [0.0] * 3, [12, 11, 5])
        assert waits.counted == {"looks": 2 * 12 / drafts.AHEAD}  # at tokens and at their probabilities
        writer.search(memory.up_to(len(prompt) - 1), DEFAULT.beams, [12, 11, 5])
    assert waits.counted == {"looks": 3 * 12 / drafts.AHEAD + 2}


def test_a_gpu_plans_few_shapes(processor, monkeypatch):
    """Of 2,000 clips as long as Common Voice's, whose texts are random: none is the right one, a third is in doubt."""
    end, prompt, side = 120, [121, 122, 123, 124], {"layers": 1, "attention_heads": 2, "ffn_dim": 32}
    sizes = {f"{part}_{name}": count for part in ("encoder", "decoder") for name, count in side.items()}
    sizes |= {"vocab_size": 128, "d_model": 16, "num_mel_bins": 8, "decoder_start_token_id": prompt[0]}
    config = WhisperConfig(**sizes, **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), end))
    torch.manual_seed(0)
    model = windows.allow(WhisperForConditionalGeneration(config).eval())
    model.generation_config = GenerationConfig(eos_token_id=end, suppress_tokens=prompt, begin_suppress_tokens=[end])
    planned, attention, rambling = Counter(), drafts.scaled_dot_product_attention, []

    def counted(query, keys, values, attn_mask):
        planned["decoder", *query.shape[::2], keys.shape[2]] += 1
        return attention(query, keys, values, attn_mask=attn_mask)

    def random(writer, states):
        return torch.randn(len(states), 128) * 3 + 2.4 * (torch.arange(128) == end)

    def again(*args):
        rambling.extend(args[-1])
        return at_30_s(*args)

    at_30_s = hypotheses._at_30_s
    monkeypatch.setattr(hypotheses, "_at_30_s", again)
    monkeypatch.setattr(drafts, "scaled_dot_product_attention", counted)
    monkeypatch.setattr(Writer, "logits", random)
    monkeypatch.setattr(hypotheses, "Writer", partial(Writer, static=True))
    model.get_encoder().conv1.register_forward_pre_hook(
        lambda _, args: planned.update([("encoder", *args[0].shape[::2])])
    )
    rng = np.random.default_rng(0)
    frames = (100 * np.clip(rng.gamma(9, 3.96 / 9, 2_000), 1, 12)).astype(int)
    labels = [[*prompt[1:], *rng.integers(0, 120, count // 25).tolist(), end] for count in frames]
    collator, split = batches.Collator(prompt[0], end), Split(labels, frames, mels=8)
    heard = hypotheses.transcribe(
        model, split, processor.tokenizer, collator, prompt, [200, 300, 400, 500, 600, 800, 1_000, FRAMES], 64, ""
    )
    assert len(set(heard.texts)) > 1_900 and rambling
    assert len([shape for shape in planned if shape[0] == "encoder"]) <= 10
    assert 40 < len(planned) < 100, planned  # over 1,000 with a shape for every number of texts and of tokens


def test_batches_are_made_beside_and_the_thread_ends_with_the_work(reader, monkeypatch):
    model, prompt, collator, read = reader
    split, threads = Split([[*prompt[1:], collator.end]] * 40), threading.active_count()

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(hypotheses, "_begin", interrupted)
        read(split)
    assert threading.active_count() == threads
    split.rows[7]["labels"] = [prompt[0]]
    with pytest.raises(LabError, match="labels of c7 begin with the token that the decoder adds"):
        read(split)
    assert threading.active_count() == threads
    made = hypotheses._collated([[i] for i in range(9)], {i: i for i in range(9)}, lambda rows: rows, model.device)
    assert [next(made), next(made)] == [[0], [1]] and threading.active_count() == threads + 1
    assert list(made) == [[i] for i in range(2, 9)] and threading.active_count() == threads


def test_highest_is_topk():
    table = torch.randn(3, 51_865)
    values, places = highest(table, 10)
    assert values.equal(table.topk(10)[0]) and table.gather(1, places).equal(values)


def test_words_are_aligned_as_they_are_counted():
    rng, words = np.random.default_rng(1), "en två tre åtta nio".split()
    draw = lambda: " ".join(rng.choice(words, rng.integers(0, 7)))  # noqa: E731
    said, written = [draw() for _ in range(60)], [draw() for _ in range(60)]
    table = scoring.counts(said, written, "word")
    for a, b, (wrong, _) in zip(said, written, table):
        steps = report.aligned(a, b)
        assert report.errors(steps) == wrong
        assert " ".join(s for _, s, _ in steps if s) == a and " ".join(w for _, _, w in steps if w) == b


HOSTILE = "</script><script>alert('å')</script><!-- {body} <img src=x onerror=alert(1)>"


@pytest.fixture
def page(tmp_path):
    """A report of six clips; one of its hypotheses, a name and an accent are hostile."""
    clips = corpus.read("sample", "sv-SE", ["test"], limit=6).splits["test"]
    rows = [
        {"id": clip.id, "sentence": clip.sentence, "seconds": clip.seconds, "accents": "<b>Skånska</b>"}
        for clip in clips
    ]
    texts = {"<i>tuned": [clip.sentence for clip in clips[:-1]] + [HOSTILE], "untuned": ["nej"] * 5 + [""]}
    sounds = {clip.id: clip for clip in clips}
    report.write(tmp_path / "report.html", "Öar & {data}", rows, texts, {"corpus": "<x>"}, sounds.get)
    return tmp_path / "report.html", rows


def test_a_report_is_one_file_that_trusts_nothing(page):
    path, rows = page
    text = path.read_text(encoding="utf-8")
    assert "Öar &amp; {data}" in text and "&lt;b&gt;Skånska" in text and "<i>" not in text
    assert text.count("</script>") == 2 and "alert('å')</" not in text and "<img" not in text
    assert not re.search(r"(src|href)=.?https?:|@import|url\(", text)
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    assert data["clips"][5]["texts"] == [HOSTILE, ""] and data["worst"] == [5]
    assert [clip["errors"][0] for clip in data["clips"][:5]] == [0] * 5
    assert list(data["sounds"]) == [rows[5]["id"]] and data["sounds"][rows[5]["id"]].startswith(
        "data:audio/mpeg;base64,"
    )


@browser.needed
def test_a_report_in_a_browser(page, tmp_path):
    path, rows = page
    with (
        browser.chromium(tmp_path / "none.wav") as chromium,
        browser.visits(chromium, path.as_uri()) as visit,
    ):
        for options in ({}, browser.PHONE):
            visitor = visit(ready="#list .clip", **options)
            browser.shot(visitor, f"report-{'phone' if options else 'desk'}")
            assert browser.fits(visitor) and visitor.locator("#list .clip").count() == 6
            assert "alert" in visitor.inner_text("#worst-list") and visitor.locator("#worst-list audio").count() == 1
            visitor.fill("#find", rows[2]["sentence"].split()[-1].strip("."))
            visitor.locator("#count", has_text="1 of 6 clips").wait_for()
            assert rows[2]["sentence"] in visitor.inner_text("#list")


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WHISPER_LAB_CACHE", str(tmp_path / "cache"))

    def run(*args) -> str:
        monkeypatch.setattr(sys, "argv", ["evaluation", *map(str, args)])
        evaluation.main()
        return capsys.readouterr().out

    return run


def test_two_models_on_a_corpus(run, tiny, tmp_path, release):
    other = shutil.copytree(tiny, tmp_path / "other")
    files.write_json(other / "config.json", files.read_json(other / "config.json") | {"trained_windows": [300, FRAMES]})
    command = [f"{tiny}/", other, "--corpus", release, "--output", "out"]
    printed = run(*command)
    assert "tiny" in printed and "other" in printed and "report" in printed
    out = tmp_path / "out"
    scores = files.read_json(out / "scores.json")
    head, *lines = [line.split("\t") for line in (out / "hypotheses.tsv").read_text().splitlines()]
    assert head == ["id", "sentence", "tiny", "other"] and len(lines) == 4 == scores["about"]["clips"]
    for i, name in enumerate(("tiny", "other"), 2):
        again = scoring.scores([line[1] for line in lines], [line[i] for line in lines])
        assert scores["scores"][name] == scoring.as_json(again)
    assert [one["of"] for one in scores["differences"]] == ["tiny"]
    for place in out.glob("heard-*.json"):  # what was heard before a kill is not heard again
        files.write_json(place, {key: "ett" for key in files.read_json(place)})
    made = files.read_json(out / "plan.json")
    written = {f"{name}/": mark for name, mark in made["plan"]["models"].items()}
    files.write_json(out / "plan.json", {**made, "plan": made["plan"] | {"models": written}})  # as it was once
    assert "No difference shown between tiny and other" in run(tiny, f"{other}/", *command[2:])
    with pytest.raises(LabError, match="other settings.*--output"):
        run(tiny, "--corpus", release, "--output", "out")


def test_features_that_do_not_fit(run, tiny, release, processor, tmp_path):
    from whisper_lab.scores import sources

    made = sources.made(processor, corpus.read(str(release), "sv-SE", ["test"]))
    assert "report" in run(tiny, "--features", made.folder)
    large = shutil.copytree(tiny, tmp_path / "large")
    for name in ("preprocessor_config.json", "processor_config.json"):
        text = (large / name).read_text().replace('"feature_size": 80', '"feature_size": 128')
        (large / name).write_text(text)
    with pytest.raises(LabError, match="80 mels, .*large takes 128.*--corpus"):
        run(large, "--features", made.folder)


def test_the_sound_in_a_report_is_the_part_of_the_file(tmp_path):
    whole = corpus.read("sample", "sv-SE", ["test"], limit=1).splits["test"][0]
    address = report.embedded(replace(whole, start=0.5, end=1.5))
    (tmp_path / "part.mp3").write_bytes(base64.b64decode(address.partition(",")[2]))
    heard = audio.read(tmp_path / "part.mp3")
    assert abs(heard.size / audio.SAMPLE_RATE - 1) < 0.1
    assert np.corrcoef(heard[:15_000], audio.read(whole.path, None, 0.5, 1.5)[:15_000])[0, 1] > 0.9
    assert report.embedded(whole).startswith("data:audio/mpeg") and report.embedded(None) is None


def test_rows_of_a_corpus_that_are_not_scored_are_said(run, tmp_path):
    clip = corpus.read("sample", "sv-SE", ["test"], limit=1).splits["test"][0]
    (tmp_path / "test.csv").write_text(f"path,text\n{clip.path},Hej.\nx.mp3\n", encoding="utf-8")
    files.write_tsv(tmp_path / "theirs.tsv", ["id", "text"], [(clip.id, "hej")])
    printed = run("--hypotheses", "theirs.tsv", "--corpus", tmp_path / "test.csv")
    assert "test.csv; left out: 1 rows, such as test.csv, line 3: too few cells" in printed


def test_hypotheses_of_no_named_language_are_scored_by_their_letters(run, tmp_path):
    texts = {
        "zh": ("我喜欢学习中文。", "我喜欢学习英文"),
        "tr": ("İyi IŞIK ışık", "iyi ışık ışık"),
        "sv": ("Åsa", "Asa"),
    }
    for name, (said, heard) in texts.items():
        files.write_tsv(tmp_path / f"{name}.tsv", ["id", "sentence", "text"], [("a", said, heard)])
    printed = run("--hypotheses", "zh.tsv", "--output", "zh")
    assert "By character error rate, normalised: Chinese is written without spaces" in printed
    assert printed.index("CER, normalised") < printed.index("WER, normalised")
    page = (tmp_path / "zh" / "report.html").read_text(encoding="utf-8")
    assert "<b>14.3 %</b><span>character error rate" in page and "<h2>Characters</h2>" in page
    assert "scored as Turkish" in run("--hypotheses", "tr.tsv", "--output", "tr")
    assert files.read_json(tmp_path / "tr" / "scores.json")["scores"]["tr"]["wer_normalised"]["value"] == 0
    run("--hypotheses", "sv.tsv", "--output", "sv")
    assert "<span>word error rate" in (tmp_path / "sv" / "report.html").read_text(encoding="utf-8")
    assert files.read_json(tmp_path / "sv" / "scores.json")["headline"] == "wer_normalised"


def test_hypotheses_without_a_model(run, release, tmp_path):
    clips = corpus.read(str(release), "sv-SE", ["test"]).splits["test"]
    (tmp_path / "theirs").mkdir()
    for clip in clips:
        (tmp_path / "theirs" / f"{clip.id}.txt").write_text(clip.sentence.lower() + "\n", encoding="utf-8")
    printed = run("--hypotheses", "theirs", "--corpus", release)
    found = files.read_json(tmp_path / "evaluations" / "theirs-test" / "scores.json")["scores"]["theirs"]
    assert found["wer_normalised"]["value"] == 0 < found["wer"]["value"] and "theirs" in printed

    rows = [("test", clip.id, clip.sentence, "nej", clip.sentence) for clip in clips] + [("dev", "x", "a", "b", "c")]
    files.write_tsv(tmp_path / "predictions.tsv", ["split", "id", "sentence", "untuned", "tuned"], rows)
    printed = run("--hypotheses", tmp_path)
    assert f"{tmp_path.name} (tuned) is better than {tmp_path.name} (untuned)" in printed

    files.write_tsv(tmp_path / "few.tsv", ["id", "text"], [(clips[0].id, "hej")])
    with pytest.raises(LabError, match=f"few has no text for 3 of 4 clips.*{clips[1].id}"):
        run("--hypotheses", "few.tsv", "--corpus", release, "--output", "few")
    with pytest.raises(LabError, match="no column sentence.*--corpus"):
        run("--hypotheses", "few.tsv", "--output", "few2")
    files.write_tsv(tmp_path / "twice.tsv", ["id", "text"], [(clips[0].id, "hej")] * 2)
    with pytest.raises(LabError, match="two texts for"):
        run("--hypotheses", "twice.tsv", "--corpus", release, "--output", "twice")
    for content, why in ((b"", "is empty"), (b"\xef\xbb\xbf", "is empty"), (b"\r\n \n", "is empty"),
                         (b"id\ttext", "no line more"), (b"\xef\xbb\xbfid\ttext\r\n", "no line more")):  # fmt: skip
        (tmp_path / "none.tsv").write_bytes(content)
        with pytest.raises(LabError, match=f"none.tsv .*{why}.*--hypotheses takes"):
            run("--hypotheses", "none.tsv", "--output", "none")
    (tmp_path / "run").mkdir()
    files.write_json(tmp_path / "run" / "plan.json", {"plan": {"model": "sample"}})
    with pytest.raises(LabError, match="run was made with other settings"):
        run("--hypotheses", tmp_path, "--output", "run")
    with pytest.raises(LabError, match="columns a, b.*--hypotheses takes"):
        (tmp_path / "odd.tsv").write_text("a\tb\n1\t2\n")
        run("--hypotheses", "odd.tsv")
