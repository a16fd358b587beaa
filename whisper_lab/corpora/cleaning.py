"""What is left out of training on purpose: clips that a recipe learns more from when they are gone."""

from collections import Counter
from dataclasses import dataclass

from .. import LabError
from ..speech.audio import WINDOW_SECONDS
from ..text import normalise


@dataclass(frozen=True)
class Limits:
    """The clips that training may have; None is no limit. The default is all that can be learnt.

    Lengths are of the decoded clip, in seconds; characters are those of the sentence, with its spaces; of a sentence
    read more than `max_repeats` times (normalised), the first clips stay.
    """

    max_seconds: float = WINDOW_SECONDS
    min_seconds: float = 0.0
    max_characters_per_second: float | None = None
    max_down_votes: int | None = None
    max_repeats: int | None = None

    def __post_init__(self):
        """Raises LabError for a limit that cannot be met or that Whisper does not allow."""
        if not 0 < self.max_seconds <= WINDOW_SECONDS:
            raise LabError(
                f"--max-seconds is at most {WINDOW_SECONDS}, all that Whisper hears at once, and more than 0"
            )
        if not 0 <= self.min_seconds < self.max_seconds:
            raise LabError("--min-seconds is 0 or more, and less than --max-seconds")
        for name, least in (("max_characters_per_second", 1), ("max_down_votes", 0), ("max_repeats", 1)):
            if getattr(self, name) is not None and getattr(self, name) < least:
                raise LabError(f"--{name.replace('_', '-')} is {least} or more")

    def applied_to(self, rows: list[dict]) -> list[dict]:
        """The rows (sentence, down_votes, …) with what `features.Extract` needs to leave some of them out.

        `limits` are these; `rejected` is the (reason, detail) that the metadata give, or None.
        """
        times, marked = Counter(), []
        for row in rows:
            sentence, votes, rejected = normalise(row["sentence"]), row["down_votes"], None
            if self.max_down_votes is not None and votes > self.max_down_votes:
                rejected = f"more than {self.max_down_votes} down-votes", f"{votes} down-votes"
            elif self.max_repeats is not None and times[sentence] >= self.max_repeats:
                rejected = f"sentence repeated more than {self.max_repeats} times", ""
            else:
                times[sentence] += 1
            marked.append(row | {"limits": self, "rejected": rejected})
        return marked

    def after_reading(self, seconds: float, sentence: str) -> tuple[str, str] | None:
        """The (reason, detail) to leave a clip of that length out, or None."""
        if seconds > self.max_seconds:
            return f"longer than {self.max_seconds:g} s", f"{seconds:.1f} s"
        if seconds < self.min_seconds:
            return f"shorter than {self.min_seconds:g} s", f"{seconds:.2f} s"
        most = self.max_characters_per_second
        if most is not None and len(sentence) > most * seconds:
            return f"more than {most:g} characters a second", f"{len(sentence)} in {seconds:.2f} s"
        return None
