"""Tokens from noise that belongs to each prompt, so that completions do not depend on who samples them with whom."""

# Shapes: P prompts, n_p completions of prompt p, R = Σ n_p rows, T completion tokens, V vocabulary.

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

BLOCK = 512  # tokens whose probabilities are summed in one go; enough for precision in float32


def uniform_noise(seeds: Sequence[int], counts: Sequence[int], length: int, starts: Sequence[int] = ()) -> Tensor:
    """The noise of the completions of each prompt, a function of that prompt's seed alone.

    The n rows from any start on are the same, however many there are.

    Args:
        seeds: one for each of P prompts.
        counts: (P,) n_p, completions of each prompt.
        length: T.
        starts: (P,) the first row of each prompt that is wanted, 0 if left out.

    Returns:
        (R, T) float64 on the CPU, uniform in [0, 1).
    """
    prompts = zip(seeds, counts, starts or [0] * len(seeds), strict=True)
    drawn = [np.random.default_rng(seed).random((start + n, length))[start:] for seed, n, start in prompts]
    return torch.from_numpy(np.concatenate(drawn))


def draw_tokens(logits: Tensor, noise: Tensor, temperature: float = 1.0) -> Tensor:
    """Draws from softmax(logits / temperature) by inverting its distribution function.

    The block of the vocabulary first, then the token in it: one pass over the logits, and as precise in a large
    vocabulary as in a small one.

    Args:
        logits: (R, V) float.
        noise: (R,) uniform in [0, 1).
        temperature: 0 takes the most likely token and no notice of the noise.

    Returns:
        (R,) int64 tokens, never one of probability 0.
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    vocabulary, size = logits.shape[1], min(BLOCK, logits.shape[1])
    logits = logits.float() / temperature
    weights = (logits - logits.amax(dim=1, keepdim=True)).exp()
    blocks = pad(weights, (0, -vocabulary % size)).unflatten(1, (-1, size))
    mass = blocks.sum(dim=2).double().cumsum(dim=1)
    target = _below(noise.to(mass).unsqueeze(1) * mass[:, -1:], mass)
    block = _first_above(mass, target)
    before = torch.where(block > 0, mass.gather(1, (block - 1).clamp(min=0)), 0.0)
    inside = blocks[torch.arange(len(blocks), device=blocks.device), block.squeeze(1)].double().cumsum(dim=1)
    token = _first_above(inside, _below(target - before, inside))
    return (block * size + token).squeeze(1).clamp(max=vocabulary - 1)


def _below(target: Tensor, cumulative: Tensor) -> Tensor:
    """The (R, 1) target, less than the last value of its row also after rounding."""
    return target.minimum(cumulative[:, -1:] * (1 - 2**-40))


def _first_above(cumulative: Tensor, target: Tensor) -> Tensor:
    """(R, 1) the first position of each row whose value exceeds the target; the step up to it is positive."""
    return torch.searchsorted(cumulative, target, right=True).clamp(max=cumulative.shape[1] - 1)  # if all is NaN
