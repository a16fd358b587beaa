import re
import runpy
from dataclasses import replace

import pytest
import torch
from conftest import ROOT

from whisper_lab import LabError
from whisper_lab.scores import hypotheses
from whisper_lab.stores import store
from whisper_lab.tuning import adapters, training
from whisper_lab.tuning.recipes import Recipe
from whisper_lab.whisper import checkpoint, windows

RECIPE = Recipe(
    optimizer="adamw",
    learning_rate=0.01,
    max_steps=4,
    batch_size=4,
    accumulation=1,
    warmup_steps=0,
    weight_decay=0.01,
    window="mixed",
    eval_steps=2,
    blend=1.0,
    seed=1,
)
EVERYTHING = adapters.TARGETS


@pytest.fixture(scope="module")
def splits(tmp_path_factory, tiny):
    """The sample's first clips: 4 of train and of dev, as the feature pipeline makes them."""
    folder = tmp_path_factory.mktemp("features") / "small"
    arguments = ["feature-pipeline.py", "--store", str(folder), "--limit", "4", "--workers", "1", "--model", str(tiny)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", arguments)
        runpy.run_path(str(ROOT / "feature-pipeline.py"))["main"]()
    features = store.FeatureSet(folder)
    return {name: features.split(name) for name in ("train", "dev")}


def load(tiny, **choices):
    return adapters.prepare(checkpoint.load_model(str(tiny)), replace(RECIPE, **choices))


def make_trainer(tiny, splits, folder, **choices):
    recipe = replace(RECIPE, **choices)
    processor = checkpoint.load_processor(str(tiny))
    prompt = checkpoint.prompt_ids(processor.tokenizer, "sv")
    model = load(tiny, **choices)
    model.config.trained_windows = list(windows.LENGTHS)
    trainer = training.Trainer(model, recipe, folder, splits, processor, prompt)
    trainer.args.load_best_model_at_end = recipe.eval_steps < recipe.max_steps
    return trainer


def logits(model):
    rng = torch.Generator().manual_seed(0)
    sound = torch.randn(2, 80, 200, generator=rng)
    ids = torch.randint(0, 50_000, (2, 7), generator=rng)
    with torch.inference_mode():
        return model.eval()(input_features=sound, decoder_input_ids=ids).logits


def losses(trainer) -> list:
    return [{k: v for k, v in entry.items() if "loss" in k or "wer" in k} for entry in trainer.state.log_history[:-1]]


def tuned(tiny, **choices):
    """A model with LoRA whose matrices are all as if trained."""
    model = load(tiny, **choices)
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if ".lora_" in name:
            weight.data = torch.randn_like(weight) * 0.05
    return model


def test_lora_starts_as_the_model_and_merges_to_the_same_logits(tiny):
    plain = checkpoint.load_model(str(tiny))
    assert torch.equal(logits(load(tiny, lora=4)), logits(plain))
    model = tuned(tiny, lora=4)
    heard, promised = logits(model), adapters.merged_weights(model)
    assert (heard - logits(plain)).abs().max() > 0.1  # so that the next line says something
    merged = adapters.merge(model)
    assert (logits(merged) - heard).abs().max() < 1e-4
    assert merged.state_dict().keys() == promised.keys() == plain.state_dict().keys()
    assert all(torch.equal(tensor, promised[name]) for name, tensor in merged.state_dict().items())
    assert [type(module) for module in merged.modules()] == [type(module) for module in plain.modules()]


def test_a_merged_model_is_saved_as_any(tiny, tmp_path):
    from transformers import WhisperForConditionalGeneration

    model = tuned(tiny, lora=4)
    heard = logits(model)
    checkpoint.save(adapters.merge(model), checkpoint.load_processor(str(tiny)), tmp_path)
    again = WhisperForConditionalGeneration.from_pretrained(tmp_path)
    assert logits(checkpoint.load_model(str(tmp_path))).sub(heard).abs().max() < 1e-4
    assert again.proj_out.weight is again.model.decoder.embed_tokens.weight
    assert not [path for path in tmp_path.iterdir() if "adapter" in path.name]


def test_the_same_recipe_begins_with_the_same_matrices_whatever_was_drawn_before(tiny):
    first = load(tiny, lora=2).state_dict()
    torch.rand(3)
    again, other = (load(tiny, lora=2, seed=seed).state_dict() for seed in (1, 2))
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    assert any(not torch.equal(tensor, other[name]) for name, tensor in first.items())


@pytest.mark.parametrize(
    "choices, trained",
    [
        ({"lora": 4}, {f"{side}.{kind}" for side in ("encoder", "decoder") for kind in EVERYTHING}),
        (
            {"lora": 4, "lora_targets": ("q_proj", "v_proj")},
            {"encoder.q_proj", "encoder.v_proj"} | {"decoder.q_proj", "decoder.v_proj"},
        ),
        ({"lora": 4, "lora_targets": ("encoder_attn.k_proj",)}, {"decoder.k_proj"}),
        ({"lora": 4, "freeze": ("encoder",)}, {f"decoder.{kind}" for kind in EVERYTHING}),
        ({"lora": 4, "lora_targets": ("fc1",), "freeze": ("decoder.0-1", "encoder.0")}, {"encoder.fc1"}),
    ],
)
def test_lora_is_where_it_was_asked_for_and_nothing_else_is_trained(tiny, choices, trained):
    model = load(tiny, **choices)
    names = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert all(".lora_" in name for name in names)
    assert {f"{name.split('.')[1]}.{name.split('.')[-4]}" for name in names} == trained
    count, everything = adapters.count(model)
    assert 0 < count < 0.1 * everything
    assert count == sum(weight.numel() for weight in model.parameters() if weight.requires_grad)


@pytest.mark.parametrize(
    "freeze, frozen",
    [
        ("encoder", "model.encoder."),
        ("encoder.conv", "model.encoder.conv"),
        ("encoder.1", "model.encoder.layers.1."),
        ("encoder.0-1", "model.encoder.layers."),
        ("decoder", "model.decoder."),
        ("decoder.0", "model.decoder.layers.0."),
        ("embeddings", "model.decoder.embed_"),
    ],
)
def test_what_is_frozen_is_what_was_named(tiny, freeze, frozen):
    was = {name for name, weight in checkpoint.load_model(str(tiny)).named_parameters() if not weight.requires_grad}
    now = {name: weight.requires_grad for name, weight in load(tiny, freeze=(freeze,)).named_parameters()}
    assert any(name.startswith(frozen) for name in now)
    assert {name for name, trained in now.items() if not trained} - was == {
        name for name in now if name.startswith(frozen)
    } - was


@pytest.mark.parametrize(
    "choices, said",
    [
        ({"freeze": ("encodr",)}, "--freeze encodr.*encoder.conv, embeddings, encoder.0-1, decoder.0-1"),
        ({"freeze": ("encoder.1-2",)}, "--freeze encoder.1-2.*encoder.0-1"),
        ({"freeze": ("decoder.1-0",)}, "--freeze decoder.1-0.*no such part"),
        ({"freeze": ("encoder", "decoder")}, "--freeze encoder decoder leaves nothing to train"),
        ({"freeze": ("encoder", "decoder"), "lora": 2}, "leaves nothing for LoRA"),
        ({"lora": 2, "lora_targets": ("q_prog",)}, "--lora-targets q_prog.*it has fc1, fc2, k_proj"),
        ({"lora": 2, "lora_targets": ("proj_out",)}, "--lora-targets proj_out.*no such matrix"),
    ],
)
def test_what_is_not_there_is_one_line(tiny, choices, said):
    with pytest.raises(LabError, match=said) as error:
        load(tiny, **choices)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "choices, trained",
    [
        ({"freeze": ("encoder", "decoder.0", "embeddings")}, r"^model\.decoder\.lay"),
        ({"freeze": ("encoder.conv", "encoder.0", "decoder")}, r"^model\.encoder\.lay"),
        ({"lora": 4}, r"\.lora_[AB]\."),
    ],
)
def test_frozen_weights_stay_as_they_were_bit_by_bit(tiny, splits, tmp_path, choices, trained):
    trainer = make_trainer(tiny, splits, tmp_path, max_steps=3, eval_steps=10, **choices)
    before = {name: weight.clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    moved = {name for name, weight in trainer.model.named_parameters() if not torch.equal(weight, before[name])}
    assert moved and all(re.search(trained, name) for name in moved)
    assert moved == {name for name, weight in trainer.model.named_parameters() if weight.requires_grad}


def test_a_resumed_run_has_the_same_losses(tiny, splits, tmp_path):
    whole = make_trainer(tiny, splits, tmp_path / "whole", lora=4)
    whole.train()
    half = make_trainer(tiny, splits, tmp_path / "half", lora=4)
    half._stop.on_step_end = lambda args, state, control, **_: setattr(
        control, "should_training_stop", state.global_step == 2
    )
    half.args.load_best_model_at_end = False
    half.train()
    rest = make_trainer(tiny, splits, tmp_path / "half", lora=4)
    rest.train(resume_from_checkpoint=str(tmp_path / "half" / "checkpoints" / "checkpoint-2"))
    assert rest.state.global_step == 4 and losses(rest) == losses(whole)
    ends = [trainer.model.state_dict() for trainer in (whole, rest)]
    assert all(torch.equal(tensor, ends[1][name]) for name, tensor in ends[0].items())
    heard = rest.transcribe("dev", windows.LENGTHS, "with LoRA")
    adapters.merge(rest.model)
    merged = rest.transcribe("dev", windows.LENGTHS, "merged")
    assert heard.texts == merged.texts and abs(heard.loss - merged.loss) < 1e-4


def test_the_best_checkpoint_is_taken_and_loads_like_any_model(tiny, splits, tmp_path):
    trainer = make_trainer(tiny, splits, tmp_path, lora=4)
    texts = iter(("ett två", "tre fyra"))
    trainer.transcribe = lambda *_: hypotheses.Hypotheses(["a"], ["ett två"], [next(texts)], 1.0)
    trainer.train()
    best, last = (tmp_path / "checkpoints" / f"checkpoint-{step}" for step in (2, 4))
    assert trainer.state.best_model_checkpoint == str(best)
    ended = adapters.merge(trainer.model).state_dict()
    for folder, same in ((best, True), (last, False)):
        weights = checkpoint.load_model(str(folder)).state_dict()
        assert weights.keys() == ended.keys()
        assert all(torch.equal(tensor, ended[name]) for name, tensor in weights.items()) == same
    assert (best / adapters.FILE).stat().st_size < 0.1 * (best / "model.safetensors").stat().st_size
    assert not (best / "adapter_config.json").exists()


@pytest.mark.parametrize("choices", [{}, {"lora": 4}, {"freeze": ("encoder.conv", "encoder.0")}])
def test_activation_checkpointing_changes_no_loss(tiny, splits, tmp_path, choices):
    heard, runs_of_a_layer = [], []
    for wanted in (False, True):
        choices = choices | {"max_steps": 2, "eval_steps": 10, "activation_checkpointing": wanted}
        trainer = make_trainer(tiny, splits, tmp_path / str(wanted), **choices)
        layer, seen = trainer.model.model.decoder.layers[0], []
        layer.fc1.register_forward_hook(lambda *_, layer=layer, seen=seen: seen.append(layer.training))
        trainer.train()
        heard.append(losses(trainer))
        runs_of_a_layer.append(sum(seen))
    assert heard[0] == heard[1] and len({entry["loss"] for entry in heard[0] if "loss" in entry}) == 2
    assert runs_of_a_layer == [2, 4]  # and so it was on


def test_counts_and_rate():
    model = torch.nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    assert adapters.count(model) == (6, 8)


def test_rank_changes_how_much_is_trained_not_how_far_a_step_goes(tiny):
    """α/r: at one learning rate, a first step of AdamW moves the logits about as far at every rank."""
    moved = {}
    ids = torch.arange(1_000, 1_024).reshape(2, 12)
    sound = torch.randn(2, 80, 200, generator=torch.Generator().manual_seed(0))
    for rank in (2, 16):
        model = load(tiny, lora=rank)
        before = logits(model)
        optimizer = torch.optim.AdamW([w for w in model.parameters() if w.requires_grad], lr=1e-3)
        model(input_features=sound, decoder_input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        moved[rank] = (logits(model) - before).std().item()
    assert 0.5 < moved[16] / moved[2] < 2
