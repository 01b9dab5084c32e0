"""Numbers out of range are refused, by name."""

from __future__ import annotations

from typing import Any

import pytest

from bots_lightning.strategies import DataParallel, DeepSpeed, RankWatch


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (DataParallel, {"timeout_seconds": 0}, "timeout_seconds=0; expected more than 0"),
        (DeepSpeed, {"timeout_seconds": -1}, "timeout_seconds=-1; expected more than 0"),
        (DeepSpeed, {"bucket_size": 0}, "bucket_size=0; expected at least 1"),
        (RankWatch, {"grace_seconds": -0.5}, "grace_seconds=-0.5; expected at least 0"),
    ],
)
def test_a_number_out_of_range_is_refused(kind: Any, options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**options)
