"""The trained weights of a module: what its checkpoints hold, and what they must fit."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from bots_lightning.policy.base_model import check_base
from bots_lightning.strategies import full_shape

SAME_MODEL = "Resume with the `pretrained` and `lora` of the checkpoint."

Shape = tuple[int, ...]


def trained_weights(module: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that are trained, by name, in the same order on all ranks.

    Args:
        module: with trained and frozen weights.
    """
    return {name: weight for name, weight in module.named_parameters() if weight.requires_grad}


def trained_names(module: nn.Module, names: Iterable[str]) -> list[str]:
    """The names of a state that are not those of frozen weights.

    Args:
        module: whose state it is.
        names: of weights and buffers.
    """
    frozen = {name for name, weight in module.named_parameters(remove_duplicate=False) if not weight.requires_grad}
    return [name for name in names if name not in frozen]


def without_frozen(module: nn.Module, state: Mapping[str, Any]) -> dict[str, Any]:
    """A module's state without its frozen weights.

    Args:
        module: whose state it is.
        state: by name.
    """
    return {name: state[name] for name in trained_names(module, state)}


def trained_shapes(module: nn.Module) -> dict[str, Shape]:
    """Shapes of all that a checkpoint holds of the module, by name; full ones also where ranks have shards."""
    state, weights = module.state_dict(), module.named_parameters(remove_duplicate=False)
    full = {name: full_shape(weight) for name, weight in weights}
    return {name: full.get(name, tuple(state[name].shape)) for name in trained_names(module, state)}


def check_shapes(mine: Mapping[str, Shape], theirs: Mapping[str, Shape]) -> None:
    """Compares a checkpoint's weights with those of a module.

    Args:
        mine: shapes of the module's trained weights, by name.
        theirs: shapes in the checkpoint.

    Raises:
        ValueError: a name or a shape differs.
    """
    earlier = {re.sub(r"^policy\.", "policy.model.", name) for name in theirs}  # as those of flat modules were called
    if mine.keys() != theirs.keys() and mine.keys() == earlier:
        raise ValueError(
            "the checkpoint was written by an earlier version of this package, whose modules were laid out otherwise; "
            "this version cannot continue from it. Export it with that version, and name the export as `pretrained`."
        )
    if mine.keys() != theirs.keys():
        raise ValueError(
            f"the checkpoint holds {len(theirs)} trained weights, this policy has {len(mine)}; the first that "
            f"differ: {sorted(mine.keys() ^ theirs.keys())[:3]}. {SAME_MODEL}"
        )
    for name, shape in mine.items():
        if theirs[name] != shape:
            raise ValueError(f"{name} is {theirs[name]} in the checkpoint and {shape} in this policy. {SAME_MODEL}")


def check_checkpoint(module: nn.Module, checkpoint: Mapping[str, Any], base: Mapping[str, str]) -> None:
    """Compares a checkpoint with the model that it is to be loaded into.

    Args:
        module: whose trained weights it should hold.
        checkpoint: of a run.
        base: `digest` and `pretrained` of the module's policy.

    Raises:
        ValueError: the checkpoint's trained weights are not those of this policy, or were trained on another base.
    """
    theirs = {name: tuple(weight.shape) for name, weight in checkpoint["state_dict"].items()}
    check_shapes(trained_shapes(module), theirs)
    check_base(checkpoint.get("base"), **base)
