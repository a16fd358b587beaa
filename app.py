#!/usr/bin/env python3
"""The microphone page: speak, and read what was said. And files, in the terminal.

    python app.py                                        the page, with the demo's model, on this computer only
    python app.py --model models/small --share           another model; a public address for 72 hours
    python app.py --collect mine                         one's own voice becomes a corpus to train on, with consent
    python app.py clip.wav film.mp4                      no page: their transcripts, on screen
    python app.py talk.mp3 --format srt --output-dir .   captions, in a file
    python app.py interviews/ --output-dir texts         all that holds sound in a folder

Text appears while one speaks. Any sound or film that FFmpeg reads can be uploaded, hours of it. Models are converted
for CTranslate2 once and kept in the cache; --engine transformers runs them as they were trained.
"""

import argparse

from whisper_lab import command
from whisper_lab.serving import terminal


def parse_args(argv=None) -> argparse.Namespace:
    parser = terminal.Parser(__doc__)
    parser.add_argument(
        "files", nargs="*", metavar="FILE", help="sound or film, or folders of it, for the terminal; none: the page"
    )
    parser.add_argument("--recursive", action="store_true", help="take also what is in the folders of a folder")
    terminal.add_flags(parser)
    parser.add_argument(
        "--collect",
        metavar="FOLDER",
        help="keep clips of visitors who consent there, a corpus for feature-pipeline.py (default: nothing is kept)",
    )
    return terminal.check(parser, parser.parse_args(argv))


def main() -> int | None:
    options = parse_args()
    if options.files:
        names = terminal.found(options.files, options.recursive)
        terminal.targets(options, names.values())
        reader = terminal.transcriber(options)
        return terminal.each(names, lambda name: terminal.transcribe(reader, options, name, names[name]))
    from whisper_lab.serving import microphone, pages

    page, readable = microphone.page(options)
    pages.serve(page, options, readable)
    return None


if __name__ == "__main__":
    command.run(main)
