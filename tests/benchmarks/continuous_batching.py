"""Rollouts by transformers' continuous batching, for the benchmark of engines only.

Without flash attention all rows in flight attend over the caches of all, with a mask: few rows at once are better then.
Starting and stopping takes half a second of the processor, however little is sampled.
"""

# Shapes: P prompts, n completions of each, R = P·n rows, F rows in flight, T completion tokens, V vocabulary.

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import ContinuousBatchingConfig, GenerationConfig, LogitsProcessorList
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
    ContinuousBatchingLogitsProcessorList,
)
from transformers.generation.continuous_batching.requests import FutureRequestState

from bots_lightning.rollouts import GenerationRequest, RolloutEngine, Rollouts, completion_mask, rollout_mode
from bots_lightning.rollouts.noise import draw_tokens, uniform_noise
from bots_lightning.rollouts.padding import padded_prompts

CHILD = "__child#"  # between the name of a request and the number of one of its n − 1 copies


class ContinuousBatchingEngine(RolloutEngine):
    """Samples by `ContinuousBatchingManager`, a new one for each batch, as transformers' `generate_batch` does.

    Each prompt is read once and forked into its completions, as many of each; tokens are drawn as the other engines
    draw them.

    Args:
        max_rows: the most rows in flight at once.
        longest_row: tokens of the longest prompt and completion together. The KV cache has room for `max_rows` of
            them; left to itself, it takes nearly all memory.
        page_size: tokens of a page of the cache.
    """

    def __init__(self, max_rows: int, longest_row: int, page_size: int = 16) -> None:
        self.config = ContinuousBatchingConfig(
            page_size=page_size,
            num_blocks=max_rows * math.ceil(longest_row / page_size),
            max_batch_tokens=2 * max_rows,  # so that prompts are read while others go on
            max_requests_per_batch=max_rows,
            allow_block_sharing=False,
        )

    @torch.no_grad()
    def generate(self, request: GenerationRequest) -> Rollouts:
        """Samples the completions that are asked for; see `RolloutEngine.generate`."""
        device, sampling = request.model.device, request.sampling
        with rollout_mode(request.model):
            rows = self._sample(request)
        tokens = pad_sequence([torch.tensor(row, device=device) for row in rows], True, sampling.pad_token_id)
        mask, finished = completion_mask(tokens, sampling.stop_token_ids)
        lengths = torch.tensor([len(row) for row in rows], device=device)
        mask = mask & (torch.arange(tokens.shape[1], device=device) < lengths.unsqueeze(1))
        return Rollouts(*padded_prompts(request), tokens, mask, finished, request.policy_version)

    def _sample(self, request: GenerationRequest) -> list[list[int]]:
        """The tokens of R rows."""
        sampling, (n, *others) = request.sampling, request.counts
        assert all(other == n for other in others), "continuous batching forks all prompts alike"
        noise = uniform_noise(request.seeds, request.counts, sampling.max_completion_length).to(request.model.device)
        draw = _Draw(noise, n, sampling.temperature)
        manager = self._manager(request, draw)
        rows: list[list[int]] = [[] for _ in range(sum(request.counts))]
        manager.warmup()
        manager.start()
        try:
            for number, prompt in enumerate(request.prompts):
                manager.add_request(list(prompt), request_id=str(number))
            missing = len(rows)
            while missing:
                result = manager.get_result(timeout=1.0)
                if result is None and manager.is_running():
                    continue
                if result is None or result.error is not None:
                    raise RuntimeError(f"continuous batching: {'its thread has ended' if not result else result.error}")
                rows[draw.row(result.request_id)] = result.generated_tokens
                missing -= 1
        finally:
            manager.stop(block=True)
            manager.destroy()
        return rows

    def _manager(self, request: GenerationRequest, draw: _Draw) -> Any:
        """transformers' own, with this draw."""
        generation = GenerationConfig(
            do_sample=False,  # the draw leaves one token to choose from
            max_new_tokens=request.sampling.max_completion_length,
            eos_token_id=list(request.sampling.stop_token_ids),
            pad_token_id=request.sampling.pad_token_id,
        )
        manager = request.model.init_continuous_batching(generation, self.config)
        manager.num_return_sequences = draw.n  # refused by the config where there is no sampling
        manager.logit_processor = ContinuousBatchingLogitsProcessorList(LogitsProcessorList([draw]))
        manager.logit_processor.tensors_required = 1
        return manager


class _Draw(ContinuousBatchingLogitsProcessor):
    """Leaves no token possible but the one that each row's noise draws."""

    supported_kwargs: ClassVar[dict[str, type]] = {}
    ignored_kwargs: tuple[str, ...] = ()

    def __init__(self, noise: Tensor, n: int, temperature: float) -> None:
        self.length, self.noise = noise.shape[1], noise.flatten()
        self.n, self.temperature = n, temperature
        self.drawn = [0] * len(noise)  # tokens of each row so far

    def row(self, request_id: str) -> int:
        """The row of a request."""
        prompt, _, child = request_id.partition(CHILD)
        return int(prompt) * self.n + (int(child) + 1 if child else 0)

    def fill_defaults(self, int32_tensor: Tensor) -> None:
        """Any place in the noise; of rows that are padding."""
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: list[FutureRequestState]) -> Tensor:
        """(F,) int32 places in the noise."""
        places = []
        for request in requests_with_new_token:
            row = self.row(request.state.request_id)
            places.append(row * self.length + min(self.drawn[row], self.length - 1))
            self.drawn[row] += 1
        return torch.tensor(places, dtype=torch.int32)

    def __call__(self, scores: Tensor, tensor_arg: Tensor) -> Tensor:
        """(F, V) scores, 0 for the token that is drawn and −∞ for all others."""
        noise = self.noise[tensor_arg[: len(scores)].long()]
        tokens = draw_tokens(scores, noise, self.temperature)
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens.unsqueeze(1), 0.0)
