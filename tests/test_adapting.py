import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import inside
from test_training import losses, make_run

from whisper_lab import LabError
from whisper_lab.stores import store
from whisper_lab.tuning import runs, teacher


def adapt(features, tiny, output, **options):
    options = {"adapt_windows": True, "max_steps": 8, "learning_rate": 0.003, "batch_size": 4} | options
    run = make_run(features, tiny, output, **options)
    run.complete()
    return run


def test_quick(features, tiny, tmp_path):
    run = adapt(features, tiny, tmp_path / "a")
    print(losses(run.folder))
    print(run.metrics["tuned"]["test"]["wer"], run.metrics["untuned"]["test"]["wer"], run.model.config.trained_windows)
    print((run.folder / "README.md").read_text()[:1500])
