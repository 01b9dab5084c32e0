"""The policy's adapter as a folder that inference servers load."""

from __future__ import annotations

import shutil
from copy import copy
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn

POLICY = "default"  # the policy's adapter in a PEFT model; a critic's has another name


@dataclass(frozen=True)
class Adapter:
    """An adapter, written to disk or about to be.

    Attributes:
        name: version of the policy and a digest of the weights: no two different adapters share one.
        folder: in the layout of peft; its own name is that of the adapter.
    """

    name: str
    folder: Path


def policy_adapter(policy: nn.Module) -> dict[str, Tensor]:
    """The weights of the policy's adapter under peft's names; no others, such as a critic's.

    Args:
        policy: with gathered parameters.

    Raises:
        ValueError: the policy has none: it is finetuned in full.
    """
    if not isinstance(policy, PeftModel):
        raise ValueError(
            "ServerEngine hands adapters to its servers, and this policy is finetuned in full. Train a LoRA "
            "(model.policy.lora), or use model.sampler.engine: {class_path: bots_lightning.rollouts.CompactEngine}."
        )
    weights = get_peft_model_state_dict(policy, adapter_name=POLICY, save_embedding_layers=False)
    return {name: weight.detach().cpu().contiguous() for name, weight in sorted(weights.items())}


def named_adapter(weights: dict[str, Tensor], parent: Path, policy_version: int) -> Adapter:
    """Name and folder of an adapter; the same on every rank that has the same weights."""
    digest = sha256()
    for name, weight in weights.items():
        digest.update(name.encode())
        digest.update(weight.flatten().view(torch.uint8).numpy().data)
    name = f"policy-{policy_version}-{digest.hexdigest()[:12]}"
    return Adapter(name, parent / name)


def write_adapter(policy: PeftModel, weights: dict[str, Tensor], adapter: Adapter) -> None:
    """Writes the folder, complete or not at all; one that exists holds the same weights."""
    if adapter.folder.exists():
        return
    unfinished = adapter.folder.with_name(f".{adapter.name}.{uuid4().hex}")
    unfinished.mkdir(parents=True)
    try:
        config = copy(policy.peft_config[POLICY])
        config.inference_mode = True
        config.save_pretrained(str(unfinished))
        save_file(weights, unfinished / "adapter_model.safetensors")
        # safetensors lets only the owner read, and servers may be another user's.
        shutil.copymode(unfinished / "adapter_config.json", unfinished / "adapter_model.safetensors")
        unfinished.rename(adapter.folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
