"""app.py and app_youtube.py in the terminal: their flags, and transcripts printed or written, without a page."""

import argparse
import os
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

from .. import LabError, command, files
from ..whisper import checkpoint, precision
from . import captions

DEFAULT = "models/sample"  # what `make demo` leaves


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
    add("--language", metavar="CODE", help="spoken language, such as sv (default: the model's own, or sv)")
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
    add("--port", type=int, help="default: the first free one from 7860")
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


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> argparse.Namespace:
    if args.auth and not all(args.auth.partition(":")):
        parser.error("--auth wants USER:PASSWORD")
    for name in ("max_minutes", "queue", "beams"):
        if getattr(args, name) <= 0:
            parser.error(f"--{name.replace('_', '-')} is a number above 0")
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

    spoken = checkpoint.whisper_language(options.language) if options.language else reader.language
    return Decoding(spoken, options.task, options.beams, options.fallback, options.prompt)


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
    named = os.fsencode(source).decode("utf-8", "replace")  # a name may be in another encoding
    if progress.damage:
        where = f"{progress.damage[0].reason} ({audio.described(progress.damage)})"
        print(f"{named}: {where}; the rest is transcribed", file=sys.stderr)
    about = {**(facts or {"source": named}), **reader.facts(), **progress.facts()}
    text = captions.write(found, options.format, about)
    if options.output_dir is None:
        sys.stdout.write(text)
        return
    target = options.output_dir / f"{title}.{options.format}"
    target.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(target, text)
    print(target, file=sys.stderr)


def each(inputs: list[str], work: Callable[[str], None]) -> int | None:
    """`work` on every input; a mistake in one does not stop the others. Exit status 2 if any failed."""
    failed = 0
    for name in inputs:
        if len(inputs) > 1:
            print(f"{name}:", file=sys.stderr)
        try:
            work(name)
        except LabError as error:
            print(f"{name}: {error}" if name not in str(error) else str(error), file=sys.stderr)
            failed += 1
    return 2 if failed else None
