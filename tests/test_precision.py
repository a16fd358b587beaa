"""bf16 where the processor is faster with it, and the same everywhere for one run."""

import json
import math
import shutil
import sys

import numpy as np
import pytest
import torch
from conftest import inside

from whisper_lab import LabError, evaluation, files
from whisper_lab.scores import card, hypotheses
from whisper_lab.stores import store
from whisper_lab.tuning import folders, resuming, runs, study, training
from whisper_lab.whisper import backends, batches, checkpoint, precision

XEON = "Intel Xeon Processor (SapphireRapids)"


@pytest.fixture
def cpu(monkeypatch, tmp_path):
    """A function: a processor with these instructions, on which bf16 is so many times as fast; the trials so far."""
    monkeypatch.setenv("WHISPER_LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(precision, "processor", lambda device="cpu": "A processor")
    trials = []

    def cpu(*instructions: str, faster: float = 0) -> list:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(instructions, True))
        monkeypatch.setattr(precision, "_trial", lambda: trials.append(1) or faster)
        return trials

    return cpu


@pytest.fixture
def old_gpu(monkeypatch):
    """A card of before 2020, which computes bf16 by other means."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")


def test_what_the_processor_has_decides_and_where_that_does_not_tell_one_trial(cpu, capsys):
    assert not cpu("avx512_f", "avx512_bf16", "amx_bf16") and precision.choose("auto", "cpu") == "bf16"
    assert not cpu("avx512_f", "avx512_vnni") and precision.choose("auto", "cpu") == "float32"
    assert precision.choose("bf16", "cpu") == "bf16" and precision.choose("float32", "cpu") == "float32"
    assert precision.choose("auto", "mps") == "float32" and not capsys.readouterr().err
    assert not cpu("avx512_f", "avx512_bf16", faster=1.7)
    assert [precision.choose("auto", "cpu") for _ in range(2)] == ["bf16"] * 2
    assert cpu("bf16", faster=9) == [1]  # it is known
    said = "A short trial, once: A processor is 1.7 times as fast in bf16 as in float32; bf16 is taken.\n"
    assert precision.choose("auto", "cpu") == "bf16" and capsys.readouterr().err == said
    (files.cache_folder() / "precision.json").unlink()
    cpu("bf16", faster=1.1)
    assert precision.choose("auto", "cpu") == precision.choose("auto", "cpu") == "float32" and len(cpu()) == 2


def test_the_trial_leaves_nothing_changed():
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    assert 0.05 < precision._trial() < 50
    assert torch.get_rng_state().equal(before) and torch.get_num_threads() == threads
    assert precision.processor()


def test_a_gpu_without_bf16(old_gpu, monkeypatch):
    assert precision.choose("auto", "cuda") == precision.of_old("cuda") == "float16"
    with pytest.raises(LabError, match="--precision bf16: Tesla T4 has no bf16; leave out --precision"):
        precision.choose("bf16", "cuda")
    with pytest.raises(LabError, match="begun in bf16 on NVIDIA L4, and Tesla T4 has no bf16; .* another --output"):
        precision.gone_on_with("bf16", "auto", "NVIDIA L4", "cuda")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    assert precision.choose("auto", "cuda") == precision.of_old("cuda") == "bf16"


def test_who_goes_on_elsewhere_is_told(cpu):
    cpu("avx512_f")
    moved = "Begun in bf16 on Xeon; goes on in bf16 here, on A processor"
    differ = "; the losses may differ in the last digits."
    assert precision.gone_on_with("bf16", "auto", "Xeon", "cpu") == f"{moved}, where float32 would be faster{differ}"
    assert precision.gone_on_with("bf16", "bf16", "Xeon", "cpu") == moved + differ
    for where in ("A processor", None):
        slower = "Begun in bf16; goes on in bf16 here, on A processor, where float32 would be faster."
        assert precision.gone_on_with("bf16", "auto", where, "cpu") == slower
        assert precision.gone_on_with("bf16", "bf16", where, "cpu") == ""
        assert precision.gone_on_with("float32", "auto", where, "cpu") == ""
    with pytest.raises(LabError, match="begun in float16 on Tesla T4, and A processor has no float16"):
        precision.gone_on_with("float16", "auto", "Tesla T4", "cpu")


def make_run(features, tiny, folder, **options) -> runs.Run:
    settings = {"max_steps": 2, "batch_size": 8, "learning_rate": 0.01, "blend": 1.0} | options
    places = {"features": str(features), "model": str(tiny), "output": str(folder)}
    return runs.Run(runs.Options(**places, **settings), store.FeatureSet(features))


def losses(history: list[dict]) -> list[float]:
    return [entry[name] for entry in history for name in ("loss", "eval_loss") if name in entry]


@pytest.fixture(scope="module")
def whole(features, tiny, tmp_path_factory):
    """A run in bf16, trained and not scored, with all its checkpoints; and its losses."""
    folder = tmp_path_factory.mktemp("bf16") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resuming, "keep_only", lambda kept: None)
        run = make_run(features, tiny, folder, precision="bf16")
        run.train()
    assert {weight.dtype for weight in run.model.parameters()} == {torch.float32}
    return folder, losses(run.trainer.state.log_history)


def test_bf16_learns_nearly_the_same(whole, features, tiny, tmp_path):
    run = make_run(features, tiny, tmp_path / "run", precision="float32")
    run.train()
    exact = losses(run.trainer.state.log_history)
    assert all(map(math.isfinite, whole[1])) and whole[1] != exact and whole[1] == pytest.approx(exact, rel=0.02)


def test_a_run_begun_elsewhere_goes_on_as_it_was_begun_to_the_same_losses(whole, features, tiny, tmp_path, cpu, capsys):
    folder = shutil.copytree(whole[0], tmp_path / "run")
    shutil.rmtree(folder / "checkpoints" / "checkpoint-2")
    planned = files.read_json(folder / "plan.json")
    assert planned["plan"]["recipe"]["precision"] == "bf16" and planned["processor"]
    files.write_json(folder / "plan.json", planned | {"processor": XEON})
    cpu("avx512_f")
    with pytest.raises(LabError, match="recipe.precision: bf16 there, float32 now"):
        make_run(features, tiny, folder, precision="float32")
    run = make_run(features, tiny, folder)
    run.complete()
    said = f"Begun in bf16 on {XEON}; goes on in bf16 here, on A processor, where float32 would be faster; the losses"
    assert f"Going on from checkpoint-1 of 2 steps, in {folder}.\n{said}" in capsys.readouterr().out
    assert losses(run.trainer.state.log_history)[: len(whole[1])] == whole[1]
    facts = run.metrics["run"]
    assert facts["precision"] == "bf16" and facts["device"].endswith(" CPU cores (A processor)")
    summary = card.summary(folder, run.metrics, run.predictions, run.locale)
    assert f"Trained and scored in bf16 on {facts['device']}.\n" in summary
    assert f" s in bf16 on {facts['device']}, " in (text := (folder / "README.md").read_text(encoding="utf-8"))
    assert f"after resuming at step 1; begun on {XEON} |" in text
    make_run(features, tiny, folder).complete()
    assert "Begun" not in capsys.readouterr().out, "a finished run does not go on"


def test_a_run_of_before_goes_on_in_float32(features, tiny, tmp_path, cpu, capsys):
    cpu("amx_bf16")
    folder = make_run(features, tiny, tmp_path / "run", precision="float32").folder
    planned = files.read_json(folder / "plan.json")
    del planned["plan"]["recipe"]["precision"], planned["processor"]
    files.write_json(folder / "plan.json", planned)
    run = make_run(features, tiny, folder)
    assert run.begun and run.recipe.precision == "float32"
    folders.say_moved(folder, "auto", "float32")
    said = "Begun in float32; goes on in float32 here, on A processor, where bf16 would be faster.\n"
    assert capsys.readouterr().out == said
    assert make_run(features, tiny, tmp_path / "new").recipe.precision == "bf16"


def test_a_study_has_one_precision(features, tiny, tmp_path, cpu, capsys):
    asked = {"features": str(features), "model": str(tiny), "optimizer": ["adamw", "adagrad"], "max_steps": 2}
    cpu("amx_bf16")
    one = study.Study(study.expand(asked), tmp_path / "study")
    cpu()
    again = study.Study(study.expand(asked), tmp_path / "study")
    assert again.begun and [run.precision for run in (*one.runs.values(), *again.runs.values())] == ["bf16"] * 4
    assert "--precision" not in again.command_line()
    assert "--precision bf16" in study.Study(study.expand(asked | {"precision": "bf16"}), one.folder).command_line()


@pytest.mark.parametrize("chosen", ["float32", "bf16", "float16"])
def test_the_trainer_is_told(tmp_path, chosen):
    recipe = runs.recipes.Recipe("adamw", 1e-5, 4, 4, 1, 1, 0.01, "short", 1, 1.0, 1, precision=chosen)
    arguments = training.arguments(recipe, tmp_path)
    assert (arguments.bf16, arguments.fp16) == (chosen == "bf16", chosen == "float16")
    assert arguments.use_cpu != torch.cuda.is_available()


def test_scores_in_bf16_are_nearly_the_same(features, tiny, processor):
    model, prompt = checkpoint.load_model(str(tiny)), checkpoint.prompt_ids(processor.tokenizer, "sv")
    collator = batches.Collator(prompt[0], processor.tokenizer.convert_tokens_to_ids("<|endoftext|>"))
    what = model, store.FeatureSet(features).split("test"), processor.tokenizer, collator, prompt, [3_000], 16, ""
    exact, rounded = (hypotheses.transcribe(*what, one) for one in ("float32", "bf16"))
    assert rounded.loss != exact.loss and rounded.loss == pytest.approx(exact.loss, rel=0.01)
    assert rounded.ids == exact.ids and len(rounded.texts) == 8


def test_an_evaluation_keeps_what_was_heard_by_precision(features, tiny, tmp_path, monkeypatch, capsys, cpu):
    cpu()
    monkeypatch.chdir(tmp_path)
    for flags in ([], ["--precision", "bf16"], []):
        command = ["evaluation", str(tiny), "--features", str(features), "--limit", "4", "--output", "out", *flags]
        monkeypatch.setattr(sys, "argv", command)
        evaluation.main()
        chosen = "bf16" if flags else "float32"
        assert f"Computed in {chosen}.\n" in capsys.readouterr().out
        assert json.loads((tmp_path / "out" / "scores.json").read_text())["about"]["precision"] == chosen
        assert f"precision {chosen}" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert len(list((tmp_path / "out").glob("heard-*.json"))) == 2


def test_the_engine_of_transformers_rounds_its_weights_as_autocast_would(tiny, processor):
    exact, rounded = (backends.load("transformers", tiny, "cpu", 1, one) for one in ("float32", "bf16"))
    assert (exact.precision, rounded.precision) == ("float32", "bf16")
    layer = rounded.model.model.encoder.layers[0]
    assert layer.fc1.weight.dtype == torch.bfloat16 and layer.final_layer_norm.weight.dtype == torch.float32
    sound, prompt = np.random.default_rng(0).random((2, 80, 300), np.float32), [50258, 50327, 50359, 50363]
    encoded = rounded.encode(sound)
    with torch.inference_mode(), precision.autocast("cpu", "bf16"):
        wanted = exact.model.get_encoder()(torch.from_numpy(sound))
    assert torch.equal(encoded.last_hidden_state, wanted.last_hidden_state)
    assert not torch.equal(encoded.last_hidden_state, exact.encode(sound).last_hidden_state)
    (one, _), (other, _) = (engine.decode(encoded, prompt, 8) for engine in (rounded, exact))
    assert len(one.tokens) <= 8 and one.logprob == pytest.approx(other.logprob, abs=0.05)
    ((times, probabilities), _) = rounded.align(encoded, prompt[:-1], [[300, 301], [302]], [150, 150])
    assert len(times) == 3 and (np.diff(times) >= 0).all()
    assert probabilities.shape == (2,) and (probabilities > 0).all() and (probabilities < 1).all()
    with pytest.raises(LabError, match="--precision bf16 goes with --engine transformers; leave it out for"):
        backends.load("ctranslate2", tiny, precision="bf16")


def test_on_short_windows_ctranslate2s_encoder_is_torchs_where_that_is_faster(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("WHISPER_LAB_CACHE", str(tmp_path / "cache"))
    short = tmp_path / "short"
    shutil.copytree(tiny, short)
    files.write_json(short / "config.json", files.read_json(short / "config.json") | {"trained_windows": [300, 3_000]})
    sound, states = np.random.default_rng(0).random((2, 80, 300), np.float32), {}
    for chosen in ("float32", "bf16"):
        monkeypatch.setattr(backends, "choose", lambda asked, device, chosen=chosen: chosen)
        engine = backends.load("ctranslate2", short, "cpu", 1)
        assert engine.precision == f"int8 (encoder {chosen})"
        encoded = engine.encode(sound)
        states[chosen] = np.array(encoded)
        assert len(engine.decode(engine.select(encoded, [1]), [50258, 50327, 50359, 50363], 8)) == 1
    assert not (states["bf16"] == states["float32"]).all()
    assert np.abs(states["bf16"] - states["float32"]).mean() < 0.02 * np.abs(states["float32"]).mean()
    converted = backends.convert(short, "int8")  # no weights for torch
    files.write_json(
        converted / "config.json", files.read_json(converted / "config.json") | {"trained_windows": [300, 3_000]}
    )
    assert backends.load("ctranslate2", converted, "cpu", 1).precision == "int8 (encoder float32)"


@pytest.mark.parametrize("script", ["training-pipeline.py", "app.py", "app_youtube.py"])
def test_every_script_says_how(script, tmp_path):
    done = inside(script, "--help", cwd=tmp_path)
    assert "--precision {auto,float32,bf16}" in done.stdout and "faster with it" in " ".join(done.stdout.split())
    wrong = inside(script, "--precision", "float16", cwd=tmp_path, check=False)
    assert wrong.returncode == 2 and "invalid choice: 'float16'" in wrong.stderr
