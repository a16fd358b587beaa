"""A corpus of one's own, growing clip by clip: sentences read aloud to the microphone, transcripts put right and kept.

    FOLDER/collection.json                                   whose voice is whose, which sentence is of which split
    FOLDER/sv-SE/clips/*.flac                                16 kHz, mono, 16 bit
    FOLDER/sv-SE/train.tsv, dev.tsv, test.tsv, clip_durations.tsv

FOLDER/sv-SE has the layout and the columns of a Common Voice release, so `feature-pipeline.py --corpus FOLDER` reads
it as one. Each clip added makes it another corpus, which wants another --store. Names are in collection.json only: to
share the clips without them, share FOLDER/sv-SE. The clips are FLAC, not MP3 as in a release: an MP3 encoder removes
sound and shifts what is left, and a recording cannot be made again; FLAC gives back every sample.
"""

import csv
import hashlib
import random
import re
import secrets
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile
from filelock import FileLock

from .. import LabError, files
from ..speech.audio import SAMPLE_RATE, WINDOW_SECONDS
from ..text import normalise

SENTENCES = files.ROOT / "sample" / "sentences.txt"
LOCALE = "sv-SE"  # of SENTENCES
SCHEMA_VERSION = 1
SHARES = {"train": 8, "dev": 1, "test": 1}  # tenths of the sentences
SHORTEST_SECONDS = 0.3
SILENT = 10 ** (-50 / 20)  # peak amplitude: -50 dBFS
COLUMNS = (
    "client_id path sentence_id sentence sentence_domain up_votes down_votes age gender accents variant locale segment"
).split()
DURATIONS = ["clip", "duration[ms]"]


class Refused(LabError):
    """A clip that is not taken, or not there. `reason` is a few words, always the same ones: too short, too long clip,
    silent, no sentence, no letters, no speaker, no clip."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


class Collection:
    """The clips in a folder, safe to use from several threads and several processes at once.

    Sentences, not speakers, are kept apart over the splits: the aim is a model that knows one's own voice. So what is
    measured on `test` is how well it reads new sentences of voices that it knows, and says nothing of other voices.
    A sentence stays in its split for good, whoever reads it, and also when its clips are removed: a model tuned on
    what was here before may go on learning, and must not be tested on a sentence that it has learnt.

    A new sentence goes to a split that holds none (train first, then dev, then test), and otherwise to the one
    furthest below its share of all sentences: 8, 1 and 1 tenths.
    """

    def __init__(self, folder: str | Path, locale: str = LOCALE):
        """The folder is made by the first `add`. Raises LabError if it holds anything but a collection."""
        self.folder = Path(folder).resolve()
        self.locale = locale
        self._corpus = self.folder / locale
        if re.match(r"(cv-corpus-)?(\d|sample\b)", self.folder.name):  # corpus.read and the model card go by the name
            raise LabError(
                f"{folder} is named like a release of Common Voice or the sample; give --collect another name"
            )
        self._state()

    def add(self, samples: np.ndarray, sentence: str, speaker: str) -> str:
        """Keep (samples,) float32 at 16 kHz, in [-1, 1], as `speaker` saying `sentence`; the id of the new clip.

        Spaces and line ends in `sentence` and `speaker` become single spaces. The same sentence may be added again.
        Raises Refused for a clip that cannot be learnt from.
        """
        sentence, speaker = _one_line(sentence), _one_line(speaker)
        _check(samples, sentence, speaker)
        with self._locked() as state:
            tables, key = self._tables(), sentence_id(sentence)
            split = state["splits"].setdefault(key, _split_of_a_new_sentence(tables))
            hashed = hashlib.sha512(f"{state['salt']}{speaker}".encode()).hexdigest()
            client_id = state["speakers"].setdefault(speaker, hashed)
            state["added"] += 1
            clip = f"{self.locale}_{state['added']:06}"
            row = {
                "client_id": client_id,
                "path": f"{clip}.flac",
                "sentence_id": key,
                "sentence": sentence,
                "up_votes": 0,
                "down_votes": 0,
                "locale": self.locale,
            }
            duration = {"clip": row["path"], "duration[ms]": round(1000 * samples.size / SAMPLE_RATE)}
            # In this order, a kill leaves at most a number, a sound or a duration that no table asks for.
            files.write_json(self.folder / "collection.json", state)
            (self._corpus / "clips").mkdir(parents=True, exist_ok=True)
            self._write_sound(row["path"], samples)
            self._write("clip_durations", DURATIONS, [*self._rows("clip_durations"), duration])
            self._write(split, COLUMNS, [*tables[split], row])
        return clip

    def clips(self, speaker: str | None = None) -> list[dict]:
        """All clips, or those of one speaker, newest first: id, path (absolute), sentence, speaker, split, seconds."""
        if not self._begun():
            return []
        with self._locked() as state:
            milliseconds = {row["clip"]: int(row["duration[ms]"]) for row in self._rows("clip_durations")}
            tables = self._tables()
        names = {client_id: name for name, client_id in state["speakers"].items()}
        clips = [
            {
                "id": Path(row["path"]).stem,
                "path": str(self._corpus / "clips" / row["path"]),
                "sentence": row["sentence"],
                "speaker": names[row["client_id"]],
                "split": split,
                "seconds": milliseconds[row["path"]] / 1000,
            }
            for split, rows in tables.items()
            for row in rows
        ]
        wanted = [clip for clip in clips if speaker is None or clip["speaker"] == _one_line(speaker)]
        return sorted(wanted, key=lambda clip: clip["id"], reverse=True)

    def remove(self, id: str) -> None:
        """Delete a clip, sound and rows. Raises Refused if there is none of that id."""
        name = f"{id}.flac"
        if self._begun():
            with self._locked():
                for split, rows in self._tables().items():
                    kept = [row for row in rows if row["path"] != name]
                    if len(kept) < len(rows):
                        self._write(split, COLUMNS, kept)
                        durations = [row for row in self._rows("clip_durations") if row["clip"] != name]
                        self._write("clip_durations", DURATIONS, durations)
                        (self._corpus / "clips" / name).unlink(missing_ok=True)
                        return
        raise Refused("no clip", f"{self.folder} has no clip {id!r}; was it removed already?")

    def next_sentence(self, speaker: str) -> str:
        """A sentence to read aloud: any of those that `speaker` has read least often, at first never.

        Raises LabError for a locale other than that of the sentences, sv-SE.
        """
        if self.locale != LOCALE:
            raise LabError(
                f"the sentences to read are {LOCALE}, not {self.locale}; correct and save transcripts instead"
            )
        read = Counter(sentence_id(clip["sentence"]) for clip in self.clips(speaker))
        sentences = {text: read[sentence_id(text)] for text in SENTENCES.read_text(encoding="utf-8").splitlines()}
        return random.choice([text for text, times in sentences.items() if times == min(sentences.values())])

    def _begun(self) -> bool:
        return (self.folder / "collection.json").is_file()

    def _state(self) -> dict:
        """What collection.json says, or, of a collection not begun, will say. Raises LabError for a foreign folder."""
        if self._begun():
            state = files.read_json(self.folder / "collection.json")
            if state.get("schema_version") != SCHEMA_VERSION:
                raise LabError(f"{self.folder} is a collection of another version; choose another --collect")
            return state
        if self.folder.exists() and (
            not self.folder.is_dir() or any(not path.name.startswith(".") for path in self.folder.iterdir())
        ):
            if self._begun():  # by another process, since it was looked at
                return self._state()
            raise LabError(
                f"{self.folder} holds something else than a collection of clips; choose a new or empty --collect"
            )
        # Without the salt, whoever guesses a name could find its voice in a shared corpus.
        return {
            "schema_version": SCHEMA_VERSION,
            "added": 0,
            "salt": secrets.token_hex(16),
            "speakers": {},
            "splits": {},
        }

    @contextmanager
    def _locked(self):
        """The state, for as long as no other thread or process may change anything."""
        self._state()  # a folder that became another thing since is not touched
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".lock"):
            yield self._state()

    def _tables(self) -> dict[str, list[dict]]:
        return {split: self._rows(split) for split in SHARES}

    def _rows(self, table: str) -> list[dict]:
        path = self._corpus / f"{table}.tsv"
        if not path.is_file():
            return []
        with open(path, encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))

    def _write(self, table: str, columns: list[str], rows: list[dict]) -> None:
        cells = [[row.get(name, "") for name in columns] for row in rows]
        files.write_tsv(self._corpus / f"{table}.tsv", columns, cells)

    def _write_sound(self, name: str, samples: np.ndarray) -> None:
        scaled = np.clip(np.round(samples * 32_768), -32_768, 32_767)  # libsndfile's own scaling is 32767: not exact
        with files.replacing(self._corpus / "clips" / name) as beside:
            soundfile.write(beside, scaled.astype(np.int16), SAMPLE_RATE, subtype="PCM_16")


def sentence_id(sentence: str) -> str:
    """Equal for sentences that sound the same: case and punctuation do not count."""
    return hashlib.sha256(normalise(sentence).encode()).hexdigest()


def _split_of_a_new_sentence(tables: dict[str, list[dict]]) -> str:
    held = {split: len({row["sentence_id"] for row in rows}) for split, rows in tables.items()}
    total = sum(held.values()) + 1
    return max(SHARES, key=lambda split: (not held[split], SHARES[split] * total - 10 * held[split]))


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _check(samples: np.ndarray, sentence: str, speaker: str) -> None:
    seconds = samples.size / SAMPLE_RATE
    if seconds < SHORTEST_SECONDS:
        raise Refused("too short", f"the recording lasts {seconds:.2f} s; record at least {SHORTEST_SECONDS} s")
    if seconds > WINDOW_SECONDS:
        raise Refused(
            "too long clip", f"the recording lasts {seconds:.1f} s; record at most {WINDOW_SECONDS} s at a time"
        )
    if not np.abs(samples).max() >= SILENT:  # nor where samples are not numbers
        raise Refused("silent", "the recording is silent (below -50 dBFS throughout); check the microphone")
    if not sentence:
        raise Refused("no sentence", "there is no sentence to the recording; write what is said")
    if not any(character.isalpha() for character in sentence):
        raise Refused("no letters", f"{sentence!r} has no letters; write what is said in words")
    if not speaker:
        raise Refused("no speaker", "the recording has no speaker; give a name, it stays in this folder")
