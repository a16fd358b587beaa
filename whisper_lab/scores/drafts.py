"""A batch of clips whose text is known, decoded without a step for each token that the model gets right.

To score a split, the decoder reads the right text once anyway, for the loss. What it finds likeliest after each token
is what greedy decoding would write there, as long as it wrote the text's own tokens so far: up to the first that
differs, and with it, the hypothesis is known, and only from there on it is written token by token. That is speculative
decoding (Leviathan et al., ICML 2023) with the reference for a draft: the texts are those of `windows.decode`, which a
test holds it to. What the decoder made of the sound and of the tokens so far is kept for those steps and for the beams,
in a place of its own for each row, so that the rows of a batch need not be equally far, and the beams of a clip share
its sound.

A GPU plans and makes room for every shape anew, and a look at what it found waits for all that it was given to do. So
for a GPU rows and keys come in few sizes, and texts are looked at every few tokens (`Writer.static`).
"""

from dataclasses import dataclass, field, replace

import torch
from torch.nn.functional import pad, scaled_dot_product_attention

from ..whisper.decoding import Decoded

ROOM = 16  # tokens that the memory of a text grows by
FEWER = 0.6  # share of a batch still being written below which the rest is dropped: moving it costs about a step
KEYS, ROWS = 64, 16  # the fewest where sizes are few, which double: a GPU takes no less time for less
AHEAD = 4  # tokens between looks there: up to three for nothing, and a look costs a quarter of a step (by reckoning)
JUDGED = 1_024  # tokens whose logits are in memory at once: 0.2 GB in float32, and as much again for each copy


@dataclass
class Memory:
    """Keys and values of each layer: of the sound, (clips, heads, positions, width), and of the tokens that were read,
    (rows, tokens, heads, width), of which `read` (rows,) hold, nowhere more than `longest`. A clip has one row, or one
    for each beam. `unheard` (clips, 1, 1, positions) is -inf where a clip has no sound, else 0; None: each has all."""

    sound: list[tuple[torch.Tensor, torch.Tensor]]
    unheard: torch.Tensor | None
    text: list[tuple[torch.Tensor, torch.Tensor]]
    read: torch.Tensor
    longest: int = 0

    def of(self, rows: torch.Tensor, clips: torch.Tensor | None = None) -> "Memory":
        """With these of its `rows`, and these of its `clips` or all of them."""
        text = [tuple(part[rows] for part in layer) for layer in self.text]
        some = replace(self, text=text, read=self.read[rows])
        if clips is not None:
            some.sound = [tuple(part[clips] for part in layer) for layer in self.sound]
            some.unheard = None if self.unheard is None else self.unheard[clips]
        return some

    def up_to(self, tokens: int) -> "Memory":
        """With no more than the first `tokens` of each row."""
        text = [tuple(part[:, :tokens] for part in layer) for layer in self.text]
        return replace(self, text=text, read=self.read.clamp(max=tokens), longest=min(self.longest, tokens))

    @staticmethod
    def joined(some: list["Memory"]) -> "Memory":
        """All of their clips, whatever their windows; one row for each."""
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

        sound, unheard = together([one.sound for one in some], 2), None
        positions = [one.sound[0][0].shape[2] for one in some for _ in one.read]
        if min(positions) < max(positions):
            heard, keys = there(positions, some[0].read.device), sound[0][0]
            unheard = shut(torch.arange(max(positions), device=keys.device) >= heard[:, None], keys)[:, None, None]
        return Memory(
            sound,
            unheard,
            together([one.text for one in some], 1),
            torch.cat([one.read for one in some]),
            max(one.longest for one in some),
        )


def there(values: list, device: torch.device) -> torch.Tensor:
    """A tensor of `values` on `device`, without waiting for what a GPU was given to do."""
    return torch.tensor(values).to(device, non_blocking=True)


def shut(closed: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """-inf where `closed`, else 0, in the format of `keys`: torch would make it of `closed` in every layer."""
    return torch.zeros_like(closed, dtype=keys.dtype).masked_fill_(closed, -torch.inf)


@dataclass
class Writer:
    """`model`'s decoder (WhisperForConditionalGeneration) on a batch; texts follow on the ids `prompt`. Of the model's
    generation config, the tokens that may not be written and the end count; penalties do not.

    `static`: rows and keys in few sizes, filled with rows that are dropped and keys that are not looked at, and looks
    at the texts every `AHEAD` tokens. By default for a GPU; a CPU computes what it is given, and has it at once.
    """

    model: object
    prompt: list[int]
    static: bool | None = None
    end: int = field(init=False)

    def __post_init__(self):
        if self.static is None:
            self.static = self.model.device.type == "cuda"
        settings = self.model.generation_config
        self.end = settings.eos_token_id if isinstance(settings.eos_token_id, int) else settings.eos_token_id[0]
        self._never, self._not_first = (
            torch.tensor(ids or [], dtype=torch.long, device=self.model.device)
            for ids in (settings.suppress_tokens, settings.begin_suppress_tokens)
        )
        self._decoder, self._words = self.model.get_decoder(), self.model.get_output_embeddings()

    def listen(self, encoded: torch.Tensor) -> Memory:
        """The memory of `encoded` (clips, positions, width) and of no tokens."""
        clips, sound, text = len(encoded), [], []
        for layer in self._decoder.layers:
            cross = layer.encoder_attn
            keys, values = (
                part(encoded).unflatten(-1, (cross.num_heads, -1)).transpose(1, 2)
                for part in (cross.k_proj, cross.v_proj)
            )
            sound.append((keys, values))
            text.append((keys.new_empty(clips, 0, *keys.shape[1::2]), keys.new_empty(clips, 0, *keys.shape[1::2])))
        return Memory(sound, None, text, torch.zeros(clips, dtype=torch.long, device=encoded.device))

    def read(self, memory: Memory, ids: torch.Tensor) -> torch.Tensor:
        """The decoder's states (rows, tokens, width) after each of `ids` (rows, tokens), which are then in `memory`."""
        rows, count = ids.shape
        memory.longest += count
        if (missing := self._keys(memory.longest) - memory.text[0][0].shape[1]) > 0:
            memory.text = [tuple(pad(part, (0, 0, 0, 0, 0, missing)) for part in layer) for layer in memory.text]
        keys, clips = memory.text[0][0], len(memory.sound[0][0])
        places = memory.read[:, None] + torch.arange(count, device=ids.device)
        unread = shut(torch.arange(keys.shape[1], device=ids.device) > places[..., None], keys)[:, None]
        row = torch.arange(rows, device=ids.device)[:, None]
        known = self._decoder.embed_positions.weight  # a text that ended long ago and was not dropped may be past them
        states = self._decoder.embed_tokens(ids) + known[places.clamp(max=len(known) - 1)]
        for layer, sound, text in zip(self._decoder.layers, memory.sound, memory.text):
            own, heads = layer.self_attn, layer.self_attn.num_heads
            x = layer.self_attn_layer_norm(states)
            query, key, value = (part(x).unflatten(-1, (heads, -1)) for part in (own.q_proj, own.k_proj, own.v_proj))
            text[0][row, places], text[1][row, places] = key, value
            kept = (part.transpose(1, 2) for part in text)
            x = scaled_dot_product_attention(query.transpose(1, 2), *kept, attn_mask=unread)
            states = states + own.out_proj(x.transpose(1, 2).flatten(2))
            cross = layer.encoder_attn
            query = cross.q_proj(layer.encoder_attn_layer_norm(states)).view(clips, -1, heads, query.shape[-1])
            x = scaled_dot_product_attention(query.transpose(1, 2), *sound, attn_mask=memory.unheard)
            states = states + cross.out_proj(x.transpose(1, 2).reshape(rows, count, -1))
            x = layer.activation_fn(layer.fc1(layer.final_layer_norm(states)))
            states = states + layer.fc2(x)
        memory.read = memory.read + count
        return self._decoder.layer_norm(states)

    def _keys(self, count: int) -> int:
        """The tokens that a memory for `count` has room for."""
        return _doubled(KEYS, count) if self.static else -(-count // ROOM) * ROOM

    def _rows(self, count: int) -> int:
        """The rows that are taken for so many."""
        return _doubled(ROWS, count) if self.static else count

    def _filled(self, values: list, device: torch.device) -> torch.Tensor:
        """`values` of some rows, and the last of them again for those that are taken beside them."""
        return there(values + values[-1:] * (self._rows(len(values)) - len(values)), device)

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """(some, width) → (some, vocabulary), float32."""
        return self._words(states).float()

    def likeliest(self, logits: torch.Tensor, first: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """The likeliest tokens of `logits` (some, vocabulary), which are changed, and their log probabilities, among
        those that may be written: fewer where `first` (some,), at the beginning of a text. None: nowhere."""
        self._bar(logits, first)
        best, tokens = logits.max(-1)
        return tokens, best - logits.logsumexp(-1)

    def _bar(self, logits: torch.Tensor, first: torch.Tensor | None) -> None:
        logits[:, self._never] = -torch.inf
        if first is not None:
            logits[:, self._not_first] = logits[:, self._not_first].masked_fill(first[:, None], -torch.inf)

    def judged(self, states: torch.Tensor, wanted: torch.Tensor, first: torch.Tensor) -> tuple:
        """The sum of the losses of the tokens `wanted` (some,) after `states` (some, width), and the `likeliest`."""
        losses, found = [], []
        for state, token, begins in zip(*(part.split(JUDGED) for part in (states, wanted, first))):
            logits = self.logits(state)
            losses.append(torch.nn.functional.cross_entropy(logits, token, reduction="sum"))
            found.append(self.likeliest(logits, begins))
        return torch.stack(losses).sum(), *(torch.cat(parts) for parts in zip(*found))

    def write(self, memory: Memory, texts: list[list[int]], scores: list[float], limits: list[int]) -> list[Decoded]:
        """The texts to their ends, greedily. Of each row, `texts` are the ids so far and `scores` the sum of their log
        probabilities; all of them but the last, or of the prompt if there are none, are in `memory`; it may have up to
        `limits` ids."""
        texts, scores, device = [list(text) for text in texts], list(scores), memory.read.device
        rows = [i for i, text in enumerate(texts) if not self.done(text, limits[i])]
        kept: list[int] = []
        while rows:
            if not kept or self._rows(len(rows)) < FEWER * len(memory.read):
                places = {i: place for place, i in enumerate(kept or range(len(texts)))}
                some = self._filled([places[i] for i in rows], device)
                memory, kept = memory.of(some, some), rows
            ids = self._filled([(texts[i] or self.prompt)[-1] for i in kept], device)
            first = self._filled([not texts[i] for i in kept], device)
            written = []
            for _ in range(min(AHEAD if self.static else 1, max(limits[i] - len(texts[i]) for i in rows))):
                states = self.read(memory, ids[:, None])[:, -1]
                ids, logprobs = self.likeliest(self.logits(states), first)
                written.append((ids, logprobs))
                first = None
            for i, tokens, logprobs in zip(kept, *(torch.stack(steps, 1).tolist() for steps in zip(*written))):
                for token, logprob in zip(tokens, logprobs):
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

    def verified(self, drafts: list[list[int]], chosen: list[int], logprobs: list[float], limit: int) -> tuple:
        """The beginning of each text, and the sum of its log probabilities, as far as is told by the likeliest tokens,
        `chosen` after the tokens before each of all `drafts`, and their log probabilities."""
        texts, scores, end = [], [], 0
        for draft in drafts:
            start, end = end, end + len(draft)
            text = chosen[start:end]
            same = next((i for i, token in enumerate(draft) if text[i] != token), len(draft) - 1)
            ended = text.index(self.end) if self.end in text[: same + 1] else same
            texts.append(text[: ended + 1][:limit])
            scores.append(sum(logprobs[start : start + len(texts[-1])]))
        return texts, scores

    def search(self, memory: Memory, beams: int, limits: list[int]) -> list[Decoded]:
        """The likeliest texts that a search with `beams` finds, as `generate` of transformers with early_stopping:
        until as many have ended. All of the prompt but its last token is in `memory`, one row a clip."""
        device, longest, branches = memory.read.device, max(limits), 2 * beams
        found, left = [None] * len(limits), list(range(len(limits)))
        places = self._filled(left, device)
        memory = memory.of(places.repeat_interleave(beams), places)
        limit, clips = there(limits, device)[places], len(places)
        # Of each clip the running texts, and those that ended, by their sums and means; -1 is no token.
        texts = torch.full((clips, beams, longest), -1, device=device)
        sums = torch.full((clips, beams), -1e9, dtype=torch.double, device=device)
        sums[:, 0] = 0
        ended, means, over = texts, torch.full_like(sums, -torch.inf), torch.zeros_like(limit, dtype=torch.bool)
        ids = torch.full((clips * beams, 1), self.prompt[-1], device=device)
        for step in range(longest):
            logits = self.logits(self.read(memory, ids)[:, -1])
            total = logits.logsumexp(-1, keepdim=True)
            self._bar(logits, torch.ones_like(ids[:, 0], dtype=torch.bool) if step == 0 else None)
            best, tokens = highest(logits, branches)
            best = (best - total).double().view(clips, beams, -1) + sums[..., None]
            # Of all branches of a clip the best, twice as many as beams; those that end there, if they are among the
            # first half of them; and those to go on with.
            best, order = (part[:, :branches] for part in best.flatten(1).sort(descending=True, stable=True))
            tokens, beam = tokens.view(clips, -1).gather(1, order), order // branches
            texts = _of_each(texts, beam)
            texts[..., step] = tokens
            last = limit <= step + 1
            stops = (tokens == self.end) | last[:, None]
            new = (best / (step + 1)).masked_fill(~stops | over[:, None], -torch.inf)[:, :beams]
            means, order = (part[:, :beams] for part in torch.cat([means, new], 1).sort(descending=True, stable=True))
            ended = _of_each(torch.cat([ended, texts[:, :beams]], 1), order)
            over = over | (means[:, -1] > -torch.inf) | last
            going = stops.byte().sort(stable=True)[1][:, :beams]
            sums, tokens, beam = (part.gather(1, going) for part in (best, tokens, beam))
            texts = _of_each(texts, going)
            rows, places = torch.arange(clips, device=device)[:, None] * beams + beam, None
            if not self.static or (step + 1) % AHEAD == 0 or step + 1 == longest:
                done = over.tolist()
                still = [place for place in range(len(left)) if not done[place]]
                if not still or self._rows(len(still)) < clips:
                    for i, one, text, mean in zip(left, done, ended[:, 0].tolist(), means[:, 0].tolist()):
                        if one:
                            text = [token for token in text if token >= 0]
                            found[i] = self.decoded(text, mean * len(text))
                    if not still:
                        break
                    places, left = self._filled(still, device), [left[place] for place in still]
                    parts = texts, ended, sums, means, over, limit, rows, tokens
                    texts, ended, sums, means, over, limit, rows, tokens = (part[places] for part in parts)
                    clips = len(places)
            memory, ids = memory.of(rows.flatten(), places), tokens.view(-1, 1)
        return found


def highest(table: torch.Tensor, count: int, width: int = 256) -> tuple[torch.Tensor, torch.Tensor]:
    """table.topk(count) of a long last dimension, in a tenth of its time: only the stretches of `width` that have the
    `count` highest maxima can hold them."""
    stretches = pad(table, (0, -table.shape[-1] % width), value=-torch.inf).unflatten(-1, (-1, width))
    chosen = stretches.amax(-1).topk(min(count, stretches.shape[1]))[1]
    values, places = stretches.gather(1, chosen[..., None].expand(-1, -1, width)).flatten(1).topk(count)
    return values, chosen.gather(1, places // width) * width + places % width


def _of_each(texts: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """(clips, some, tokens), those at `places` (clips, chosen) of each clip."""
    return texts.gather(1, places[..., None].expand(-1, -1, texts.shape[2]))


def _doubled(size: int, count: int) -> int:
    """`size`, doubled until it holds `count`."""
    while size < count:
        size *= 2
    return size
