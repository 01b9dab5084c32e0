"""Computations that may run out of memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from lightning.pytorch.utilities.memory import is_oom_error

Result = TypeVar("Result")


def unless_out_of_memory(compute: Callable[[], Result]) -> Result | None:
    """The result; None, with the memory released, if it ran out of memory of a GPU or of the machine."""
    try:
        return compute()
    except (RuntimeError, MemoryError) as error:
        if not (isinstance(error, (torch.OutOfMemoryError, MemoryError)) or is_oom_error(error)):
            raise
    if torch.cuda.is_available():  # behind the handler: the error would hold the tensors of its frames
        torch.cuda.empty_cache()
    return None
