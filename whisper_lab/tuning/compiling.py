"""torch.compile for a Whisper's layers. A training step on short windows is thousands of kernels that take a GPU less
time than launching them takes Python; compiled, they are fewer, and launched without it.

Layer by layer and for any shape: of all layers there are two graphs, encoder's and decoder's, which compile in about a
minute. A graph for each of some fifty shapes would take most of an hour, and every call would look through them all.
"""

import torch

from .. import cuda, faults

PAYS = 2_000  # steps: a minute of compiling over some 30 ms that a step is to gain; arithmetic, no card has said it yet


def wanted(asked: bool | None, steps: int) -> bool:
    """Whether a run of so many steps is to be compiled: as asked, else on a GPU if it is long."""
    return cuda.available() and steps >= PAYS if asked is None else asked


def missing(device: torch.device) -> str | None:
    """What keeps torch.compile from working here, in a line: a C compiler, Triton, or a GPU too old for it."""
    try:
        one = torch.ones(8, device=device, requires_grad=True)
        torch.compile(torch.nn.functional.gelu)(one).sum().backward()
    except Exception as error:  # torch's, Triton's or the compiler's
        return faults.in_a_line(error)
    return None


def layers(model) -> None:
    """Compile every layer of `model` (WhisperForConditionalGeneration), at its next call; its weights keep their names.

    A batch of one clip has a graph of its own, which torch makes for it by itself.
    """
    for side in (model.get_encoder(), model.get_decoder()):
        for layer in side.layers:
            layer.compile(dynamic=True)


def paused():
    """A block in which compiled layers run as they are: scoring has other shapes and asks for no gradients."""
    return torch.compiler.set_stance("force_eager")
