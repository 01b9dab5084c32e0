"""From a loss per token to one number, by hand."""

# Shapes: R rows, T completion tokens.

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from bots_lightning.algorithms.losses import (
    BatchSize,
    aggregate,
)


def tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_aggregates_by_hand() -> None:
    # Rows of 3 and 1 tokens of a batch of 4 rows with 10 tokens and up to 8 in a row.
    per_token, mask = tensor([[1.0, 2.0, 6.0], [4.0, 9.0, 9.0]]), torch.tensor([[True] * 3, [True, False, False]])
    size = BatchSize(rows=4, tokens=10, max_completion_length=8)
    expected = {
        "grpo": ((1 + 2 + 6) / 3 + 4) / 4,
        "dr_grpo": (1 + 2 + 6 + 4) / (4 * 8),
        "dapo": (1 + 2 + 6 + 4) / 10,
        "bnpo": (1 + 2 + 6 + 4) / 10,
    }
    for loss_type, value in expected.items():
        assert aggregate(per_token, mask, size, loss_type).item() == pytest.approx(value)  # type: ignore[arg-type]
