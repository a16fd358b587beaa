"""Which of torch's kernels compute attention on a GPU, for our own models and for as long as they run, and without
which masks."""

import threading
from contextlib import ExitStack, contextmanager

from torch.nn.attention import SDPBackend, sdpa_kernel

# Not cuDNN's: it plans anew for every shape of queries and keys, which was 75 % of scoring's time (one H200,
# 26 November 2026). The others plan nothing. A CPU has its own flash and math.
CHOSEN = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
UNMASKED = "sdpa_unmasked"

_lock, _inside, _switches = threading.Lock(), 0, ExitStack()


@contextmanager
def without_cudnn():
    """Let attention be computed by the kernels that are `CHOSEN`. torch has one set of switches for all threads, so the
    first to come in sets them, and the last to leave puts them back."""
    global _inside
    with _lock:
        if not _inside:
            _switches.enter_context(sdpa_kernel(CHOSEN))
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                _switches.close()


@contextmanager
def without_masks(config):
    """Let a Whisper with this `config` attend causally by itself, as torch's attention does where it is given no mask.

    transformers finds out that none is wanted from the positions of a batch, every time, and waits for the GPU to say
    so. It makes none for a kind of attention that it has no masks for.
    """
    from transformers import AttentionInterface

    if config._attn_implementation != "sdpa":
        yield
        return
    AttentionInterface.register(UNMASKED, AttentionInterface()["sdpa"])
    config._attn_implementation = UNMASKED
    try:
        yield
    finally:
        config._attn_implementation = "sdpa"
