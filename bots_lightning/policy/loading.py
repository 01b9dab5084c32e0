"""The policy: a causal language model of transformers, finetuned in full or by LoRA."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase


class PretrainedSource(ABC):
    """A checkpoint that has to be made or fetched before it can be loaded."""

    @abstractmethod
    def prepare(self) -> str:
        """Returns the checkpoint's folder, made on first use and cached after; safe to call from several processes."""


def checkpoint_folder(pretrained: str | PretrainedSource) -> str:
    """The folder or Hub name of a checkpoint, which is made or fetched first if it has to be.

    Args:
        pretrained: a local folder, a Hub name, or a source.
    """
    return pretrained.prepare() if isinstance(pretrained, PretrainedSource) else pretrained


def context_length(folder: str) -> int | None:
    """The most tokens, prompt and completion together, that a checkpoint's model declares; None where it sets no bound.

    Args:
        folder: a local folder or a Hub name.
    """
    config = AutoConfig.from_pretrained(folder).get_text_config()
    declared: int | None = getattr(config, "max_position_embeddings", None)
    if declared is None or declared < 1:
        return None
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [rope, *(kind for kind in rope.values() if isinstance(kind, dict))]  # some have one for each kind of layer
    stretched = [
        int(kind["original_max_position_embeddings"] * kind["factor"])
        for kind in kinds
        if kind.get("original_max_position_embeddings") and kind.get("factor")
    ]
    return max(declared, *stretched) if stretched else declared


@dataclass
class LoRA:
    """Low-rank adapters (arXiv:2106.09685), trained instead of the model's own weights.

    Attributes:
        r: rank.
        alpha: the adapters' output is scaled by alpha / r.
        target_modules: names of the linear layers to adapt, or "all-linear".
    """

    r: int = 16
    alpha: int = 32
    target_modules: str | list[str] = "all-linear"

    def peft_config(self) -> LoraConfig:
        """These options as peft takes them."""
        return LoraConfig(r=self.r, lora_alpha=self.alpha, target_modules=self.target_modules, task_type="CAUSAL_LM")


def check_dtype(lora: LoRA | None, dtype: Literal["float32", "bfloat16"]) -> None:
    """Refuses to train bfloat16 weights.

    Args:
        lora: of the adapters that are trained; None where all weights are.
        dtype: of the loaded weights.

    Raises:
        ValueError: all weights would be trained, in bfloat16.
    """
    if lora is None and dtype == "bfloat16":
        raise ValueError(
            "full finetuning of bfloat16 weights loses most updates to rounding. Use dtype=float32 with "
            "trainer.precision=bf16-mixed, or train a LoRA."
        )


def check_device(device: torch.device) -> None:
    """Refuses a device without float64, by which tokens are drawn.

    Args:
        device: of the run.

    Raises:
        ValueError: it is one of Apple's GPUs.
    """
    if device.type == "mps":
        raise ValueError("Apple's GPUs (mps) have no float64, by which tokens are drawn. Set trainer.accelerator=cpu.")


def load_policy(
    folder: str,
    lora: LoRA | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
    seed: int = 0,
    gradient_checkpointing: bool = False,
) -> nn.Module:
    """Loads the model of a checkpoint, with fresh adapters if `lora` is given.

    Dropout is off: it would make log-probabilities differ from those of the rollouts.

    Args:
        folder: a local folder or a Hub name.
        lora: trains adapters and freezes the rest; None trains every weight.
        dtype: of the loaded weights. Adapters are float32 always.
        seed: of the adapters' initial weights; the global generator is left as it was.
        gradient_checkpointing: compute each layer again in the backward pass instead of keeping its activations.

    Returns:
        a model of transformers, or a PEFT model of one.
    """
    shape = AutoConfig.from_pretrained(folder)
    for config in (shape, shape.get_text_config()):  # a model of several kinds of input has a config for each
        for name, value in vars(config).items():
            if "drop" in name and isinstance(value, float):
                setattr(config, name, 0.0)
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, config=shape, dtype=getattr(torch, dtype))
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    if gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.train()  # transformers checkpoints in train mode only
    if lora is None:
        return cast(nn.Module, model)
    with seeded(seed):
        return cast(nn.Module, get_peft_model(model, lora.peft_config()))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds torch's CPU generator inside the block, and restores it after.

    Args:
        seed: of the block.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextmanager
def using_adapter(policy: PeftModel, name: str | None) -> Iterator[None]:
    """Computes with another adapter inside the block, or with none.

    peft's own switches freeze the adapters that they turn off. Here weights that are trained stay so.

    Args:
        policy: with the adapter.
        name: of the adapter; None computes without any.
    """
    trained = [(parameter, parameter.requires_grad) for parameter in policy.parameters()]
    before = policy.active_adapter
    if name is None:
        policy.base_model.disable_adapter_layers()
    else:
        policy.set_adapter(name)
    _restore(trained)
    try:
        yield
    finally:
        if name is None:
            policy.base_model.enable_adapter_layers()
        policy.set_adapter(before)
        _restore(trained)


def _restore(trained: list[tuple[nn.Parameter, bool]]) -> None:
    for parameter, flag in trained:
        parameter.requires_grad_(flag)


def language_model(policy: nn.Module) -> PreTrainedModel:
    """The transformers model inside a policy, adapters in place.

    Args:
        policy: of transformers, or a PEFT model of one.
    """
    return policy.get_base_model() if isinstance(policy, PeftModel) else policy


def stop_token_ids(policy: nn.Module, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """All tokens that end a completion: the tokenizer's and those of the generation config, which may list several.

    Args:
        policy: of transformers, or a PEFT model of one.
        tokenizer: of its checkpoint.

    Returns:
        token ids, ascending.

    Raises:
        ValueError: there is none.
    """
    configured = language_model(policy).generation_config.eos_token_id
    listed = configured if isinstance(configured, list) else [configured]
    stops = {token for token in (*listed, tokenizer.eos_token_id) if token is not None}
    if not stops:
        raise ValueError("neither tokenizer nor generation config names a stop token; set eos_token in the tokenizer.")
    return tuple(sorted(stops))
