"""A finished run is pushed by the Hub's own client to a Hub on this machine: whole, or not at all."""

import json
import struct
import time

import finished
import numpy as np
import pytest
import yaml
from hub_server import Hub

from whisper_lab import LabError, files
from whisper_lab.sharing import licences, model_card, pushing
from whisper_lab.stores import transfers
from whisper_lab.whisper import ggml

MODEL = finished.LEAVES


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return finished.husk(tmp_path_factory.mktemp("runs") / "small", finished.plan())


@pytest.fixture
def hub(monkeypatch):
    """An empty Hub, on which someone may make someone/whisper-sv, and the client's word for it."""
    from huggingface_hub import constants

    hub = Hub("someone/whisper-sv", there=False)
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # its servers are not here: plain LFS instead
    monkeypatch.setenv("HF_TOKEN", "hf_token")
    monkeypatch.setattr(transfers, "PAUSES", (0.0, 0.0))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # the client waits up to 8 s between its own tries
    yield hub
    hub.server.shutdown()


def head(hub) -> dict:
    return yaml.safe_load(hub.files["README.md"].decode().split("---\n")[1])


def test_a_push_is_one_commit_of_what_others_need(hub, trained, capsys):
    assert pushing.push(trained, "whisper-sv") == f"{hub.address}/someone/whisper-sv"
    assert len(hub.commits) == 1 and set(hub.files) == MODEL and not hub.private
    for name in MODEL - {"README.md"}:
        assert hub.files[name] == (trained / name).read_bytes(), name
    card = hub.files["README.md"].decode()
    assert "# whisper-sv\n" in card and '"someone/whisper-sv")' in card and str(trained) not in card
    assert card.split("## Limits")[1] == (trained / "README.md").read_text(encoding="utf-8").split("## Limits")[1]
    said = capsys.readouterr().err
    assert "13 files" in said and "public" in said and said.count("\n") == 1


def test_pushed_again_there_is_nothing_to_do_and_a_new_model_takes_the_old_ones_place(hub, tiny, tmp_path):
    run = finished.run(tiny, tmp_path / "run", finished.plan())
    pushing.push(run, "whisper-sv", formats=("ctranslate2", "ggml"))
    assert set(hub.files) == MODEL | {"model.bin", "vocabulary.json", "ggml-model-f16.bin"}
    assert {"suppress_ids", "d_model", "trained_windows"} < set(json.loads(hub.files["config.json"]))
    sent = hub.sent
    pushing.push(run, "whisper-sv", formats=("ctranslate2", "ggml"))
    assert len(hub.commits) == 1 and hub.sent == sent
    hub.files["notes.txt"] = b"mine"
    (run / "model.safetensors").write_bytes(b"other weights" * 999)
    pushing.push(run, "someone/whisper-sv")
    assert len(hub.commits) == 2 and set(hub.files) == MODEL | {"notes.txt"}, "no format of the model before is left"
    assert hub.sent - sent < 40_000, "what did not change is not sent again"


@pytest.mark.parametrize("fault", [0, 500, 403])
@pytest.mark.parametrize("method, where", [("PUT", "/large/"), ("POST", "/commit/"), ("POST", "objects/batch")])
def test_a_push_that_fails_half_way_leaves_no_model_and_goes_on(hub, trained, method, where, fault):
    hub.faults = [[method, where, fault, 9999]]
    with pytest.raises(LabError) as error:
        pushing.push(trained, "whisper-sv")
    assert "\n" not in str(error.value) and "someone/whisper-sv" in str(error.value)
    assert ("run the same command again" in str(error.value)) == (fault != 403)
    assert hub.there and not hub.files and not hub.commits
    hub.faults = []
    pushing.push(trained, "whisper-sv")
    assert set(hub.files) == MODEL and len(hub.commits) == 1


def test_what_a_push_that_failed_had_sent_is_not_sent_again(hub, trained):
    weights, tokenizer = trained / "model.safetensors", trained / "tokenizer.json"
    hub.faults = [["PUT", files.file_digest(tokenizer), 403, 9999]]
    with pytest.raises(LabError, match="may not write"):
        pushing.push(trained, "whisper-sv")
    while files.file_digest(weights) not in hub.large:  # the client's other threads go on
        pass
    assert files.file_digest(tokenizer) not in hub.large
    hub.faults = []
    pushing.push(trained, "whisper-sv")
    assert set(hub.files) == MODEL and hub.puts.count(files.file_digest(weights)) == 1


@pytest.mark.parametrize("fault", [0, 429, 500, 503])
def test_what_passes_is_not_even_noticed(hub, trained, fault):
    hub.faults = [
        [method, where, fault, 1]
        for method, where in (("GET", "whoami"), ("POST", "create"), ("PUT", "/large/"), ("POST", "/commit/"))
    ]
    pushing.push(trained, "whisper-sv")
    assert set(hub.files) == MODEL and len(hub.commits) == 1 and not any(left for *_, left in hub.faults)


def test_a_commit_whose_answer_was_lost_is_not_made_twice(hub, trained, monkeypatch):
    from huggingface_hub import HfApi

    commit, calls = HfApi.create_commit, []

    def lost(*args, **options):
        calls.append(commit(*args, **options))
        if len(calls) == 1:
            raise ConnectionResetError("cut")
        return calls[-1]

    monkeypatch.setattr(HfApi, "create_commit", lost)
    pushing.push(trained, "whisper-sv")
    assert len(calls) == 2 and len(hub.commits) == 1


@pytest.mark.parametrize(
    "status, says, message",
    [
        (401, "Invalid username or password.", "does not take the token.*https://huggingface.co/settings/tokens"),
        (403, "You don't have write rights", "may not write to someone/whisper-sv.*settings/tokens"),
        (403, "Private repository storage limit reached", "no room .*huggingface.co/settings/billing"),
        (429, "We had to rate limit you", "too many requests for now, wait five minutes.*run the same command again"),
        (500, "injected", "500.*run the same command again"),
    ],
)
def test_every_refusal_is_one_line_with_a_way_out(hub, trained, status, says, message):
    hub.faults, hub.says = [["POST", "preupload", status, 99]], says
    with pytest.raises(LabError, match=message) as error:
        pushing.push(trained, "whisper-sv")
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


@pytest.mark.parametrize(
    "name, user, message",
    [
        ("whisper-sv", {"auth": {"accessToken": {"role": "read"}}}, "the token may only read.*settings/tokens"),
        (
            "whisper-sv",
            {"auth": {"accessToken": {"role": "fineGrained", "fineGrained": {"scoped": [{"permissions": []}]}}}},
            "the token may only read",
        ),
        ("kb/whisper-sv", {}, "kb is not yours to write to.*that of someone: write someone/whisper-sv"),
        ("lab/whisper-sv", {"orgs": [{"name": "lab", "roleInOrg": "read"}]}, "lab is not yours"),
        ("whisper sv", {}, "write USER/NAME"),
        ("a/b/c", {}, "write USER/NAME"),
    ],
)
def test_what_no_push_could_do_is_known_before_the_training(hub, name, user, message):
    hub.user |= user
    with pytest.raises(LabError, match=message) as error:
        pushing.check(name)
    assert "\n" not in str(error.value) and not hub.there


def test_who_may_push_where(hub, monkeypatch, tmp_path):
    from huggingface_hub import constants

    hub.user["orgs"] = [{"name": "lab", "roleInOrg": "write"}]
    assert pushing.check("whisper-sv") == pushing.check("someone/whisper-sv") == "someone/whisper-sv"
    assert pushing.check("lab/x") == "lab/x"
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(LabError, match="does not take the token .*Invalid user token"):
        pushing.check("whisper-sv")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(LabError, match="takes a token that may write.*settings/tokens.*hf auth login"):
        pushing.check("whisper-sv")
    monkeypatch.setenv("HF_TOKEN", "hf_token")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(LabError, match="127.0.0.1:9.*run the same command again"):
        pushing.check("whisper-sv")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(LabError, match="HF_HUB_OFFLINE"):
        pushing.check("whisper-sv")


def test_with_xet_a_refusal_is_one_line_too(hub, trained, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    hub.faults = [["GET", "xet-write-token", 403, 99]]
    with pytest.raises(LabError) as error:
        pushing.push(trained, "whisper-sv")
    assert "someone/whisper-sv" in str(error.value) and "\n" not in str(error.value) and not hub.commits


def test_an_unfinished_run_is_not_pushed(hub, trained, tmp_path):
    with pytest.raises(LabError, match="no finished run.*finish it with the command that began it"):
        pushing.push(tmp_path, "whisper-sv")
    assert not hub.there


def test_another_program_s_repository_is_left_alone(hub, trained):
    hub.there, hub.private, hub.files = True, False, {"README.md": b"# mine\n", "model.safetensors": b"theirs"}
    with pytest.raises(LabError, match="was not pushed by this program; choose another name"):
        pushing.push(trained, "whisper-sv")
    assert hub.files["model.safetensors"] == b"theirs"
    del hub.files["model.safetensors"]
    pushing.push(trained, "whisper-sv")
    assert set(hub.files) == MODEL


# Who may see it


@pytest.mark.parametrize(
    "corpus, public",
    [
        (finished.SAMPLE, True),
        (finished.COMMON_VOICE, True),
        (finished.COMMON_VOICE | {"version": "23.0-delta-2025-09-05"}, True),
        (finished.COMMON_VOICE | {"version": "2024-meetings"}, False),  # a folder of one's own in the same layout
        (finished.SAMPLE | {"version": ""}, False),
        (finished.OWN, False),
        (finished.OWN | {"licence": "CC-BY-4.0"}, True),
        (finished.OWN | {"licence": "CC-BY-NC-4.0"}, False),
    ],
)
def test_what_may_be_public(corpus, public):
    assert licences.may_be_public(corpus) == public
    reason = licences.why_private(finished.plan(corpus))
    assert (reason is None) == public and (public or "licence" in reason)


def test_a_model_tuned_on_from_a_private_one_is_as_private(tmp_path):
    first = finished.describe(tmp_path / "first", finished.plan(finished.OWN))
    second = finished.describe(tmp_path / "second", finished.plan(finished.COMMON_VOICE, str(first)))
    assert "möten" in licences.why_private(finished.plan(finished.COMMON_VOICE, str(second)))
    card, planned = (second / "README.md").read_text(encoding="utf-8"), files.read_json(second / "plan.json")["plan"]
    (second / "plan.json").unlink()  # a copy from elsewhere, with the card alone
    (second / "README.md").write_text(model_card.pushed(card, "second", planned), encoding="utf-8")
    assert "second" in licences.why_private(finished.plan(finished.COMMON_VOICE, str(second)))
    (tmp_path / "theirs").mkdir()
    assert "theirs" in licences.why_private(finished.plan(finished.COMMON_VOICE, str(tmp_path / "theirs")))
    (tmp_path / "theirs" / "README.md").write_text("---\nlicense: mit\n---\n", encoding="utf-8")
    assert licences.why_private(finished.plan(finished.COMMON_VOICE, str(tmp_path / "theirs"))) is None
    (tmp_path / "theirs" / "README.md").write_text("---\nlicense:\n- mit\n---\n", encoding="utf-8")
    assert licences.why_private(finished.plan(finished.COMMON_VOICE, str(tmp_path / "theirs"))) is None


def test_private_unless_it_may_be_shown_and_never_public_by_accident(hub, tmp_path, capsys):
    own = finished.husk(tmp_path / "own", finished.plan(finished.OWN))
    pushing.push(own, "whisper-sv")
    assert hub.private and "private, as the licence of möten is not known (--public" in capsys.readouterr().err
    assert "Åsa" not in hub.files["README.md"].decode(), "nor are its sentences in the card"
    hub.private, commits = False, len(hub.commits)
    with pytest.raises(LabError, match="is public, and the licence of möten.*make it private at .*/settings"):
        pushing.push(own, "whisper-sv")
    assert len(hub.commits) == commits
    pushing.push(own, "whisper-sv", private=False)
    hub.private = True
    pushing.push(own, "whisper-sv", private=False)
    assert "is private, and stays so" in capsys.readouterr().err


def test_said_to_be_private_it_is(hub, trained):
    pushing.push(trained, "whisper-sv", private=True)
    assert hub.private


def test_a_start_that_the_hub_does_not_show_to_all_keeps_the_model_private(hub, tmp_path, capsys):
    run = finished.husk(tmp_path / "run", finished.plan(model="kb/closed"))
    pushing.push(run, "whisper-sv")
    assert hub.private and "kb/closed, which it started from, is not on the Hub" in capsys.readouterr().err


# The card


def card_of(folder) -> tuple:
    from huggingface_hub import ModelCard

    card = ModelCard.load(folder / "README.md")
    return card.data, card.text


def test_the_hub_reads_the_scores_of_the_card(tmp_path):
    data, text = card_of(finished.describe(tmp_path / "small", finished.plan(finished.COMMON_VOICE)))
    assert (data.language, data.license, data.base_model) == ("sv", "mit", "openai/whisper-base")
    assert data.pipeline_tag == "automatic-speech-recognition" and model_card.TAG in data.tags
    found = {one.metric_name: one for one in data.eval_results}
    assert {name: (one.metric_type, one.metric_value) for name, one in found.items()} == {
        "WER, raw": ("wer", 11), "WER, normalised": ("wer", 11.25), "CER, raw": ("cer", 11.5),
        "CER, normalised": ("cer", 11.75), "WER, raw, at 30 s": ("wer", 14), "WER, normalised, at 30 s": ("wer", 14.25),
        "CER, raw, at 30 s": ("cer", 14.5), "CER, normalised, at 30 s": ("cer", 14.75),
    }  # fmt: skip
    one = found["WER, normalised"]
    assert (one.dataset_type, one.dataset_name) == ("common_voice", "Common Voice 17.0-2024-03-15")
    assert (one.dataset_config, one.dataset_split, one.dataset_revision) == ("sv-SE", "test", "17.0-2024-03-15")
    assert one.dataset_args == {"language": "sv-SE", "clips": 50, "fingerprint": "e" * 64}
    assert one.metric_args == {"window": "as trained", "low": 10, "high": 12.25}
    assert "CC0 1.0" in text and "read aloud" in text and "synthetic" not in text.lower()
    assert "energy | not measured" in text and "co2_eq_emissions" not in data.to_dict()


def test_of_a_dataset_of_the_hub_the_card_says_which(tmp_path):
    corpus = finished.OWN | {"name": "google/fleurs:sv_se", "version": "a1" * 6, "licence": "cc-by-4.0"}
    data, text = card_of(finished.describe(tmp_path / "small", finished.plan(corpus, "KBLab/kb-whisper-small")))
    one = data.eval_results[0]
    assert (one.dataset_type, one.dataset_config, one.dataset_revision) == ("google/fleurs", "sv_se", "a1" * 6)
    assert data.datasets == ["google/fleurs"] and data.base_model == "KBLab/kb-whisper-small"
    assert data.license == "apache-2.0" and "CC BY 4.0" in text


def test_the_card_tells_what_was_on_and_what_was_measured_and_no_more(tmp_path):
    _, plain = card_of(finished.describe(tmp_path / "plain", finished.plan(masks=False, lora=0, perturb=[])))
    assert "besides" not in plain and "synthetic" in plain
    more = {"lora": 8, "lora_targets": ["q_proj", "v_proj"], "masks": True, "window": "packed", "patience": None}
    measured = finished.RUN | {"energy_kwh": 0.0123}
    told = finished.describe(tmp_path / "told", finished.plan(finished.OWN, **more), run=measured)
    _, text = card_of(told)
    assert "LoRA of rank 8, merged; LoRA on q_proj, v_proj" in text and "SpecAugment" in text
    assert "stop after" not in text and "0.0123 kWh" in text and "without_timestamps" not in text
    assert "licence: not known" in text and "Åsa" not in text


def test_the_card_for_the_hub_shows_only_the_formats_that_are_there(tmp_path):
    folder = finished.describe(tmp_path / "small", finished.plan())
    text = (folder / "README.md").read_text(encoding="utf-8")
    bare = model_card.pushed(text, "me/sv", finished.plan(), ())
    both = model_card.pushed(text, "me/sv", finished.plan(), ("ctranslate2", "ggml"))
    assert "ct2-transformers-converter --model me/sv" in bare and "whisper-cli" not in bare
    assert 'WhisperModel("me/sv")' in both and "converter" not in both and "whisper-cli" in both
    assert bare.count("\n## ") == both.count("\n## ") == text.count("\n## ")


# ggml


def test_a_ggml_file_holds_every_weight_filter_and_token(tiny, tmp_path, processor):
    from safetensors.numpy import load_file

    ggml.write(tiny, tmp_path / "ggml.bin")
    data, place = (tmp_path / "ggml.bin").read_bytes(), 0

    def take(kind: str) -> tuple:
        nonlocal place
        values = struct.unpack_from(f"<{kind}", data, place)
        place += struct.calcsize(f"<{kind}")
        return values

    assert take("12i") == (0x67676D6C, 51865, 1500, 32, 1, 2, 448, 32, 1, 2, 80, 1)
    mels, bins = take("2i")
    filters = np.array(take(f"{mels * bins}f"), np.float32).reshape(mels, bins)
    assert np.allclose(filters, processor.feature_extractor.mel_filters.T, atol=1e-7)
    words = [take(f"{take('i')[0]}s")[0] for _ in range(take("i")[0])]
    ids = processor.tokenizer(" Åsa åt sju räkor", add_special_tokens=False).input_ids
    assert b"".join(words[i] for i in ids).decode() == " Åsa åt sju räkor" and len(words) == 50257
    found = {}
    while place < len(data):
        dimensions, length, half = take("3i")
        sizes = take(f"{dimensions}i")[::-1]
        name = take(f"{length}s")[0].decode()
        found[name] = np.frombuffer(data, "<f2" if half else "<f4", np.prod(sizes), place).reshape(sizes)
        place += found[name].nbytes
        assert half == (dimensions == 2 and "bias" not in name and "positional" not in name or dimensions == 3), name
    weights = {ggml.name_of(key): value for key, value in load_file(tiny / "model.safetensors").items()}
    weights.pop("proj_out.weight", None)
    assert set(found) == set(weights) and "decoder.blocks.1.cross_attn.key.weight" in found
    assert {"encoder.conv1.weight", "encoder.ln_post.bias", "decoder.token_embedding.weight"} < set(found)
    for name, value in weights.items():
        assert np.allclose(found[name].squeeze(), value.squeeze(), rtol=1e-3, atol=1e-6), name


def test_without_weights_there_is_no_ggml_file(tiny, tmp_path):
    files.write_json(tmp_path / "config.json", files.read_json(tiny / "config.json"))
    with pytest.raises(LabError, match="needs .*safetensors"):
        ggml.write(tmp_path, tmp_path / "ggml.bin")
    assert not (tmp_path / "ggml.bin").exists()
