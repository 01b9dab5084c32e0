"""The critic's loss by hand, and by what must hold of it."""

# Shapes: R rows, T completion tokens.

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from bots_lightning.algorithms.losses import (
    BatchSize,
    value_loss,
)

MASK = torch.arange(7) < torch.tensor([7, 1, 3, 0, 5, 2])[:, None]  # one row without any token


def tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_value_loss_by_hand() -> None:
    # Inside the clip; clipped to 0.2, and the clipped error the larger; far, but on the way to its return; masked.
    values = tensor([[0.1, 0.9, 0.5, 9.0]]).requires_grad_()
    outputs = value_loss(
        values,
        tensor([[0.0, 0.0, 1.0, 0.0]]),
        tensor([[1.0, 1.0, 2.0, 0.0]]),
        torch.tensor([[True, True, True, False]]),
    )
    outputs.loss.backward()
    assert outputs.loss.item() == pytest.approx(((1 - 0.1) ** 2 + (1 - 0.2) ** 2 + (2 - 0.5) ** 2) / 2 / 3)
    assert outputs.metrics["clipped"].tolist() == [[0, 1, 0, 0]]
    torch.testing.assert_close(values.grad, tensor([[(0.1 - 1) / 3, 0, (0.5 - 2) / 3, 0]]))


def test_value_loss_without_a_clip_is_half_the_squared_error() -> None:
    values, old, returns = (torch.randn(6, 7, dtype=torch.float64, generator=torch.manual_seed(s)) for s in range(3))
    mask = MASK
    loss = value_loss(values, old, returns, mask, cliprange_value=math.inf).loss
    torch.testing.assert_close(loss, (values - returns)[mask].square().mean() / 2)


def test_micro_batches_of_the_value_loss_add_up_and_their_padding_does_no_harm() -> None:
    generator = torch.Generator().manual_seed(0)
    values, old, returns = torch.randn(3, 6, 7, dtype=torch.float64, generator=generator)
    mask = MASK
    values.requires_grad_()
    whole = value_loss(values, old, returns, mask).loss
    (gradient,) = torch.autograd.grad(whole, values)
    dirty_old, dirty_returns = (x.masked_fill(~mask, math.nan) for x in (old, returns))
    size = BatchSize.of(mask)
    losses = [
        value_loss(values[rows], dirty_old[rows], dirty_returns[rows], mask[rows], size).loss
        for rows in (slice(0, 1), slice(1, 4), slice(4, 6))
    ]
    torch.stack(losses).sum().backward()
    torch.testing.assert_close(torch.stack(losses).sum(), whole, rtol=0, atol=1e-12)
    torch.testing.assert_close(values.grad, gradient, rtol=0, atol=1e-12)
