"""What callbacks have in common that exist for the selection of tasks: their time counts as its cost."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from lightning.pytorch import Callback

C = TypeVar("C", bound="SelectionCallback")


class SelectionCallback(Callback):
    """A callback that a run without task selection would not need; `SelectionOverhead` adds up its time.

    Attributes:
        seconds: of all hooks that are `counted`, in this process.
    """

    seconds = 0.0


def counted(hook: Callable[..., None]) -> Callable[..., None]:
    """A hook of a `SelectionCallback` whose seconds are added to those of the callback."""

    @wraps(hook)
    def timed(callback: C, *args: Any, **kwargs: Any) -> None:
        start = time.perf_counter()
        try:
            hook(callback, *args, **kwargs)
        finally:
            callback.seconds += time.perf_counter() - start

    return timed
