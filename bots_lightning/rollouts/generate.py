"""Rollouts by transformers' own `generate`: right for every architecture."""

# Shapes: P prompts, n completions per prompt, R = P·n rows, L prompt tokens, T completion tokens.

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, PreTrainedModel

from bots_lightning.rollouts.completed import CompletedPrompts
from bots_lightning.rollouts.engine import OnCompleted, RolloutEngine, Sampling, rollout_mode
from bots_lightning.rollouts.noise import draw_tokens, uniform_noise
from bots_lightning.rollouts.rollouts import Rollouts, completion_mask


def pad_left(rows: Sequence[Sequence[int]], pad_token_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token lists as one (P, L) int64 tensor, padded on the left, with its (P, L) bool mask."""
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad_token_id, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.bool)
    for i, row in enumerate(rows):
        ids[i, width - len(row) :] = torch.tensor(row)
        mask[i, width - len(row) :] = True
    return ids.to(device), mask.to(device)


class GenerateEngine(RolloutEngine):
    """Samples with `model.generate`.

    Args:
        max_rows: the most rows in flight at once; more are sampled in turn. Bounds the memory of the KV cache.
    """

    def __init__(self, max_rows: int = 1024) -> None:
        if max_rows < 1:
            raise ValueError(f"max_rows={max_rows}; expected at least 1.")
        self.max_rows = max_rows

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
        prompt_ids, prompt_mask = pad_left(prompts, sampling.pad_token_id, model.device)
        prompt_ids = prompt_ids.repeat_interleave(n, dim=0)
        prompt_mask = prompt_mask.repeat_interleave(n, dim=0)
        noise = uniform_noise(seeds, n, sampling.max_completion_length)
        completions, completed = [], CompletedPrompts(n, sampling, on_completed)
        with rollout_mode(model), _plain_generation_config(model):
            for start in range(0, len(prompt_ids), self.max_rows):
                rows = slice(start, start + self.max_rows)
                tokens = self._sample(model, prompt_ids[rows], prompt_mask[rows], noise[rows], sampling)
                completions.append(tokens)
                if completed.wanted:
                    completed.add(range(start, start + len(tokens)), tokens.tolist())
        completion_ids = _stack_right_padded(completions, sampling.pad_token_id)
        mask, finished = completion_mask(completion_ids, sampling.stop_token_ids)
        mask = mask & (torch.arange(mask.shape[1], device=mask.device) < sampling.max_completion_length)
        return Rollouts(prompt_ids, prompt_mask, completion_ids, mask, finished, policy_version)

    @staticmethod
    def _sample(model: PreTrainedModel, ids: Tensor, mask: Tensor, noise: Tensor, sampling: Sampling) -> Tensor:
        """(R, T') new tokens of each row."""
        config = GenerationConfig(
            do_sample=False,  # the draw is made by the processor, which leaves one token to choose from
            max_new_tokens=sampling.max_completion_length,
            eos_token_id=list(sampling.stop_token_ids),
            pad_token_id=sampling.pad_token_id,
        )
        draw = _Draw(noise.to(ids.device), ids.shape[1], sampling.temperature)
        tokens = model.generate(
            input_ids=ids, attention_mask=mask.long(), generation_config=config, logits_processor=[draw]
        )
        return tokens[:, ids.shape[1] :]


class _Draw(LogitsProcessor):
    """Leaves no token possible but the one that each row's noise draws."""

    def __init__(self, noise: Tensor, prompt_length: int, temperature: float) -> None:
        self.noise, self.prompt_length, self.temperature = noise, prompt_length, temperature

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        step = input_ids.shape[1] - self.prompt_length
        tokens = draw_tokens(scores, self.noise[:, step], self.temperature)
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens.unsqueeze(1), 0.0)


@contextmanager
def _plain_generation_config(model: PreTrainedModel) -> Iterator[None]:
    """Sets aside the checkpoint's own defaults: `generate` fills every unset field from them.

    A repetition penalty or min_p (several instruct models ship one) would bend the sampling distribution away from
    the softmax that the policy gradient assumes.
    """
    shipped, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = shipped


def _stack_right_padded(parts: list[Tensor], pad_token_id: int) -> Tensor:
    width = max(part.shape[1] for part in parts)
    return torch.cat([torch.nn.functional.pad(p, (0, width - p.shape[1]), value=pad_token_id) for p in parts])
