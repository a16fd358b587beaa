"""CUDA graphs of training steps. On short windows a step is thousands of kernels that take a GPU less time than Python
takes to launch them; a graph launches them all at once.

A graph is for one shape: windows, labels and pieces of a batch have few (`whisper.batches`). It is of the kernels that
run without it, so the losses are the same, as far as a GPU's are the same twice. What comes seldom runs without.
"""

import gc
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import torch

from .. import cuda, faults

PLAIN = 2  # times that a shape runs without: its kernels are loaded and planned then, which a capture does not allow
ROOM = 2.5  # times the memory of a step: of the next graph, of shapes without, and some to spare


def possible(model, recipe, device: torch.device, processes: int) -> bool:
    """Whether steps by `recipe` are the same work each time, all of it a GPU's."""
    config = model.config
    drawn = config.dropout, config.attention_dropout, config.activation_dropout, config.apply_spec_augment
    dropped = config.encoder_layerdrop, config.decoder_layerdrop
    return (
        device.type == "cuda"
        and processes == 1
        and recipe.precision != "float16"  # its scale of the gradients is another thing that may change
        and recipe.optimizer == "adamw"
        and config._attn_implementation == "sdpa"
        and not any((recipe.lora, recipe.activation_checkpointing, *drawn, *dropped))
    )


@dataclass(frozen=True)
class Graph:
    """A captured step, with the places that it takes its inputs from and writes the loss to."""

    graph: object
    inputs: dict[str, torch.Tensor]
    tokens: torch.Tensor
    loss: torch.Tensor

    def run(self, inputs: dict[str, torch.Tensor], tokens: torch.Tensor) -> torch.Tensor:
        for name, place in self.inputs.items():
            place.copy_(inputs[name], non_blocking=True)
        self.tokens.copy_(tokens, non_blocking=True)
        self.graph.replay()
        return self.loss.clone()  # the next graph may write there


class Graphs:
    """The graphs of a training, in which `weights` get gradients: in one place each from the first step to the last, as
    a graph knows no other."""

    def __init__(self, weights: Iterable[torch.nn.Parameter]):
        self.weights, self.graphs = list(weights), {}
        self.clear()

    def clear(self) -> None:
        """Give their memory back."""
        if self.graphs:
            torch.cuda.synchronize()  # the last may still run
        self.graphs: dict[tuple, Graph] = {}
        self._seen, self._places, self._closed = Counter(), [], False
        self._shared, self._bytes = None, 0  # what all graphs compute in, and how much it is

    def run(self, step: Callable, inputs: dict[str, torch.Tensor], tokens: torch.Tensor) -> torch.Tensor:
        """`step(inputs, tokens)`, which adds to the gradients and returns the loss, or the same from a graph.

        `inputs` may be the CPU's; `tokens`, a number, is the GPU's.
        """
        shape = tuple((name, tensor.shape, tensor.dtype) for name, tensor in inputs.items())
        self._seen[shape] += 1
        self._keep_places()
        if self._seen[shape] > PLAIN and shape not in self.graphs and self._fits():
            self._capture(shape, step, inputs, tokens)
        if shape in self.graphs:
            return self.graphs[shape].run(inputs, tokens)
        loss = step(inputs, tokens)
        if not self._places and self._fits():
            self._places = [(weight, weight.grad) for weight in self.weights if weight.grad is not None]
        return loss

    def _keep_places(self) -> None:
        """Let gradients that the Trainer let go begin at 0, where they were."""
        begun = [place for weight, place in self._places if weight.grad is None]
        if begun:
            torch._foreach_zero_(begun)
        for weight, place in self._places:
            if weight.grad is not None and weight.grad is not place:
                place.copy_(weight.grad)
            weight.grad = place

    def _fits(self) -> bool:
        """Whether there is room for one more graph, beside the others and what runs without."""
        if self._closed:
            return False
        held = torch.cuda.memory_allocated()
        room = torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - held - self._bytes
        wanted = ROOM * (torch.cuda.max_memory_allocated() - held)
        if room < wanted:
            self._close(f"{room / 1e9:.1f} GB are free, and {wanted / 1e9:.1f} GB are wanted")
        return room >= wanted

    def _close(self, why: str) -> None:
        self._closed = True
        if not self.graphs:
            self._places = []
        cuda.say(f"No {'more ' if self.graphs else ''}CUDA graphs of steps ({why}): the same, but slower.")

    def _capture(self, shape: tuple, step: Callable, inputs: dict, tokens: torch.Tensor) -> None:
        places = {
            name: torch.empty(tensor.shape, dtype=tensor.dtype, device=tokens.device) for name, tensor in inputs.items()
        }
        count = tokens.clone()
        try:
            if not self._shared:
                gc.collect()  # what is left of steps before belongs to another stream
                self._shared = torch.cuda.graph_pool_handle(), torch.cuda.Stream()
            torch.cuda.empty_cache()
            before = torch.cuda.memory_reserved()
            graph, loss = captured(lambda: step(dict(places), count), *self._shared)
            self.graphs[shape] = Graph(graph, places, count, loss)
            self._bytes += torch.cuda.memory_reserved() - before
        except Exception as error:
            if not cuda.full(error):
                self.graphs = {}  # torch's books may be in disorder
            self._close(faults.in_a_line(error))


def captured(work: Callable[[], torch.Tensor], pool, stream) -> tuple:
    """The graph of `work`, which is not done yet, and what it returned. Raises what CUDA and torch raise."""
    graph = torch.cuda.CUDAGraph()
    # "thread_local": the loader's thread, which takes memory for the next batches, would spoil a capture. The stream is
    # set twice, as torch forgets to leave it after a capture that fails.
    with _uncollected(), torch.cuda.stream(stream):
        try:
            with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                loss = work()
        except Exception:
            with suppress(Exception):  # it is at an end already, where torch saw to it
                torch._C._cuda_endAllocateToPool(stream.device_index, pool)
            raise
    return graph, loss


@contextmanager
def _uncollected():
    """Without Python's collector, which may end another graph, and so a capture."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
