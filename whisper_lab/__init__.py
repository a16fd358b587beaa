"""The parts that the scripts share. Nothing in here imports a script."""


class LabError(Exception):
    """A mistake that a user can mend; the message says in one line what is wrong and what to do."""


def near(word: str, known) -> str:
    """` (did you mean …?)` for the known words closest to `word`, or the first few that are known."""
    import difflib

    close = difflib.get_close_matches(word, sorted(known), n=3, cutoff=0.6)
    return f" (did you mean {' or '.join(close)}?)" if close else f" (known: {', '.join(sorted(known)[:12])}, …)"
