# Shapes: N tasks in the pool, K groups.

from __future__ import annotations

import numpy as np
import pytest

from bots_lightning.beliefs import TaskFeatures, belief


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_groups_are_coded_in_the_order_of_their_first_task(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(belief, "CHUNK", chunk)
    features = TaskFeatures(7, groups=np.array(["sums", "", "logic", "sums", "logic", "z", ""]))
    assert features.group_names == ["sums", "", "logic", "z"]
    assert features.group_codes.tolist() == [0, 1, 2, 0, 2, 3, 1]
    assert features.group_codes.dtype == np.uint8
    many = TaskFeatures(300, groups=np.array([f"group {task}" for task in range(300)]))
    assert many.group_codes.dtype == np.uint16
    assert many.group_codes.tolist() == list(range(300))


def test_a_pool_without_groups_has_one_without_a_name() -> None:
    assert TaskFeatures(3).group_names == [""]
    assert TaskFeatures(3).group_codes.tolist() == [0, 0, 0]
