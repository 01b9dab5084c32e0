"""Critics of all kinds, each with the adapters of its policy."""

# Shapes: R rows, T completion tokens.

from __future__ import annotations

from collections.abc import Callable

import pytest

from bots_lightning.policy import LoRA, SeparateCritic, SharedCritic
from bots_lightning.policy.critic import Critic

SMALL, SMALLER = LoRA(r=4, alpha=8), LoRA(r=2, alpha=2)

CRITICS: dict[str, tuple[LoRA | None, Callable[..., Critic]]] = {
    "shared": (SMALL, lambda checkpointing=False: SharedCritic(SMALLER)),
    "separate": (SMALL, lambda checkpointing=False: SeparateCritic(None, None, "float32", checkpointing)),
    "separate lora": (SMALL, lambda checkpointing=False: SeparateCritic(None, SMALLER, "float32", checkpointing)),
    "full": (None, lambda checkpointing=False: SeparateCritic(None, None, "float32", checkpointing)),
}

critics = pytest.mark.parametrize(("lora", "critic"), CRITICS.values(), ids=CRITICS)
