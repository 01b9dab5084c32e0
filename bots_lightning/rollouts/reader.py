"""Incremental decoding with a key-value cache whose rows can be dropped and repeated."""

# Shapes: P prompts, R rows, L prompt tokens, V vocabulary.

from __future__ import annotations

import inspect
import warnings
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationMixin, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

PREFILL_TOKENS = 2**14  # read at once, so that long prompts need no more memory for activations than for the cache
SEPARATE = (DynamicLayer, DynamicSlidingWindowLayer)  # layers of a cache whose rows can be taken apart
_faults: WeakKeyDictionary[PreTrainedModel, str | None] = WeakKeyDictionary()


class Reader:
    """Rows of one model, each read up to the same column, with their key-value cache.

    Args:
        model: one that `can_read` accepts, in eval mode.
        prompt_ids: (P, L) int64, padded on the left; the rows at first.
        prompt_mask: (P, L) bool.
        room: how many tokens are to be read after the prompts, at most.

    Attributes:
        cache: keys and values of the columns read so far.
        columns: how many those are.
        capacity: how many they can become, L + room.
        mask: (R, L + room) int64, 0 where prompts are padded; None where none is.
        positions: (R, 1) int64 of the tokens read last.
        takes_positions: whether the model is given them; otherwise it derives them from the mask.
        options: what else it is called with.
    """

    def __init__(self, model: PreTrainedModel, prompt_ids: Tensor, prompt_mask: Tensor, room: int) -> None:
        self.model, self.prompt_ids = model, prompt_ids
        accepted = inspect.signature(model.forward).parameters
        self.options: dict[str, object] = {"use_cache": True}
        if "logits_to_keep" in accepted:
            self.options["logits_to_keep"] = 1
        self.takes_positions = "position_ids" in accepted
        self.cache = DynamicCache(config=model.config)
        self.columns, self.capacity = 0, prompt_ids.shape[1] + room
        self.mask: Tensor | None = torch.nn.functional.pad(prompt_mask.long(), (0, room), value=1)
        self.positions = (prompt_mask.long().cumsum(dim=1) - 1).clamp(min=0)
        self._leave_out_mask()

    def read_prompts(self) -> Tensor:
        """(P, V) logits of the tokens after the prompts."""
        rows, length = self.prompt_ids.shape
        width = max(1, PREFILL_TOKENS // rows)
        positions = self.positions
        for start in range(0, length, width):
            self.positions = positions[:, start : start + width]
            logits = self._read(self.prompt_ids[:, start : start + width])
        self.positions = positions[:, -1:]
        return logits

    def read(self, tokens: Tensor) -> Tensor:
        """(R, V) logits of the tokens after these (R,), which come next in their rows."""
        self.positions = self.positions + 1
        return self._read(tokens.unsqueeze(1))

    def _read(self, ids: Tensor) -> Tensor:
        self.columns += ids.shape[1]
        mask = None if self.mask is None else self.mask[:, : self.columns]
        positions = {"position_ids": self.positions} if self.takes_positions else {}
        output = self.model(input_ids=ids, attention_mask=mask, past_key_values=self.cache, **positions, **self.options)
        return output.logits[:, -1]

    def select(self, rows: Tensor) -> None:
        """Goes on with these rows, in this order; a row that is named several times is repeated.

        Copies the cache, as each token read does.

        Args:
            rows: (R',) int64, of the present rows.
        """
        self.cache.batch_select_indices(rows)
        self.positions = self.positions[rows]
        if self.mask is not None:
            self.mask = self.mask[rows]
            self._leave_out_mask()

    def _leave_out_mask(self) -> None:
        """Attention is faster without a mask, where nothing is padded."""
        if self.mask is not None and bool(self.mask.all()):
            self.mask = None


def can_read(model: PreTrainedModel) -> bool:
    """Whether a `Reader` is right for the model; a warning says once for each model why not.

    Found by trial: the model must fill the cache that it is given, every layer of it of a kind whose rows are
    independent, and must have no steps of its own between one token and the next.

    Args:
        model: a causal language model of transformers, in eval mode.
    """
    if model not in _faults:
        _faults[model] = fault = _find_fault(model)
        if fault is not None:
            warnings.warn(
                f"{type(model).__name__} {fault}; finished rows cannot be dropped from its cache. transformers' "
                "`generate` samples instead: correct, but rows wait for the longest, and without log-probabilities.",
                stacklevel=2,
            )
    return _faults[model] is None


@torch.no_grad()
def _find_fault(model: PreTrainedModel) -> str | None:
    if model.config.is_encoder_decoder:
        return "has an encoder"
    if "past_key_values" not in inspect.signature(model.forward).parameters:
        return "takes no past_key_values"
    if type(model).prepare_inputs_for_generation is not GenerationMixin.prepare_inputs_for_generation:
        return "prepares its inputs in a way of its own"
    cache = DynamicCache(config=model.config)
    odd = {type(layer).__name__ for layer in cache.layers if type(layer) not in SEPARATE}
    if odd:
        return f"has cache layers of kind {', '.join(sorted(odd))}"
    ids = torch.zeros((1, 2), dtype=torch.long, device=model.device)
    output = model(input_ids=ids, attention_mask=torch.ones_like(ids), past_key_values=cache, use_cache=True)
    lengths = {layer.get_seq_length() for layer in cache.layers}
    if output.past_key_values is not cache or lengths != {2} or {type(layer) for layer in cache.layers} - set(SEPARATE):
        return "does not fill the cache that it is given"
    return None
