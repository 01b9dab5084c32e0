"""Range checks of options."""

from __future__ import annotations

import pytest

from bots_lightning.options import check_numbers


def test_bounds_are_inclusive_unless_above_and_none_is_no_number() -> None:
    check_numbers(0, epsilon=0.0, lam=None)
    check_numbers(0, above=True, high=1, gamma=1)
    for value in (-0.1, float("nan")):
        with pytest.raises(ValueError, match=r"epsilon=.*expected at least 0"):
            check_numbers(0, epsilon=value)
    with pytest.raises(ValueError, match="rate=0; expected more than 0 and at most 1"):
        check_numbers(0, above=True, high=1, rate=0)
