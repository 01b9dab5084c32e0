"""Rollouts by a decode loop of our own: prompts are read once, and finished rows cost nothing."""

# Shapes: P prompts, n completions per prompt, F rows in flight of P·n, T completion tokens, V vocabulary.

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import PreTrainedModel

from bots_lightning.rollouts.completed import CompletedPrompts
from bots_lightning.rollouts.engine import OnCompleted, RolloutEngine, RolloutsCancelledError, Sampling, rollout_mode
from bots_lightning.rollouts.generate import GenerateEngine, pad_left
from bots_lightning.rollouts.memory import unless_out_of_memory
from bots_lightning.rollouts.noise import draw_tokens, uniform_noise
from bots_lightning.rollouts.reader import Reader, can_read
from bots_lightning.rollouts.rollouts import Rollouts, completion_mask
from bots_lightning.rollouts.static import StaticReader, can_be_static, compiled_step, release

# Rows are dropped once no more than this share of those in flight goes on. It copies the cache, as each token does.
KEPT_SHARE = 7 / 8
# Once no more than this share of a budget's rows goes on and others wait, they make way, and are read again together.
PARKED_SHARE = 1 / 8
# Tokens between two looks at what has ended. On an accelerator a look waits for all that is queued: there it is 8.
CHECK_EVERY = {"cpu": 1}


class CompactEngine(RolloutEngine):
    """Reads each prompt once, and drops completions from the KV cache soon after they have ended.

    Rows in flight are bounded by a budget of tokens; prompts of like length go together. The last few completions of a
    budget do not hold up those that wait: they are put aside, and read again when all others have had their turn.
    Where memory does not suffice, the budget is halved for good and the rows are sampled again: completions depend on
    seeds alone. Models whose cache cannot drop rows (see `can_read`) are left to `GenerateEngine`.

    Args:
        max_tokens: the most tokens that the KV cache may come to, rows × (longest prompt + max_completion_length); a
            single row may exceed it. In bfloat16, 262,144 tokens take 3 GiB with Qwen2.5-0.5B, 36 GiB with Qwen3-8B.
        logprobs: record the log-probabilities of the sampling distribution as tokens are drawn. Algorithms then make up
            for how far they are from their own, which is rounding.
        static: keep the KV cache in place, and compile what each token takes; on CUDA, record it in graphs. For long
            runs: it costs half a minute to minutes at first. The cache comes to as much as 1.6 times `max_tokens`, 2.3
            times on CUDA, and stays in memory between rollouts. After that, tokens came 1.2 to 1.7 times as fast on a
            CPU; on CUDA it has not been tried. Models that it is not right for go without (see `can_be_static`).
    """

    def __init__(self, max_tokens: int = 2**18, logprobs: bool = False, static: bool = False) -> None:
        if max_tokens < 1:
            raise ValueError(f"max_tokens={max_tokens}; expected at least 1.")
        self.max_tokens, self.logprobs, self.static = max_tokens, logprobs, static
        self._cancelled = False

    def sync(self, policy: nn.Module, policy_version: int) -> None:
        """Forgets a cancellation that came before; the weights are those of the policy itself."""
        self._cancelled = False

    @torch.no_grad()
    def generate(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        n: int,
        sampling: Sampling,
        seeds: Sequence[int],
        policy_version: int = 0,
        on_completed: OnCompleted | None = None,
    ) -> Rollouts:
        """Samples n completions of every prompt; see `RolloutEngine.generate`."""
        with self._cancellable(), rollout_mode(model):
            if not can_read(model):
                rows = max(1, self.max_tokens // (max(map(len, prompts)) + sampling.max_completion_length))
                return GenerateEngine(rows).generate(model, prompts, n, sampling, seeds, policy_version, on_completed)
            texts = _Texts(prompts, n, sampling, seeds, model.device, CompletedPrompts(n, sampling, on_completed))
            self._complete_all(model, texts, sampling)
        prompt_ids, prompt_mask = (
            tensor.repeat_interleave(n, dim=0) for tensor in pad_left(prompts, sampling.pad_token_id, model.device)
        )
        tokens = texts.tokens[:, :-1]
        mask, finished = completion_mask(tokens, sampling.stop_token_ids)
        length = int(mask.sum(dim=1).max())
        tokens, mask = tokens.masked_fill(~mask, sampling.pad_token_id)[:, :length], mask[:, :length]
        logprobs = texts.logprobs[:, :length].masked_fill(~mask, torch.nan) if self.logprobs else None
        return Rollouts(prompt_ids, prompt_mask, tokens, mask, finished, policy_version, logprobs)

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

    def _complete_all(self, model: PreTrainedModel, texts: _Texts, sampling: Sampling) -> None:
        waiting: list[int] = texts.longest_first(texts.drawn)
        parked: list[int] = []
        while waiting:
            rows = texts.within_budget(waiting, self.max_tokens)
            others = len(waiting) + len(parked) - len(rows)
            leave = int(len(rows) * PARKED_SHARE) if others else 0
            unfinished = unless_out_of_memory(partial(self._complete, model, texts, rows, leave, sampling))
            if unfinished is None:
                texts.completed.raise_failure()
                release(model)
                self._lower_budget(texts, rows)
                waiting = [row for row in waiting if row not in texts.completed.ended]
            else:
                waiting, parked = waiting[len(rows) :], parked + unfinished
            if not waiting:
                waiting, parked = texts.longest_first(parked), []

    def _lower_budget(self, texts: _Texts, rows: Sequence[int]) -> None:
        size = texts.size(rows)
        if len(rows) == 1:
            raise torch.OutOfMemoryError(
                f"one completion of {size} tokens, its prompt included, does not fit in memory. Lower "
                "max_completion_length or max_prompt_length, or leave more memory to rollouts."
            )
        self.max_tokens = size // 2
        warnings.warn(
            f"memory does not suffice for {len(rows)} completions at once, {size} tokens with their prompts. Sampling "
            f"goes on with max_tokens={self.max_tokens}; set that in the engine to spare the attempt.",
            stacklevel=2,
        )

    def _complete(
        self, model: PreTrainedModel, texts: _Texts, chosen: Sequence[int], leave: int, sampling: Sampling
    ) -> list[int]:
        """Reads and draws in turn until no more than `leave` of the chosen rows go on; returns those."""
        device, limit, room = model.device, sampling.max_completion_length, texts.room(chosen)
        static = self.static and can_be_static(model)
        reader, logits = _read(model, [texts.context(row) for row in chosen], room, sampling.pad_token_id, static)
        rows = torch.tensor(chosen, device=device)
        columns = torch.tensor([texts.drawn[row] for row in chosen], device=device)
        ended = torch.zeros_like(rows, dtype=torch.bool)
        stops = torch.tensor(sampling.stop_token_ids, device=device)
        check_every = CHECK_EVERY.get(device.type, 8)
        for step in range(1, room + 1):
            self._raise_if_cancelled()
            tokens = draw_tokens(logits, texts.noise[rows, columns], sampling.temperature)
            texts.tokens[rows, columns] = tokens
            if self.logprobs:
                texts.logprobs[rows, columns] = chosen_logprobs(logits, tokens, sampling.temperature)
            columns = (columns + 1).clamp(max=limit)
            ended |= (tokens.unsqueeze(1) == stops).any(dim=1) | (columns == limit)
            if step % check_every == 0 or step == room:
                going_on = len(rows) - int(ended.sum())
                if texts.completed.wanted:
                    texts.tell(rows[ended].tolist())
                if going_on <= leave:
                    break
                if going_on <= KEPT_SHARE * len(rows):
                    kept = (~ended).nonzero().squeeze(1)
                    reader.select(kept)
                    rows, columns, tokens, ended = rows[kept], columns[kept], tokens[kept], ended[kept]
            logits = reader.read(tokens)
        unfinished = rows[~ended].tolist()
        texts.drawn.update(zip(unfinished, columns[~ended].tolist(), strict=True))
        return unfinished


class _Texts:
    """Prompts, what has been drawn of their completions, and the noise for all of them.

    Attributes:
        noise: (P·n, T + 1) float64.
        tokens: (P·n, T + 1) int64; the last column takes what rows draw that have ended.
        logprobs: (P·n, T + 1) float32.
        drawn: how many tokens each row that has not ended has.
        completed: is told of rows that have ended, if anybody wants to know.
    """

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        n: int,
        sampling: Sampling,
        seeds: Sequence[int],
        device: torch.device,
        completed: CompletedPrompts,
    ) -> None:
        self.completed = completed
        self.prompts, self.n, self.limit = prompts, n, sampling.max_completion_length
        self.noise = pad(uniform_noise(seeds, n, self.limit), (0, 1)).to(device)
        self.tokens = torch.full(self.noise.shape, sampling.pad_token_id, device=device)
        self.logprobs = torch.full(self.noise.shape, torch.nan, device=device)
        self.drawn = dict.fromkeys(range(len(self.noise)), 0)

    def length(self, row: int) -> int:
        """Tokens of prompt and completion so far."""
        return len(self.prompts[row // self.n]) + self.drawn[row]

    def longest_first(self, rows: Iterable[int]) -> list[int]:
        """The rows in an order that needs little padding, and fails at once where memory does not suffice."""
        return sorted(rows, key=self.length, reverse=True)

    def context(self, row: int) -> tuple[int, ...]:
        """Prompt and completion so far."""
        prompt, drawn = self.prompts[row // self.n], self.drawn[row]
        return (*prompt, *self.tokens[row, :drawn].tolist()) if drawn else tuple(prompt)

    def room(self, rows: Iterable[int]) -> int:
        """The most tokens that one of the rows may still draw."""
        return self.limit - min(self.drawn[row] for row in rows)

    def tell(self, ended: Iterable[int]) -> None:
        """Passes on the tokens of rows that have ended, those of each row once."""
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


def _read(
    model: PreTrainedModel, contexts: Sequence[tuple[int, ...]], room: int, pad_token_id: int, static: bool
) -> tuple[Reader | StaticReader, Tensor]:
    """The contexts of F rows, each read once however many rows have it; with the (F, V) logits of what comes next."""
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
    return -torch.nn.functional.cross_entropy(logits.float() / temperature, tokens, reduction="none")
