"""Chunked log-probabilities and entropies against hand arithmetic and against one log-softmax over all logits."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bots_lightning.policy import vocabulary
from bots_lightning.policy.vocabulary import LogitsProcessing, logits_logprobs, token_logprobs

TOKENS, HIDDEN, WORDS = 7, 5, 11
PROCESSINGS = [LogitsProcessing(), LogitsProcessing(multiplier=0.5), LogitsProcessing(divisor=3, softcap=1.5)]


def linear(bias: bool, trainable: bool, dtype: torch.dtype = torch.float64) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(HIDDEN, WORDS, bias=bias, dtype=dtype).requires_grad_(trainable)


def adapted(bias: bool) -> nn.Module:
    """A frozen head under a LoRA adapter with weights that matter."""
    holder = nn.Sequential()
    holder.add_module("lm_head", linear(bias, trainable=False))
    inject_adapter_in_model(LoraConfig(r=2, lora_alpha=4, target_modules=["lm_head"]), holder)
    head = holder.lm_head.double()
    for name, parameter in head.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.25)  # gradients of order one, where float32 has 1e-7 steps
    return head


HEADS = {
    "frozen": lambda: linear(bias=False, trainable=False),
    "frozen with bias": lambda: linear(bias=True, trainable=False),
    "trainable": lambda: linear(bias=True, trainable=True),
    "adapted": lambda: adapted(bias=True),
}


def example(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(TOKENS, HIDDEN, dtype=dtype, requires_grad=True), torch.randint(WORDS, (TOKENS,))


def naive(
    hidden: Tensor, head: nn.Module, targets: Tensor, temperature: float, processing: LogitsProcessing
) -> tuple[Tensor, Tensor]:
    logits = head(hidden) * processing.multiplier / processing.divisor
    if processing.softcap is not None:
        logits = processing.softcap * (logits / processing.softcap).tanh()
    log_p = (logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature).log_softmax(-1)
    return log_p[range(len(targets)), targets], -(log_p.exp() * log_p).sum(-1)


def gradients(values: tuple[Tensor, Tensor], hidden: Tensor, head: nn.Module) -> list[Tensor]:
    """Of a loss in which every log-probability and every entropy has a weight of its own."""
    at_logprobs, at_entropy = torch.randn(2, len(hidden), generator=torch.Generator().manual_seed(2))
    loss = (values[0] * at_logprobs).sum() + (values[1] * at_entropy).sum()
    return list(torch.autograd.grad(loss, [hidden, *(p for p in head.parameters() if p.requires_grad)]))


def same(ours: Any, theirs: Any, tolerance: float) -> None:
    torch.testing.assert_close(list(ours), list(theirs), rtol=0, atol=tolerance)


@pytest.mark.parametrize("trainable", [False, True])
def test_by_hand(trainable: bool) -> None:
    head = nn.Linear(2, 2, bias=False, dtype=torch.float64).requires_grad_(trainable)
    with torch.no_grad():
        head.weight.copy_(torch.eye(2))
    hidden = torch.tensor([[math.log(3), 0.0], [0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    logprobs, entropy = token_logprobs(hidden, head, torch.tensor([0, 1]), chunk_size=1)
    first_entropy = 0.75 * math.log(4 / 3) + 0.25 * math.log(4)
    same(logprobs.tolist(), [math.log(3 / 4), math.log(1 / 2)], 1e-12)
    same(entropy.tolist(), [first_entropy, math.log(2)], 1e-12)
    (at_logprobs,) = torch.autograd.grad(logprobs.sum(), hidden, retain_graph=True)
    same(at_logprobs.tolist(), [[1 - 3 / 4, -1 / 4], [-1 / 2, 1 - 1 / 2]], 1e-12)
    (at_entropy,) = torch.autograd.grad(entropy.sum(), hidden)
    slope = -0.75 * (math.log(3 / 4) + first_entropy)
    same(at_entropy.tolist(), [[slope, -slope], [0.0, 0.0]], 1e-12)


@pytest.mark.parametrize("chunk_size", [None, 1, 3, TOKENS])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("processing", PROCESSINGS)
def test_values_and_gradients_are_those_of_one_log_softmax(
    chunk_size: int | None, head: str, temperature: float, processing: LogitsProcessing
) -> None:
    module, (hidden, targets) = HEADS[head](), example()
    expected = naive(hidden, module, targets, temperature, processing)
    values = token_logprobs(hidden, module, targets, temperature, chunk_size, processing)
    same(values, expected, 1e-12)
    same(gradients(values, hidden, module), gradients(expected, hidden, module), 1e-10)


@pytest.mark.parametrize("head", HEADS)
def test_float32(head: str) -> None:
    module = HEADS[head]().float()
    hidden, targets = example(torch.float32)
    values = token_logprobs(hidden, module, targets, chunk_size=3)
    expected = naive(hidden, module, targets, 1.0, LogitsProcessing())
    same(values, expected, 1e-6)
    same(gradients(values, hidden, module), gradients(expected, hidden, module), 1e-6)


@pytest.mark.parametrize("head", ["frozen with bias", "trainable"])
@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("processing", [LogitsProcessing(), LogitsProcessing(softcap=1.5)])
def test_half_precision_rounds_where_autograd_does(
    head: str, weights: torch.dtype, processing: LogitsProcessing
) -> None:
    """Autocast ends before the backward pass; the logits computed there must still be the same."""
    module = HEADS[head]().to(weights)
    hidden, targets = example(weights)
    with torch.autocast("cpu", torch.bfloat16, enabled=weights == torch.float32):
        values = token_logprobs(hidden, module, targets, 0.7, 3, processing)
        expected = naive(hidden, module, targets, 0.7, processing)
    assert values[0].dtype == values[1].dtype == torch.float32
    same(values, expected, 1e-6)
    # Rounded once to half precision where the product ends; of the trainable weights, once a chunk.
    same(gradients(values, hidden, module), gradients(expected, hidden, module), 0.02)


@pytest.mark.parametrize("chunk_size", [3, TOKENS])
@pytest.mark.parametrize("head", HEADS)
def test_values_are_the_same_to_the_bit_without_gradient(head: str, chunk_size: int) -> None:
    module, (hidden, targets) = HEADS[head]().float(), example(torch.float32)
    with torch.no_grad():
        without = token_logprobs(hidden, module, targets, 0.7, chunk_size)
    assert not any(value.requires_grad for value in without)
    for ours, theirs in zip(token_logprobs(hidden, module, targets, 0.7, chunk_size), without, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("head", HEADS)
def test_no_tokens_at_all(head: str) -> None:
    module, (hidden, targets) = HEADS[head](), example()
    logprobs, entropy = token_logprobs(hidden[:0], module, targets[:0])
    assert logprobs.shape == entropy.shape == (0,)
    (logprobs.sum() + entropy.sum()).backward()
    assert hidden.grad is not None
    assert not hidden.grad.any()


class Largest(TorchDispatchMode):
    """Elements of the largest floating-point tensor that any operation made."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(made) if torch.is_tensor(leaf) and leaf.is_floating_point()]
        self.elements = max(self.elements, *sizes, 0)
        return made


@pytest.mark.parametrize("trainable", [False, True])
def test_no_pass_makes_more_logits_than_a_chunk(trainable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, words = 256, 2000
    monkeypatch.setattr(vocabulary, "CHUNK_ELEMENTS", 16 * words)
    head = nn.Linear(4, words).requires_grad_(trainable)
    hidden, targets = torch.randn(tokens, 4, requires_grad=True), torch.randint(words, (tokens,))
    with Largest() as chunked:
        logprobs, entropy = token_logprobs(hidden, head, targets)
        (logprobs.sum() + entropy.sum()).backward()
    assert chunked.elements == 16 * words
    with Largest() as whole:
        naive(hidden, head, targets, 1.0, LogitsProcessing())
    assert whole.elements == tokens * words


def test_a_small_vocabulary_is_one_call_of_the_head() -> None:
    (hidden, targets), head, calls = example(), linear(bias=True, trainable=True), []
    head.register_forward_hook(lambda *_: calls.append(1))
    token_logprobs(hidden, head, targets)[0].sum().backward()
    assert len(calls) == 1


@pytest.mark.parametrize("trainable", [False, True])
def test_a_head_with_hooks_is_called_once(trainable: bool) -> None:
    """Hooks may fetch its weights from other ranks, which have more tokens or fewer."""
    (hidden, targets), head, calls = example(), linear(bias=True, trainable=trainable), []
    expected = naive(hidden, head, targets, 0.7, PROCESSINGS[-1])
    wanted = gradients(expected, hidden, head)
    head.register_forward_pre_hook(lambda *_: calls.append(1))
    values = token_logprobs(hidden, head, targets, 0.7, 3, PROCESSINGS[-1])
    same(values, expected, 1e-12)
    same(gradients(values, hidden, head), wanted, 1e-10)
    assert len(calls) == 1


@pytest.mark.parametrize("chunk_size", [None, 3])
def test_logits_that_exist_already(chunk_size: int | None) -> None:
    _, targets = example()
    logits, identity = torch.randn(TOKENS, WORDS, dtype=torch.float64, requires_grad=True), nn.Identity()
    expected = naive(logits, identity, targets, 0.7, LogitsProcessing())
    values = logits_logprobs(logits, targets, 0.7, chunk_size)
    same(values, expected, 1e-12)
    same(gradients(values, logits, identity), gradients(expected, logits, identity), 1e-10)
