"""A run that is killed again and again, and resumed with `--ckpt_path last`, ends as the undisturbed one."""

from __future__ import annotations

from collections.abc import Callable

from killed_runs import check_kills

__all__ = ["check_kills"]


def test_three_kills(check_kills: Callable[..., None]) -> None:
    check_kills([("write", 9), ("torn", 3), ("seconds", 0.2)])
