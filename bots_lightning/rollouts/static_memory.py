"""The memory of static caches: it stays with a model, and comes in few sizes."""

# Shapes: R rows, S ≥ R slots, C columns, H heads, D their width.

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel

_memory: WeakKeyDictionary[PreTrainedModel, list[Tensor]] = WeakKeyDictionary()


def size_for(number: int, least: int, steps: int) -> int:
    """The first size that is not below the number.

    With 4 steps from 4 on, the sizes are 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, …

    Args:
        number: to be held.
        least: the smallest size, a power of two.
        steps: sizes from one power of two up to the next, a divisor of the least.
    """
    size = power = least
    while size < number:
        size += power // steps
        power = size if size == 2 * power else power
    return size


def reserve(model: PreTrainedModel, states: Sequence[Tensor], slots: int, columns: int) -> list[Tensor]:
    """Memory for (slots, H, columns, D) of each of the states; what the model has, where that is large enough.

    Args:
        model: keeps the memory until `release`, or as long as it exists.
        states: keys and values of each layer, (R, H, C, D).
        slots: S.
        columns: to make room for.

    Returns:
        One flat tensor for each state.
    """
    needed = [slots * columns * state.shape[1] * state.shape[3] for state in states]
    kept = _memory.get(model, [])
    if [memory.dtype for memory in kept] != [state.dtype for state in states] or any(
        memory.numel() < size for memory, size in zip(kept, needed, strict=True)
    ):
        release(model)
        del kept  # so that there are never both
        _memory[model] = [state.new_empty(size) for state, size in zip(states, needed, strict=True)]
    return _memory[model]


def release(model: PreTrainedModel) -> None:
    """Frees the memory that is kept with the model."""
    _memory.pop(model, None)


def place(held: Tensor, memory: Tensor, slots: int, columns: int, read: int) -> Tensor:
    """A state in its memory, zero except for what it holds so far.

    Args:
        held: (R, H, C, D) with C ≤ read, the last columns that were read.
        memory: flat, at least slots·H·columns·D.
        slots: S.
        columns: of the result.
        read: how many columns have been read.

    Returns:
        (slots, H, columns, D), a view.
    """
    rows, heads, width, size = held.shape
    state = memory[: slots * heads * columns * size].view(slots, heads, columns, size).zero_()
    state[:rows, :, read - width : read] = held
    of_any_size(state, 0, 2)
    torch._dynamo.mark_static_address(state)
    return state


def of_any_size(tensor: Tensor, *dims: int) -> None:
    """Marks dimensions as dynamic, so that the compiler makes no version for one size first."""
    torch._dynamo.maybe_mark_dynamic(tensor, list(dims))
