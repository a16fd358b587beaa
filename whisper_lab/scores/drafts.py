"""A batch of clips whose text is known, decoded without a step for each token that the model gets right.

To score a split, the decoder reads the right text once anyway, for the loss. What it finds likeliest after each token
is what greedy decoding would write there, as long as it wrote the text's own tokens so far: up to the first that
differs, and with it, the hypothesis is known, and only from there on it is written token by token. That is speculative
decoding (Leviathan et al., ICML 2023) with the reference for a draft: the texts are those of `windows.decode`, which a
test holds it to. What the decoder made of the sound and of the tokens so far is kept for those steps and for the beams,
in a place of its own for each row, so that the rows of a batch need not be equally far, and the beams of a clip share
its sound.
"""

from dataclasses import dataclass, field, replace

import torch
from torch.nn.functional import pad, scaled_dot_product_attention

from ..whisper.decoding import Decoded

ROOM = 16  # tokens that the memory of a text grows by
FEWER = 0.6  # share of a batch still being written below which the rest is dropped: moving it costs about a step


@dataclass
class Memory:
    """Keys and values of each layer: of the sound, (clips, heads, positions, width), and of the tokens that were read,
    (rows, tokens, heads, width). `heard` and `read` count those that hold, (clips,) and (rows,). A clip has one row, or
    one for each beam."""

    sound: list[tuple[torch.Tensor, torch.Tensor]]
    heard: torch.Tensor
    text: list[tuple[torch.Tensor, torch.Tensor]]
    read: torch.Tensor

    def of(self, rows: torch.Tensor, clips: torch.Tensor | None = None) -> "Memory":
        """With these of its `rows`, and these of its `clips` or all of them."""
        used = int(self.read.max())
        text = [tuple(part[:, :used][rows] for part in layer) for layer in self.text]
        if clips is None:
            return Memory(self.sound, self.heard, text, self.read[rows])
        sound = [tuple(part[clips] for part in layer) for layer in self.sound]
        return Memory(sound, self.heard[clips], text, self.read[rows])

    def up_to(self, tokens: int) -> "Memory":
        """With no more than the first `tokens` of each row."""
        return replace(self, read=self.read.clamp(max=tokens))

    @staticmethod
    def joined(some: list["Memory"]) -> "Memory":
        """All of their clips, whatever their windows."""
        if len(some) == 1:
            return some[0]

        def together(layers: list, axis: int) -> list:
            longest = max(parts[0].shape[axis] for parts in (layer[0] for layer in layers))
            end = (0, 0) * (3 - axis)
            return [
                tuple(
                    torch.cat([pad(part, (*end, 0, longest - part.shape[axis])) for part in parts])
                    for parts in zip(*same)
                )
                for same in zip(*layers)
            ]

        return Memory(
            together([one.sound for one in some], 2),
            torch.cat([one.heard for one in some]),
            together([one.text for one in some], 1),
            torch.cat([one.read for one in some]),
        )


@dataclass
class Writer:
    """`model`'s decoder (WhisperForConditionalGeneration) on a batch; texts follow on the ids `prompt`. Of the model's
    generation config, the tokens that may not be written and the end count; penalties do not."""

    model: object
    prompt: list[int]
    end: int = field(init=False)

    def __post_init__(self):
        settings = self.model.generation_config
        self.end = settings.eos_token_id if isinstance(settings.eos_token_id, int) else settings.eos_token_id[0]
        self._never, self._not_first = (
            torch.tensor(ids or [], dtype=torch.long, device=self.model.device)
            for ids in (settings.suppress_tokens, settings.begin_suppress_tokens)
        )
        self._decoder, self._words = self.model.get_decoder(), self.model.get_output_embeddings()

    def listen(self, encoded: torch.Tensor) -> Memory:
        """The memory of `encoded` (clips, positions, width) and of no tokens."""
        clips, positions, _ = encoded.shape
        sound, text = [], []
        for layer in self._decoder.layers:
            cross = layer.encoder_attn
            keys, values = (
                part(encoded).unflatten(-1, (cross.num_heads, -1)).transpose(1, 2)
                for part in (cross.k_proj, cross.v_proj)
            )
            sound.append((keys, values))
            text.append((keys.new_empty(clips, 0, *keys.shape[1::2]), keys.new_empty(clips, 0, *keys.shape[1::2])))
        none = torch.zeros(clips, dtype=torch.long, device=encoded.device)
        return Memory(sound, none + positions, text, none)

    def read(self, memory: Memory, ids: torch.Tensor) -> torch.Tensor:
        """The decoder's states (rows, tokens, width) after each of `ids` (rows, tokens), which are then in `memory`."""
        rows, count = ids.shape
        places = memory.read[:, None] + torch.arange(count, device=ids.device)
        clips, longest = len(memory.heard), int(places.max()) + 1
        if longest > memory.text[0][0].shape[1]:
            more = (0, 0, 0, 0, 0, longest + ROOM - memory.text[0][0].shape[1])
            memory.text = [tuple(pad(part, more) for part in layer) for layer in memory.text]
        seen = (torch.arange(longest, device=ids.device) <= places[..., None])[:, None]
        positions, hears = memory.sound[0][0].shape[2], None
        if (memory.heard < positions).any():
            hears = (torch.arange(positions, device=ids.device) < memory.heard[:, None])[:, None, None]
        row = torch.arange(rows, device=ids.device)[:, None]
        known = self._decoder.embed_positions.weight  # a text that ended long ago and was not dropped may be past them
        states = self._decoder.embed_tokens(ids) + known[places.clamp(max=len(known) - 1)]
        for layer, sound, text in zip(self._decoder.layers, memory.sound, memory.text):
            own, heads = layer.self_attn, layer.self_attn.num_heads
            x = layer.self_attn_layer_norm(states)
            query, key, value = (part(x).unflatten(-1, (heads, -1)) for part in (own.q_proj, own.k_proj, own.v_proj))
            text[0][row, places], text[1][row, places] = key, value
            kept = (part[:, :longest].transpose(1, 2) for part in text)
            x = scaled_dot_product_attention(query.transpose(1, 2), *kept, attn_mask=seen)
            states = states + own.out_proj(x.transpose(1, 2).flatten(2))
            cross = layer.encoder_attn
            query = cross.q_proj(layer.encoder_attn_layer_norm(states)).view(clips, -1, heads, query.shape[-1])
            x = scaled_dot_product_attention(query.transpose(1, 2), *sound, attn_mask=hears)
            states = states + cross.out_proj(x.transpose(1, 2).reshape(rows, count, -1))
            x = layer.activation_fn(layer.fc1(layer.final_layer_norm(states)))
            states = states + layer.fc2(x)
        memory.read = memory.read + count
        return self._decoder.layer_norm(states)

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """(some, width) → (some, vocabulary), float32."""
        return self._words(states).float()

    def likeliest(self, logits: torch.Tensor, first: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The likeliest tokens of `logits` (some, vocabulary), which are changed, and their log probabilities, among
        those that may be written: fewer where `first` (some,), at the beginning of a text."""
        self._bar(logits, first)
        best, tokens = logits.max(-1)
        return tokens, best - logits.logsumexp(-1)

    def _bar(self, logits: torch.Tensor, first: torch.Tensor) -> None:
        logits[:, self._never] = -torch.inf
        logits[first.nonzero(), self._not_first] = -torch.inf

    def write(self, memory: Memory, texts: list[list[int]], scores: list[float], limits: list[int]) -> list[Decoded]:
        """The texts to their ends, greedily. Of each row, `texts` are the ids so far and `scores` the sum of their log
        probabilities; all of them but the last, or of the prompt if there are none, are in `memory`; it may have up to
        `limits` ids."""
        texts, scores = [list(text) for text in texts], list(scores)
        rows = [i for i, text in enumerate(texts) if not self.done(text, limits[i])]
        kept: list[int] = []
        while rows:
            if not kept or len(rows) < FEWER * len(kept):
                places = {i: place for place, i in enumerate(kept or range(len(texts)))}
                some = torch.tensor([places[i] for i in rows], device=memory.read.device)
                memory, kept = memory.of(some, some), rows
            ids = torch.tensor([[(texts[i] or self.prompt)[-1]] for i in kept], device=memory.read.device)
            first = torch.tensor([not texts[i] for i in kept], device=memory.read.device)
            tokens, logprobs = self.likeliest(self.logits(self.read(memory, ids)[:, -1]), first)
            for i, token, logprob in zip(kept, tokens.tolist(), logprobs.tolist()):
                if not self.done(texts[i], limits[i]):
                    texts[i].append(token)
                    scores[i] += logprob
            rows = [i for i in rows if not self.done(texts[i], limits[i])]
        return [self.decoded(text, score) for text, score in zip(texts, scores)]

    def done(self, text: list[int], limit: int) -> bool:
        return text[-1:] == [self.end] or len(text) >= limit

    def decoded(self, text: list[int], score: float) -> Decoded:
        """`score` over the tokens and the end, or the token that was not the end, as windows.decode has it."""
        ended = text[-1:] == [self.end]
        return Decoded(text[:-1] if ended else text, score / (len(text) + (not ended)), None, ended)

    def verified(self, logits: torch.Tensor, drafts: list[list[int]], limit: int) -> tuple[list, list[float]]:
        """The beginning of each text, and the sum of its log probabilities, as far as `logits` tell: (all tokens of the
        drafts, vocabulary), after the tokens before each. They are changed."""
        sizes = [len(draft) for draft in drafts]
        first = torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
        first[torch.tensor([0, *sizes[:-1]], device=logits.device).cumsum(0)] = True
        tokens, logprobs = (values.split(sizes) for values in self.likeliest(logits, first))
        texts, scores = [], []
        for draft, chosen, each in zip(drafts, tokens, logprobs):
            chosen = chosen.tolist()
            same = next((i for i, token in enumerate(draft) if chosen[i] != token), len(draft) - 1)
            ended = chosen.index(self.end) if self.end in chosen[: same + 1] else same
            texts.append(chosen[: ended + 1][:limit])
            scores.append(float(each[: len(texts[-1])].sum()))
        return texts, scores

    def search(self, memory: Memory, beams: int, limits: list[int]) -> list[Decoded]:
        """The likeliest texts that a search with `beams` finds, as `generate` of transformers with early_stopping:
        until as many have ended. All of the prompt but its last token is in `memory`, one row a clip."""
        device, clips = memory.read.device, len(limits)
        memory = memory.of(torch.arange(clips, device=device).repeat_interleave(beams))
        running = [[([], 0.0 if beam == 0 else -1e9) for beam in range(beams)] for _ in range(clips)]
        ended: list[list[tuple[float, list[int]]]] = [[] for _ in range(clips)]
        found, left = [None] * clips, list(range(clips))
        for step in range(max(limits)):
            last = [[(text or self.prompt)[-1]] for i in left for text, _ in running[i]]
            logits = self.logits(self.read(memory, torch.tensor(last, device=device))[:, -1])
            total = logits.logsumexp(-1)
            self._bar(logits, torch.full((len(logits),), step == 0, device=device))
            best, tokens = highest(logits, 2 * beams)
            best, tokens, order = (best - total[:, None]).tolist(), tokens.tolist(), []
            for place, i in enumerate(left):
                branches = [
                    (score + logprob, beam, token)
                    for beam, (_, score) in enumerate(running[i])
                    for logprob, token in zip(best[place * beams + beam], tokens[place * beams + beam])
                ]
                branches = sorted(branches, key=lambda branch: -branch[0])[: 2 * beams]
                texts = [([*running[i][beam][0], token], score, beam) for score, beam, token in branches]
                stops = [step + 1 == limits[i] or text[-1] == self.end for text, _, _ in texts]
                pool = ended[i] + [(t[1] / (step + 1), t[0]) for t, stop in zip(texts[:beams], stops) if stop]
                ended[i] = sorted(pool, key=lambda one: -one[0])[:beams]
                going = [text for text, stop in zip(texts, stops) if not stop][:beams]
                running[i] = [(text, score) for text, score, _ in going]
                if len(ended[i]) == beams or not going:
                    score, text = ended[i][0]
                    found[i] = self.decoded(text, score * len(text))
                else:
                    order.append((place, [place * beams + beam for _, _, beam in going]))
            if not order:
                break
            rows = torch.tensor([row for _, some in order for row in some], device=device)
            clips = None if len(order) == len(left) else torch.tensor([place for place, _ in order], device=device)
            memory = memory.of(rows, clips)
            left = [left[place] for place, _ in order]
        return found


def highest(table: torch.Tensor, count: int, width: int = 256) -> tuple[torch.Tensor, torch.Tensor]:
    """table.topk(count) of a long last dimension, in a tenth of its time: only the stretches of `width` that have the
    `count` highest maxima can hold them."""
    stretches = pad(table, (0, -table.shape[-1] % width), value=-torch.inf).unflatten(-1, (-1, width))
    chosen = stretches.amax(-1).topk(min(count, stretches.shape[1]))[1]
    values, places = stretches.gather(1, chosen[..., None].expand(-1, -1, width)).flatten(1).topk(count)
    return values, chosen.gather(1, places // width) * width + places % width
