#!/usr/bin/env python3
"""The YouTube page: paste a link, read what is said in the film. And links, in the terminal.

    python app_youtube.py                                     the page, on this computer only
    python app_youtube.py LINK [LINK …]                       no page: their transcripts, on screen
    python app_youtube.py LINK --format srt --output-dir .    captions, in a file
    python app_youtube.py LINK --start 1:30 --end 4:00        a part of the film
    python app_youtube.py LINK --downloader pytube            by pytube (not maintained since 2023; see the README)

Fetch only what you may: YouTube's terms allow it with the permission of the film's owner or the law. The sound is
deleted as soon as it has been read. No FFmpeg is needed; YouTube may want a JavaScript runtime, which
`pip install "yt-dlp[default,deno]"` brings. Hosted machines are often refused: run it at home, or upload the film.
"""

import argparse
import sys

from whisper_lab import command
from whisper_lab.serving import captions, terminal, youtube


def parse_args(argv=None) -> argparse.Namespace:
    parser = terminal.Parser(__doc__)
    parser.add_argument("links", nargs="*", metavar="LINK", help="film to transcribe in the terminal; none: the page")
    add = parser.add_argument_group("the film").add_argument
    add("--start", metavar="TIME", help="where to begin, such as 1:30 (default: where the link says, as in …&t=90)")
    add("--end", metavar="TIME", help="where to end")
    add("--downloader", choices=youtube.DOWNLOADERS, default=youtube.DOWNLOADERS[0], help="default yt-dlp")
    terminal.add_flags(parser)
    return terminal.check(parser, parser.parse_args(argv))


def transcribe(reader, options, link: str) -> None:
    """Fetch, read and write the film that `link` leads to."""
    start, end = youtube.part(options.start), youtube.part(options.end)
    if start is None and (start := youtube.start_in(link)):
        print(f"from {captions.clock(start)} on, as the link says; --start 0 takes all of it", file=sys.stderr)
    film = youtube.look(link, options.max_minutes, options.downloader, start, end)
    terminal.targets(options, [film.id])
    facts = {"source": film.link, "title": film.title, "channel": film.channel}
    with terminal.bar(film.title) as share, youtube.fetched(film, share, downloader=options.downloader) as path:
        terminal.transcribe(reader, options, path, film.id, start or 0, end, facts)


def main() -> int | None:
    options = parse_args()
    if options.links:
        reader = terminal.transcriber(options)
        return terminal.each(options.links, lambda link: transcribe(reader, options, link))
    from whisper_lab.serving import films, pages

    pages.serve(films.page(options), options)
    return None


if __name__ == "__main__":
    command.run(main)
