"""Rollouts by transformers' own `generate`, which works for every architecture."""

# Shapes: R rows, L prompt tokens, T completion tokens, V vocabulary.

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, PreTrainedModel

from bots_lightning.options import check_numbers
from bots_lightning.rollouts.completed import CompletedPrompts
from bots_lightning.rollouts.engine import GenerationRequest, RolloutEngine, SamplingParams, rollout_mode
from bots_lightning.rollouts.noise import draw_tokens, uniform_noise
from bots_lightning.rollouts.padding import padded_prompts, stack_right_padded
from bots_lightning.rollouts.rollouts import Rollouts, completion_mask


class GenerateEngine(RolloutEngine):
    """Samples with `model.generate`.

    Args:
        max_rows: the most rows in flight at once; more are sampled in turn. Bounds the memory of the KV cache.
    """

    def __init__(self, max_rows: int = 1024) -> None:
        check_numbers(1, max_rows=max_rows)
        self.max_rows = max_rows

    @torch.no_grad()
    def generate(self, request: GenerationRequest) -> Rollouts:
        """Samples the completions that are asked for; see `RolloutEngine.generate`."""
        sampling = request.sampling
        prompt_ids, prompt_mask = padded_prompts(request)
        noise = uniform_noise(request.seeds, request.counts, sampling.max_completion_length, request.starts)
        blocks, completed = [], CompletedPrompts(request)
        with rollout_mode(request.model), _plain_generation_config(request.model):
            for start in range(0, len(prompt_ids), self.max_rows):
                rows = slice(start, start + self.max_rows)
                tokens = _sample(request.model, prompt_ids[rows], prompt_mask[rows], noise[rows], sampling)
                blocks.append(tokens)
                if completed.wanted:
                    completed.add(range(start, start + len(tokens)), tokens.tolist())
        completion_ids = stack_right_padded(blocks, sampling.pad_token_id)
        mask, finished = completion_mask(completion_ids, sampling.stop_token_ids)
        mask = mask & (torch.arange(mask.shape[1], device=mask.device) < sampling.max_completion_length)
        return Rollouts(prompt_ids, prompt_mask, completion_ids, mask, finished, request.policy_version)


def _sample(model: PreTrainedModel, ids: Tensor, mask: Tensor, noise: Tensor, sampling: SamplingParams) -> Tensor:
    """(R, T) new tokens of each row; T is the length of the longest."""
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
