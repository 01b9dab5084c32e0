"""What to do when memory does not suffice."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from lightning.pytorch.utilities.memory import is_oom_error

Result = TypeVar("Result")


def unless_out_of_memory(compute: Callable[[], Result]) -> Result | None:
    """The result, or None where memory, of a GPU or of the machine, did not suffice; what was held is let go then."""
    try:
        return compute()
    except (RuntimeError, MemoryError) as error:
        if not (isinstance(error, (torch.OutOfMemoryError, MemoryError)) or is_oom_error(error)):
            raise
    if torch.cuda.is_available():  # behind the handler: the error would hold the tensors of its frames
        torch.cuda.empty_cache()
    return None
