"""Which errors are those of memory."""

from __future__ import annotations

import pytest
import torch

from bots_lightning.rollouts.memory import unless_out_of_memory


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    def fail(error: Exception) -> None:
        raise error

    assert unless_out_of_memory(lambda: 3) == 3
    assert unless_out_of_memory(lambda: fail(MemoryError())) is None
    assert unless_out_of_memory(lambda: fail(RuntimeError("DefaultCPUAllocator: can't allocate memory"))) is None
    with pytest.raises(RuntimeError, match="shapes"):
        unless_out_of_memory(lambda: fail(RuntimeError("shapes do not match")))


def test_a_machine_without_memory_is_recognised() -> None:
    """Of torch itself: more than any machine has."""
    assert unless_out_of_memory(lambda: torch.empty(2**60, dtype=torch.uint8)) is None
