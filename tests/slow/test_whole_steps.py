"""Runs of all lengths and ways to save, killed at every moment."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from copied_runs import KEEPERS, LENGTHS, check_copies, killed, run

__all__ = ["check_copies", "killed", "run"]

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("length", "keeper", "interval"), [*itertools.product(LENGTHS, KEEPERS, (None, 1, 2, 3))])
def test_killed_at_any_moment(
    length: str, keeper: str, interval: int | None, check_copies: Callable[..., None]
) -> None:
    check_copies(length, keeper, interval, None)
