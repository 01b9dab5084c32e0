"""Prompts with what has been drawn of their completions: the state of `CompactEngine`."""

# Shapes: P prompts, R rows, T completion tokens at most.

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from bots_lightning.rollouts.completed import CompletedPrompts
from bots_lightning.rollouts.engine import GenerationRequest
from bots_lightning.rollouts.padding import padded_prompts
from bots_lightning.rollouts.rollouts import Rollouts, completion_mask


class Texts:
    """The rows of a request, each a prompt and its completion so far.

    Args:
        request: prompts and how many completions of each.
        noise: (R, T) float64, what tokens are drawn by.
        logprobs: whether log-probabilities are recorded.

    Attributes:
        noise: (R, T + 1) float64.
        tokens: (R, T + 1) int64; the last column takes what rows draw that have ended.
        logprobs: (R, T + 1) float32, if they are recorded.
        drawn: how many tokens each row that has not ended has.
        completed: gathers rows that have ended, for `request.on_completed`.
    """

    def __init__(self, request: GenerationRequest, noise: Tensor, logprobs: bool) -> None:
        device = request.model.device
        self.request, self.completed = request, CompletedPrompts(request)
        self.limit, self._prompt_of_row = request.sampling.max_completion_length, request.prompt_of_row
        self.noise = pad(noise, (0, 1)).to(device)
        self.tokens = torch.full(self.noise.shape, request.sampling.pad_token_id, device=device)
        self.logprobs = torch.full(self.noise.shape, torch.nan, device=device) if logprobs else None
        self.drawn = dict.fromkeys(range(len(self.noise)), 0)

    def length(self, row: int) -> int:
        """Tokens of prompt and completion so far."""
        return len(self.request.prompts[self._prompt_of_row[row]]) + self.drawn[row]

    def longest_first(self, rows: Iterable[int]) -> list[int]:
        """The rows in an order that needs little padding, and runs out of memory at once if it does at all."""
        return sorted(rows, key=self.length, reverse=True)

    def context(self, row: int) -> tuple[int, ...]:
        """Prompt and completion so far."""
        prompt, drawn = self.request.prompts[self._prompt_of_row[row]], self.drawn[row]
        return (*prompt, *self.tokens[row, :drawn].tolist()) if drawn else tuple(prompt)

    def room(self, rows: Iterable[int]) -> int:
        """The most tokens that one of the rows may still draw."""
        return self.limit - min(self.drawn[row] for row in rows)

    def report(self, ended: Iterable[int]) -> None:
        """Reports the tokens of rows that have ended, those of each row once."""
        if new := [row for row in ended if row not in self.completed.ended]:
            self.completed.add(new, self.tokens[new].tolist())

    def size(self, rows: Sequence[int]) -> int:
        """The most tokens that a cache of the rows can come to, padding included."""
        return len(rows) * (max(map(self.length, rows)) + self.room(rows))

    def within_budget(self, waiting: Sequence[int], max_tokens: int) -> Sequence[int]:
        """As many of the rows from the front as can be no larger together, at least one; the longest come first."""
        longest, room = self.length(waiting[0]), 0
        for number, row in enumerate(waiting):
            room = max(room, self.limit - self.drawn[row])
            if number > 0 and (number + 1) * (longest + room) > max_tokens:
                return waiting[:number]
        return waiting

    def rollouts(self) -> Rollouts:
        """The result, once all rows have ended."""
        sampling = self.request.sampling
        tokens = self.tokens[:, :-1]
        mask, finished = completion_mask(tokens, sampling.stop_token_ids)
        length = int(mask.sum(dim=1).max())
        tokens, mask = tokens.masked_fill(~mask, sampling.pad_token_id)[:, :length], mask[:, :length]
        logprobs = None if self.logprobs is None else self.logprobs[:, :length].masked_fill(~mask, torch.nan)
        return Rollouts(*padded_prompts(self.request), tokens, mask, finished, self.request.policy_version, logprobs)
