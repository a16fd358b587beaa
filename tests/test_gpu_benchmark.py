"""benchmarks/gpu.py runs and finds every figure; what the figures are is for a GPU to say."""

import contextlib
import io
import json
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))


def run(*options) -> tuple[int, str, str]:
    """The benchmark in this process: its exit status, and what it printed on either channel."""
    import gpu

    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", ["gpu.py", *map(str, options)])
        status = gpu.main()
    return status, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def measured(features, tiny, tmp_path_factory):
    """The JSON file and what was printed."""
    folder = tmp_path_factory.mktemp("gpu")
    options = ["--tiny", "--model", tiny, "--features", features, "--output", folder / "gpu.json"]
    status, out, err = run(*options, "--only", "rates", "race", "serving")  # the command has tests enough elsewhere
    assert status == 0, err
    return json.loads((folder / "gpu.json").read_text()), out


def test_every_figure_is_there(measured):
    found, printed = measured
    sides = ["original, default", "ours, default", "ours, equal", "original, equal"]
    assert list(found["training"]) == sides and list(found["scoring"]) == ["ours", "original"]
    for one in (*found["training"].values(), *found["scoring"].values()):
        assert one["clips_per_second"] > 0 and one["seconds"] > 0 and one["peak_bytes"] > 1e6
        assert f"| {one['clips_per_second']:,.1f} |" in printed
    assert all(0 < one["computes"] <= 1 for one in found["training"].values())
    assert len(found["serving"]) == 3 and min(one["times_real_time"] for one in found["serving"].values()) > 0
    assert {what.split(",")[0].split()[0] for what, _, _ in found["goals"]} >= {
        "training",
        "peak",
        "scoring",
        "serving",
    }
    assert all(value > 0 and f"{what}: {value:.4g} (goal: {goal})" in printed for what, value, goal in found["goals"])
    assert found["machine"]["date"] in printed and found["machine"]["device"] in printed


def test_the_race_scores_both_sides_as_training_goes_on(measured):
    race = measured[0]["race"]["both"]
    assert list(race["sides"]) == ["original", "ours"] and race["untuned"]["wer"] > 0
    for points in race["sides"].values():
        seconds, steps = [point["seconds"] for point in points], [point["step"] for point in points]
        assert seconds == sorted(seconds) and steps == sorted(set(steps)) and seconds[0] > 0
        assert all(point["low"] <= point["wer"] <= point["high"] for point in points)
    assert race["original_best"] in race["sides"]["original"]


def test_the_clips_are_as_long_as_common_voices():
    import gpu

    clips = gpu.Clips(4_000, 80, [1, 2, 3, 4], 0)
    assert (
        np.mean(clips.seconds) == pytest.approx(3.96, abs=0.05) and 1 <= min(clips.seconds) < max(clips.seconds) <= 12
    )
    row = clips[7]
    assert row["features"].shape == (80, clips.column("frames")[7]) and row["labels"][:3] == [2, 3, 4]
    assert len(row["labels"]) - 4 == int(4 * row["seconds"]) and row["labels"][-1] == 0


@pytest.mark.parametrize(
    "spans, share", [([(0, 1), (1, 2)], 1), ([(0, 1), (3, 4)], 0.5), ([(0, 4), (1, 2), (3, 8), (9, 10)], 0.9)]
)
def test_the_share_that_is_covered(spans, share):
    import meters

    assert meters.share_covered(spans[::-1]) == share


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so():
    assert run() == (0, "", "No GPU here, nothing to measure; --tiny tries the script\n")


def test_a_step_that_fails_leaves_the_others(tmp_path):
    import gpu

    report = gpu.Report(str(tmp_path / "found.json"))
    with contextlib.redirect_stderr(io.StringIO()) as said:
        with report.step("training", "ours, equal") as figures:
            figures["clips_per_second"] = 2.0
        with report.step("training", "original, equal"):
            raise RuntimeError("CUDA out of memory")
    assert list(json.loads((tmp_path / "found.json").read_text())["training"]) == ["ours, equal"]
    assert report.failed and "CUDA out of memory" in said.getvalue()
    assert [goal[0] for goal in gpu.goals(report.found)] == ["training in equal batches, clips/s"]
