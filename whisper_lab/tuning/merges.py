"""Text → other tokens for the same text, by leaving out a tokenizer's merges at random: BPE dropout.

Provilkov et al. 2020. `tokenizers` has it too, but its dice are the process's own: the same seed would give other
labels in every run.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Merges:
    """A byte-level BPE tokenizer's merges. Pickles."""

    ranks: Mapping[tuple[int, int], tuple[int, int]]  # two tokens → the merge's rank, and the token it makes
    pieces: Mapping[int, str]  # token → its bytes, a letter for each; special tokens are not in it
    bytes: Mapping[str, int]  # such a letter → its token
    words: object  # tokenizers' pre-tokenizer: merges stay within what it yields

    @classmethod
    def of(cls, tokenizer) -> "Merges":
        """Of a transformers tokenizer that `tokenizers` runs, as every Whisper's."""
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        special = {token["content"] for token in state["added_tokens"]}
        vocabulary = {piece: token for piece, token in state["model"]["vocab"].items() if piece not in special}
        pairs = (pair.split(" ") if isinstance(pair, str) else pair for pair in state["model"]["merges"])
        return cls(
            {(vocabulary[a], vocabulary[b]): (rank, vocabulary[a + b]) for rank, (a, b) in enumerate(pairs)},
            {token: piece for piece, token in vocabulary.items()},
            {piece: token for piece, token in vocabulary.items() if len(piece) == 1},
            tokenizer.backend_tokenizer.pre_tokenizer,
        )

    def encoded_again(self, labels: list[int], dropout: float, rng: np.random.Generator) -> list[int]:
        """Labels for the same text, in which each merge is left out with the probability `dropout`, every time that it
        could be made. Special tokens and timestamps stay where they are."""
        again, run = [], []
        for token in [*labels, None]:
            if token in self.pieces:
                run.append(token)
                continue
            again += self._run(run, dropout, rng) if run else []
            again += [] if token is None else [token]
            run = []
        return again

    def _run(self, tokens: list[int], dropout: float, rng: np.random.Generator) -> list[int]:
        from tokenizers.decoders import ByteLevel

        pieces = [self.pieces[token] for token in tokens]
        words = [word for word, _ in self.words.pre_tokenize_str(ByteLevel().decode(pieces))]
        if "".join(words) != "".join(pieces):  # part of a letter: no text by itself
            return tokens
        return [token for word in words for token in self._word([self.bytes[b] for b in word], dropout, rng)]

    def _word(self, tokens: list[int], dropout: float, rng: np.random.Generator) -> list[int]:
        while len(tokens) > 1:
            kept = rng.random(len(tokens) - 1) >= dropout
            pairs = enumerate(zip(tokens, tokens[1:]))
            possible = [(*self.ranks[pair], at) for at, pair in pairs if pair in self.ranks and kept[at]]
            if not possible:
                break
            _, made, at = min(possible)
            tokens = [*tokens[:at], made, *tokens[at + 2 :]]
        return tokens
