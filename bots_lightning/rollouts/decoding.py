"""The decode loop of `CompactEngine`: draws tokens and reads them in turn, and drops rows that have ended."""

# Shapes: F rows in flight, R rows of all texts, V vocabulary.

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from bots_lightning.rollouts.noise import draw_tokens
from bots_lightning.rollouts.padding import pad_left
from bots_lightning.rollouts.reader import Reader
from bots_lightning.rollouts.static import StaticReader, compiled_step
from bots_lightning.rollouts.texts import Texts

# Rows are dropped once no more than this share of those in flight goes on. It copies the cache, as each token does.
KEPT_SHARE = 7 / 8
# Tokens between two looks at what has ended. On an accelerator a look waits for all that is queued: there it is 8.
CHECK_EVERY = {"cpu": 1}


class Decoding:
    """Rows of texts in flight: one token at a time, each prompt read once however many rows have it.

    Args:
        texts: take what is drawn.
        chosen: the F rows.
        static: keep the cache in place, see `StaticReader`.
    """

    def __init__(self, texts: Texts, chosen: Sequence[int], static: bool) -> None:
        model, sampling = texts.request.model, texts.request.sampling
        self._texts, self._sampling, self._room = texts, sampling, texts.room(chosen)
        contexts = [texts.context(row) for row in chosen]
        self._reader, self._logits = _read(model, contexts, self._room, sampling.pad_token_id, static)
        self._rows = torch.tensor(chosen, device=model.device)
        self._columns = torch.tensor([texts.drawn[row] for row in chosen], device=model.device)
        self._ended = torch.zeros_like(self._rows, dtype=torch.bool)
        self._stops = torch.tensor(sampling.stop_token_ids, device=model.device)

    def run(self, leave: int, before_token: Callable[[], None]) -> list[int]:
        """Decodes until no more than `leave` of the rows go on.

        Args:
            leave: 0 for all rows to end.
            before_token: called before each token; what it raises ends the loop.

        Returns:
            the rows that go on; the texts know how far they have come.
        """
        check_every = CHECK_EVERY.get(self._rows.device.type, 8)
        for step in range(1, self._room + 1):
            before_token()
            tokens = self._draw()
            if step % check_every == 0 or step == self._room:
                going_on = len(self._rows) - int(self._ended.sum())
                if self._texts.completed.wanted:
                    self._texts.report(self._rows[self._ended].tolist())
                if going_on <= leave:
                    break
                if going_on <= KEPT_SHARE * len(self._rows):
                    tokens = self._drop_ended(tokens)
            self._logits = self._reader.read(tokens)
        unfinished = self._rows[~self._ended].tolist()
        self._texts.drawn.update(zip(unfinished, self._columns[~self._ended].tolist(), strict=True))
        return unfinished

    def _draw(self) -> Tensor:
        """The next token (F,) of each row; writes it down, and notes which rows end with it."""
        texts, temperature, here = self._texts, self._sampling.temperature, (self._rows, self._columns)
        tokens = draw_tokens(self._logits, texts.noise[here], temperature)
        texts.tokens[here] = tokens
        if texts.logprobs is not None:
            texts.logprobs[here] = chosen_logprobs(self._logits, tokens, temperature)
        self._columns = (self._columns + 1).clamp(max=texts.limit)
        self._ended |= (tokens.unsqueeze(1) == self._stops).any(dim=1) | (self._columns == texts.limit)
        return tokens

    def _drop_ended(self, tokens: Tensor) -> Tensor:
        """Goes on with the other rows; returns their tokens."""
        kept = (~self._ended).nonzero().squeeze(1)
        self._reader.select(kept)
        self._rows, self._columns, self._ended = self._rows[kept], self._columns[kept], self._ended[kept]
        return tokens[kept]


def _read(
    model: PreTrainedModel, contexts: Sequence[tuple[int, ...]], room: int, pad_token_id: int, static: bool
) -> tuple[Reader | StaticReader, Tensor]:
    """A reader of the F rows' contexts, each read once; with the (F, V) logits of what comes next."""
    position = {context: i for i, context in enumerate(dict.fromkeys(contexts))}
    reader = Reader(model, *pad_left(list(position), pad_token_id, model.device), room)
    rows = torch.tensor([position[context] for context in contexts], device=model.device)
    logits = reader.read_prompts()[rows]
    if static:
        return StaticReader(reader, rows, compiled_step(model.device.type)), logits
    reader.select(rows)
    return reader, logits


def chosen_logprobs(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """(F,) float32 log-probabilities of tokens (F,) under softmax(logits / temperature), 0 at temperature 0."""
    if temperature == 0:
        return torch.zeros_like(tokens, dtype=torch.float32)
    return -cross_entropy(logits.float() / temperature, tokens, reduction="none")
