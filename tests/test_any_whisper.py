"""Tuning starts from any Whisper: tiny models with random weights in the layouts that are found on the Hub."""

import functools
import json
import runpy
import shutil
from pathlib import Path

import pytest
import torch
from conftest import ROOT

from whisper_lab import LabError
from whisper_lab.stores import store
from whisper_lab.tuning import runs
from whisper_lab.whisper import checkpoint

MAIN = runpy.run_path(str(ROOT / "feature-pipeline.py"))["main"]
LAYOUTS = {
    "turbo": {"mels": 128, "vocabulary": "v3", "encoder_layers": 4, "decoder_layers": 3},  # distilled ones too
    "kb, fp16": {"dtype": torch.float16, "generation": "bare", "files": "old"},
}


def tokenizer_of(kind: str, folder: Path):
    """Whisper's tokenizer (`v1`, 51,865 tokens), with <|yue|> after <|su|> (`v3`, 51,866), on GPT-2's vocabulary
    (`english`, 51,864), with another language instead of Swedish (`not swedish`), or `without times`, as the first had
    it, with rows for them all the same: ids behind a change shift."""
    from transformers import WhisperTokenizerFast

    content = json.loads(Path(checkpoint.locate("sample"), "tokenizer.json").read_text())
    added, words = content["added_tokens"], content["model"]["vocab"]
    if kind == "v3":
        place = next(i for i, token in enumerate(added) if token["content"] == "<|translate|>")
        added.insert(place, added[place - 1] | {"content": "<|yue|>"})
    if kind == "english":
        del words[""]  # the last, which GPT-2 has not
    if kind == "not swedish":
        next(token for token in added if token["content"] == "<|sv|>")["content"] = "<|xx|>"
    if kind == "without times":
        added[:] = [token for token in added if not token["content"][2].isdecimal()]
    ids = {token["content"]: len(words) + i for i, token in enumerate(added)}
    for token in added:
        token["id"] = ids[token["content"]]
    for token in content["post_processor"]["special_tokens"].values():
        token["ids"] = [ids[token["id"]]]
    (folder / "made.json").write_text(json.dumps(content))
    return WhisperTokenizerFast(tokenizer_file=str(folder / "made.json"))


def make_whisper(
    folder: Path,
    mels=80,
    vocabulary="v1",
    encoder_layers=2,
    decoder_layers=2,
    dtype=torch.float32,
    generation="whole",
    files="all",
) -> Path:
    """The folder of a Whisper with random weights. `generation`: what its generation config says (`whole`; `bare`,
    only where a text ends; `english`; `none`, no file). `files`: `all`, or the `old` ones, without tokenizer.json."""
    from transformers import (
        GenerationConfig,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperProcessor,
    )

    folder.mkdir()
    torch.manual_seed(0)
    tokenizer = tokenizer_of(vocabulary, folder)
    ids = tokenizer.get_vocab()
    end = ids["<|endoftext|>"]
    special = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), end)
    special["decoder_start_token_id"] = ids["<|startoftranscript|>"]
    sizes = {
        f"{side}_{part}": size
        for side in ("encoder", "decoder")
        for part, size in (("attention_heads", 2), ("ffn_dim", 64))
    }
    layers = {"encoder_layers": encoder_layers, "decoder_layers": decoder_layers}
    config = WhisperConfig(
        vocab_size=max(ids.values()) + 1, num_mel_bins=mels, d_model=32, **sizes, **layers, **special
    )
    model = WhisperForConditionalGeneration(config)
    towards_the_end = torch.randn(32)  # so that most texts end, as in conftest.py
    model.model.decoder.layer_norm.bias.data = 0.3 * towards_the_end
    model.model.decoder.embed_tokens.weight.data[end] = 0.2 * towards_the_end
    says = {"max_length": 448, **special}
    if generation == "whole":
        start = ids["<|startoftranscript|>"]
        says |= {
            "is_multilingual": True,
            "lang_to_id": {token: i for token, i in ids.items() if start < i < ids["<|translate|>"]},
            "task_to_id": {task: ids[f"<|{task}|>"] for task in ("transcribe", "translate")},
            "no_timestamps_token_id": ids["<|notimestamps|>"],
            "alignment_heads": [[1, 0]],
        }
    if generation == "english":
        says |= {"is_multilingual": False, "no_timestamps_token_id": ids["<|notimestamps|>"]}
    model.generation_config = GenerationConfig(**says)
    processor = WhisperProcessor(WhisperFeatureExtractor(feature_size=mels), tokenizer)
    checkpoint.save(model.to(dtype), processor, folder)
    (folder / "made.json").unlink()
    if generation == "none":
        (folder / "generation_config.json").unlink()
    if files == "old":
        (folder / "tokenizer.json").unlink()
        (folder / "processor_config.json").unlink()
    return folder


@pytest.fixture(scope="module")
def whispers(tmp_path_factory):
    """The folder of a layout's model, made once."""
    parent = tmp_path_factory.mktemp("whispers")
    return functools.cache(lambda layout: make_whisper(parent / layout, **LAYOUTS[layout]))


@pytest.fixture(scope="module")
def make_features(tmp_path_factory):
    """feature-pipeline.py --model, in this process; the folder of the features of 4 clips a split.

    Models of one vocabulary and front-end share a folder, as the pipeline lets them.
    """
    parent = tmp_path_factory.mktemp("features")

    def make(model: Path) -> Path:
        mels = checkpoint.config(model)["num_mel_bins"]
        folder = parent / f"{mels} mels, {checkpoint.config(model)['vocab_size']} tokens"
        arguments = ["--model", str(model), "--store", str(folder), "--limit", "4", "--workers", "1"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", ["feature-pipeline.py", *arguments])
            MAIN()
        return folder

    return make


def make_run(model: Path, features: Path, output: Path) -> runs.Run:
    places = {"features": str(features), "model": str(model), "output": str(output)}
    options = runs.Options(**places, max_steps=2, batch_size=2, blend=1.0)
    return runs.Run(options, store.FeatureSet(features))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_from_features_to_a_tuned_model_that_opens_again(layout, tmp_path, whispers, make_features):
    from transformers import WhisperForConditionalGeneration, WhisperProcessor

    wanted, start = LAYOUTS[layout], whispers(layout)
    features = store.FeatureSet(make_features(start))
    mels, v3 = wanted.get("mels", 80), wanted.get("vocabulary") == "v3"
    assert features.split("train")[0]["features"].shape[0] == mels
    run = make_run(start, features.folder, tmp_path / "tuned")
    assert run.prompt == ([50258, 50273, 50360, 50364] if v3 else [50258, 50273, 50359, 50363])  # as OpenAI's
    assert features.split("train")[0]["labels"][:3] == run.prompt[1:]
    run.complete()
    assert run.trainer.state.global_step == 2 and {"untuned", "tuned", "tuned_at_30_s"} <= run.metrics.keys()

    again = WhisperForConditionalGeneration.from_pretrained(tmp_path / "tuned")
    assert again.dtype == torch.float32
    assert again.config.vocab_size == 51_865 + v3 and again.config.num_mel_bins == mels
    assert again.config.decoder_layers == wanted.get("decoder_layers", 2)
    assert again.generation_config.lang_to_id["<|sv|>"] == 50_273 and again.generation_config.language == "<|sv|>"
    assert ("<|yue|>" in again.generation_config.lang_to_id) == v3
    before = checkpoint.load_model(str(start)).state_dict()
    after = checkpoint.load_model(str(tmp_path / "tuned" / "checkpoints" / "checkpoint-2")).state_dict()
    assert again.state_dict().keys() == after.keys() == before.keys()
    assert any(not torch.equal(tensor, before[name]) for name, tensor in after.items())
    processor = WhisperProcessor.from_pretrained(tmp_path / "tuned")
    assert checkpoint.label_ids(processor.tokenizer, ["Åsa åt."], "sv") == checkpoint.label_ids(
        run.processor.tokenizer, ["Åsa åt."], "sv"
    )
    # told the language by name, as every other program does
    ids = again.generate(torch.zeros(1, mels, 3_000), language="sv", task="transcribe", max_new_tokens=3)
    assert ids.shape[0] == 1


def test_files_without_tokenizer_json_give_the_same_labels(whispers, processor):
    text = ["Åsa åt sju sjösjuka sjömän, idén är från 1984."]
    old = checkpoint.load_processor(str(whispers("kb, fp16"))).tokenizer
    assert checkpoint.label_ids(old, text, "sv") == checkpoint.label_ids(processor.tokenizer, text, "sv")
    assert checkpoint.tokenizer_fingerprint(old) == checkpoint.tokenizer_fingerprint(processor.tokenizer)


def test_a_model_without_generation_config_names_its_languages_again(tmp_path, processor):
    start = make_whisper(tmp_path / "start", dtype=torch.bfloat16, generation="none")
    model = checkpoint.load_model(str(start))
    assert model.dtype == torch.float32
    checkpoint.set_language(model, "sv")
    checkpoint.save(model, processor, tmp_path / "saved")
    again, whole = checkpoint.load_model(str(tmp_path / "saved")), checkpoint.load_model("sample")
    for key in ("lang_to_id", "task_to_id", "no_timestamps_token_id", "is_multilingual", "eos_token_id"):
        assert getattr(again.generation_config, key) == getattr(whole.generation_config, key)
    assert again.generation_config.language == "<|sv|>"


def test_an_english_model_is_one_line_from_both_pipelines(tmp_path, make_features, tiny):
    english = make_whisper(tmp_path / "base.en", vocabulary="english", generation="english")
    with pytest.raises(LabError, match="English only.*without '.en'") as first:
        make_features(english)
    with pytest.raises(LabError, match="base.en is not multilingual.*English only") as second:
        checkpoint.load_model(str(english))
    with pytest.raises(LabError, match="another vocabulary.*choose another --model") as third:
        make_run(english, make_features(tiny), tmp_path / "x")
    assert not any("\n" in str(error.value) for error in (first, second, third)) and not (tmp_path / "x").exists()


def test_a_model_without_swedish_is_one_line(tmp_path, make_features, tiny):
    with pytest.raises(LabError, match=r"tokenizer has no <\|sv\|>.*choose another --model") as first:
        make_features(make_whisper(tmp_path / "others", vocabulary="not swedish"))
    few = shutil.copytree(tiny, tmp_path / "few")  # the whole vocabulary, as tuned models keep it
    says = json.loads((few / "generation_config.json").read_text())
    says["lang_to_id"] = {token: says["lang_to_id"][token] for token in ("<|ja|>", "<|en|>")}
    (few / "generation_config.json").write_text(json.dumps(says))
    with pytest.raises(LabError, match=r"knows no <\|sv\|>, but <\|ja\|>, <\|en\|>; choose another --model") as second:
        make_run(few, make_features(few), tmp_path / "x")
    assert "\n" not in str(first.value) + str(second.value)


def test_features_of_80_mels_and_a_model_of_128_are_one_line_with_the_way_out(tmp_path, whispers, make_features, tiny):
    said = r"holds 80 mels.*turbo takes 128; make features for this model with feature-pipeline.py --model"
    with pytest.raises(LabError, match=said) as error:
        make_run(whispers("turbo"), make_features(tiny), tmp_path / "x")
    assert "\n" not in str(error.value) and not (tmp_path / "x").exists()


def test_a_revision_of_a_model_is_had_from_the_hub_s_cache(tmp_path, tiny, monkeypatch):
    """KBLab's models come in several styles: --model KBLab/kb-whisper-tiny@strict."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    place = tmp_path / "models--KBLab--kb-whisper-tiny"
    for revision, commit in (("main", "1" * 40), ("strict", "2" * 40)):
        shutil.copytree(tiny, place / "snapshots" / commit)
        (place / "refs").mkdir(exist_ok=True)
        (place / "refs" / revision).write_text(commit)
        assert checkpoint.folder(f"KBLab/kb-whisper-tiny@{revision}") == (place / "snapshots" / commit, commit)
    model = checkpoint.load_model("KBLab/kb-whisper-tiny@strict")
    assert model.name_or_path.endswith("2" * 40)
    assert checkpoint.load_model("KBLab/kb-whisper-tiny").name_or_path.endswith("1" * 40)
    with pytest.raises(LabError, match="cannot be reached for 'KBLab/kb-whisper-tiny@subtitle'"):
        checkpoint.load_model("KBLab/kb-whisper-tiny@subtitle")
