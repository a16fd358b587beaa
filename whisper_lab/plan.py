"""What is written beside every output, so that it can be made again."""

import importlib.metadata
import platform

LIBRARIES = ("torch", "transformers", "accelerate", "tokenizers", "numpy", "soundfile", "soxr", "pyarrow")


def versions() -> dict[str, str]:
    """Of Python and of the libraries that the numbers depend on."""
    return {"python": platform.python_version()} | {name: _version(name) for name in LIBRARIES}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
