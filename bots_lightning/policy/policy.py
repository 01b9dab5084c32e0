"""The policy: a causal language model, its options, and what it computes of rollouts."""

# Shapes: R rows, T completion tokens.

from __future__ import annotations

from typing import Literal, final

import torch
from torch import Tensor, nn

from bots_lightning.options import check_numbers
from bots_lightning.policy.base_model import base_digest
from bots_lightning.policy.loading import (
    LoRA,
    PretrainedSource,
    check_dtype,
    checkpoint_folder,
    context_length,
    load_policy,
)
from bots_lightning.policy.logprobs import completion_logprobs
from bots_lightning.policy.recording import policy_logprobs, record_logprobs
from bots_lightning.policy.reference import reference_logprobs
from bots_lightning.rollouts import Rollouts


@final
class Policy(nn.Module):
    """A causal language model of transformers, finetuned in full or by LoRA.

    Args:
        pretrained: a checkpoint folder, a Hub name, or a source that makes one.
        lora: trains low-rank adapters; None trains all weights.
        dtype: of the loaded weights.
        gradient_checkpointing: compute each layer again in the backward pass instead of keeping its activations.
        temperature: divides the logits, both where completions are sampled and in the log-probabilities of the loss.
        max_tokens_per_microbatch: the most tokens of one forward and backward pass, prompts and padding included; None
            takes a minibatch at once.

    Attributes:
        model: the network, of transformers or peft, once it is loaded.
        reference: a frozen copy of it from before training, where one is needed.
        base: what a checkpoint tells of the model below the trained weights: `digest` and `pretrained`.

    Raises:
        ValueError: an option is out of bounds, or bfloat16 weights would be trained.
    """

    model: nn.Module
    base: dict[str, str]

    def __init__(
        self,
        pretrained: str | PretrainedSource,
        lora: LoRA | None = None,
        dtype: Literal["float32", "bfloat16"] = "float32",
        gradient_checkpointing: bool = False,
        temperature: float = 1.0,
        max_tokens_per_microbatch: int | None = None,
    ) -> None:
        super().__init__()
        check_numbers(0, above=True, temperature=temperature)
        check_numbers(1, max_tokens_per_microbatch=max_tokens_per_microbatch)
        check_dtype(lora, dtype)
        self.pretrained, self.lora, self.dtype_name = pretrained, lora, dtype
        self.gradient_checkpointing = gradient_checkpointing
        self.temperature, self.max_tokens_per_microbatch = temperature, max_tokens_per_microbatch
        self.reference: nn.Module | None = None

    @property
    def folder(self) -> str:
        """The local folder or Hub name of the checkpoint, which is made or fetched first if it has to be."""
        return checkpoint_folder(self.pretrained)

    @property
    def is_loaded(self) -> bool:
        """Whether `load` has run."""
        return "model" in self._modules

    def load(self, seed: int) -> None:
        """Loads the model, with fresh adapters under LoRA.

        Args:
            seed: of the adapters' initial weights.
        """
        self.model = load_policy(self.folder, self.lora, self.dtype_name, seed, self.gradient_checkpointing)
        self.base = {"digest": base_digest(self.model), "pretrained": self.folder}

    def load_reference(self, device: torch.device) -> None:
        """Loads a frozen copy of the pretrained model, once; under LoRA, the policy without adapters serves instead.

        Args:
            device: of the copy.
        """
        if self.lora is None and self.reference is None:
            self.reference = load_policy(self.folder, None, self.dtype_name)
            self.reference.requires_grad_(False).to(device)

    def context_length(self) -> int | None:
        """The most tokens, prompt and completion together, that the model reads; None where it sets no bound."""
        return context_length(self.folder)

    # --- what it computes ---------------------------------------------------------------------------------------

    def forward(self, rollouts: Rollouts) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the completions' tokens, and entropies, with gradient.

        Args:
            rollouts: R rows.

        Returns:
            each (R, T) float; see `completion_logprobs`.
        """
        return completion_logprobs(self.model, rollouts, self.temperature)

    def logprobs(self, rollouts: Rollouts) -> Tensor:
        """(R, T) log-probabilities without gradient, NaN outside of the completions."""
        return policy_logprobs(self.model, rollouts, self.temperature, self.max_tokens_per_microbatch)

    def recorded(self, rollouts: Rollouts) -> Rollouts:
        """The rollouts with their log-probabilities under this policy, where none were recorded yet."""
        return record_logprobs(self.model, rollouts, self.temperature, self.max_tokens_per_microbatch)

    def reference_logprobs(self, rollouts: Rollouts) -> Tensor:
        """(R, T) log-probabilities under the pretrained model, without gradient, NaN outside of the completions."""
        budget = self.max_tokens_per_microbatch
        return reference_logprobs(self.model, self.reference, rollouts, self.temperature, budget)
