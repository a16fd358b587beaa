"""How every script starts and ends: one line for a user's mistake, the exit status that a shell expects."""

import argparse
import errno
import logging
import os
import sys
import warnings

from . import LabError


def run(main) -> None:
    """Call `main()` and exit: 0 when it returns, 2 after a user's mistake, 130 after Ctrl-C."""
    quiet_libraries()
    try:
        sys.exit(main())
    except LabError as mistake:
        sys.exit(_say(mistake, 2))
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "whisper_lab":
            raise
        way_out = "set it up with `make demo` or `pip install -r requirements.txt`, then `source .venv/bin/activate`"
        sys.exit(_say(f"the package {error.name} is not installed in {sys.executable}; {way_out}", 2))
    except BrokenPipeError:  # as in `… | head -1`: who reads has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains once more at its end
        sys.exit(141)  # 128 + SIGPIPE, as shells have it
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f" while writing {error.filename}" if error.filename else ""
        sys.exit(_say(f"no room left on disk{where}; free some, then run the same command again to go on", 2))
    except KeyboardInterrupt:
        sys.exit(_say("interrupted; what was finished is kept, run the same command again to go on", 130))


def _say(message, status: int) -> int:
    print(f"{os.path.basename(sys.argv[0])}: {message}", file=sys.stderr)
    return status


def quiet_libraries() -> None:
    """Leave the screen to the pipeline: libraries say only what is wrong. Undone by WHISPER_LAB_VERBOSE=1.

    Of several processes under torchrun, only the first draws bars.
    """
    if os.environ.get("RANK", "0") != "0":
        os.environ.setdefault("TQDM_DISABLE", "1")
    if os.environ.get("WHISPER_LAB_VERBOSE"):
        return
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_MININTERVAL", "0.5")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message="CUDA initialization")  # cuda.available says it in a line
    logging.getLogger("datasets").setLevel(logging.ERROR)


def path(text: str) -> str:
    """A command line's path, URL or name, with the home folder in place of "~": shells leave it in --model=~/small."""
    return os.path.expanduser(text)


def positive(text: str) -> float:
    """A command line's number above 0."""
    if not float(text) > 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return float(text)


def count(text: str) -> int:
    """A command line's whole number above 0."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return int(text)


def whole(text: str) -> int:
    """A command line's whole number from 0 up."""
    if int(text) < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return int(text)


def share(text: str) -> float:
    """A command line's number from 0 to 1."""
    if not 0 <= float(text) <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return float(text)


def pair(text: str) -> str:
    """A command line's KEY=NAME."""
    if not all(text.partition("=")):
        raise argparse.ArgumentTypeError(f"takes KEY=NAME, as in text=transcription, not {text!r}")
    return text


def share_or_auto(text: str) -> str | float:
    return text if text == "auto" else share(text)
