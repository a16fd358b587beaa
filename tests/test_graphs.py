"""Training steps from CUDA graphs, with something in their place that does the same work again: what is captured and
when, where gradients and inputs lie, and what comes of a GPU that refuses."""

import contextlib
import gc
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import transformers.masking_utils
from test_machines import losses, make_run

from whisper_lab.tuning import graphs, training


@pytest.fixture
def gpu(monkeypatch):
    """A GPU with a terabyte free, whose graphs do their work again; it counts what they are asked for."""
    asked = SimpleNamespace(captures=0, replays=0, free=10**12, held=0, most=0, graphs=0)

    def captured(work, pool, stream):
        asked.captures += 1
        assert (pool, stream) == ("pool", "stream")
        loss = torch.zeros(())

        def replay():
            asked.replays += 1
            loss.copy_(work())

        return SimpleNamespace(replay=replay), loss

    for name, value in (
        ("mem_get_info", lambda: (asked.free, 10**12)),
        ("memory_allocated", lambda: asked.held),
        ("memory_reserved", lambda: asked.held + asked.captures * asked.graphs),
        ("max_memory_allocated", lambda: asked.most),
        ("graph_pool_handle", lambda: "pool"),
        ("Stream", lambda: "stream"),
        ("synchronize", lambda: None),
    ):
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(graphs, "captured", captured)
    return asked


def test_a_training_with_graphs_has_the_losses_of_one_without(features, tiny, tmp_path, monkeypatch, gpu):
    """In pieces, with accumulation, and dev scored in between; transformers is never asked for the decoder's mask."""

    def run(name: str) -> training.Trainer:
        trainer = make_run(
            features, tiny, tmp_path / name, max_steps=8, batch_size=4, accumulation=2, window="short"
        ).trainer
        trainer.at_once, trainer.args.eval_steps, trainer.args.save_steps = 1_600, 5, 5
        step = trainer.training_step

        def unmasked(*given):
            with monkeypatch.context() as patch:
                patch.setattr(transformers.masking_utils, "find_packed_sequence_indices", None)
                return step(*given)

        trainer.training_step = unmasked
        trainer.train()
        assert trainer.model.config._attn_implementation == "sdpa"
        return trainer

    plain = run("plain")
    monkeypatch.setattr(graphs, "possible", lambda *_: True)
    other = run("graphs")
    assert losses(other.state.log_history) == losses(plain.state.log_history)
    for one, same in zip(plain.model.parameters(), other.model.parameters()):
        assert torch.equal(one, same)
    assert gpu.captures >= 2 and gpu.replays > 2 * gpu.captures
    assert not other.graphs.graphs, "given back at the end"


class Toy:
    """A weight of two numbers, and a step that adds to its gradient."""

    def __init__(self):
        self.weight, self.unused = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
        self.graphs, self.plain = graphs.Graphs([self.weight, self.unused]), 0

    def step(self, inputs: dict, tokens: torch.Tensor) -> torch.Tensor:
        self.plain += 1
        loss = (self.weight * inputs["x"]).sum() / tokens
        loss.backward()
        return loss.detach()

    def run(self, *x: float) -> float:
        return float(self.graphs.run(self.step, {"x": torch.tensor(x).float()}, torch.tensor(2)))


def test_a_shape_is_captured_once_it_has_come_often_and_gradients_stay_in_their_places(gpu):
    toy = Toy()
    assert [toy.run(i, i + 1) for i in range(3)] == [0.5, 1.5, 2.5] and gpu.captures == gpu.replays == 1
    assert toy.weight.grad.tolist() == [1.5, 3.0] and toy.unused.grad is None
    place = toy.weight.grad
    toy.weight.grad = None  # as zero_grad leaves it
    assert toy.run(4.0) == 4 and toy.weight.grad is place, "in its place for a step without, too"
    assert toy.weight.grad.tolist() == [2, 2]
    toy.weight.grad = None
    assert toy.run(6.0, 8.0) == 7 and toy.weight.grad is place and place.tolist() == [3, 4]
    first = toy.graphs.run(toy.step, {"x": torch.ones(2)}, torch.tensor(1))
    toy.run(0, 0)
    assert float(first) == 2, "a loss outlives the next graph"
    assert gpu.captures == 1 and gpu.replays == 4


@pytest.mark.parametrize("error", [RuntimeError("capturing\nnot permitted"), torch.OutOfMemoryError("no room")])
def test_a_capture_that_fails_costs_no_step_and_is_said_once(gpu, monkeypatch, capsys, error):
    toy, work, was = Toy(), graphs.captured, graphs.cuda.say
    monkeypatch.setattr(graphs.cuda, "say", was.__wrapped__)
    for _ in range(3):
        toy.run(1, 1)

    def refuse(work, pool, stream):
        gpu.captures += 1
        raise error

    monkeypatch.setattr(graphs, "captured", refuse)
    assert [toy.run(2.0) for _ in range(5)] == [2] * 5 and gpu.captures == 2
    assert toy.weight.grad.tolist() == [1.5 + 5, 1.5 + 5]
    said = capsys.readouterr().err
    full = isinstance(error, torch.OutOfMemoryError)
    assert said.count("\n") == 1 and str(error).split("\n")[0] in said and ("No more CUDA graphs" in said) == full
    assert toy.run(1, 1) == 1 and len(toy.graphs.graphs) == full
    monkeypatch.setattr(graphs, "captured", work)
    toy.graphs.clear()
    for _ in range(3):
        toy.run(1, 1)
    assert len(toy.graphs.graphs) == 1, "the next training tries again"


def test_no_graph_is_captured_where_memory_is_short(gpu, monkeypatch, capsys):
    monkeypatch.setattr(graphs.cuda, "say", graphs.cuda.say.__wrapped__)
    toy, gpu.held, gpu.most, gpu.free, gpu.graphs = Toy(), 3 * 10**9, 7 * 10**9, 11 * 10**9, 5 * 10**9
    for _ in range(3):
        toy.run(1, 1)
        toy.weight.grad = None
    assert gpu.captures == 1
    gpu.free = 9 * 10**9
    assert [toy.run(2.0) for _ in range(5)] == [2] * 5 and gpu.captures == 1
    assert "No more CUDA graphs of steps (9.0 GB are free, and 10.0 GB are wanted)" in capsys.readouterr().err
    replays = gpu.replays
    assert toy.run(1, 1) == 1 and gpu.replays == replays + 1, "those that there are stay"
    toy, gpu.graphs = Toy(), 0
    toy.run(1, 1)
    toy.weight.grad = None
    toy.run(1, 1)
    assert not toy.graphs._places and "No CUDA graphs" in capsys.readouterr().err


def test_a_failed_capture_leaves_the_stream_and_the_collector_as_they_were(monkeypatch):
    """By torch's own order of things: its `graph` forgets the stream when the end of a capture fails."""
    streams, ended, side = ["default"], [], SimpleNamespace(device_index=3)

    class Capture:
        def __init__(self, graph, **options):
            assert options == {"pool": (0, 1), "stream": side, "capture_error_mode": "thread_local"}

        def __enter__(self):
            streams.append(side)

        def __exit__(self, *_):
            assert not gc.isenabled()
            raise RuntimeError("capture invalidated")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", Capture)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: Restoring(streams, stream))
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", lambda *given: ended.append(given), raising=False)
    with pytest.raises(RuntimeError, match="invalidated"):
        graphs.captured(lambda: 1 / 0, (0, 1), side)
    assert streams[-1] == "default" and ended == [(3, (0, 1))] and gc.isenabled()


class Restoring(contextlib.AbstractContextManager):
    """torch.cuda.stream."""

    def __init__(self, streams: list, stream):
        self.streams, self.before, self.stream = streams, streams[-1], stream

    def __enter__(self):
        self.streams.append(self.stream)

    def __exit__(self, *_):
        self.streams.append(self.before)


def test_only_steps_that_are_the_same_work_each_time_become_graphs(features, tiny, tmp_path):
    run = make_run(features, tiny, tmp_path / "run")
    assert run.trainer.graphs is None  # on a CPU
    recipe, config, card = replace(run.recipe, precision="bf16"), run.model.config, torch.device("cuda")
    assert graphs.possible(run.model, recipe, card, 1)
    for changed in (
        {"lora": 8},
        {"activation_checkpointing": True},
        {"precision": "float16"},
        {"optimizer": "muon"},
    ):
        assert not graphs.possible(run.model, replace(recipe, **changed), card, 1), changed
    assert not graphs.possible(run.model, recipe, card, 2)
    config.attention_dropout = 0.1
    assert not graphs.possible(run.model, recipe, card, 1)
