"""The names of recordings that tables give → files on this disk, also where they were written on another system."""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

SOUND = {".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".webm", ".aac", ".aiff", ".amr", ".wma", ".mp4"}
FOLDERS = ("", "clips", "audio", "audios", "wavs", "wav")  # where recordings lie, beside a table


class Recordings:
    """The files in `folder` and in its `folders`. Each is listed once, not asked for every file: some disks are far."""

    def __init__(self, folder: Path, folders: Iterable[str] = FOLDERS):
        self._places = [str(folder / name) for name in folders]
        self._listings: dict[str, _Listing] = {}

    def find(self, name: str) -> tuple[str, str]:
        """The path of the file called `name`, and as it is written. Where there is none, where it would be first.

        The name may have backslashes, å as two characters or as one, whatever the disk has, and no suffix.
        """
        for suffix in (False, True):
            for written in dict.fromkeys((name, name.replace("\\", "/"))):
                for place in self._places:
                    if file := self._within(place, written, suffix):
                        asked = os.path.join(place, written)
                        return file, asked + os.path.splitext(file)[1] if suffix else asked
        return (os.path.join(self._places[0], name),) * 2

    def _within(self, place: str, name: str, suffix: bool) -> str | None:
        *folders, last = name.split("/")
        if name.startswith("/") or ".." in folders:
            whole = os.path.join(place, name)
            return whole if os.path.isfile(whole) and not suffix else None
        for folder in folders:
            found = self._listed(place).folders.get(folder) if folder not in ("", ".") else "."
            if not found:
                return None
            place = place if found == "." else f"{place}/{found}"
        files = self._listed(place).stems if suffix else self._listed(place).files
        return f"{place}/{found}" if (found := files.get(last)) else None

    def _listed(self, folder: str) -> "_Listing":
        if folder not in self._listings:
            self._listings[folder] = _Listing(folder)
        return self._listings[folder]


class _Listing:
    """What is in a folder; nothing, where it is none."""

    def __init__(self, folder: str):
        files, folders = [], []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    (folders if entry.is_dir() else files).append(entry.name)
        except OSError:
            pass
        self.files, self.folders = _Names(zip(files, files)), _Names(zip(folders, folders))

    @cached_property
    def stems(self) -> "_Names":
        """Files of sound by their names without suffixes, where no two are the same."""
        split = {name: os.path.splitext(name) for name in self.files.names}
        sounds = {name: stem for name, (stem, suffix) in split.items() if suffix.lower() in SOUND}
        times = Counter(sounds.values())
        return _Names((stem, name) for name, stem in sounds.items() if times[stem] == 1)


class _Names:
    """Names on a disk, found by any of their forms in Unicode."""

    def __init__(self, names: Iterable[tuple[str, str]]):
        self.names = dict(names)

    def get(self, name: str) -> str | None:
        if name.isascii():
            return self.names.get(name)
        return self.names.get(name) or self._composed.get(unicodedata.normalize("NFC", name))

    @cached_property
    def _composed(self) -> dict[str, str]:
        return {unicodedata.normalize("NFC", key): name for key, name in self.names.items()}
