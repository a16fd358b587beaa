"""How a browser plays an uploaded file, by its content and not by its name: as it is, where browsers can; where some
cannot, its sound made anew.

That is FLAC: every browser plays it (Safari since 2017), it is quickly made, of half the size of WAV, and a jump in it
lands on the sample, which in MP3 it does not. And it is what the model heard, so its times are those of the text.
"""

import mimetypes
import os
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import soundfile

from ..speech import audio, containers

# A container by FFmpeg's name: the suffix by which a browser is told what it is, and what in it browsers play: all that
# are of 2025 or later, and then some of them. (Bare AAC they play, but guess where a second lies in it.)
PLAYED = {
    "mp3": (".mp3", {"mp3"}, set()),
    "flac": (".flac", {"flac"}, set()),
    "wav": (".wav", {"pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_f32le"}, set()),
    "ogg": (".ogg", {"opus", "vorbis"}, set()),
    "mov,mp4,m4a,3gp,3g2,mj2": (".mp4", {"aac", "mp3", "h264"}, {"hevc", "av1", "opus", "flac"}),
    "matroska,webm": (".webm", {"opus", "vorbis", "vp8", "vp9"}, {"aac", "mp3", "flac", "h264", "hevc", "av1"}),
}
TYPES = {".mp3": "audio/mpeg", ".flac": "audio/flac", ".wav": "audio/wav", ".ogg": "audio/ogg"}
TYPES |= {".mp4": "video/mp4", ".webm": "video/webm", ".m4a": "audio/mp4", ".opus": "audio/ogg"}
for name, kind in TYPES.items():  # Gradio asks this machine's table, which may be all but empty
    mimetypes.add_type(kind, name)

_making = threading.Lock()  # one at a time: the other cores transcribe


class Names(set):
    """Names of files. Gradio goes over them to delete the files while others are added, so it is given a copy."""

    def __iter__(self):
        return iter(frozenset(self))


def media(path: str, end: float | None, made: set[str], stopped: Callable[[], bool]) -> dict:
    """The player of the file at `path`: its `tag`, its `sources`, of which a browser takes the first that it can play,
    and whether the last of them is being `made` here: its sound up to `end` (seconds), unless that is `stopped`.

    The names of files that come to lie beside the upload are added to the set `made`, to be deleted with it.
    """
    container, sound, pictures = containers.codings(path)
    suffix, everywhere, somewhere = PLAYED.get(container, ("", set(), set()))
    inside = sound | pictures
    playable = suffix and inside <= everywhere | somewhere
    sources = [_called(path, suffix, made)] if playable else []
    if lacking := not playable or not inside <= everywhere:
        target = f"{path}.flac" if end is None else f"{path}.{end:g}.flac"
        threading.Thread(target=_make, args=(path, end, target, made, stopped), daemon=True).start()
        sources.append(target)
    return {
        "tag": "video" if playable and pictures else "audio",
        "sources": [f"gradio_api/file={quote(source)}" for source in sources],
        "made": lacking,
        "name": Path(path).stem,
    }


def _called(path: str, suffix: str, made: set[str]) -> str:
    """`path`, or another name for it, by which a browser is told what it is."""
    if (mimetypes.guess_type(path)[0] or "").split("/")[-1] == TYPES[suffix].split("/")[-1]:
        return path
    made.add(path + suffix)
    with suppress(FileExistsError):
        os.symlink(path, path + suffix)
    return path + suffix


def _make(path: str, end: float | None, target: str, made: set[str], stopped: Callable[[], bool]) -> None:
    beside = Path(f"{target}.partial")
    made.update((target, str(beside)))
    with _making:
        try:
            if os.path.exists(target):  # of an upload just like it, and soon to be deleted with that
                os.utime(target)
                return
            with soundfile.SoundFile(beside, "w", audio.SAMPLE_RATE, 1, "PCM_16", format="FLAC") as file:
                for block in audio.blocks(path, 0, end):
                    if stopped():
                        return
                    file.write(block)
            os.replace(beside, target)
        except Exception:  # the text is there all the same
            traceback.print_exc()
        finally:
            beside.unlink(missing_ok=True)
