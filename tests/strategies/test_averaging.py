"""Ranks with gradients of different weights: zeros where one has none, or an error where zeros are impossible."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


def test_each_weight_is_averaged_with_itself(on_two_ranks: Callable[[str], list[Any]]) -> None:
    first, second = on_two_ranks("gradients_of_different_weights")
    assert first == {"a": [2 / 2] * 2, "b": [2 / 2] * 2, "c": [(4 + 6) / 2] * 2, "d": None}
    assert second == first


def test_losses_of_different_weights_are_refused_and_those_of_the_same_are_not(
    on_two_ranks: Callable[[str], list[Any]],
) -> None:
    first, second = on_two_ranks("losses_of_different_weights")
    assert first[:2] == ["", ""]
    assert first[2].startswith("2 weights have a gradient on some ranks only, a on 1 of 2; DeepSpeed would average")
    assert "stack configs/strategies/ddp.yaml" in first[2]
    assert second == first


def test_deepspeed_refuses_them_before_the_backward_pass(on_two_ranks: Callable[[str], list[Any]]) -> None:
    pytest.importorskip("deepspeed", reason='needs the extra: pip install -e ".[deepspeed]"')
    for said in on_two_ranks("deepspeed_with_losses_of_different_weights"):
        assert said.startswith("2 weights have a gradient on some ranks only")
