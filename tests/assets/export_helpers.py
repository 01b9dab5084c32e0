"""Policies to export, and what is loaded of them."""

from __future__ import annotations

from typing import Any

import torch
from peft import AutoPeftModelForCausalLM
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from bots_lightning.policy import LoRA, Policy
from bots_lightning.policy.export import Exported

IDS = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])

SMALL = LoRA(r=4, alpha=8)


def loaded(checkpoint: str, lora: LoRA | None = SMALL, **options: Any) -> Policy:
    policy = Policy(checkpoint, lora, **options)
    policy.load(seed=0)
    return policy


def enlarge_adapters(policy: nn.Module, seed: int = 0, adapter: str = "default") -> None:
    """Random adapters whose effect is as large as that of the weights."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in policy.named_parameters():
        if "lora_" in name and adapter in name:
            nn.init.normal_(weight, std=0.3, generator=generator)


@torch.no_grad()
def logits(model: Any) -> Tensor:
    return model.eval()(input_ids=IDS).logits.float()


def load(exported: Exported) -> Any:
    auto = AutoPeftModelForCausalLM if exported.is_adapter else AutoModelForCausalLM
    return auto.from_pretrained(exported.folder)
