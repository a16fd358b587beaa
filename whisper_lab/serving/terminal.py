"""app.py and app_youtube.py in the terminal: their flags, and transcripts printed or written, without a page."""

import argparse
import errno
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from contextlib import contextmanager
from pathlib import Path

from .. import LabError, command, files
from ..whisper import checkpoint, languages, precision
from . import captions

DEFAULT = "models/sample"  # what `make demo` leaves
LONGEST_NAME = 240  # bytes: file systems take 255


class Parser(argparse.ArgumentParser):
    """A parser whose description is shown as it was written."""

    def __init__(self, description: str):
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> None:
        """Exit with `message`, and what helps where a file's name was taken for a flag."""
        odd = next((name for name in sys.argv[1:] if name.startswith("-") and os.path.exists(name)), None)
        super().error(message + (f"; a file whose name begins with a dash is ./{shown(odd)}" if odd else ""))


def add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("the model").add_argument
    add(
        "--model",
        type=command.path,
        help=f"a folder, a Hub id (NAME or NAME@REVISION), or 'sample': the untuned Whisper base (default {DEFAULT})",
    )
    add(
        "--engine",
        choices=("auto", "ctranslate2", "transformers"),
        default="auto",
        help="ctranslate2: int8 on a CPU, float16 on a GPU; transformers: as it was trained; auto (default): "
        "ctranslate2, or transformers on a GPU for which ctranslate2 lacks a library",
    )
    add(
        "--precision",
        choices=precision.NAMES,
        default="auto",
        help="of --engine transformers: auto (default), bf16 where the processor is faster with it, float16 on a GPU; "
        "float32; bf16",
    )
    add(
        "--language",
        metavar="CODE",
        help="spoken language, such as sv; auto: as Whisper detects it (default: the model's own, or sv)",
    )
    add("--task", choices=("transcribe", "translate"), default="transcribe", help="translate: into English")
    add(
        "--beams",
        type=int,
        default=5,
        metavar="N",
        help="searched where the text is in doubt (default 5, what scores are measured with; 1: never, quickest)",
    )
    add("--fallback", action="store_true", help="sample again, warmer, where a text repeats itself or is doubtful")
    add("--prompt", default="", metavar="TEXT", help="names and words to expect")
    add = parser.add_argument_group("in the terminal").add_argument
    add(
        "--format",
        choices=captions.FORMATS,
        default="txt",
        help="txt (default), srt, vtt, or json with the time of every word",
    )
    add("--output-dir", type=Path, metavar="FOLDER", help="write a file for each instead of printing")
    add("--overwrite", action="store_true", help="write also over files that are in --output-dir already")
    add = parser.add_argument_group("the page").add_argument
    add(
        "--compare",
        metavar="MODEL",
        help="second model to compare with (default: the one that --model was tuned from; 'none': no comparison)",
    )
    add(
        "--host",
        help="address to listen on (default 127.0.0.1: this computer only; 0.0.0.0: everyone who can reach it)",
    )
    add("--port", type=port, help="default: the first free one from 7860")
    add("--share", action="store_true", help="a public https address through Gradio's servers, for 72 hours")
    add("--auth", metavar="USER:PASSWORD", help="ask for it before the page is shown")
    add("--max-minutes", type=float, default=120, metavar="N", help="longest recording taken (default 120)")
    add(
        "--queue",
        type=int,
        default=8,
        metavar="N",
        help="how many are served at once; the others see their place in line (default 8)",
    )


def port(text: str) -> int:
    """A command line's number of a port."""
    if not 0 < int(text) < 65_536:
        raise argparse.ArgumentTypeError(f"a port is 1 to 65535, not {text}")
    return int(text)


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> argparse.Namespace:
    if args.auth and not all(args.auth.partition(":")):
        parser.error("--auth wants USER:PASSWORD")
    for name in ("max_minutes", "queue", "beams"):
        if getattr(args, name) <= 0:
            parser.error(f"--{name.replace('_', '-')} is a number above 0")
    if args.language not in (None, "auto"):
        args.language = languages.whisper_language(args.language)
    if args.share and not args.auth:
        print(
            "--share opens this page to everyone who has the address; --auth USER:PASSWORD asks them first.",
            file=sys.stderr,
        )
    return args


def model(options) -> str:
    """--model, or what there is: the model that a hosted copy was built with, the demo's, the untuned one."""
    if options.model:
        return options.model
    built_with = Path(sys.argv[0]).resolve().parent / "space.json"
    if built_with.is_file():
        from .. import space

        return space.default_model(built_with.parent)
    if (Path(DEFAULT) / "config.json").is_file():
        return DEFAULT
    print(f"{DEFAULT} is not there (`make demo` makes it); using the untuned Whisper base.", file=sys.stderr)
    return checkpoint.SAMPLE


def compared(options) -> str | None:
    """--compare, or the model that --model was tuned from."""
    if options.compare:
        return None if options.compare == "none" else options.compare
    plan = Path(model(options)) / "plan.json"
    base = files.read_json(plan)["plan"]["model"] if plan.is_file() else checkpoint.SAMPLE
    return base if base != model(options) else None


def transcriber(options):
    from .transcription import Transcriber

    return Transcriber(model(options), options.engine, precision=options.precision)


def decoding(options, reader):
    from ..whisper.decoding import Decoding

    return Decoding(options.language or reader.language, options.task, options.beams, options.fallback, options.prompt)


@contextmanager
def bar(title: str):
    """A progress bar, moved by calling it with the share done, 0 to 1."""
    from tqdm import tqdm

    with tqdm(
        total=100,
        desc=title[:40],
        leave=False,
        disable=None,
        bar_format="{desc}: {percentage:3.0f}%|{bar}| {remaining}",
    ) as shown:

        def move(share: float) -> None:
            shown.n = 100 * share
            shown.refresh()

        yield move


def found(inputs: list[str], recursive: bool) -> dict[str, str]:
    """Of each file in `inputs`, and of each that holds sound in the folders there, the name of its transcript, unlike
    all others: its own, with what tells it from another of that name, or as it lies below the folder.

    What holds no sound in a folder is said and left out. Raises LabError where nothing is left.
    """
    names: dict[str, str] = {}
    for given in inputs:
        if not os.path.isdir(given):
            names[given] = _fit(Path(given).stem)
            continue
        inside = sorted(path for path in Path(given).glob("**/*" if recursive else "*") if path.is_file())
        sounds = {path: _has_sound(path) for path in inside}
        heard = [path for path, sound in sounds.items() if sound]
        if without := [shown(path.name) for path, sound in sounds.items() if not sound]:
            more = f" and {len(without) - 5:,} more" if without[5:] else ""
            print(f"{shown(given)}: left out, as there is no sound in {', '.join(without[:5])}{more}", file=sys.stderr)
        if not heard:
            below = "" if recursive else " (--recursive looks into the folders below it)"
            print(f"{shown(given)}: no file in it holds sound{below}", file=sys.stderr)
        names |= {str(path): _fit(str(path.relative_to(given).with_suffix(""))) for path in heard}
    if not names:
        raise LabError("there is nothing to transcribe")
    for told_by in (_with_suffix, _below_what_they_share):
        for same in [name for name, times in Counter(names.values()).items() if times > 1]:
            names |= told_by([path for path in names if names[path] == same], same)
    return names


def _has_sound(path: Path) -> bool:
    from ..speech import audio, containers

    try:
        with containers.opened(path):
            return True
    except audio.AudioError as error:  # of any other reason people hear when it is transcribed
        return error.reason not in ("not audio", "no sound in it", "empty file")


def _fit(name: str) -> str:
    """`name` as long as a file's may be with a suffix or two behind it."""
    while len(os.fsencode(os.path.basename(name))) > LONGEST_NAME:
        name = name[:-1]
    return name


def _with_suffix(paths: list[str], name: str) -> dict[str, str]:
    return {path: name + Path(path).suffix for path in paths}


def _below_what_they_share(paths: list[str], name: str) -> dict[str, str]:
    whole = {path: os.path.abspath(path) for path in paths}
    shared = os.path.commonpath([os.path.dirname(path) for path in whole.values()])
    return {path: os.path.relpath(one, shared) for path, one in whole.items()}


def shown(path: str | Path) -> str:
    """`path` for people, in one line: a name may be in another encoding than this machine's, or steer the terminal."""
    text = str(path).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", "\ufffd", text)


def targets(options, titles: Iterable[str]) -> list[Path]:
    """The files in --output-dir for transcripts of these titles; none without it.

    Raises LabError where one is there already, without --overwrite, or where none can be written.
    """
    if options.output_dir is None:
        return []
    paths = [_target(options, title) for title in titles]
    there = [path for path in paths if os.path.exists(path)]  # also of a name that is too long
    if there and not options.overwrite:
        more = f", and {len(there) - 1:,} more like it" if there[1:] else ""
        raise LabError(
            f"{shown(there[0])} is there already{more}; --overwrite writes over it, or take another --output-dir"
        )
    try:
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LabError(f"--output-dir {shown(options.output_dir)} cannot be written: {error.strerror}") from error
    return paths


def _target(options, title: str) -> Path:
    return options.output_dir / f"{title}.{options.format}"


def transcribe(
    reader, options, source, title: str, start: float = 0, end: float | None = None, facts: dict | None = None
) -> None:
    """Print the transcript of the file `source`, or write it into --output-dir, with a bar on the way."""
    from ..speech import audio
    from .transcription import Progress

    progress, found = Progress(), []
    timed = options.format != "txt"
    with bar(title) as move:
        for segment in reader.segments(source, decoding(options, reader), timed, start, end, progress):
            found.append(segment)
            if progress.total:
                move(progress.done / progress.total)
    if progress.damage:
        where = f"{progress.damage[0].reason} ({audio.described(progress.damage)})"
        print(f"{shown(source)}: {where}; the rest is transcribed", file=sys.stderr)
    if progress.language:
        print(f"{shown(source)}: {_detected(*progress.language, reader.tuned_to)}", file=sys.stderr)
    if not found:
        print(f"{shown(source)}: no speech was found in it", file=sys.stderr)
    about = {**(facts or {"source": shown(source)}), **reader.facts(), **progress.facts()}
    text = captions.write(found, options.format, about)
    if options.output_dir is None:
        printed(text)
        return
    target = _target(options, title)
    files.write_text(target, text)
    print(shown(target), file=sys.stderr)


def _detected(code: str, probability: float, tuned_to: str | None) -> str:
    from ..whisper.decoding import CERTAIN

    line = f"detected language: {languages.named(code)}, {100 * probability:.0f} %"
    if probability < CERTAIN:
        line += " (a guess: --language CODE decides)"
    if tuned_to:
        line += f"; the model was tuned to {languages.named(tuned_to)}, and may not tell others well"
    return line


def printed(text: str) -> None:
    """Print `text`, and say so where the terminal's coding has no place for some of its characters."""
    coding = sys.stdout.encoding or "utf-8"
    known = text.encode(coding, "replace").decode(coding)
    if known != text:
        print(f"{coding} has no place for what is written as ? here; --output-dir writes UTF-8", file=sys.stderr)
    sys.stdout.write(known)
    sys.stdout.flush()


def each(inputs: Collection[str], work: Callable[[str], None]) -> int | None:
    """`work` on every input; a mistake in one does not stop the others. Exit status 1 if any failed."""
    failed = 0
    for name in inputs:
        if len(inputs) > 1:
            print(f"{shown(name)}:", file=sys.stderr)
        try:
            work(name)
        except (LabError, OSError) as error:
            if getattr(error, "errno", None) in (errno.EPIPE, errno.ENOSPC, errno.EDQUOT):  # so it is with all others
                raise
            said = shown(str(getattr(error, "strerror", None) or error))
            print(said if shown(name) in said else f"{shown(name)}: {said}", file=sys.stderr)
            failed += 1
    return 1 if failed else None
