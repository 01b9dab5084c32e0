"""Rollouts by a decode loop that reads each prompt once and drops finished rows."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn

from bots_lightning.options import check_numbers
from bots_lightning.rollouts.decoding import Decoding
from bots_lightning.rollouts.engine import GenerationRequest, RolloutEngine, RolloutsCancelledError, rollout_mode
from bots_lightning.rollouts.generate import GenerateEngine
from bots_lightning.rollouts.memory import unless_out_of_memory
from bots_lightning.rollouts.noise import uniform_noise
from bots_lightning.rollouts.reader import can_read
from bots_lightning.rollouts.rollouts import Rollouts
from bots_lightning.rollouts.static_memory import release
from bots_lightning.rollouts.static_trial import can_be_static
from bots_lightning.rollouts.texts import Texts

# Once no more than this share of a budget's rows goes on and others wait, they make way, and are read again together.
PARKED_SHARE = 1 / 8


class CompactEngine(RolloutEngine):
    """Reads each prompt once, and drops completions from the KV cache soon after they have ended.

    Rows in flight are bounded by a budget of tokens; prompts of like length go together. The last few completions of a
    budget do not hold up those that wait: they are put aside, and read again when all others have had their turn.
    Out of memory, the engine halves the budget for good and samples the rows again: completions depend on seeds alone.
    Models whose cache cannot drop rows (see `can_read`) are left to `GenerateEngine`.

    Args:
        max_tokens: the most tokens that the KV cache may come to, rows × (longest prompt + max_completion_length); a
            single row may exceed it. In bfloat16, 262,144 tokens take 3 GiB with Qwen2.5-0.5B, 36 GiB with Qwen3-8B.
        logprobs: record the log-probabilities of the sampling distribution as tokens are drawn. Algorithms then correct
            for the difference to their own, which is rounding.
        static: keep the KV cache in place, and compile what each token takes; on CUDA, record it in graphs. For long
            runs: it costs half a minute to minutes at first. The cache comes to as much as 1.6 times `max_tokens`, 2.3
            times on CUDA, and stays in memory between rollouts. After that, tokens came 1.2 to 1.7 times as fast on a
            CPU; on CUDA it has not been tried. Models that it is not right for go without (see `can_be_static`).
    """

    def __init__(self, max_tokens: int = 2**18, logprobs: bool = False, static: bool = False) -> None:
        check_numbers(1, max_tokens=max_tokens)
        self.max_tokens, self.logprobs, self.static = max_tokens, logprobs, static
        self._cancelled = False

    def sync(self, policy: nn.Module, policy_version: int) -> None:
        """Forgets a cancellation that came before; the weights are those of the policy itself."""
        self._cancelled = False

    @torch.no_grad()
    def generate(self, request: GenerationRequest) -> Rollouts:
        """Samples the completions that are asked for; see `RolloutEngine.generate`."""
        limit = request.sampling.max_completion_length
        with self._cancellable(), rollout_mode(request.model):
            if not can_read(request.model):
                longest_row = max(map(len, request.prompts)) + limit
                return GenerateEngine(max(1, self.max_tokens // longest_row)).generate(request)
            noise = uniform_noise(request.seeds, request.counts, limit, request.starts)
            texts = Texts(request, noise, self.logprobs)
            self._complete_all(texts)
        return texts.rollouts()

    def cancel(self) -> None:
        """Ends `generate` before its next token; where it is left to `GenerateEngine`, only before it begins."""
        self._cancelled = True

    @contextmanager
    def _cancellable(self) -> Iterator[None]:
        try:
            self._raise_if_cancelled()
            yield
        finally:
            self._cancelled = False

    def _raise_if_cancelled(self) -> None:
        if self._cancelled:
            raise RolloutsCancelledError

    def _complete_all(self, texts: Texts) -> None:
        waiting: list[int] = texts.longest_first(texts.drawn)
        parked: list[int] = []
        while waiting:
            rows = texts.within_budget(waiting, self.max_tokens)
            others = len(waiting) + len(parked) - len(rows)
            leave = int(len(rows) * PARKED_SHARE) if others else 0
            unfinished = unless_out_of_memory(partial(self._complete, texts, rows, leave))
            if unfinished is None:
                texts.completed.raise_failure()
                release(texts.request.model)
                self._lower_budget(texts, rows)
                waiting = [row for row in waiting if row not in texts.completed.ended]
            else:
                waiting, parked = waiting[len(rows) :], parked + unfinished
            if not waiting:
                waiting, parked = texts.longest_first(parked), []

    def _complete(self, texts: Texts, rows: Sequence[int], leave: int) -> list[int]:
        """Decodes rows until no more than `leave` of them go on; returns those."""
        static = self.static and can_be_static(texts.request.model)
        return Decoding(texts, rows, static).run(leave, self._raise_if_cancelled)

    def _lower_budget(self, texts: Texts, rows: Sequence[int]) -> None:
        size = texts.size(rows)
        if len(rows) == 1:
            raise torch.OutOfMemoryError(
                f"one completion of {size} tokens, its prompt included, does not fit in memory. Lower "
                "max_completion_length or max_prompt_length, or leave more memory to rollouts."
            )
        self.max_tokens = size // 2
        warnings.warn(
            f"out of memory with {len(rows)} completions at once, {size} tokens with their prompts. Sampling goes on "
            f"with max_tokens={self.max_tokens}; set that in the engine to avoid the attempt.",
            stacklevel=2,
        )
