"""Options of the policy that are out of bounds are refused by name, before anything is loaded."""

from __future__ import annotations

from typing import Any

import pytest

from bots_lightning.policy import Policy


@pytest.mark.parametrize(("option", "value"), [("max_tokens_per_microbatch", -5), ("temperature", 0.0)])
def test_a_number_out_of_bounds_is_refused(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{option}={value}; expected"):
        Policy("no/such/folder", **{option: value})
