import pytest
from conftest import inside
from finished import COMMON_VOICE, plan
from test_blending import make_run

from whisper_lab import LabError, files
from whisper_lab.corpora.corpus import SAMPLE
from whisper_lab.sharing import licences
from whisper_lab.stores import store
from whisper_lab.tuning import canaries, recipes, replay


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Features of other speech, in English as far as anybody is told: 12 clips of the sample that `features` lacks."""
    folder = tmp_path_factory.mktemp("other") / "telephone"
    folder.mkdir()
    rows = files.read_tsv(SAMPLE / "sv-SE" / "train.tsv")[100:114]
    for split, some in (("train", rows[:12]), ("dev", rows[12:13]), ("test", rows[13:])):
        lines = [(SAMPLE / "sv-SE" / "clips" / row["path"], row["sentence"]) for row in some]
        files.write_tsv(folder / f"{split}.tsv", ["audio", "text"], lines)
    store = folder.parent / "features"
    inside("feature-pipeline.py", "--corpus", folder, "--language", "en", "--store", store, cwd=folder.parent)
    return store


def test_other_speech_is_learnt_along_in_its_own_language_and_that_is_told(
    features, tiny, other, processor, tmp_path, capsys
):
    run = make_run(features, tiny, tmp_path / "x", replay=str(other), max_steps=None, epochs=1)
    train, own = run.splits["train"], store.FeatureSet(features).split("train")
    assert len(train) == 8 + 4 and run.recipe.max_steps == 2, "at most half as many as are tuned on: every third"
    assert [train[i]["id"] for i in range(12)] == train.column("id") and train[-1]["id"] == train.column("id")[-1]
    assert train.column("id")[:8] == own.column("id")
    english, swedish = processor.tokenizer.convert_tokens_to_ids(["<|en|>", "<|sv|>"])
    assert [row["labels"][0] for row in (train[0], train[8])] == [swedish, english]
    drawn = {clip for batch in run.trainer.get_train_dataloader().batch_sampler for one in batch for clip in one.clips}
    assert drawn & set(range(8)) and drawn & set(range(8, 12))
    run.complete()
    assert "Replayed: 4 clips of telephone en, one in 3 of 12.\n" in capsys.readouterr().out
    told = (run.folder / "README.md").read_text(encoding="utf-8")
    assert ", with 4 clips of telephone (en) among it" in told
    assert run.plan["replay"]["clips"] == 4
    with pytest.raises(LabError, match="replay"):
        make_run(features, tiny, run.folder, max_steps=None, epochs=1)


@pytest.mark.parametrize("flag", ["stream", "perturb", "adapt_windows"])
def test_what_it_does_not_go_with_is_said(features, tiny, other, tmp_path, flag):
    value = ("speed",) if flag == "perturb" else True
    with pytest.raises(LabError, match=f"leave out --{flag.replace('_', '-')}"):
        make_run(features, tiny, tmp_path / "x", replay=str(other), **{flag: value})


def test_what_is_tuned_on_or_judges_is_not_replayed(features, tiny, other, processor, tmp_path):
    with pytest.raises(LabError, match="is what is tuned on"):
        make_run(features, tiny, tmp_path / "x", replay=str(features))
    judge = canaries.Canary(store.FeatureSet(other).split("train"), "en", [], "", "")
    with pytest.raises(LabError, match="4 of its clips are in telephone too"):
        options = recipes.Options(replay=str(other), model=str(tiny))
        replay.find(options, store.FeatureSet(features), {"telephone": judge}, processor)


def test_a_model_is_as_private_as_what_was_replayed():
    mine = {"name": "mötena", "version": "", "language": "sv-SE", "fingerprint": "a" * 64, "clips": 6}
    assert licences.why_private(plan(COMMON_VOICE)) is None
    assert "mötena" in licences.why_private(plan(COMMON_VOICE) | {"replay": mine})
