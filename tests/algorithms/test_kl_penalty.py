"""The KL penalty by hand, and its gradient against that of the divergence."""

# Shapes: R rows, T completion tokens.

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bots_lightning.algorithms.losses import (
    grpo_loss,
    kl_divergence,
)

ESTIMATORS = ["k1", "k2", "k3"]


def tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_kl_estimators_by_hand() -> None:
    # d = log π − log π_ref: log 2 and −log 2.
    logprobs, ref, mask = tensor([[0.0, 0.0]]), tensor([[-math.log(2), math.log(2)]]), torch.tensor([[True, True]])
    expected = {
        "k1": [math.log(2), -math.log(2)],
        "k2": [math.log(2) ** 2 / 2, math.log(2) ** 2 / 2],
        "k3": [0.5 + math.log(2) - 1, 2 - math.log(2) - 1],
    }
    for estimator, values in expected.items():
        torch.testing.assert_close(kl_divergence(logprobs, ref, mask, estimator), tensor([values]))  # type: ignore[arg-type]


@pytest.mark.parametrize(("bias_correction", "weight"), [(True, 1.5), (False, 1.0)])
def test_penalty_by_hand(bias_correction: bool, weight: float) -> None:
    # One token with ratio 1.5 and d = log 2; A = 0.
    outputs = grpo_loss(
        tensor([[math.log(1.5)]]),
        tensor([[0.0]]),
        tensor([0.0]),
        torch.tensor([[True]]),
        ref_logprobs=tensor([[math.log(0.75)]]),
        kl_coef=0.1,
        use_bias_correction_kl=bias_correction,
    )
    assert outputs.loss.item() == pytest.approx(0.1 * weight * (0.5 + math.log(2) - 1))
    assert outputs.metrics["kl"].item() == pytest.approx(0.5 + math.log(2) - 1)


# A categorical over four tokens, and the reference: every expectation is a sum of four terms.
LOGITS, REF_LOGITS, OLD_LOGITS = [0.3, -1.2, 0.9, 0.1], [1.0, 0.2, -0.4, -0.7], [-0.5, 0.4, 0.6, 0.0]


def kl(left: Tensor, right: Tensor) -> Tensor:
    return (left.exp() * (left - right)).sum()


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_k1_and_k3_are_unbiased(estimator: Any) -> None:
    policy, ref = (tensor(logits).log_softmax(0) for logits in (LOGITS, REF_LOGITS))
    estimates = kl_divergence(policy[:, None], ref[:, None], torch.ones(4, 1, dtype=torch.bool), estimator)[:, 0]
    assert (policy.exp() * estimates).sum().item() == pytest.approx(kl(policy, ref).item(), abs=1e-15)


def expected_penalty_gradient(old_logits: list[float], estimator: str, bias_correction: bool) -> Tensor:
    """E over tokens drawn from π_old of the gradient that `grpo_loss` has for each of them."""
    logits = tensor(LOGITS).requires_grad_()
    policy, old, ref = logits.log_softmax(0), tensor(old_logits).log_softmax(0), tensor(REF_LOGITS).log_softmax(0)
    losses = [
        grpo_loss(
            policy[None, [token]],
            old[None, [token]],
            tensor([0.0]),
            torch.tensor([[True]]),
            ref_logprobs=ref[None, [token]],
            kl_coef=1.0,
            kl_estimator=estimator,  # type: ignore[arg-type]
            use_bias_correction_kl=bias_correction,
        ).loss
        for token in range(4)
    ]
    (old.exp() * torch.stack(losses)).sum().backward()
    assert logits.grad is not None
    return logits.grad


def exact_gradient(reverse: bool = True) -> Tensor:
    logits = tensor(LOGITS).requires_grad_()
    policy, ref = logits.log_softmax(0), tensor(REF_LOGITS).log_softmax(0)
    (kl(policy, ref) if reverse else kl(ref, policy)).backward()
    assert logits.grad is not None
    return logits.grad


@pytest.mark.parametrize("old_logits", [LOGITS, OLD_LOGITS], ids=["on-policy", "off-policy"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_corrected_penalty_has_the_gradient_of_the_divergence(estimator: str, old_logits: list[float]) -> None:
    actual = expected_penalty_gradient(old_logits, estimator, bias_correction=True)
    torch.testing.assert_close(actual, exact_gradient(), rtol=0, atol=1e-14)


def test_the_gradients_of_the_plain_penalty() -> None:
    # On-policy, k1 pulls nowhere, k2 along KL(π ‖ π_ref), and k3 along KL(π_ref ‖ π).
    expected = {"k1": torch.zeros(4, dtype=torch.float64), "k2": exact_gradient(), "k3": exact_gradient(reverse=False)}
    for estimator, gradient in expected.items():
        actual = expected_penalty_gradient(LOGITS, estimator, bias_correction=False)
        torch.testing.assert_close(actual, gradient, rtol=0, atol=1e-14)


@given(st.floats(-5, 5), st.floats(-5, 5))
def test_k2_and_k3_are_never_negative(logprob: float, ref: float) -> None:
    mask = torch.tensor([[True]])
    for estimator in ("k2", "k3"):
        assert kl_divergence(tensor([[logprob]]), tensor([[ref]]), mask, estimator) >= 0  # type: ignore[arg-type]
