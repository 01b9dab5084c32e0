"""Failures of one rank that all ranks see, on one rank; two ranks are in tests/strategies."""

from __future__ import annotations

from typing import Any

import pytest
from lightning.pytorch.strategies import SingleDeviceStrategy

from bots_lightning.training import StepFailedError
from bots_lightning.training.failures import by_first_rank, together


def fail() -> Any:
    raise ConnectionError("no server is left")


def test_what_succeeds_is_returned_and_a_failure_names_its_cause() -> None:
    strategy = SingleDeviceStrategy()
    assert together(strategy, lambda: 3) == 3
    with pytest.raises(StepFailedError, match="ConnectionError: no server is left") as failed:
        together(strategy, fail)
    assert isinstance(failed.value.__cause__, ConnectionError)


def test_the_first_rank_raises_what_its_check_has_raised() -> None:
    by_first_rank(SingleDeviceStrategy(), lambda: None)
    with pytest.raises(ConnectionError, match="no server is left"):
        by_first_rank(SingleDeviceStrategy(), fail)


def test_a_rank_that_makes_no_check_refuses_in_the_words_of_the_first() -> None:
    class Second(SingleDeviceStrategy):
        is_global_zero = False

        def broadcast(self, obj: Any, src: int = 0) -> Any:
            return "6 of 8 tasks cannot be graded"

    with pytest.raises(ValueError, match="6 of 8 tasks cannot be graded"):
        by_first_rank(Second(), lambda: pytest.fail("checked"))
