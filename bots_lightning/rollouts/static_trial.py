"""Finds out by trial whether a model can decode with a static cache."""

from __future__ import annotations

import warnings
from weakref import WeakKeyDictionary

import torch
from transformers import PreTrainedModel

from bots_lightning.rollouts.reader import Reader
from bots_lightning.rollouts.static import StaticReader, next_logits
from bots_lightning.rollouts.static_memory import release
from bots_lightning.strategies import moves_weights

_faults: WeakKeyDictionary[PreTrainedModel, str | None] = WeakKeyDictionary()


def can_be_static(model: PreTrainedModel) -> bool:
    """Whether a `StaticReader` is right for the model; a warning says once for each model why not.

    Found by trial: it must come to the same logits as a `Reader`.

    Args:
        model: one that a `Reader` can read, in eval mode.
    """
    if model not in _faults:
        _faults[model] = fault = _find_fault(model)
        if fault is not None:
            warnings.warn(
                f"{type(model).__name__} {fault}; static=true is ignored for it. Set static=false.", stacklevel=2
            )
    return _faults[model] is None


@torch.no_grad()
def _find_fault(model: PreTrainedModel) -> str | None:
    if any(module._forward_pre_hooks for module in model.modules()):
        return "has hooks that run before its layers"
    if moves_weights(model):
        return "has weights that ZeRO-3 brings to new addresses"
    return None if _same_logits(model) else "comes to other logits with a cache of fixed size"


def _same_logits(model: PreTrainedModel) -> bool:
    """Whether two tokens of two rows, one of them padded, have the same logits with either cache."""
    ids = torch.arange(6, device=model.device).view(2, 3)
    mask = torch.tensor([[False, True, True], [True, True, True]], device=model.device)
    reader = Reader(model, ids, mask, room=2)
    tokens = reader.read_prompts().argmax(dim=1)
    static = StaticReader(reader, torch.arange(2, device=model.device), next_logits)
    release(model)  # it takes what it needs
    for _ in range(2):
        expected, seen = reader.read(tokens), static.read(tokens)
        if not (seen - expected).norm() <= torch.finfo(expected.dtype).eps ** 0.5 * expected.norm():
            return False
    return True
