"""transformers 4.57, which many still have, in a folder beside the environment: what is saved must open there too.

python tests/old_transformers.py    installs it into the cache, once
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from whisper_lab import files  # noqa: E402

PACKAGES = ("transformers==4.57.6", "tokenizers==0.22.2", "huggingface_hub==0.36.2")  # what it needs besides is here
FOLDER = files.cache_folder() / "tests" / PACKAGES[0].replace("==", "-")


def install() -> None:
    FOLDER.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER.parent) as scratch:
        pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps"]
        if subprocess.run([*pip, "--target", f"{scratch}/new", *PACKAGES]).returncode:
            print(f"{PACKAGES[0]} could not be installed; the test that wants it is skipped", file=sys.stderr)
        else:
            os.rename(f"{scratch}/new", FOLDER)


if __name__ == "__main__" and not FOLDER.is_dir():
    install()
