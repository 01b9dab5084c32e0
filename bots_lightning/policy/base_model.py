"""The digest by which a checkpoint names its base model, whose frozen weights it does not hold."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor, nn

SAMPLE = 64  # values of each frozen weight
# Of a model's config: what changes its answers without changing a weight.
BEHAVIOUR = ("model_type", "hidden_act", "num_attention_heads", "num_key_value_heads", "rms_norm_eps", "layer_norm_eps")


def base_digest(policy: nn.Module) -> str:
    """A digest of a model's config and of its frozen weights: equal for the same base, in any dtype.

    Args:
        policy: with all weights on this rank, before it is trained.

    Returns:
        hexadecimal SHA-256.
    """
    digest = hashlib.sha256()
    config = policy.config.get_text_config()  # type: ignore[union-attr, operator]
    digest.update(repr([(name, getattr(config, name, None)) for name in BEHAVIOUR]).encode())
    digest.update(repr(_rope_base(config)).encode())
    for name, weight in sorted(policy.named_parameters()):
        if not weight.requires_grad:
            digest.update(f"{name} {tuple(weight.shape)}".encode())
            digest.update(_sample(weight).numpy().tobytes())
    return digest.hexdigest()


def check_base(theirs: dict[str, str] | None, digest: str, pretrained: str) -> None:
    """Compares a checkpoint's base with this run's.

    Args:
        theirs: of the checkpoint: its `digest` and `pretrained`, its name; None in checkpoints of earlier versions.
        digest: of this run's base.
        pretrained: what it is called.

    Raises:
        ValueError: they differ: on another base the trained weights mean something else.
    """
    if theirs is not None and theirs["digest"] != digest:
        raise ValueError(
            f"the checkpoint's weights were trained on top of another model: its base, {theirs['pretrained']}, has "
            f"other weights or another config than {pretrained}. Name that model as `pretrained`."
        )


def _sample(weight: Tensor) -> Tensor:
    """Evenly spaced values of a weight, rounded to bfloat16."""
    flat = weight.detach().flatten()
    return flat[:: max(1, len(flat) // SAMPLE)][:SAMPLE].to(torch.bfloat16).float().cpu()


def _rope_base(config: Any) -> Any:
    """The base of rotary embeddings, wherever a version of transformers keeps it."""
    parameters = getattr(config, "rope_parameters", None) or {}
    return parameters.get("rope_theta", getattr(config, "rope_theta", None))
