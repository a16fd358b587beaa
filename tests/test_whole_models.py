"""A model is loaded with all of its weights and its own tokenizer, or refused in a line, by every door alike."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_any_whisper import tokenizer_of

from whisper_lab import LabError, evaluation, files, space
from whisper_lab.serving.transcription import Transcriber
from whisper_lab.stores import store
from whisper_lab.tuning import runs, study
from whisper_lab.whisper import backends, checkpoint, ggml, vocabulary, weights

POINTER = (
    "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a614c9e6e6dfa3f4a1d1f8c1c2d1b0a2c2f3e\nsize 966992\n"
)


@pytest.fixture
def change(tiny, tmp_path):
    """A copy of the tiny model; its weights are what a function makes of them."""

    def to(spoil=lambda state: state, name: str = "changed") -> Path:
        folder = shutil.copytree(tiny, tmp_path / name)
        state = {key: one.clone() for key, one in spoil(load_file(tiny / "model.safetensors")).items()}
        save_file(state, folder / "model.safetensors", {"format": "pt"})
        return folder

    return to


def refused(act) -> str:
    with pytest.raises(LabError) as error:
        act()
    assert "\n" not in str(error.value)
    return str(error.value)


def without(*parts: str):
    return lambda state: {name: one for name, one in state.items() if not any(part in name for part in parts)}


def renamed(how):
    return lambda state: {how(name): one for name, one in state.items()}


NAMES = {
    "torch.compile": lambda name: f"_orig_mod.{name}",
    "DataParallel": lambda name: f"module.{name}",
    "both": lambda name: f"module._orig_mod.{name}",
    "a compiled part": lambda name: name.replace("encoder.", "encoder._orig_mod.", 1),
    "Lightning": lambda name: f"model.{name}",
    "a compiled part of a module": lambda name: f"whisper.{name.replace('model.', 'model._orig_mod.', 1)}",
    "WhisperModel": lambda name: name.removeprefix("model."),
    "OpenAI's": weights.name_of,
}


@pytest.mark.parametrize("how", NAMES)
def test_weights_under_other_names_are_the_same_weights(how, change, tiny, tmp_path):
    model, plain = checkpoint.load_model(str(change(renamed(NAMES[how])))), load_file(tiny / "model.safetensors")
    state = model.state_dict()
    assert state.keys() == plain.keys() | {"proj_out.weight"}
    assert all(torch.equal(state[name], one) for name, one in plain.items())
    assert torch.equal(state["proj_out.weight"], plain["model.decoder.embed_tokens.weight"])
    model.save_pretrained(tmp_path / "saved")  # under the names that every engine knows
    assert load_file(tmp_path / "saved" / "model.safetensors").keys() == plain.keys()


def test_sinusoids_and_tied_weights_may_be_left_out_and_halves_become_floats(change, tiny):
    plain = load_file(tiny / "model.safetensors")
    bare = checkpoint.load_model(str(change(without("encoder.embed_positions")))).state_dict()
    assert torch.allclose(bare["model.encoder.embed_positions.weight"], plain["model.encoder.embed_positions.weight"])
    moved = change(renamed(lambda name: "proj_out.weight" if "embed_tokens" in name else name), "tied").as_posix()
    embedding = checkpoint.load_model(moved).state_dict()["model.decoder.embed_tokens.weight"]
    assert torch.equal(embedding, plain["model.decoder.embed_tokens.weight"])
    half = checkpoint.load_model(str(change(lambda state: {name: one.half() for name, one in state.items()}, "half")))
    assert {one.dtype for one in half.state_dict().values()} == {torch.float32}
    as_bin = change(name="bin")
    (as_bin / "model.safetensors").unlink()
    torch.save({f"module.{name}": one for name, one in plain.items()}, as_bin / "pytorch_model.bin")
    found = checkpoint.load_model(str(as_bin)).state_dict()
    assert all(torch.equal(found[name], one) for name, one in plain.items())


def filled(value: float):
    return lambda state: state | {"model.encoder.conv1.bias": torch.full((32,), value)}


FAULTS = {
    "a layer is missing": (without("decoder.layers.1."), r"24 weights are missing \(model\.decoder\.layers\.1\."),
    "one is missing": (without("encoder.conv1.bias"), r"1 weight is missing \(model\.encoder\.conv1\.bias\)"),
    "a layer too many": (
        lambda state: state | {name.replace("layers.1", "layers.2"): state[name] for name in state},
        r"unknown to a Whisper of this size \(model\.decoder\.layers\.2\.",
    ),
    "LoRA, not merged": (renamed(lambda name: name.replace("q_proj.", "q_proj.base_layer.")), r"q_proj\.base_layer\."),
    "two prefixes": (
        lambda state: {f"{side}.{name}": one for name, one in state.items() for side in ("teacher", "student")},
        "89 weights are missing|90 weights are missing",
    ),
    "half of OpenAI's names": (
        renamed(lambda name: name.replace("model.encoder.layers", "encoder.blocks")),
        r"encoder\.blocks\.0\.",
    ),
    "another shape": (
        lambda state: state | {"model.encoder.conv1.bias": torch.zeros(16)},
        r"1 weight is of another shape than config.json says \(model\.encoder\.conv1\.bias is 16\)",
    ),
    "NaN": (filled(float("nan")), r"NaN or infinity in 1 of its weights \(model\.encoder\.conv1\.bias\)"),
    "infinity": (filled(float("-inf")), r"NaN or infinity in 1 of its weights"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_weights_that_are_not_all_there_are_named(fault, change):
    spoil, message = FAULTS[fault]
    with pytest.raises(LabError, match=message) as error:
        checkpoint.load_model(str(change(spoil)))
    assert "\n" not in str(error.value)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


FILES = (
    "model.safetensors pytorch_model.bin config.json generation_config.json preprocessor_config.json "
    "processor_config.json tokenizer.json tokenizer_config.json"
).split()
DAMAGES = {
    "a Git LFS pointer": (lambda path: path.write_text(POINTER), "is a Git LFS pointer, .*git lfs pull"),
    "empty": (lambda path: path.write_bytes(b""), "is empty; copy or download it again"),
    "cut": (_cut, "is cut or damaged"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", FILES)
def test_a_file_that_is_not_whole_is_named(file, damage, change, tiny):
    folder = change()
    if file == "pytorch_model.bin":
        (folder / "model.safetensors").unlink()
        torch.save(load_file(tiny / "model.safetensors"), folder / file)
    make, message = DAMAGES[damage]
    make(folder / file)
    said = refused(lambda: (checkpoint.load_processor(str(folder)), checkpoint.load_model(str(folder))))
    assert said.startswith(f"{folder / file} ")
    with pytest.raises(LabError, match=message):
        checkpoint.load_processor(str(folder))


def test_json_of_another_kind_and_an_index_without_its_files(change, tiny):
    folder = change()
    (folder / "generation_config.json").write_text("[]")
    assert "no JSON object" in refused(lambda: checkpoint.load_model(str(folder)))
    shutil.copy(tiny / "generation_config.json", folder)
    model, index = checkpoint.load_model(str(folder)), folder / "model.safetensors.index.json"
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="3MB")
    assert len(parts := sorted(folder.glob("model-*.safetensors"))) > 1
    found, plain = checkpoint.load_model(str(folder)).state_dict(), model.state_dict()
    assert all(torch.equal(found[name], plain[name]) for name in plain)
    parts[1].unlink()
    said = refused(lambda: checkpoint.load_model(str(folder)))
    assert parts[1].name in said and index.name in said
    index.unlink()
    assert "has no weights" in refused(lambda: checkpoint.load_model(str(folder)))


TOKENIZER = ("tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json", "tokenizer_config.json")


def test_a_folder_without_a_tokenizer_or_a_front_end_says_what_to_copy(change):
    """As a Trainer's checkpoint-1000, to which the common recipe gives the feature extractor alone."""
    folder = change()
    (folder / "processor_config.json").unlink()
    (folder / "preprocessor_config.json").rename(folder / "kept")
    assert "has no preprocessor_config.json; copy it" in refused(lambda: checkpoint.load_processor(str(folder)))
    (folder / "kept").rename(folder / "preprocessor_config.json")
    checkpoint.load_processor(str(folder))
    for name in ("tokenizer.json", "merges.txt", *TOKENIZER):
        (folder / name).unlink(missing_ok=True)
        if name != "tokenizer.json":
            said = refused(lambda: checkpoint.load_processor(str(folder)))
            assert "has no tokenizer; copy tokenizer.json" in said and "was tuned from" in said


def test_a_front_end_of_other_mels_and_a_tokenizer_that_is_no_whisper_s(change):
    folder = change()
    for name in ("preprocessor_config.json", "processor_config.json"):
        text = (folder / name).read_text()
        (folder / name).write_text(text.replace('"feature_size": 80', '"feature_size": 128'))
        assert f"takes 80 mels by its config.json, but its {name} says 128" in refused(
            lambda: checkpoint.load_model(str(folder))
        )
        (folder / name).write_text(text)
    gpt = change(name="gpt")
    text = (gpt / "tokenizer.json").read_text().replace("<|startoftranscript|>", "<|start|>")
    (gpt / "tokenizer.json").write_text(text)
    assert "is no Whisper's: it has no <|startoftranscript|>" in refused(lambda: checkpoint.load_processor(str(gpt)))


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizers")
    found = {kind: tokenizer_of(kind, folder) for kind in ("v1", "v3", "without times")}
    added = tokenizer_of("v1", folder)
    added.add_tokens(["<skratt>", "<hosta>"])
    return found | {"added": added}


@pytest.mark.parametrize(
    "kind, rows, mels, fits",
    [
        ("v1", 51_865, 80, True),
        ("v3", 51_866, 128, True),
        ("v1", 51_866, 128, False),  # large-v3 with large-v2's: would train <|nospeech|>
        ("v3", 51_865, 80, False),
        ("without times", 51_865, 80, True),  # as models were tuned in 2022
        ("without times", 51_866, 128, False),
        ("added", 51_867, 80, True),
        ("added", 51_865, 80, False),  # nobody resized the embedding
        ("v1", 51_867, 80, False),  # the added tokens were lost
        ("v1", 51_904, 80, True),  # padded to a multiple of 64
        ("added", 51_904, 80, True),
        ("v3", 51_904, 128, True),
        ("v1", 51_904, 128, False),
        ("v3", 51_904, 80, False),
    ],
)
def test_rows_and_tokens_fit(kind, rows, mels, fits, tokenizers):
    ids, config = tokenizers[kind].get_vocab(), {"vocab_size": rows, "num_mel_bins": mels}
    if fits:
        vocabulary.check("x", ids, config, {})
    else:
        said = refused(lambda: vocabulary.check("x", ids, config, {}))
        assert f"where the model has {rows:,}; copy tokenizer.json" in said


def test_a_generation_config_of_another_whisper_is_refused(tmp_path, tiny):
    folder, place = shutil.copytree(tiny, tmp_path / "two"), tmp_path / "two" / "generation_config.json"
    files.write_json(place, files.read_json(place) | {"task_to_id": {"translate": 50_359, "transcribe": 50_360}})
    assert "are of two models: <|translate|> is 50358 and 50359" in refused(
        lambda: checkpoint.load_processor(str(folder))
    )


def _train(folder, features, out):
    runs.Run(runs.Options(features=str(features), model=str(folder), output=str(out)), store.FeatureSet(features))


def _study(folder, features, out):
    study.Study(study.expand({"features": str(features), "model": str(folder), "output": str(out), "seeds": [1, 2]}))


def _evaluate(folder, features, out):
    with pytest.MonkeyPatch.context() as patch:
        given = [str(folder), "--features", str(features), "--output", str(out), "--limit", "1"]
        patch.setattr("sys.argv", ["evaluation", *given])
        evaluation.main()


DOORS = {
    "training": _train,
    "study": _study,
    "evaluation": _evaluate,
    "pages": lambda folder, features, out: Transcriber(str(folder)),
    "pages, transformers": lambda folder, features, out: Transcriber(str(folder), "transformers"),
    "space": lambda folder, features, out: space.find(str(folder)),
    "ggml": lambda folder, features, out: ggml.write(folder, out),
}


def test_every_door_refuses_alike(change, features, tmp_path, capfd):
    few, bare = change(without("decoder.layers.1."), "few"), change(name="checkpoint-1000")
    for name in TOKENIZER:
        (bare / name).unlink()
    for door in DOORS.values():
        assert f"{few} is not a whole Whisper" in refused(lambda door=door: door(few, features, tmp_path / "out"))
        assert f"{bare} has no tokenizer; copy" in refused(lambda door=door: door(bare, features, tmp_path / "out"))
    assert not (tmp_path / "out").exists() and "Converting" not in capfd.readouterr().err


def test_a_folder_of_ctranslate2_s_is_served_as_it_is(tiny, tmp_path):
    folder = shutil.copytree(backends.convert(tiny, "int8"), tmp_path / "ct2")
    served = Transcriber(str(folder))
    assert served.front_end.mels == 80 and served.text(torch.zeros(16_000).numpy()) == ""
    (folder / "model.bin").write_bytes((folder / "model.bin").read_bytes()[:2_000])
    assert "could not be loaded by CTranslate2" in refused(lambda: Transcriber(str(folder)))
    assert "has no weights" in refused(lambda: Transcriber(str(folder), "transformers"))


def test_ggml_leaves_padding_out_and_names_added_tokens(change, tiny, tmp_path):
    """whisper.cpp counts languages by the vocabulary's size, and fails on two tokens more."""

    def wider(rows: int, name: str) -> Path:
        embedding = "model.decoder.embed_tokens.weight"
        folder = change(lambda state: state | {embedding: torch.cat([state[embedding], torch.ones(rows, 32)])}, name)
        files.write_json(folder / "config.json", checkpoint.config(folder) | {"vocab_size": 51_865 + rows})
        return folder

    ggml.write(tiny, tmp_path / "plain.bin")
    ggml.write(wider(39, "padded"), tmp_path / "padded.bin")
    assert (tmp_path / "padded.bin").read_bytes() == (tmp_path / "plain.bin").read_bytes()
    added, content = wider(2, "added"), files.read_json(tiny / "tokenizer.json")
    tokens = [content["added_tokens"][-1] | {"id": 51_865 + i, "content": f"<{i}>"} for i in range(2)]
    files.write_json(added / "tokenizer.json", content | {"added_tokens": [*content["added_tokens"], *tokens]})
    said = refused(lambda: ggml.write(added, tmp_path / "added.bin"))
    assert "knows no added tokens, as <0>, <1>" in said
    loose = change(lambda state: state | {"proj_out.weight": torch.ones(51_865, 32)}, "loose")
    assert "its proj_out is not its embedding" in refused(lambda: ggml.write(loose, tmp_path / "added.bin"))
    assert not (tmp_path / "added.bin").exists()


# Adapters


@pytest.fixture
def adapter(tiny, tmp_path, monkeypatch):
    """Makes the folder of an adapter for the tiny model, as peft saves it; and the weights that it stands for."""
    from peft import LoraConfig, get_peft_model

    monkeypatch.setenv("WHISPER_LAB_CACHE", str(tmp_path / "cache"))

    def make(name: str = "adapter", **choices) -> tuple[Path, dict]:
        torch.manual_seed(1)
        config = LoraConfig(r=4, lora_alpha=32, target_modules=["q_proj", "v_proj"], **choices)
        model = get_peft_model(checkpoint.load_model(str(tiny)), config)
        with torch.no_grad():
            for weight in model.parameters():
                if weight.requires_grad:
                    weight.add_(0.1 * torch.randn_like(weight))
        model.save_pretrained(tmp_path / name)
        (tmp_path / name / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
        return tmp_path / name, model.merge_and_unload().state_dict()

    return make


def same(state: dict, wanted: dict) -> bool:
    return state.keys() == wanted.keys() and all(
        torch.allclose(state[name], one, atol=1e-6) for name, one in wanted.items()
    )


def test_an_adapter_with_more_than_lora_is_merged_whole(adapter, tiny):
    folder, wanted = adapter(use_dora=True, modules_to_save=["layer_norm"])
    state = checkpoint.load_model(str(folder)).state_dict()
    changed = [name for name, one in load_file(tiny / "model.safetensors").items() if not torch.equal(one, state[name])]
    assert {"model.decoder.layers.1.encoder_attn.q_proj.weight", "model.decoder.layer_norm.bias"} < set(changed)
    assert same(state, wanted)


def test_every_engine_takes_an_adapter_that_was_merged_once(adapter, tiny, tmp_path, monkeypatch, capfd):
    from huggingface_hub import constants

    folder, wanted = adapter()
    assert same(checkpoint.load_model(str(folder)).state_dict(), wanted)
    assert f"{folder} is an adapter: merging it into {tiny}" in capfd.readouterr().err
    place, commit = checkpoint.folder(str(folder))
    source = space.find(str(folder))
    assert commit is None and source.folder == place and source.licence == "apache-2.0"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    cached = tmp_path / "hub" / "models--me--adapter"
    shutil.copytree(folder, cached / "snapshots" / ("1" * 40))
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("1" * 40)
    assert checkpoint.folder("me/adapter") == (place, None)
    assert not capfd.readouterr().err
    assert (backends.convert(place, "int8") / "model.bin").is_file()


def test_an_adapter_that_cannot_be_merged_is_a_line(adapter, tiny):
    folder, _ = adapter()
    shutil.copy(tiny / "model.safetensors", folder)
    assert "holds a whole model (model.safetensors) and an adapter" in refused(
        lambda: checkpoint.load_model(str(folder))
    )
    (folder / "model.safetensors").unlink()
    content = load_file(folder / "adapter_model.safetensors")

    def spoil(spoilt: dict) -> str:
        save_file(spoilt, folder / "adapter_model.safetensors")
        return refused(lambda: checkpoint.load_model(str(folder)))

    assert "missing or unknown" in spoil({name: one for name, one in content.items() if "layers.1" not in name})
    assert "missing or unknown" in spoil({f"x.{name}": one for name, one in content.items()})
    assert "NaNs detected" in spoil({name: one * float("nan") for name, one in content.items()})
    assert "could not be merged" in spoil({name: one[:, :2].contiguous() for name, one in content.items()})
    (folder / "adapter_model.safetensors").write_text(POINTER)
    assert "Git LFS pointer" in refused(lambda: checkpoint.load_model(str(folder)))
    (folder / "adapter_model.safetensors").unlink()
    assert "has no adapter_model.safetensors" in refused(lambda: checkpoint.load_model(str(folder)))
    save_file(content, folder / "adapter_model.safetensors")
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(
        json.dumps(settings | {"base_model_name_or_path": "openai/whisper-small"})
    )
    for act in (checkpoint.load_model, checkpoint.load_processor, Transcriber, space.find):
        said = refused(lambda act=act: act(str(folder)))
        assert "is an adapter for openai/whisper-small" in said and "cannot be reached" in said
