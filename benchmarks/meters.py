"""What gpu.py measures on, random clips, and by: callbacks that time so many seconds of a training or prediction."""

import contextlib
import json
import resource
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import TrainerCallback

CUDA = torch.cuda.is_available()
SKIPPED = 12  # steps before the clock: the optimiser's state, the scale of fp16's gradients


def now() -> float:
    """Seconds, once the GPU has done what it was given."""
    if CUDA:
        torch.cuda.synchronize()
    return time.perf_counter()


class Clips:
    """A split of clips of random features, views of one array, and labels of random words."""

    def __init__(self, count: int, mels: int, prompt: list[int], end: int):
        rng = np.random.default_rng(1)
        self.prompt, self.end = prompt, end
        self.seconds = np.clip(rng.gamma(9, 3.96 / 9, count), 1, 12)
        self.frames = np.ceil(100 * self.seconds).astype(int) + 3
        self.noise = rng.standard_normal((mels, 20_000), np.float32).astype(np.float16)
        self.starts = rng.integers(self.noise.shape[1] - self.frames.max(), size=count)
        self.words = rng.integers(1_000, 50_000, size=(count, 4 * 12))

    def __len__(self) -> int:
        return len(self.frames)

    def column(self, name: str) -> list:
        return self.frames.tolist() if name == "frames" else [f"{name} {i}" for i in range(len(self))]

    def __getitem__(self, i: int) -> dict:
        start, seconds = self.starts[i], float(self.seconds[i])
        labels = [*self.prompt[1:], *self.words[i, : int(4 * seconds)].tolist(), self.end]
        features = self.noise[:, start : start + self.frames[i]]
        return {"id": f"id {i}", "seconds": seconds, "labels": labels, "features": features}


@dataclass(frozen=True)
class Repeated:
    """A split, `times` over."""

    split: object
    times: int

    def __len__(self) -> int:
        return self.times * len(self.split)

    def column(self, name: str) -> list:
        return self.times * list(self.split.column(name))

    def __getitem__(self, i: int) -> dict:
        return self.split[i % len(self.split)]


class Rate(TrainerCallback):
    """Clips a second over `seconds`, after `skipped` steps, then `profiled` ones under the profiler; then the training
    ends."""

    def __init__(self, size: int, seconds: float, skipped: int, profiled: int, found: dict):
        self.size, self.seconds, self.skipped, self.profiled, self.found = size, seconds, skipped, profiled, found
        self.used, self.profile = [], None

    def on_step_end(self, args, state, control, **_):
        steps = state.global_step - self.skipped
        if steps == 0:
            self.began = self.sampled = now()
        elif self.profile:
            self.profile.step()
            control.should_training_stop |= "computes" in self.found
        elif steps > 0 and (passed := time.perf_counter()) - self.began < self.seconds:
            if CUDA and passed - self.sampled > 0.5:
                with contextlib.suppress(Exception):  # where NVML is not to be had, its figure is left out
                    self.used.append(torch.cuda.utilization() / 100)
                self.sampled = passed
        elif steps > 0:
            spent = now() - self.began
            self.found |= {"clips_per_second": steps * self.size / spent, "seconds": spent, "steps": steps}
            self.found |= {"in_use": float(np.mean(self.used))} if self.used else {}
            self._begin_profile()

    def _begin_profile(self) -> None:
        from torch.profiler import ProfilerActivity, profile, schedule

        kind = ProfilerActivity.CUDA if CUDA else ProfilerActivity.CPU
        steps = schedule(wait=0, warmup=2, active=self.profiled, repeat=1)
        self.profile = profile(activities=[kind], schedule=steps, on_trace_ready=self._read)
        self.profile.start()

    def _read(self, profile) -> None:
        with tempfile.TemporaryDirectory() as folder:
            trace = Path(folder) / "trace.json"
            profile.export_chrome_trace(str(trace))
            events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
        kind = "kernel" if CUDA else "cpu_op"
        self.found["computes"] = share_covered([(e["ts"], e["ts"] + e["dur"]) for e in events if e.get("cat") == kind])


def share_covered(spans: list[tuple[float, float]]) -> float:
    """Of the time from the first span's beginning to the last one's end, the share that any of them covers."""
    covered, end = 0.0, float("-inf")
    for begins, ends in sorted(spans):
        covered += max(0.0, ends - max(begins, end))
        end = max(end, ends)
    return covered / (end - min(spans)[0])


def peak_bytes() -> int:
    """The most memory that tensors took on the GPU; without one, that this process ever took."""
    return torch.cuda.max_memory_allocated() if CUDA else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def reset_peak() -> None:
    if CUDA:
        torch.cuda.reset_peak_memory_stats()


class Enough(Exception):
    pass


class Predictions(TrainerCallback):
    """Ends a prediction after `seconds`; the first two batches are not counted."""

    def __init__(self, seconds: float):
        self.seconds, self.steps, self.found = seconds, 0, {}

    def on_prediction_step(self, args, state, control, **_):
        self.steps += 1
        if self.steps == 2:
            self.began = now()
        elif self.steps > 2 and (spent := now() - self.began) > self.seconds:
            clips = (self.steps - 2) * args.per_device_eval_batch_size
            self.found = {"clips_per_second": clips / spent, "seconds": spent}
            raise Enough
