"""Log-probabilities and entropy of tokens from hidden states, a chunk of tokens at a time.

The logits of a batch over a large vocabulary are the largest tensor of training by far: 8,192 tokens × 151,936 words
are 5 GB in float32, several times over with gradients. Here only those of one chunk of tokens exist at a time, in the
forward pass and, computed anew, in the backward pass.
"""

# Shapes: N tokens, H hidden size, V vocabulary.

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

# Tokens × words of a chunk: 64 MiB in float32. Of blocks below 32 MiB, glibc may keep many times what is in use.
CHUNK_ELEMENTS = 2**24


@dataclass(frozen=True)
class LogitsProcessing:
    """What a model does to its head's output x: c·tanh(y / c) with y = x · multiplier / divisor, or y if c is None.

    Attributes:
        multiplier: as of Cohere.
        divisor: as of Granite.
        softcap: c, as of Gemma (arXiv:2408.00118, section 2).
    """

    multiplier: float = 1.0
    divisor: float = 1.0
    softcap: float | None = None

    def __call__(self, outputs: Tensor) -> Tensor:
        """(..., V) logits of the head's outputs (..., V), in their dtype as in the model."""
        if self.multiplier != 1:
            outputs = outputs * self.multiplier
        if self.divisor != 1:
            outputs = outputs / self.divisor
        return outputs if self.softcap is None else torch.tanh(outputs / self.softcap) * self.softcap

    def backward_(self, gradient: Tensor, logits: Tensor) -> Tensor:
        """The gradient at the outputs, from the one at the logits, in place."""
        if self.softcap is not None:
            gradient.mul_(1 - (logits.to(gradient.dtype) / self.softcap).square_())
        factor = self.multiplier / self.divisor
        return gradient if factor == 1 else gradient.mul_(factor)


def token_logprobs(
    hidden: Tensor,
    head: nn.Module,
    targets: Tensor,
    temperature: float = 1.0,
    chunk_size: int | None = None,
    processing: LogitsProcessing = LogitsProcessing(),
) -> tuple[Tensor, Tensor]:
    """Log-probability of each target token, and the entropy of its distribution, from hidden states.

    Both carry gradient. The ways to it agree: a plain linear head without trainable weights is read, and the gradient
    at the hidden states computed by hand; any other head (trainable, tied, adapted) is called on each chunk under
    `torch.utils.checkpoint`. Called once, on all tokens, are a head for which they make one chunk, and a head with
    hooks: under ZeRO-3 those fetch its weights from all ranks, so every rank has to call it equally often.

    Args:
        hidden: (N, H), what the head takes.
        head: linear, or a wrapper of such with `out_features`.
        targets: (N,) int64.
        temperature: divides the logits.
        chunk_size: tokens at a time; None for as many as make `CHUNK_ELEMENTS` logits.
        processing: what the model does between head and logits; `logits_processing` finds it.

    Returns:
        logprobs (N,) and entropy (N,) in nats, float32, or float64 if the logits are.
    """
    size = _chunk_size(cast(int, head.out_features)) if chunk_size is None else chunk_size
    options = (_Softmax(temperature, processing), size)
    if len(hidden) <= size or head._forward_pre_hooks:
        return _apply(_FromOutputs, head(hidden), targets, *options)
    if _is_plain_and_frozen(head):
        return _apply(_FromHidden, hidden, head.weight, head.bias, targets, *options, _compute_dtype(hidden))

    def values(part: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        return _apply(_FromOutputs, head(part), chosen, *options)

    chunks = zip(torch.split(hidden, size), torch.split(targets, size), strict=True)
    return _joined(
        checkpoint(values, part, chosen, use_reentrant=False, preserve_rng_state=False) for part, chosen in chunks
    )


def logits_logprobs(
    logits: Tensor, targets: Tensor, temperature: float = 1.0, chunk_size: int | None = None
) -> tuple[Tensor, Tensor]:
    """`token_logprobs` from logits that exist already; makes no second tensor of their size in higher precision.

    Args:
        logits: (N, V).
        targets: (N,) int64.
        temperature: divides the logits.
        chunk_size: tokens at a time; None for as many as make `CHUNK_ELEMENTS` logits.

    Returns:
        logprobs (N,) and entropy (N,) in nats.
    """
    size = _chunk_size(logits.shape[-1]) if chunk_size is None else chunk_size
    return _apply(_FromOutputs, logits, targets, _Softmax(temperature, LogitsProcessing()), size)


@dataclass(frozen=True)
class _Softmax:
    """From a head's outputs to log p of the targets and entropy, and the gradient of that, of one chunk."""

    temperature: float
    processing: LogitsProcessing

    def log_p(self, logits: Tensor) -> Tensor:
        """In float32 at least, since half precision has no room for a softmax over a vocabulary."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return (logits if self.temperature == 1 else logits / self.temperature).log_softmax(dim=-1)

    def values(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        log_p = self.log_p(self.processing(outputs))
        entropy = log_p.exp().mul_(log_p).sum(dim=-1).neg_()
        return log_p.gather(-1, targets.unsqueeze(-1)).squeeze(-1), entropy

    def gradient(self, outputs: Tensor, *per_token: Tensor) -> Tensor:
        """With logits z and entropy H, ∂ log p_t / ∂z_i = [i = t] − p_i and ∂H / ∂z_i = −p_i (log p_i + H)."""
        targets, entropy, at_logprobs, at_entropy = (tensor.unsqueeze(-1) for tensor in per_token)
        logits = self.processing(outputs)
        log_p = self.log_p(logits)
        gradient = (log_p + entropy).mul_(at_entropy).add_(at_logprobs).mul_(log_p.exp_()).neg_()
        gradient.scatter_add_(-1, targets, at_logprobs).div_(self.temperature)
        return self.processing.backward_(gradient, logits).to(outputs.dtype)


class _FromOutputs(torch.autograd.Function):
    """Log-probabilities and entropies of a head's outputs, which are all that is kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, outputs: Tensor, targets: Tensor, *options: Any) -> Any:
        softmax, size = ctx.options = options
        pairs = zip(torch.split(outputs, size), torch.split(targets, size), strict=True)
        logprobs, entropy = _joined(softmax.values(*pair) for pair in pairs)
        ctx.save_for_backward(outputs, targets, entropy)
        return logprobs, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        softmax, size = ctx.options
        tensors = (*ctx.saved_tensors, *gradients)
        if len(tensors[0]) <= size:
            return softmax.gradient(*tensors), *[None] * 3
        result = torch.empty_like(tensors[0])
        for into, *parts in zip(*(tensor.split(size) for tensor in (result, *tensors)), strict=True):
            into.copy_(softmax.gradient(*parts))
        return result, *[None] * 3


class _FromHidden(torch.autograd.Function):
    """Log-probabilities and entropies of hidden states under a frozen linear head, whose outputs are computed twice.

    Matrix products have the dtype that they have under autograd, what lies between them is float32.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, *options: Any) -> Any:
        softmax, size, dtype = ctx.options = options
        with torch.autocast(hidden.device.type, enabled=False):
            matrix, offset = weight.to(dtype), None if bias is None else bias.to(dtype)
            pairs = zip(torch.split(hidden, size), torch.split(targets, size), strict=True)
            values = (softmax.values(F.linear(part.to(dtype), matrix, offset), chosen) for part, chosen in pairs)
            logprobs, entropy = _joined(values)
        ctx.save_for_backward(hidden, weight, bias, targets, entropy)
        return logprobs, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        hidden, weight, bias, *others = ctx.saved_tensors
        softmax, size, dtype = ctx.options
        result = torch.empty_like(hidden)
        pieces = (tensor.split(size) for tensor in (result, hidden, *others, *gradients))
        with torch.autocast(hidden.device.type, enabled=False):
            matrix, offset = weight.to(dtype), None if bias is None else bias.to(dtype)
            for into, part, *rest in zip(*pieces, strict=True):
                into.copy_(softmax.gradient(F.linear(part.to(dtype), matrix, offset), *rest) @ matrix)
        return result, *[None] * 6


def _apply(function: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
    """What an autograd function returns, whose `apply` has no types."""
    logprobs, entropy = function.apply(*arguments)
    return logprobs, entropy


def _joined(values: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    logprobs, entropy = (torch.cat(parts) for parts in zip(*values, strict=True))
    return logprobs, entropy


def _chunk_size(words: int) -> int:
    return max(1, CHUNK_ELEMENTS // words)


def _is_plain_and_frozen(head: nn.Module) -> bool:
    """Whether the head is no more than its weights: no adapter, no quantized or sharded tensor, no hooks."""
    if type(head) is not nn.Linear or head._forward_pre_hooks or head._forward_hooks:
        return False
    own = list(head.parameters())
    return all(type(parameter) is nn.Parameter and not parameter.requires_grad for parameter in own)


def _compute_dtype(hidden: Tensor) -> torch.dtype:
    """The dtype of a linear layer's product here; float64 is not autocast."""
    device = hidden.device.type
    if torch.is_autocast_enabled(device) and hidden.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return hidden.dtype
