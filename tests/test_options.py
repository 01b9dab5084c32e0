"""Checks of options: values that are not allowed are refused, with the allowed ones in the message."""

from __future__ import annotations

import re
from math import inf, nan
from typing import Any, Literal

import pytest

from bots_lightning.options import check_numbers, check_option

RANGES: dict[str, tuple[dict[str, Any], list[float], list[float], str]] = {
    "no upper end": ({"low": 0}, [0, 1, inf], [-0.1, nan], "at least 0"),
    "finite": ({"low": 0, "below": True}, [0, 1e300], [-0.1, nan, inf], "a finite number, at least 0"),
    "positive, finite": ({"low": 0, "above": True, "below": True}, [1e-9], [0, inf], "a finite number, more than 0"),
    "unit interval": ({"low": 0, "high": 1}, [0, 0.5, 1], [-0.1, 1.1, nan], "at least 0 and at most 1"),
    "half open": ({"low": 0, "high": 1, "below": True}, [0, 0.9], [1, -0.1], "at least 0 and less than 1"),
    "open": ({"low": 0, "above": True, "high": 1, "below": True}, [0.5], [0, 1], "more than 0 and less than 1"),
    "at most": ({"low": 0, "above": True, "high": 1}, [0.5, 1], [0, 1.5], "more than 0 and at most 1"),
}


@pytest.mark.parametrize("kind", RANGES)
def test_numbers_within_the_range_are_accepted_and_others_refused(kind: str) -> None:
    options, accepted, refused, words = RANGES[kind]
    for value in [*accepted, None]:
        check_numbers(rate=value, **options)
    for value in refused:
        with pytest.raises(ValueError, match=rf"^{re.escape(f'rate={value}; expected {words}.')}$"):
            check_numbers(other=accepted[0], rate=value, **options)


def test_a_word_must_be_one_of_the_literal() -> None:
    check_option("mode", "fast", Literal["fast", "slow"])
    with pytest.raises(ValueError, match=r"mode='fat'; expected one of 'fast', 'slow'\."):
        check_option("mode", "fat", Literal["fast", "slow"])
