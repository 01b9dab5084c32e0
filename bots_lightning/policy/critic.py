"""The critic of PPO: predicts the reward that is still to come at each token."""

# Shapes: R rows, T completion tokens.

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from typing import Literal

import torch
from peft import PeftModel
from torch import Tensor, nn

from bots_lightning.policy.loading import (
    LoRA,
    PretrainedSource,
    check_dtype,
    checkpoint_folder,
    context_length,
    language_model,
    load_policy,
    seeded,
    using_adapter,
)
from bots_lightning.policy.logprobs import completion_hidden_states
from bots_lightning.rollouts import Rollouts, load_tokenizer

ADAPTER = "critic"


class Critic(nn.Module, ABC):
    """Predicts values of completion tokens: a linear head, 0 at first, on the hidden states of a language model.

    Both forward and backward pass belong into its `active` context: with gradient checkpointing the backward pass
    computes the layers again.
    """

    head: nn.Linear

    @abstractmethod
    def build(self, policy: nn.Module, folder: str, seed: int) -> None:
        """Makes the weights, once.

        Args:
            policy: the network that is trained.
            folder: the checkpoint that the policy comes from.
            seed: of new weights.
        """

    def context(self) -> int | None:
        """The most tokens that the critic reads, if it has a checkpoint of its own; None for no such bound."""
        return None

    @abstractmethod
    def backbone(self, policy: nn.Module) -> nn.Module:
        """The language model under the head.

        Args:
            policy: the network that is trained.
        """

    @abstractmethod
    def trained(self, policy: nn.Module) -> list[nn.Parameter]:
        """The weights that the critic trains, in itself or in the policy.

        Args:
            policy: the network that is trained.
        """

    def active(self, policy: nn.Module) -> AbstractContextManager[None]:
        """A context in which the backbone computes for the critic.

        Args:
            policy: the network that is trained.
        """
        return nullcontext()

    def forward(self, policy: nn.Module, rollouts: Rollouts) -> Tensor:
        """Predicts the reward that is still to come before each completion token is drawn.

        Args:
            policy: the network that is trained.
            rollouts: R rows.

        Returns:
            (R, T) in the dtype of the head, with gradient; values outside the completions mean nothing.
        """
        hidden = completion_hidden_states(self.backbone(policy), rollouts)
        with torch.autocast(hidden.device.type, enabled=False):  # eight bits are too few for a value
            values: Tensor = self.head(hidden.to(self.head.weight.dtype)).squeeze(-1)
        return values

    def _make_head(self, backbone: nn.Module) -> None:
        model = language_model(backbone)
        self.head = nn.Linear(model.get_output_embeddings().weight.shape[1], 1, device=model.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)


class SharedCritic(Critic):
    """A second adapter on the policy's own frozen weights: PPO holds one base model.

    Args:
        lora: of the second adapter; None takes the options of the policy's.
    """

    def __init__(self, lora: LoRA | None = None) -> None:
        super().__init__()
        self.lora = lora

    def build(self, policy: nn.Module, folder: str, seed: int) -> None:
        """Adds the adapter to the policy; see `Critic.build`.

        Raises:
            ValueError: the policy has no adapters: its own weights move, and cannot be shared.
        """
        if not isinstance(policy, PeftModel):
            raise ValueError(
                "SharedCritic needs the policy's weights to be frozen. Train a LoRA (model.policy.lora), or use "
                "critic: {class_path: bots_lightning.policy.SeparateCritic}."
            )
        config = self.lora.peft_config() if self.lora else deepcopy(policy.peft_config[policy.active_adapter])
        with seeded(seed):
            policy.add_adapter(ADAPTER, config)
        for weight in self._adapter(policy):
            weight.requires_grad_(True)
        self._make_head(policy)

    def backbone(self, policy: nn.Module) -> nn.Module:
        """The policy itself, which has the critic's adapter."""
        return policy

    def active(self, policy: nn.Module) -> AbstractContextManager[None]:
        """Switches to the critic's adapter inside the block."""
        assert isinstance(policy, PeftModel)
        return using_adapter(policy, ADAPTER)

    def trained(self, policy: nn.Module) -> list[nn.Parameter]:
        """The weights of the critic's adapter and of its head."""
        return [*self._adapter(policy), *self.head.parameters()]

    @staticmethod
    def _adapter(policy: nn.Module) -> list[nn.Parameter]:
        return [weight for name, weight in policy.named_parameters() if f".{ADAPTER}." in name]


class SeparateCritic(Critic):
    """A critic with a language model of its own.

    Args:
        pretrained: its checkpoint, by default the policy's; another must have the same vocabulary.
        lora: trains adapters; None trains all of its weights.
        dtype: of the loaded weights.
        gradient_checkpointing: see `Policy`; None takes the policy's.
    """

    def __init__(
        self,
        pretrained: str | PretrainedSource | None = None,
        lora: LoRA | None = None,
        dtype: Literal["float32", "bfloat16"] = "float32",
        gradient_checkpointing: bool | None = None,
    ) -> None:
        super().__init__()
        check_dtype(lora, dtype)
        self.pretrained, self.lora, self.dtype_name = pretrained, lora, dtype
        self.gradient_checkpointing = gradient_checkpointing

    def build(self, policy: nn.Module, folder: str, seed: int) -> None:
        """Loads the model, whose vocabulary head is not trained; see `Critic.build`.

        Raises:
            ValueError: its checkpoint has another vocabulary than the policy's.
        """
        own = folder if self.pretrained is None else checkpoint_folder(self.pretrained)
        _check_vocabularies(folder, own)
        checkpointing = self.gradient_checkpointing
        if checkpointing is None:
            checkpointing = any(getattr(module, "gradient_checkpointing", False) for module in policy.modules())
        self.model = load_policy(own, self.lora, self.dtype_name, seed, checkpointing)
        inner = language_model(self.model)
        embeddings, output = inner.get_input_embeddings().weight, inner.get_output_embeddings().weight
        if output is not embeddings:
            output.requires_grad_(False)
        self.model.to(next(policy.parameters()).device)
        self._make_head(self.model)

    def context(self) -> int | None:
        """The most tokens that its checkpoint reads; None where that is the policy's, or sets no bound."""
        return None if self.pretrained is None else context_length(checkpoint_folder(self.pretrained))

    def backbone(self, policy: nn.Module) -> nn.Module:
        """Its own model."""
        return self.model

    def trained(self, policy: nn.Module) -> list[nn.Parameter]:
        """All of its weights that are trained."""
        return [weight for weight in self.parameters() if weight.requires_grad]


def _check_vocabularies(policy: str, critic: str) -> None:
    if critic != policy and load_tokenizer(critic).get_vocab() != load_tokenizer(policy).get_vocab():
        raise ValueError(
            f"the critic's checkpoint {critic} has another vocabulary than the policy's {policy}; the critic reads the "
            "policy's tokens. Use a checkpoint with the same tokenizer."
        )


@torch.no_grad()
def token_values(critic: Critic, policy: nn.Module, rollouts: Rollouts, microbatches: list[Tensor]) -> Tensor:
    """The present values of all rows, without gradient.

    Args:
        critic: built for that policy.
        policy: the network that is trained.
        rollouts: R rows.
        microbatches: row indices of each forward pass.

    Returns:
        (R, T) float32; 0 outside the completions.
    """
    values = torch.zeros(rollouts.completion_ids.shape, device=rollouts.completion_ids.device)
    with critic.active(policy):
        for rows in microbatches:
            micro = rollouts.rows(rows)
            computed = critic(policy, micro).float()
            values[rows, : computed.shape[1]] = torch.where(micro.completion_mask, computed, 0.0)
    return values
