import json
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from conftest import inside
from test_training import losses, make_run

from whisper_lab import LabError
from whisper_lab.corpora import corpus, sound
from whisper_lab.speech import audio
from whisper_lab.stores import store
from whisper_lab.tuning import recipes, runs, teacher
from whisper_lab.whisper import checkpoint, windows
from whisper_lab.whisper.batches import Collator, Example, Named, Windowed, pieces

ADAPTING = {
    "adapt_windows": True,
    "max_steps": 8,
    "learning_rate": 0.001,
    "batch_size": 4,
    "precision": "float32",
    "blend": "auto",
}


@pytest.fixture(scope="module")
def adapted(features, tiny, tmp_path_factory):
    """A finished run, and what its teacher had made of train."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "SEEN", 4)  # of 8 clips
        run = make_run(features, tiny, tmp_path_factory.mktemp("runs") / "adapted", **ADAPTING)
        taught = []
        train = run.train
        run.train = lambda: (taught.extend(run.taught["train"]), train())
        run.complete()
    return run, taught


@pytest.fixture(scope="module")
def lesson(tiny, processor, features, tmp_path_factory):
    """The tiny model, what it made of 8 clips at 30 s, and a batch of those at 4 s."""
    model = checkpoint.load_model(str(tiny)).eval()
    prompt = checkpoint.prompt_ids(processor.tokenizer, "sv")
    folder = tmp_path_factory.mktemp("taught") / "teacher"
    train = store.FeatureSet(features).split("train")
    teacher.teach(teacher.Teacher(model, prompt), train, range(8), 3, folder)
    taught = teacher.Taught(train, folder)
    collate = Named(teacher.Targeted(Collator(prompt[0], prompt[0] - 1)))
    batch = collate([Windowed(taught)[Example((i,), 400)] for i in range(len(taught))])
    return model, taught, {name: part for name, part in batch.items() if torch.is_tensor(part)}


def distance(model, batch, before, **weights) -> torch.Tensor:
    words = model.get_output_embeddings()
    encoded = model.get_encoder()(batch["input_features"]).last_hidden_state
    decoded = model.get_decoder()(batch["decoder_input_ids"], encoder_hidden_states=encoded).last_hidden_state
    return teacher.distance(encoded, decoded, words, before, batch["labels"], batch, teacher.Weights(**weights))


def test_a_teacher_says_what_the_model_itself_makes_of_30_s(lesson, tiny, processor):
    model, taught, _ = lesson
    assert sorted(taught.column("id")) == sorted(taught[i]["id"] for i in range(len(taught))) and len(taught) == 8
    row = taught[3]
    features = torch.from_numpy(Windowed(taught)[Example((3,), 3_000)]["features"])[None]
    with torch.inference_mode():
        inputs = torch.tensor([[processor.tokenizer.convert_tokens_to_ids("<|startoftranscript|>"), *row["labels"]]])
        out = model(input_features=features, decoder_input_ids=inputs[:, :-1], output_hidden_states=True)
    encoded, decoded = out.encoder_last_hidden_state[0], out.decoder_hidden_states[-1][0]
    assert np.allclose(row["states"], encoded[: len(row["states"])], atol=5e-3)
    assert np.allclose(row["written"], decoded[3:], atol=5e-3)
    _, labels, given = teacher.Teacher(model, inputs[0, :4].tolist())(features, [row["labels"]])
    assert labels == [row["labels"]] and torch.allclose(given[0], decoded[3:], atol=1e-3), "of labels that are given"
    wanted = out.logits[0, 3:-1].clone()
    wanted[:, model.generation_config.suppress_tokens] = -torch.inf
    wanted[0, model.generation_config.begin_suppress_tokens] = -torch.inf
    assert wanted.argmax(-1).tolist() == row["labels"][3:-1], "the text is the model's own"
    length = len(row["features"][0])
    assert len(row["states"]) == (next(n for n in (200, 300, 400, 500, 600) if n >= length) + teacher.BEYOND) // 2


def test_the_distance_is_0_at_30_s_the_same_in_pieces_and_falls(lesson, tiny):
    model, taught, batch = lesson
    before = torch.nn.Linear(32, 51865, bias=False).requires_grad_(False)
    before.weight.data.copy_(model.get_output_embeddings().weight)
    collate = teacher.Targeted(Collator(50258, 50257))
    at_30 = collate([Windowed(taught)[Example((i,), 3_000)] for i in range(3)])
    with torch.no_grad():
        whole = distance(model, batch, before)
        parts = sum(distance(model, part, before) for part in pieces(batch, 1_200))
        assert torch.isclose(whole, parts, rtol=1e-4) and whole > 100 * distance(model, at_30, before)
        assert distance(model, batch, before, states=0) > 0
        assert distance(model, batch, before, written=0) > 0
    student = checkpoint.load_model(str(tiny)).eval()
    optimizer = torch.optim.AdamW(student.parameters(), 1e-3)
    for _ in range(12):
        optimizer.zero_grad()
        distance(student, batch, before).backward()
        optimizer.step()
    assert distance(student, batch, before) < 0.8 * whole


def test_divergence_is_torchs_in_one_piece_and_in_many(monkeypatch):
    torch.manual_seed(0)
    words, before = torch.nn.Linear(6, 9, bias=False), torch.nn.Linear(6, 9, bias=False)
    states, targets = torch.randn(2, 5, 6, requires_grad=True), torch.randn(2, 5, 6).half()
    learnt = torch.tensor([[0, 1, 1, 1, 1], [0, 1, 1, 0, 0]]).bool()
    student = torch.distributions.Categorical(logits=words(states)[learnt])
    aim = torch.distributions.Categorical(logits=before(targets.float())[learnt])
    wanted = torch.distributions.kl_divergence(aim, student).sum()
    (gradient,) = torch.autograd.grad(wanted, states)
    for size in (1_024, 2):
        monkeypatch.setattr(teacher, "JUDGED", size)
        found = teacher.divergence(states, words, targets, before, learnt)
        assert torch.isclose(found, wanted) and torch.allclose(torch.autograd.grad(found, states)[0], gradient)
    assert teacher.divergence(targets.float(), before, targets, before, learnt).abs() < 1e-5


def test_what_an_adapted_model_leaves(adapted, features):
    run, taught = adapted
    learnt = [entry["loss"] for entry in losses(run.folder) if "loss" in entry]
    assert len(learnt) == 8 and len(taught) <= 16 and not (run.folder / "teacher").exists()
    config = json.loads((run.folder / "config.json").read_text())
    assert len(config["trained_windows"]) > 1 and run.metrics["run"]["share"] == 1
    test = store.FeatureSet(features).split("test")
    assert [row["sentence"] for row in run.predictions if row["split"] == "test"] == test.column("sentence")
    card = (run.folder / "README.md").read_text()
    assert "No sentence was used: untuned, at 30 s, it was its own teacher." in card
    assert "by the untuned model's text" in card and "training sentences" not in card and "model-index" in card
    assert run.next_command().startswith("Next, talk to it: python app.py --model ")


def test_sentences_are_not_learnt_from_and_a_stopped_run_goes_on_to_the_same_losses(
    adapted, features, tiny, tmp_path, monkeypatch
):
    split = store.FeatureSet.split

    def wrong(self, name: str):
        clips = split(self, name)
        return teacher.Rewritten(clips, ["fel ord"] * len(clips), [[50327, 50359, 50363, 3608, 50257]] * len(clips))

    monkeypatch.setattr(store.FeatureSet, "split", wrong)
    monkeypatch.setattr(windows, "SEEN", 4)  # of 8 clips
    run = make_run(features, tiny, tmp_path / "stopped", **ADAPTING)
    stop = run.trainer._stop

    def at_step_4(args, state, control, **_) -> None:
        stop.asked = control.should_training_stop = state.global_step == 4

    stop.on_step_end = at_step_4
    with pytest.raises(KeyboardInterrupt):
        run.complete()
    assert (run.folder / "teacher" / "clips.json").is_file()
    rest = make_run(features, tiny, tmp_path / "stopped", **ADAPTING)
    rest.complete()
    assert rest.resumed_at == 4 and losses(rest.folder) == losses(adapted[0].folder)
    weights = [(folder / "model.safetensors").read_bytes() for folder in (rest.folder, adapted[0].folder)]
    assert weights[0] == weights[1]


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """A folder with 24 clips of the sample as files, one recording of six with pauses, and one of silence."""
    folder = tmp_path_factory.mktemp("sound") / "mina"
    (folder / "inner").mkdir(parents=True)
    clips = corpus.read("sample", "sv-SE", ["train"], 30).splits["train"]
    for clip in clips[:24]:
        soundfile.write(folder / f"{clip.id[:40]}.wav", audio.read(clip.path), 16_000)
    parts = [part for clip in clips[24:] for part in (audio.read(clip.path), np.zeros(8_000, np.float32))]
    soundfile.write(folder / "inner" / "long.flac", np.concatenate(parts), 16_000)
    soundfile.write(folder / "silence.wav", np.zeros(16_000), 16_000)
    return folder


def test_a_folder_of_sound_is_cut_at_pauses(recordings):
    long = recordings / "inner" / "long.flac"
    cuts = list(sound.cut(long, 3))
    assert len(cuts) > 1 and cuts == list(sound.cut(long, 3)) != list(sound.cut(long, 4))
    assert all(a < b <= c for (a, b), (c, _) in zip(cuts, cuts[1:]))
    samples = audio.read(long)
    inside_ = sum(float(np.square(samples[int(a * 16_000) : int(b * 16_000)]).sum()) for a, b in cuts)
    assert inside_ > 0.99 * float(np.square(samples).sum()), "no speech is lost"
    read = sound.read(recordings, "sv-SE")
    assert read.name == "mina" and set(read.splits) == {"train", "dev", "test"}
    assert read.left_out == {"": [("silence.wav", "no speech", "")]}
    files = {split: {clip.path for clip in clips} for split, clips in read.splits.items()}
    assert not files["train"] & (files["dev"] | files["test"]), "of so many files, none is in two splits"
    with pytest.raises(LabError, match="is not a folder or file that is here"):
        sound.read(recordings / "nowhere", "sv-SE")
    for folder, said in ((recordings / "none", "holds no sound"), (recordings / "silence.wav", "holds no speech")):
        folder.mkdir() if said == "holds no sound" else None
        with pytest.raises(LabError, match=said):
            sound.read(folder, "sv-SE")


def test_sound_without_sentences_is_enough(recordings, tiny, tmp_path):
    done = inside("feature-pipeline.py", "--corpus", recordings, "--unlabelled", "--store", "set", cwd=tmp_path)
    assert "Next: python training-pipeline.py --adapt-windows --features set" in done.stdout
    start = ["--features", "set", "--model", tiny, "--output", "model"]
    refused = inside("training-pipeline.py", *start, cwd=tmp_path, check=False)
    assert (
        refused.returncode == 2 and "set holds no sentences" in refused.stderr and "--adapt-windows" in refused.stderr
    )
    short = "--adapt-windows", "--max-steps", "3", "--batch-size", "8", "--precision", "float32"
    done = inside("training-pipeline.py", *start, *short, cwd=tmp_path)
    assert "There are no sentences: the rates are what differs from the untuned model's own text" in done.stdout
    metrics = json.loads((tmp_path / "model" / "metrics.json").read_text())
    assert metrics["untuned"]["test"]["wer"]["value"] == 0 and metrics["unlabelled"]
    card = (tmp_path / "model" / "README.md").read_text()
    assert "The corpus has no sentences: these rates are no errors" in card and "model-index" not in card
    assert "No sentences are shown" in card
    assert (tmp_path / "model" / "report.html").is_file()


@pytest.mark.parametrize(
    "options, said",
    [
        ({"window": "full"}, "leave out --window full"),
        ({"masks": True}, "leave out --masks"),
        ({"bpe_dropout": 0.1}, "leave out --bpe-dropout"),
        ({"stream": True}, "leave out --stream"),
    ],
)
def test_what_goes_with_no_adapting_is_refused(options, said):
    with pytest.raises(LabError, match=said):
        recipes.check_adapting(runs.Options(adapt_windows=True, **options), False)
    recipes.check_adapting(runs.Options(**options), False)


def test_too_little_sound_is_refused_before_anything_is_done(features, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("whisper_lab.whisper.windows.SEEN", 17)
    with pytest.raises(LabError, match="too little to learn from: among 8 clips, no 17 fill a window"):
        make_run(features, tiny, tmp_path / "few", **ADAPTING)
    assert not (tmp_path / "few").exists()


def test_defaults_of_a_recipe_for_windows(tiny):
    model = SimpleNamespace(config=SimpleNamespace(d_model=512), num_parameters=lambda: 1)
    recipe = recipes.resolve(runs.Options(adapt_windows=True, precision="float32"), model, 100_000, 1)
    assert recipe.max_steps == recipes.ADAPTED and recipe.blend == 1.0 and recipe.window == "mixed"
    chosen = runs.Options(adapt_windows=True, precision="float32", max_steps=900, blend=0.6)
    recipe = recipes.resolve(chosen, model, 100_000, 1)
    assert recipe.max_steps == 900 and recipe.blend == 0.6
    assert "--adapt-windows" in chosen.command_line()
