"""Two adapters on one model: each computes as it would alone, and what trains stays."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import nn

from bots_lightning.policy import LoRA
from bots_lightning.policy.loading import language_model, load_policy, using_adapter

IDS = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])

SMALL = LoRA(r=4, alpha=8)


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def adapters(policy: nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight for name, weight in policy.named_parameters() if "lora_" in name}


@pytest.fixture
def two_adapters(checkpoint: str, shake: Any) -> PeftModel:
    """A policy with a second adapter, both of which do something and train."""
    policy = load_policy(checkpoint, SMALL)
    assert isinstance(policy, PeftModel)
    policy.add_adapter("other", LoRA(r=2, alpha=2).peft_config())
    for weight in adapters(policy).values():
        weight.requires_grad_(True)
    shake(policy)
    return policy


def flags(policy: nn.Module) -> dict[str, bool]:
    return {name: weight.requires_grad for name, weight in policy.named_parameters()}


@pytest.mark.parametrize("name", [None, "other", "default"])
@pytest.mark.parametrize("trains", [("default",), ("default", "other"), ()])
def test_another_adapter_is_for_the_block_only_and_what_trains_stays(
    two_adapters: PeftModel, name: str | None, trains: tuple[str, ...]
) -> None:
    for key, weight in adapters(two_adapters).items():
        weight.requires_grad_(any(f".{adapter}." in key for adapter in trains))
    before, plain = flags(two_adapters), logits(two_adapters)
    with using_adapter(two_adapters, name):
        assert flags(two_adapters) == before
        assert torch.equal(logits(two_adapters), plain) == (name == "default")
    assert flags(two_adapters) == before
    assert two_adapters.active_adapter == "default"
    assert torch.equal(logits(two_adapters), plain)

    def fail() -> None:
        with using_adapter(two_adapters, name):
            raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        fail()
    assert flags(two_adapters) == before
    assert torch.equal(logits(two_adapters), plain)


def test_each_adapter_computes_what_it_would_alone_and_none_the_base(checkpoint: str, two_adapters: PeftModel) -> None:
    with using_adapter(two_adapters, None):
        assert torch.equal(logits(two_adapters), logits(load_policy(checkpoint)))
    alone = load_policy(checkpoint, LoRA(r=2, alpha=2))
    for key, weight in adapters(alone).items():
        weight.data = two_adapters.get_parameter(key.replace("default", "other")).data
    with using_adapter(two_adapters, "other"):
        assert torch.equal(logits(two_adapters), logits(alone))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_of_one_adapter_do_not_disturb_those_of_the_other(
    two_adapters: PeftModel, checkpointing: bool
) -> None:
    if checkpointing:
        model = language_model(two_adapters)
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.train()

    def gradients() -> dict[str, torch.Tensor]:
        return {n: w.grad.clone() for n, w in adapters(two_adapters).items() if w.grad is not None}

    two_adapters(input_ids=IDS).logits.logsumexp(-1).sum().backward()
    of_default = gradients()
    assert of_default
    assert all(".default." in name for name in of_default)
    with using_adapter(two_adapters, "other"):
        assert gradients().keys() == of_default.keys()
        two_adapters(input_ids=IDS).logits.logsumexp(-1).sum().backward()
    both = gradients()
    assert both.keys() == adapters(two_adapters).keys()
    assert all(torch.equal(both[name], gradient) for name, gradient in of_default.items())
    two_adapters(input_ids=IDS).logits.logsumexp(-1).sum().backward()
    twice = gradients()
    for name, gradient in both.items():
        torch.testing.assert_close(twice[name], gradient * (2 if ".default." in name else 1))
