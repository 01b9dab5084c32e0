"""Decoding with a key-value cache that stays in place, by a step that is compiled once for all sizes."""

# Shapes: R rows, S ≥ R slots, C ≥ columns read so far, H heads, D their width, V vocabulary.

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin

from bots_lightning.rollouts.reader import Reader
from bots_lightning.rollouts.static_memory import of_any_size, place, reserve, size_for

LEAST_SLOTS, LEAST_COLUMNS = 4, 32  # powers of two
# Sizes from one power of two up to the next. On an accelerator each size is one more graph to record: there it is 2.
STEPS = {"cpu": 4}
Step = Callable[..., Tensor]


class StaticReader:
    """Goes on from where a `Reader` stands, one token at a time, with the rows' cache in slots.

    A row keeps its slot when others are dropped. Slots and columns come in few sizes (see `size_for`). The cache is
    copied when its columns are full, or the next smaller number of slots is enough; otherwise each token is written in
    place. Layers with a sliding window keep all columns; the mask takes care of the window.

    The memory is kept with the model, so that the next reader finds the same addresses; see `release`.

    Args:
        reader: has read its prompts; it is not changed.
        rows: (R,) int64 of the reader's rows to go on with; one that is named several times is repeated.
        step: `next_logits`, compiled or not.
    """

    _slots: Tensor  # (R,) int64
    _states: list[Tensor]

    def __init__(self, reader: Reader, rows: Tensor, step: Step) -> None:
        self.model, self.columns, self._step = reader.model, reader.columns, step
        self._takes_positions, self._options = reader.takes_positions, reader.options
        self._sliding = [layer.is_sliding for layer in reader.cache.layers]
        states = [state for layer in reader.cache.layers for state in (layer.keys, layer.values)]
        self._steps = STEPS.get(rows.device.type, 2)
        slots, columns = self._sizes(len(rows), reader.capacity)
        self._memory = reserve(self.model, states, slots, columns)
        self._arrange(states, reader.mask, reader.positions, rows)

    def read(self, tokens: Tensor) -> Tensor:
        """(R, V) logits of the tokens after these (R,), which come next in their rows."""
        if self.columns == self._mask.shape[1]:
            self._arrange(self._states, self._mask, self._positions, self._slots)
        self._ids[self._slots, 0] = tokens
        self._positions += 1
        positions = {"position_ids": self._positions} if self._takes_positions else {}
        logits = self._step(self.model, self._ids, self._mask, self._cache, **positions, **self._options)
        self._column += 1
        self.columns += 1
        return logits[self._slots]  # a copy: the next replay of a CUDA graph overwrites what this one returned

    def select(self, rows: Tensor) -> None:
        """Goes on with these rows, in this order.

        Args:
            rows: (R',) int64, of the present rows, none of them twice.
        """
        self._slots = self._slots[rows]
        if self._sizes(len(rows), self.columns)[0] < len(self._ids):
            self._arrange(self._states, self._mask, self._positions, self._slots)

    def _sizes(self, rows: int, columns: int) -> tuple[int, int]:
        return size_for(rows, LEAST_SLOTS, self._steps), size_for(columns, LEAST_COLUMNS, self._steps)

    def _arrange(self, states: Sequence[Tensor], mask: Tensor | None, positions: Tensor, rows: Tensor) -> None:
        """Moves rows into the first slots of a cache that has as many slots and columns as they need now.

        Args:
            states: keys, then values, of each layer, (R, H, C, D).
            mask: (R, C) int64, or None where nothing is padded.
            positions: (R, 1) int64.
            rows: (R',) int64.
        """
        slots, columns = self._sizes(len(rows), self.columns + 1)
        new_mask, new_positions = positions.new_ones(slots, columns), positions.new_zeros(slots, 1)
        if mask is not None:
            new_mask[: len(rows), : self.columns] = mask[rows, : self.columns]
        new_positions[: len(rows)] = positions[rows]
        self._mask, self._positions, self._ids = new_mask, new_positions, torch.zeros_like(new_positions)
        self._slots = torch.arange(len(rows), device=rows.device)
        self._column = torch.tensor([self.columns], device=rows.device)
        self._states = [
            place(state[:, :, : self.columns][rows], memory, slots, columns, self.columns)
            for state, memory in zip(states, self._memory, strict=True)
        ]
        layers = zip(self._states[::2], self._states[1::2], self._sliding, strict=True)
        self._cache = Cache(layers=[_Layer(keys, values, self._column, sliding) for keys, values, sliding in layers])
        of_any_size(self._mask, 0, 1)
        of_any_size(self._positions, 0)
        of_any_size(self._ids, 0)


class _Layer(CacheLayerMixin):
    """Keys and values, each (S, H, C, D), that are written at a column (1,) which all layers share."""

    is_compileable = True

    def __init__(self, keys: Tensor, values: Tensor, column: Tensor, is_sliding: bool) -> None:
        super().__init__()
        self.keys, self.values, self.column, self.is_sliding = keys, values, column, is_sliding
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Does nothing: keys and values are there already."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        self.keys.index_copy_(2, self.column, key_states)
        self.values.index_copy_(2, self.column, value_states)
        return self.keys, self.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.keys.shape[2], 0

    def get_seq_length(self) -> Tensor:
        return self.column

    def get_max_length(self) -> int:
        return self.keys.shape[2]

    get_max_cache_shape = get_max_length  # what some versions of transformers call it


def next_logits(model: PreTrainedModel, ids: Tensor, mask: Tensor, cache: Cache, **options: Any) -> Tensor:
    """(S, V) logits of the tokens after ids (S, 1), whose keys and values go into the cache."""
    return model(input_ids=ids, attention_mask=mask, past_key_values=cache, **options).logits[:, -1]


@functools.cache
def compiled_step(device_type: str) -> Step:
    """`next_logits` compiled; on CUDA, a graph is recorded of each size once it comes for the second time."""
    if device_type != "cuda":
        return torch.compile(next_logits)
    options = {"triton.cudagraphs": True, "triton.cudagraph_dynamic_shape_warn_limit": None}
    compiled = torch.compile(next_logits, options=options)  # type: ignore[arg-type]

    def step(*args: Any, **kwargs: Any) -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()
        return compiled(*args, **kwargs)

    return step
