"""What is pushed of a run opens as it is in transformers 4.57 and 5, faster-whisper, whisper.cpp and app.py, and reads
the same there."""

import json
import os
import subprocess
import sys

import finished
import numpy as np
import old_transformers
import pytest
from hub_server import Hub

from whisper_lab.corpora import corpus
from whisper_lab.scores import scoring
from whisper_lab.serving.transcription import Transcriber
from whisper_lab.sharing import pushing
from whisper_lab.speech import audio
from whisper_lab.whisper import checkpoint, ggml

NAME = "someone/whisper-sv"
CLIPS = corpus.SAMPLE / "sv-SE" / "clips"
CLEAR = ("1000299", "1000319")  # the untuned model is sure of what it hears here, and nearly right

# The card's own lines, with language and task from the generation config; in any version of transformers.
PIPELINE = """
import json, sys
import soundfile, transformers
speech = transformers.pipeline("automatic-speech-recognition", sys.argv[1])
texts = []
for name in sys.argv[2:]:
    samples, rate = soundfile.read(name, dtype="float32")
    texts.append(speech({"raw": samples, "sampling_rate": rate})["text"].strip())
print(json.dumps({"version": transformers.__version__, "texts": texts}))
"""


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list[str]:
    """Two clips of the sample as 16 kHz WAV."""
    import soundfile

    folder = tmp_path_factory.mktemp("clips")
    for name in CLEAR:
        samples = audio.read(str(CLIPS / f"common_voice_sv-SE_{name}.mp3"), None)
        soundfile.write(folder / f"{name}.wav", samples, audio.SAMPLE_RATE, subtype="FLOAT")
    return [str(folder / f"{name}.wav") for name in CLEAR]


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    return finished.run(tiny, tmp_path_factory.mktemp("runs") / "small", finished.plan(window="full"))


@pytest.fixture(scope="module")
def hub(run, tmp_path_factory):
    """A Hub on this machine with the run as someone/whisper-sv, which the client in this process asks."""
    from huggingface_hub import constants

    hub, cache = Hub(NAME, there=False), tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", hub.address)
        patch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        patch.setenv("HF_TOKEN", "hf_token")
        pushing.push(run, "whisper-sv", formats=("ctranslate2",))
        yield hub
    hub.server.shutdown()


def elsewhere(model: str, clips: list[str], **settings) -> dict:
    """What the pipeline of another process reads."""
    done = subprocess.run(
        [sys.executable, "-c", PIPELINE, model, *clips],
        env=os.environ | {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_token"} | settings,
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def with_pipeline(model: str, clips: list[str]) -> list[str]:
    import soundfile
    import transformers

    speech = transformers.pipeline("automatic-speech-recognition", model)
    return [speech({"raw": soundfile.read(clip, dtype="float32")[0], "sampling_rate": 16000})["text"].strip()
            for clip in clips]  # fmt: skip


def with_faster_whisper(model: str, clips: list[str]) -> list[str]:
    """On 30 s of sound: what is shorter it fills with zeros for log-mels, where Whisper learnt silence to be -1.5."""
    from faster_whisper import WhisperModel

    reader, texts = WhisperModel(model, device="cpu", compute_type="int8", cpu_threads=1), []
    for clip in clips:
        samples = audio.read(clip, None)
        samples = np.pad(samples, (0, 30 * audio.SAMPLE_RATE - samples.size))
        options = {"language": "sv", "without_timestamps": True, "beam_size": 1, "temperature": 0}
        texts.append("".join(one.text for one in reader.transcribe(samples, **options)[0]).strip())
    return texts


def with_app(model: str, clips: list[str], engine: str) -> list[str]:
    reader = Transcriber(model, engine, "cpu", threads=1)
    return [reader.text(audio.read(clip, None)) for clip in clips]


def test_pushed_it_reads_the_same_in_transformers_4_and_5(hub, run, clips, tmp_path):
    texts = with_pipeline(str(run), clips)
    assert all(texts) and with_pipeline(NAME, clips) == texts
    if not old_transformers.FOLDER.is_dir():
        pytest.skip("transformers 4.57 is not in the cache: python tests/old_transformers.py")
    settings = {"PYTHONPATH": str(old_transformers.FOLDER), "HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path)}
    read = elsewhere(NAME, clips, **settings)
    assert read["version"].startswith("4.57.") and read["texts"] == texts


def test_pushed_it_opens_by_its_name_in_faster_whisper(hub, run, clips):
    from whisper_lab.whisper import backends

    texts = with_faster_whisper(NAME, clips)
    assert any(texts) and texts == with_faster_whisper(str(backends.convert(run, "int8")), clips)


@pytest.mark.parametrize("engine", ["transformers", "ctranslate2"])
def test_pushed_it_reads_the_same_in_the_app(hub, run, clips, engine):
    texts = with_app(NAME, clips, engine)
    assert any(texts) and texts == with_app(str(run), clips, engine)


def words_apart(one: list[str], other: list[str]) -> float:
    """Words that differ, in per cent."""
    return scoring.scores(one, other)["wer_normalised"].value


@pytest.fixture(scope="module")
def heard(clips) -> list[str]:
    """What the embedded Whisper base makes of the clips in transformers, told language and task alone."""
    model, processor = checkpoint.load_model("sample").eval(), checkpoint.load_processor("sample")
    samples = [audio.read(clip, None) for clip in clips]
    features = processor(samples, sampling_rate=16000, return_tensors="pt").input_features
    ids = model.generate(features, language="sv", task="transcribe", num_beams=1)
    return [text.strip() for text in processor.batch_decode(ids, skip_special_tokens=True)]


def test_with_real_weights_faster_whisper_and_the_app_read_the_same_words(heard, clips, tmp_path):
    for name, content in pushing.contents(checkpoint.folder("sample")[0], ("ctranslate2",), tmp_path).items():
        if isinstance(content, bytes):
            (tmp_path / name).write_bytes(content)
        else:
            (tmp_path / name).symlink_to(content)
    assert len(" ".join(heard).split()) > 12
    assert words_apart(heard, with_faster_whisper(str(tmp_path), clips)) <= 20
    assert words_apart(heard, with_app("sample", clips, "ctranslate2")) <= 20


def test_with_real_weights_whisper_cpp_reads_the_same_words(heard, clips, tmp_path):
    pywhispercpp = pytest.importorskip("pywhispercpp.model", reason="pip install pywhispercpp==1.5.1 has whisper.cpp")
    ggml.write(checkpoint.folder("sample")[0], tmp_path / "base.bin")
    greedy = {"greedy": {"best_of": 1}, "temperature_inc": 0.0, "no_timestamps": True, "single_segment": True}
    quiet = {"print_progress": False, "print_realtime": False, "redirect_whispercpp_logs_to": None}
    reader = pywhispercpp.Model(str(tmp_path / "base.bin"), n_threads=1, language="sv", **greedy, **quiet)
    text = "".join(one.text for one in reader.transcribe(audio.read(clips[0], None)))
    assert words_apart(heard[:1], [text]) <= 20
