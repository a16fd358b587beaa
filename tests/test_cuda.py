"""What is said and done about a GPU, on a machine that has none: torch and the driver are made to answer."""

import ctypes
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import ctranslate2
import numpy as np
import pytest
import torch
import transformers
from accelerate.state import AcceleratorState
from conftest import ROOT

from whisper_lab import LabError, command, cuda, evaluation
from whisper_lab.serving.transcription import Transcriber
from whisper_lab.speech.features import FRAMES
from whisper_lab.stores import store
from whisper_lab.tuning import monitoring, processes, recipes, runs, training
from whisper_lab.whisper import attention, backends, checkpoint

OLD = (
    "The NVIDIA driver on your system is too old (found version 12040). Please update your GPU driver by downloading "
    "and installing a new version from the URL: http://www.nvidia.com/Download/index.aspx Alternatively, go to: …"
)
UNKNOWN = (
    "CUDA unknown error - this may be due to an incorrectly set up environment. Setting the available devices to 0."
)
FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA failed with error out of memory"),  # CTranslate2's
]


@pytest.fixture(autouse=True)
def forgotten():
    """What accelerate found here, which it keeps for the process: the cards of one test are not there in the next."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Nothing was said yet, and nothing chosen."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    remembered = cuda.say, cuda._why_not, cuda.card
    for one in remembered:
        one.cache_clear()
    yield
    for one in remembered:
        one.cache_clear()


def unusable(monkeypatch, error: str, built=True, cards=2) -> None:
    """A machine with NVIDIA's cards, of which torch can use none."""

    def fail():
        raise RuntimeError(error)

    monkeypatch.setattr(cuda, "_cards", lambda: cards)
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: built)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", fail)


@pytest.mark.parametrize(
    "error, named, said",
    [
        (OLD, None, "too old, for CUDA 12.4, and this torch for 13.0: update the driver, or take a torch for CUDA 12"),
        (UNKNOWN, None, "CUDA unknown error .* nvidia-smi"),
        ("No CUDA GPUs are available", "7", "CUDA_VISIBLE_DEVICES=7 names none of the 2 .* from 0 to 1"),
    ],
    ids=["old driver", "unknown", "no such card"],
)
def test_a_gpu_that_torch_cannot_use_is_one_line_once(monkeypatch, capsys, error, named, said):
    unusable(monkeypatch, error)
    if named:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert not cuda.available() and cuda.device() == torch.device("cpu") and not processes.without_gpu()
    assert monitoring.gpu_joules() is None
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("The GPU is not used: ") and line.endswith(
        "CUDA_VISIBLE_DEVICES= leaves it out and stops this message."
    )
    assert re.search(said, line)


def test_a_torch_without_cuda_and_a_device_without_permission_are_said_too(monkeypatch, capsys, tmp_path):
    unusable(monkeypatch, "", built=False)
    assert not cuda.available()
    assert "was installed without CUDA: pip install torch --index-url" in capsys.readouterr().err
    cuda._why_not.cache_clear()
    monkeypatch.setattr(cuda, "glob", lambda _: ["/dev/nvidia0"])
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert not cuda.available()
    assert "this user may not open /dev/nvidia0" in capsys.readouterr().err


def test_who_wants_no_gpu_or_has_none_hears_nothing(monkeypatch, capsys):
    assert not cuda.available()  # this machine
    unusable(monkeypatch, OLD, cards=0)
    cuda._why_not.cache_clear()
    assert not cuda.available()
    unusable(monkeypatch, OLD)
    for left_out in ("", "-1"):
        cuda._why_not.cache_clear()
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", left_out)
        assert not cuda.available()
    assert capsys.readouterr().err == ""


def test_torchs_own_warning_about_the_driver_is_not_shown_beside_it(monkeypatch):
    monkeypatch.delenv("WHISPER_LAB_VERBOSE", raising=False)
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        command.quiet_libraries()
        warnings.warn(f"CUDA initialization: {OLD} (Triggered internally at CUDAFunctions.cpp:119.)", stacklevel=1)
        warnings.warn("something else", stacklevel=1)
    assert [str(one.message) for one in shown] == ["something else"]


def two_cards(monkeypatch) -> list[int]:
    """Two GPUs, of 16 and 24 GB, and as NVML has it 10 and 8 of them free; the cards that are made current."""
    current: list[int] = []
    handle = SimpleNamespace
    nvml = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetMemoryInfo=lambda uuid: handle(free=[10e9, 8e9][int(uuid[-1])], total=[16e9, 24e9][int(uuid[-1])]),
        nvmlDeviceGetComputeRunningProcesses=lambda _: [
            handle(pid=os.getpid(), usedGpuMemory=1e9),
            handle(pid=4711, usedGpuMemory=5e9),
            handle(pid=4712, usedGpuMemory=None),
        ],
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda number: current.append(number))
    sizes = [SimpleNamespace(uuid=f"uuid-{i}", total_memory=size) for i, size in enumerate((16 * 10**9, 24 * 10**9))]
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: sizes[i])
    return current


def test_of_two_gpus_a_process_takes_the_one_with_most_memory_free_and_says_so(monkeypatch, capsys, tmp_path):
    two_cards(monkeypatch)
    assert cuda.device() == cuda.device() == torch.device("cuda", 0)
    assert cuda.memory() == cuda.smallest_memory() == 16 * 10**9
    (line,) = capsys.readouterr().err.splitlines()
    assert "2 GPUs" in line and "number 0" in line and "torchrun --nproc-per-node 2 training-pipeline.py" in line
    cuda.card.cache_clear()
    monkeypatch.setitem(sys.modules, "pynvml", None)  # not installed
    assert cuda.device() == torch.device("cuda", 1)
    cuda.card.cache_clear()
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert cuda.device() == torch.device("cuda", 0)


def test_the_trainer_has_one_gpu_and_no_data_parallel(monkeypatch, tmp_path):
    current = two_cards(monkeypatch)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr(processes, "device", lambda: "cuda")  # accelerate asks once in a process
    recipe = recipes.Recipe("adamw", 1e-5, 4, 4, 1, 1, 0.01, "short", 1, 1.0, 1)
    made = training.arguments(recipe, tmp_path)
    assert made.device == torch.device("cuda", 1) and made.n_gpu == 1 and made.train_batch_size == 4
    assert made.parallel_mode == transformers.training_args.ParallelMode.NOT_PARALLEL
    assert current[-1] == 1  # where accelerate puts things


SMALLEST = """
import os
from datetime import timedelta

import torch.distributed

from whisper_lab import cuda

torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=60))
cuda.available, cuda.memory = lambda: True, lambda: (24, 16)[int(os.environ["RANK"])]
with open(os.environ["RANK"], "w") as found:
    found.write(str(cuda.smallest_memory()))
torch.distributed.destroy_process_group()
"""


def test_processes_with_gpus_of_different_sizes_agree_on_the_smallest(tmp_path):
    (tmp_path / "ask.py").write_text(SMALLEST)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "ask.py"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(launch, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["16", "16"]


@pytest.mark.parametrize("error", FULL)
def test_a_full_gpu_says_what_is_free_who_holds_the_rest_and_the_ways_out(monkeypatch, error):
    two_cards(monkeypatch)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (4 * 10**8, 16 * 10**9))
    with pytest.raises(LabError) as refused, cuda.explained("loading x"):
        raise error
    assert str(refused.value) == (
        "out of GPU memory while loading x (0.4 of 16.0 GB are free; process 4711 holds 5.0 GB, process 4712): wait "
        "for the others, CUDA_VISIBLE_DEVICES=N takes another GPU, CUDA_VISIBLE_DEVICES= goes on without the GPU"
    )

    def fail(_):
        raise RuntimeError("CUDA error: out of memory")  # no room to ask either

    monkeypatch.setattr(torch.cuda, "mem_get_info", fail)
    assert "(10.0 of 16.0 GB are free; process 4711" in str(cuda.no_room("loading x"))
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "loading x: do this, CUDA_VISIBLE_DEVICES=N" in str(cuda.no_room("loading x", "do this"))


def test_other_refusals_of_a_gpu_are_lines_too_and_other_errors_stay_as_they_are():
    for error, said in (
        ("CUDA error: CUDA-capable device(s) is/are busy or unavailable", "another process has the GPU to itself"),
        ("CUDA error: no kernel image is available for execution on the device", "knows no GPU of this age"),
    ):
        with pytest.raises(LabError, match=said), cuda.explained("loading x"):
            raise RuntimeError(error)
    with pytest.raises(RuntimeError, match="^shape$"), cuda.explained("loading x"):
        raise RuntimeError("shape")


def test_wherever_a_gpu_is_used_a_full_one_is_a_line(features, tiny, tmp_path, monkeypatch):
    def full(*_, **__):
        raise FULL[1]

    options = runs.Options(features=str(features), model=str(tiny), output=str(tmp_path / "run"), max_steps=2)
    with monkeypatch.context() as patched:
        patched.setattr(transformers.Trainer, "_move_model_to_device", full)
        with pytest.raises(LabError, match="out of GPU memory while loading the model: CUDA_VISIBLE"):
            runs.Run(options, store.FeatureSet(features))
    run = runs.Run(options, store.FeatureSet(features))
    reader = Transcriber(str(tiny))
    with monkeypatch.context() as patched:
        patched.setattr(transformers.WhisperForConditionalGeneration, "to", full)
        with pytest.raises(LabError, match="while loading"):
            Transcriber(str(tiny), "transformers")
        args = SimpleNamespace(split="dev", limit=2, batch_size=None)
        with pytest.raises(LabError, match=f"while scoring with {tiny}"):
            evaluation.hear(str(tiny), store.FeatureSet(features), args, "float32")
    run.model.register_forward_pre_hook(full)
    run.model.get_encoder().register_forward_pre_hook(full)
    with pytest.raises(LabError, match="while training and scoring"):  # the untuned scores
        run.complete()
    monkeypatch.setattr(reader.backend, "encode", full)
    with pytest.raises(LabError, match="while transcribing"):
        reader._read_batch([np.zeros((80, 100), np.float32)], FRAMES, None, [], False)


def test_cudnn_computes_no_attention_of_ours_and_afterwards_is_as_before(features, tiny, tmp_path, monkeypatch):
    on, seen = torch.backends.cuda.cudnn_sdp_enabled, []
    assert on()  # though all of the package was imported
    fails = []

    def look(*_):
        seen.append(on())
        if fails:
            raise ValueError("on purpose")

    engine = backends.Transformers(tiny, "cpu", 1)
    mel = np.zeros((1, 80, 400), np.float32)
    encoded, prompt = engine.encode(mel), checkpoint.prompt_ids(checkpoint.load_processor(str(tiny)).tokenizer, "sv")
    options = runs.Options(features=str(features), model=str(tiny), output=str(tmp_path / "run"), max_steps=1)
    run = runs.Run(options, store.FeatureSet(features))
    for model in (engine.model, run.model):
        model.get_encoder().register_forward_pre_hook(look)
        model.get_decoder().register_forward_pre_hook(look)
    for act in (
        lambda: engine.encode(mel),
        lambda: engine.decode(encoded, prompt, 4),
        lambda: engine.align(encoded, prompt[:-1], [[440, 441]], [400]),
        lambda: run.trainer.transcribe("dev", [400, FRAMES], "Dev"),
        lambda: run.trainer.train(),
    ):
        seen.clear()
        act()
        assert seen and not any(seen) and on()
        fails.append(True)
        with pytest.raises(ValueError, match="on purpose"):
            act()
        fails.clear()
        assert on()


def test_of_two_threads_the_last_puts_the_switches_back():
    on = torch.backends.cuda.cudnn_sdp_enabled
    one, other = attention.without_cudnn(), attention.without_cudnn()
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    assert not on()
    other.__exit__(None, None, None)
    assert on()


class Served:
    """ctranslate2.models.Whisper, which on "cuda" has what the CPU computes, and may lack a library when it is used."""

    def __init__(self, place, device, compute_type, device_index=0, **options):
        type(self).loaded.append((device, compute_type, device_index))
        if device == "cuda" and self.at == "loading":
            raise RuntimeError(self.fault)
        self.device, self.inner = device, self.real(place, device="cpu", compute_type="float32", **options)
        self.n_mels = self.inner.n_mels

    def encode(self, features, to_cpu=False):
        if self.device == "cuda" and self.at == "encoding":
            raise RuntimeError(self.fault)
        return self.inner.encode(features)


@pytest.fixture(scope="module")
def converted(tmp_path_factory) -> Path:
    """A cache in which each conversion is made once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def served(monkeypatch, converted):
    """`served(fault, at)`: a machine with a GPU for CTranslate2, which fails there with `fault`; what was loaded."""
    monkeypatch.setenv("WHISPER_LAB_CACHE", str(converted))
    monkeypatch.setattr(ctranslate2, "get_cuda_device_count", lambda: 1)
    types = {"float32", "float16", "int8", "int8_float32"}
    monkeypatch.setattr(ctranslate2, "get_supported_compute_types", lambda *_: types)
    real = ctranslate2.models.Whisper

    def serve(fault="", at="") -> list:
        kind = type("Served", (Served,), {"real": real, "fault": fault, "at": at, "loaded": []})
        monkeypatch.setattr(ctranslate2.models, "Whisper", kind)
        return kind.loaded

    serve.types = types
    return serve


LACKS = "Library libcublas.so.12 is not found or cannot be loaded"


def named(engine) -> str:
    return f"{engine.name}, {engine.precision} on {engine.device}"


def test_where_its_libraries_are_ctranslate2_has_the_gpu_in_float16(served, tiny, capsys):
    loaded = served()
    assert Transcriber(str(tiny)).facts()["engine"] == "ctranslate2, float16 on cuda"
    assert loaded == [("cuda", "float16", 0)] and "Instead" not in capsys.readouterr().err
    served.types.remove("float16")
    assert named(backends.load("ctranslate2", tiny)) == "ctranslate2, float32 on cuda"
    assert named(backends.load("auto", tiny, "cpu")) == "ctranslate2, int8 on cpu"


@pytest.mark.parametrize("at", ["loading", "encoding"])
def test_where_they_are_missing_another_engine_runs_and_a_line_says_which(served, tiny, capsys, monkeypatch, at):
    served(LACKS, at)
    said = f"CTranslate2 cannot use the GPU: {LACKS} (pip install nvidia-cublas-cu12 brings it)"
    assert named(backends.load("auto", tiny)) == "ctranslate2, int8 on cpu"
    assert f"{said}. Instead: ctranslate2, int8 on cpu." in capsys.readouterr().err
    for engine, device in (("ctranslate2", "auto"), ("auto", "cuda")):  # what was asked for is not replaced
        with pytest.raises(LabError, match="libcublas.so.12 .*pip install nvidia-cublas-cu12.*--engine transformers"):
            backends.load(engine, tiny, device)
    monkeypatch.setattr(cuda, "available", lambda: True)
    monkeypatch.setattr(cuda, "device", lambda: torch.device("cpu"))  # as far as this machine can go
    monkeypatch.setattr(backends, "choose", lambda *_: "float32")
    assert named(backends.load("auto", tiny)) == "transformers, float32 on cpu"
    assert Transcriber(str(tiny)).facts()["engine"] == "transformers, float32 on cpu"
    found = [line for line in capsys.readouterr().err.splitlines() if "Instead" in line]
    assert found == [f"{said}. Instead: transformers, float32 on cpu."]  # once
    place = backends.convert(tiny, "float32")
    assert named(backends.load("auto", place)) == "ctranslate2, int8 on cpu"  # transformers cannot load what it made


def test_other_faults_of_an_engine_are_not_the_gpus(served, tiny):
    served("CUDA failed with error out of memory", "loading")
    with pytest.raises(LabError, match="out of GPU memory while loading"):
        Transcriber(str(tiny))
    served("Unsupported model binary version", "loading")
    with pytest.raises(LabError, match="could not be loaded by CTranslate2 .Unsupported model"):
        backends.load("auto", tiny)
    with pytest.raises(LabError, match="no GPU that torch can use"):
        backends.load("transformers", tiny, "cuda")


def test_cublas_is_found_where_pip_puts_it(monkeypatch):
    class File(type(Path())):
        def locate(self):
            return Path("/site") / self

    files = [File("nvidia/cublas/lib/libcublasLt.so.12"), File("nvidia/cublas/lib/libcublas.so.12")]
    loaded = []
    monkeypatch.setattr(ctypes, "CDLL", lambda place, mode: loaded.append(place))
    backends._find_cublas()  # not installed here
    monkeypatch.setattr(backends.importlib.metadata, "files", lambda name: files)
    backends._find_cublas()
    assert loaded == ["/site/nvidia/cublas/lib/libcublas.so.12"]
