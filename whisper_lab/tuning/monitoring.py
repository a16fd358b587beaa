"""What is seen of a training while it runs, and Ctrl-C."""

import contextlib
import os
import signal
import time
from collections.abc import Sequence

import torch
from tqdm import tqdm
from transformers import TrainerCallback

from .. import LabError, cuda, near
from ..scores.scoring import short

PROJECT = "whisper-lab"  # on wandb and trackio


def check_trackers(names: Sequence[str]) -> None:
    """Raises LabError for a `--report-to` that transformers does not know, or whose package is not installed."""
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    for name in names:
        if name not in {*INTEGRATION_TO_CALLBACK, "none"}:
            raise LabError(f"there is no tracker {name!r}" + near(name, {*INTEGRATION_TO_CALLBACK, "none"}))
        try:
            _ = name == "none" or INTEGRATION_TO_CALLBACK[name]()
        except (RuntimeError, ImportError) as error:
            raise LabError(f"--report-to {name} wants its package: pip install {name}") from error
        if name == "wandb":
            _check_login()


def _check_login() -> None:
    """Raises LabError where wandb would, once the untuned model is scored, ask for a key or end in a traceback."""
    import wandb

    os.environ.setdefault("WANDB_PROJECT", PROJECT)  # wandb hears of no change after setup()
    if wandb.setup().settings.mode in ("offline", "disabled"):
        return
    why = "no API key"
    try:
        if wandb.login(prompt=False):
            return
    except wandb.Error as error:
        why = " ".join(str(error).split())
    raise LabError(f"--report-to wandb wants a login ({why}): `wandb login`, or WANDB_MODE=offline before the command")


class Progress(TrainerCallback):
    """A bar over the steps with the latest loss, and a line for each score on dev."""

    def on_train_begin(self, args, state, control, **_):
        self.bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            desc="Training",
            unit="step",
            disable=not state.is_world_process_zero,
        )

    def on_step_end(self, args, state, control, **_):
        self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args, state, control, logs, **_):
        if "loss" in logs:
            self.bar.set_postfix(loss=f"{float(logs['loss']):.3f}")

    def on_evaluate(self, args, state, control, metrics, **_):
        if state.is_world_process_zero:
            best = args.metric_for_best_model
            rate, raw = metrics[best], metrics[best.removesuffix("_normalised")]
            self.bar.write(
                f"Step {state.global_step:,}: dev {short(best.removeprefix('eval_'))} {rate:.1f} % normalised, "
                f"{raw:.1f} % raw, loss {metrics['eval_loss']:.3f}"
            )

    def on_train_end(self, args, state, control, **_):
        self.bar.close()


class StopAfterStep(TrainerCallback):
    """Ctrl-C ends the run after the step at hand, with a checkpoint; a second one ends it at once."""

    def __init__(self):
        self.asked, self._before = False, None

    def on_train_begin(self, args, state, control, **_):
        def ask(*_):
            self.asked = True
            signal.signal(signal.SIGINT, signal.default_int_handler)
            print("\nStopping after this step, with a checkpoint (Ctrl-C again: at once, without).", flush=True)

        with contextlib.suppress(ValueError):  # not in the main thread: nobody presses Ctrl-C there
            self._before = signal.signal(signal.SIGINT, ask)

    def on_step_end(self, args, state, control, **_):
        if self.asked:
            control.should_training_stop = control.should_save = True

    def restore(self) -> None:
        """Ctrl-C does what it did before the training."""
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)


class Meter:
    """Clips and hours of speech learnt from, against the time that training takes: scoring is left out."""

    def start(self, seconds: float) -> None:
        """`seconds` were spent before an interruption."""
        self._zero, self._read_at = time.monotonic() - seconds, seconds
        self._clips, self._speech = 0, 0.0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._zero

    @contextlib.contextmanager
    def paused(self):
        began = time.monotonic()
        yield
        self._zero += time.monotonic() - began

    def count(self, clips: int, speech: float) -> None:
        """`speech` in seconds."""
        self._clips, self._speech = self._clips + clips, self._speech + speech

    def read(self, device: torch.device) -> dict[str, float]:
        """Of the time since the last reading `clips_per_second` and `hours_per_second` of speech; the `seconds` in all;
        on a GPU the most memory ever in use, `gpu_gb`."""
        now = self.seconds
        spent = max(now - self._read_at, 1e-9)
        found = {
            "seconds": round(now, 3),
            "clips_per_second": round(self._clips / spent, 3),
            "hours_per_second": round(self._speech / 3600 / spent, 6),
        }
        if device.type == "cuda":
            found["gpu_gb"] = round(torch.cuda.max_memory_allocated(device) / 1e9, 3)
        self._clips, self._speech, self._read_at = 0, 0.0, now
        return found


def gpu_joules() -> float | None:
    """What the GPU has used since its driver was loaded; None without a GPU, pynvml or a counter (before Volta)."""
    if not cuda.available():
        return None
    try:
        library, card = cuda.nvml(torch.cuda.current_device())
        return library.nvmlDeviceGetTotalEnergyConsumption(card) / 1000
    except Exception:  # of pynvml, the driver or torch: no run is lost for a meter
        return None


def kwh(before: float | None, now: float | None) -> float | None:
    """Between two of `gpu_joules`; None where either is, or the counter began anew."""
    return None if before is None or now is None or now < before else round((now - before) / 3.6e6, 6)
