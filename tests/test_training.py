import json
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, inside, script
from finished import describe
from finished import plan as finished_plan

from whisper_lab import LabError, command, files
from whisper_lab.scores import card, choices, scoring
from whisper_lab.stores import store
from whisper_lab.tuning import (
    folders,
    monitoring,
    optimizers,
    outcome,
    recipes,
    resuming,
    runs,
    study,
    training,
)
from whisper_lab.whisper import checkpoint, windows


def make_run(features, tiny, output, **options) -> runs.Run:
    settings = {
        "features": str(features),
        "model": str(tiny),
        "output": str(output),
        "max_steps": 4,
        "blend": 0.5,
    } | options
    return runs.Run(runs.Options(**settings), store.FeatureSet(features))


def losses(folder) -> list:
    return [
        {k: v for k, v in entry.items() if "loss" in k or "wer" in k}
        for entry in json.loads((folder / "history.json").read_text())[:-1]
    ]


@pytest.fixture(scope="module")
def whole(features, tiny, tmp_path_factory):
    """An uninterrupted run of 12 steps, as a user starts it."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    done = script("training-pipeline.py", *arguments(features, tiny, folder), cwd=folder.parent)
    return folder, done.stdout


def arguments(features, tiny, folder) -> list[str]:
    return [
        "--features",
        str(features),
        "--model",
        str(tiny),
        "--output",
        str(folder),
        "--max-steps",
        "12",
        "--learning-rate",
        "0.01",
        "--precision",
        "bf16",  # whatever the processor is
        "--blend",
        "0.5",
    ]


def test_what_a_run_leaves(whole, features):
    folder, printed = whole
    metrics = json.loads((folder / "metrics.json").read_text())
    for who in ("untuned", "tuned"):
        for split in ("dev", "test", "out_of_domain"):
            assert set(metrics[who][split]) == {"wer", "wer_normalised", "cer", "cer_normalised"}
            for score in metrics[who][split].values():
                assert score["low"] <= score["value"] <= score["high"]
    plan = json.loads((folder / "plan.json").read_text())
    assert plan["plan"]["recipe"]["window"] == "mixed" and plan["versions"]["torch"]
    assert plan["plan"]["features"] == store.FeatureSet(features).fingerprint
    names = {path.name for path in folder.iterdir()}
    assert {
        "README.md",
        "curves.png",
        "predictions.tsv",
        "preprocessor_config.json",
        "vocab.json",
        "merges.txt",
        "tokenizer.json",
    } <= names
    assert (folder / "curves.png").read_bytes()[:4] == b"\x89PNG"
    assert (
        list((folder / "log").glob("events.*")) and "README.md" in printed and "tuned minus untuned" in printed.lower()
    )
    config, generation = (json.loads((folder / name).read_text()) for name in ("config.json", "generation_config.json"))
    assert config["trained_windows"][-1] == 3_000 and config["max_source_positions"] == 1_500 and config["use_cache"]
    assert generation["language"] == "<|sv|>" and generation["task"] == "transcribe"
    assert not generation.get("forced_decoder_ids") and not config.get("forced_decoder_ids")


def test_dev_is_counted_clip_by_clip_at_each_checkpoint(whole, tmp_path):
    """And what it cannot tell apart is said on the screen and in the card."""
    folder, printed = whole
    scored = [entry for entry in files.read_json(folder / "history.json") if "eval_loss" in entry]
    dev = [row for row in files.read_tsv(folder / "predictions.tsv") if row["split"] == "dev"]
    sentences = [row["sentence"] for row in dev]
    words = scoring.table(sentences, sentences)[:, 1].sum()
    for entry in scored:
        wrong = [int(number) for number in entry["dev_edits"].split()]
        assert len(wrong) == len(dev) == 8
        assert 100 * sum(wrong) / words == pytest.approx(entry["eval_wer_normalised"], abs=0.001)
    metrics = files.read_json(folder / "metrics.json")
    choice = metrics["checkpoint"]
    assert (choice["step"], choice["clips"]) == (metrics["run"]["best_step"], 8)
    assert ("Dev has 8 clips, too few" in printed) == choices.undecided(choice)
    unclear = metrics["checkpoint"] = choice | {"low": -1.0, "high": 3.0}
    said = choices.on_checkpoints(unclear)
    assert f"{said} Four times" in card.summary(folder, metrics, files.read_tsv(folder / "predictions.tsv"))
    assert f"- {said}\n" in (describe(tmp_path, finished_plan(), checkpoint=unclear) / "README.md").read_text()


def test_the_card_says_what_the_metrics_say(whole):
    folder, _ = whole
    import yaml

    card = (folder / "README.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    stated = {metric["name"]: metric["value"] for metric in head["model-index"][0]["results"][0]["metrics"]}
    measured = json.loads((folder / "metrics.json").read_text())["tuned"]["test"]
    assert stated["WER, normalised"] == measured["wer_normalised"]["value"]
    assert "The voices are synthetic" in card


def test_the_saved_model_is_the_one_that_was_scored(whole, features):
    folder, _ = whole
    run = make_run(features, folder, folder.parent / "again", precision="bf16")
    heard = run.trainer.transcribe("test", run.model.config.trained_windows, "again")
    lines = [line.split("\t") for line in (folder / "predictions.tsv").read_text().splitlines()]
    tuned = [line[4] for line in lines[1:] if line[0] == "test"]
    assert [" ".join(text.split()) for text in heard.texts] == tuned
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["tuned"]["test"] == scoring.as_json(heard.scores())


def test_a_run_that_is_stopped_and_then_killed_ends_with_the_same_losses(whole, features, tiny, tmp_path):
    folder, last = tmp_path / "stopped", None
    typed = ["training-pipeline.py", *map(str, arguments(features, tiny, folder))]
    again = typed
    for kind in (signal.SIGINT, signal.SIGKILL):
        command = [sys.executable, ROOT / again[0], *again[1:]]
        run = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        while run.poll() is None and resuming.last_checkpoint(folder) == last:
            time.sleep(0.005)
        run.send_signal(kind)
        printed, _ = run.communicate(timeout=120)
        assert not (folder / "metrics.json").exists()
        last = resuming.last_checkpoint(folder)
        if kind == signal.SIGINT:
            python, *again = shlex.split(printed.rpartition("To go on: ")[2])
            assert run.returncode == 130 and python == "python" and again[0] == typed[0] and "--resume" not in again
            checkpoint.load_model(str(last))
    done = script(*typed, "--resume", cwd=tmp_path)  # which is still taken; in a process as fresh as that of `whole`
    assert f"Going on from {last.name} of 12 steps, in {folder}.\n" in done.stdout
    assert losses(folder) == losses(whole[0])
    assert (folder / "model.safetensors").read_bytes() == (whole[0] / "model.safetensors").read_bytes()


def test_a_finished_run_is_shown_again_and_another_run_refused(whole, features, tiny):
    folder, printed = whole
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    again = inside("training-pipeline.py", *arguments(features, tiny, folder), cwd=folder.parent)
    assert "finished" in again.stdout and re.search("test .*", printed).group() in again.stdout
    other = inside(
        "training-pipeline.py", *arguments(features, tiny, folder), "--seed", "7", cwd=folder.parent, check=False
    )
    assert (
        other.returncode == 2 and "recipe.seed: 1 there, 7 now" in other.stderr and len(other.stderr.splitlines()) == 1
    )
    assert before == {path: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_nothing_to_resume(features, tiny, tmp_path):
    with pytest.raises(LabError, match="nothing to resume"):
        make_run(features, tiny, tmp_path / "none", resume=True)
    assert not (tmp_path / "none").exists()


def test_two_processes_do_not_train_into_one_folder(whole, features, tiny, tmp_path, monkeypatch):
    folder = tmp_path / "twice"
    run = make_run(features, tiny, folder)
    hold = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); input()"
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", hold, folder / ".lock"], **options) as other:
        other.stdout.readline()
        monkeypatch.setattr(folders, "PATIENCE", 0.01)
        with pytest.raises(LabError, match=f"another process is training into {folder}; .*--output") as error:
            run.complete()
        assert "\n" not in str(error.value) and not (folder / "untuned.json").exists()
        monkeypatch.setattr(folders, "PATIENCE", 10)
        other.kill()  # and its lock goes with it
        shutil.copy(whole[0] / "metrics.json", folder)  # as it finished meanwhile
        run.complete()
    assert not (folder / "untuned.json").exists(), "nothing is done twice"


def test_a_folder_is_the_same_however_it_is_written(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tiny.parent)
    (tmp_path / "link").symlink_to(tiny.parent)
    for name in ("tiny", "tiny/", "./tiny//", "../models0/tiny".replace("models0", tiny.parent.name), str(tiny)):
        assert checkpoint.plain(name) == "tiny", name
    assert checkpoint.plain(str(tmp_path / "link" / "tiny")) == "tiny"
    monkeypatch.chdir(tmp_path)
    assert checkpoint.plain(f"{tiny}/") == str(tiny) and checkpoint.plain("link/tiny/") == str(tiny)
    (tmp_path / "sample").mkdir()
    for name in ("sample", "openai/whisper-small", "openai/whisper-small@main", "gone/"):
        assert checkpoint.plain(name) == name
    assert checkpoint.plain("./sample") == str(tmp_path / "sample"), "not the embedded one"
    assert command.path("~/x") == str(Path.home() / "x") and command.path("a/~b") == "a/~b"


def test_a_run_is_known_again_whichever_way_its_model_is_written(whole, features, tiny, tmp_path, monkeypatch):
    folder = tmp_path / "before"
    folder.mkdir()
    plan = files.read_json(whole[0] / "plan.json")
    assert plan["plan"]["model"] == str(tiny)
    files.write_json(folder / "plan.json", {**plan, "plan": plan["plan"] | {"model": f"{tiny}/"}})  # as it was written
    shutil.copy(whole[0] / "metrics.json", folder)
    monkeypatch.chdir(tiny.parent)
    for place in whole[0], folder:
        assert make_run(features, "./tiny/", f"{place}/", max_steps=12, learning_rate=0.01).finished


def test_a_finished_run_that_is_to_be_longer_says_how(whole, features, tiny, tmp_path):
    folder = shutil.copytree(whole[0], tmp_path / "my run", ignore=shutil.ignore_patterns("checkpoints", "log"))
    settings = dict(
        zip(("features", "model", "output"), map(str, (features, tiny, folder))), learning_rate=0.01, blend=0.5
    )
    plan = json.loads(json.dumps(files.read_json(folder / "plan.json")["plan"]))
    for length, steps in ({"max_steps": 30}, 18), ({"epochs": 9.0}, 6):
        options = recipes.Options(**settings, **length, precision="bf16")
        recipe = recipes.resolve(options, checkpoint.load_model(str(tiny)), 16, 1)
        wanted = plan | {"recipe": json.loads(json.dumps(asdict(recipe)))}
        with pytest.raises(LabError, match=f"after 12 steps; for {steps} more, begin from its model: ") as error:
            folders.check_length(folder, wanted, options)
        typed = shlex.split(str(error.value).rpartition("model: ")[2])
        parse_args = runpy.run_path(str(ROOT / typed[1]))["parse_args"]
        (on,) = study.expand(vars(parse_args(typed[2:])))
        changed = {"model": str(folder), "output": f"{folder}-{12 + steps}", "max_steps": steps, "epochs": 4}
        assert on == replace(options, **changed)
    for other in {"seed": 7}, {"max_steps": 6}:
        assert folders.check_length(folder, wanted | {"recipe": wanted["recipe"] | other}, options) is None
    with pytest.raises(LabError, match="is finished, after 12 steps"):
        make_run(features, tiny, folder, max_steps=30, learning_rate=0.01)
    with pytest.raises(LabError, match="made with other settings"):
        make_run(features, tiny, features)
    (folder / "plan.json").unlink()  # a model that was fetched from a registry
    with pytest.raises(LabError, match="is not empty and was not made by this program"):
        make_run(features, tiny, folder, max_steps=30)


def test_sound_that_is_not_there_is_said_before_the_training(features, tiny, release, tmp_path, capsys):
    with pytest.raises(LabError, match="/nowhere is not a folder"):
        make_run(features, tiny, tmp_path / "x", audio="/nowhere")
    assert not (tmp_path / "x").exists()
    made = store.FeatureSet(features)
    sound = outcome.sounds(str(release), made)
    there = [id for id in made.clips("test")["id"].to_pylist() if sound(id)]
    assert len(there) == 4 and all(Path(sound(id).path).is_relative_to(release) for id in there)
    assert "4 of the 8 clips of test are not in it" in capsys.readouterr().out
    Path(sound(there[0]).path).unlink()
    outcome.sounds(str(release), made)
    assert "5 of the 8" in capsys.readouterr().out
    shutil.rmtree(release / "sv-SE" / "clips")
    (release / "sv-SE" / "clips").mkdir()
    with pytest.raises(LabError, match="8 of the 8 clips of test are not in it, such as .*--audio takes the corpus"):
        outcome.sounds(str(release), made)


def test_a_meter_that_fails_loses_no_run(monkeypatch):
    assert monitoring.kwh(3.6e6, 7.2e6) == 1.0
    assert monitoring.kwh(None, 1.0) is monitoring.kwh(1.0, None) is monitoring.kwh(2.0, 1.0) is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    def fail():
        raise OSError("the driver went")

    monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace(nvmlInit=fail, NVMLError=ValueError))
    assert monitoring.gpu_joules() is None


def test_the_command_of_several_processes_starts_as_many(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    said = recipes.Options(output="my model").command_line()
    assert said == "torchrun --nproc-per-node 2 training-pipeline.py --output 'my model'"


@pytest.mark.parametrize("name, near", [("adamv", "adamw"), ("adagrd", "adagrad"), ("adfactor", "adafactor")])
def test_an_unknown_optimiser_names_the_near_ones(features, tiny, tmp_path, name, near):
    with pytest.raises(LabError, match=f"no optimiser '{name}'.*{near}"):
        make_run(features, tiny, tmp_path / "x", optimizer=name)


@pytest.mark.parametrize("window", ["full", "packed"])
def test_other_windows_learn(features, tiny, tmp_path, window, monkeypatch):
    monkeypatch.setattr(windows, "SEEN", 4)  # of 8 clips
    run = make_run(features, tiny, tmp_path / "x", window=window, learning_rate=0.01, max_steps=4, blend=1.0)
    table = run.model.model.encoder.embed_positions.weight.clone()
    run.train()
    run.blend()
    dev = [entry["eval_loss"] for entry in run.trainer.state.log_history if "eval_loss" in entry]
    assert dev[-1] < dev[0]
    assert (run.model.model.encoder.embed_positions.weight == table).all()  # sinusoids stay sinusoids
    assert (run.model.config.trained_windows == [3_000]) == (window == "full")
    assert run.choice.share == 1.0


def test_default_rates_follow_size_and_optimiser():
    assert optimizers.default_rate("adamw", 512) == 2.5e-5 and optimizers.default_rate(
        "adamw", 1280
    ) < optimizers.default_rate("adamw", 768)
    assert optimizers.default_rate("adagrad", 512) > 5 * optimizers.default_rate("adamw", 512)


def test_where_words_cannot_be_counted_the_checkpoint_goes_by_characters(tmp_path):
    recipe = recipes.Recipe("adamw", 1e-5, 4, 4, 1, 1, 0.01, "short", 1, 1.0, 1)
    arguments = training.arguments(recipe, tmp_path, measure=scoring.headline("zh-CN"))
    assert arguments.metric_for_best_model == "eval_cer_normalised" and not arguments.greater_is_better


def test_features_for_another_model_are_refused(features, tiny, tmp_path, processor):
    from transformers import WhisperFeatureExtractor, WhisperProcessor

    turbo = shutil.copytree(tiny, tmp_path / "turbo")
    checkpoint.save_processor(WhisperProcessor(WhisperFeatureExtractor(feature_size=128), processor.tokenizer), turbo)
    with pytest.raises(LabError, match="holds 80 mels.*takes 128.*feature-pipeline.py --model"):
        make_run(features, turbo, tmp_path / "x")
    inside("feature-pipeline.py", "--model", turbo, "--store", tmp_path / "wide", "--limit", "2", cwd=tmp_path)
    assert store.FeatureSet(tmp_path / "wide").split("train")[0]["features"].shape[0] == 128
    with pytest.raises(LabError, match="holds 128 mels"):
        make_run(tmp_path / "wide", tiny, tmp_path / "x")
