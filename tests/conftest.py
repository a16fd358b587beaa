import contextlib
import gc
import os
import signal
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
os.environ["HF_HUB_OFFLINE"] = "1"  # no test touches the internet
if "PYTEST_XDIST_WORKER" in os.environ:  # one of as many processes as there are cores, so that threads would only wait
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from whisper_lab import command  # noqa: E402

command.quiet_libraries()
if "PYTEST_XDIST_WORKER" in os.environ:  # nearly every file imports these: 0.3 s of each garbage collection
    from transformers import Seq2SeqTrainer, WhisperForConditionalGeneration, WhisperProcessor  # noqa: F401

    gc.freeze()
with contextlib.suppress(ValueError):  # Ctrl-C works as in a terminal, even where a shell has started pytest with `&`
    signal.signal(signal.SIGINT, signal.default_int_handler)


LONGEST = (
    "pages transcription study training machines film_page any_whisper store cluster pushing commands gpu_benchmark "
    "adapters round_trip terminal evaluation blending space adapting streaming optimizers precision whole_models cuda "
    "damaged_sound live replay checkpoint windows graphs voice"
).split()


def pytest_collection_modifyitems(items):
    """The longest files first, or one process would be left with the last of them while the others have nothing."""
    place = {f"test_{name}.py": i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


@pytest.fixture(scope="session")
def processor():
    from whisper_lab.whisper import checkpoint

    return checkpoint.load_processor("sample")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory, processor) -> Path:
    """The folder of a Whisper with random weights, 2 layers of width 32, and the real vocabulary: seconds to train."""
    import torch
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    from whisper_lab.whisper import checkpoint

    torch.manual_seed(0)
    token = processor.tokenizer.convert_tokens_to_ids
    end = token("<|endoftext|>")
    sizes = {
        f"{side}_{part}": count
        for side in ("encoder", "decoder")
        for part, count in (("layers", 2), ("attention_heads", 1), ("ffn_dim", 64))
    }
    special = {
        "decoder_start_token_id": token("<|startoftranscript|>"),
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
    }
    model = WhisperForConditionalGeneration(WhisperConfig(vocab_size=51865, d_model=32, **sizes, **special))
    towards_the_end = torch.randn(32)  # random weights never end a sentence; these mostly do, so decoding is quick
    model.model.decoder.layer_norm.bias.data = 0.3 * towards_the_end
    model.model.decoder.embed_tokens.weight.data[end] = 0.2 * towards_the_end
    model.generation_config = checkpoint.load_model("sample").generation_config
    model.generation_config.alignment_heads = [[1, 0]]
    folder = tmp_path_factory.mktemp("models") / "tiny"
    checkpoint.save(model, processor, folder)
    return folder


@pytest.fixture(scope="session")
def features(tmp_path_factory) -> Path:
    """A feature set of the sample's first clips, to be read only: 8 of each split."""
    folder = tmp_path_factory.mktemp("features") / "small"
    inside("feature-pipeline.py", "--store", folder, "--limit", "8", cwd=folder.parent)
    return folder


@pytest.fixture(scope="session")
def espeak(tmp_path_factory):
    """`espeak(voice, text)`: a WAV file of espeak-ng's reading; whoever wants it without espeak-ng is skipped."""
    import shutil
    import subprocess

    if not shutil.which("espeak-ng"):
        pytest.skip("espeak-ng is not installed (apt install espeak-ng)")

    def say(voice: str, text: str) -> Path:
        path = tmp_path_factory.mktemp("espeak") / f"{voice}.wav"
        subprocess.run(["espeak-ng", "-v", voice, "-w", path, text], check=True)
        return path

    return say


# espeak-ng reads kana alone.
JAPANESE = "きょうは とても いい てんき です。わたしは ともだちと いっしょに こうえんへ いきます。"


@pytest.fixture
def release(tmp_path) -> Path:
    """A Common Voice release in small: a copy of the sample's first 12, 4 and 4 clips, to be spoilt at will."""
    import csv
    import shutil

    from whisper_lab.corpora.corpus import SAMPLE

    language = tmp_path / "cv-corpus-99.0-2026-01-01" / "sv-SE"
    (language / "clips").mkdir(parents=True)
    for split, count in (("train", 12), ("dev", 4), ("test", 4)):
        lines = (SAMPLE / "sv-SE" / f"{split}.tsv").read_text(encoding="utf-8").splitlines(keepends=True)[: count + 1]
        (language / f"{split}.tsv").write_text("".join(lines), encoding="utf-8")
        for row in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE):
            shutil.copy(SAMPLE / "sv-SE" / "clips" / row["path"], language / "clips")
    shutil.copy(SAMPLE / "sv-SE" / "clip_durations.tsv", language)
    return language.parent


def script(name: str, *args: str, cwd: Path, check: bool = True, **options):
    """Run a script as a user does; its completed process, with text output."""
    import subprocess

    done = subprocess.run(
        [sys.executable, ROOT / name, *map(str, args)], cwd=cwd, capture_output=True, text=True, timeout=300, **options
    )
    if check:
        assert done.returncode == 0, done.stderr[-3000:]
    return done


def inside(name: str, *args: str, cwd: Path, check: bool = True, env: dict[str, str] | None = None):
    """As `script`, but in this process, which has imported what takes five seconds there, and without workers."""
    import importlib.util
    import io
    import subprocess
    from unittest import mock

    spec = importlib.util.spec_from_file_location(Path(name).stem.replace("-", "_"), ROOT / name)
    module = importlib.util.module_from_spec(spec)
    argv = [name, *map(str, args), *(["--workers", "1"] if name == "feature-pipeline.py" else [])]
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.dict(os.environ, env or {}),
        mock.patch.object(sys, "argv", argv),
    ):
        spec.loader.exec_module(module)
        try:
            command.run(module.main)
        except SystemExit as end:
            done = subprocess.CompletedProcess(argv, end.code or 0, out.getvalue(), err.getvalue())
    if check:
        assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture
def no_speech_detected(monkeypatch):
    """A detector that hears sound, and takes none of it for speech."""
    from whisper_lab.speech import voice

    heard = voice.Detector.__call__

    def deaf(self, samples, last=False):
        probabilities, sounding = heard(self, samples, last)
        return 0 * probabilities, sounding

    monkeypatch.setattr(voice.Detector, "__call__", deaf)
