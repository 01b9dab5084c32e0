"""Options of the Trainer that do nothing here, and the options to use instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def check_trainer_options(options: Mapping[str, Any]) -> None:
    """Refuses options that a Trainer would accept and that do nothing, or fail later, in online learning.

    Args:
        options: of the Trainer, as in a config.

    Raises:
        ValueError: names the option and the one to use instead.
    """
    if options.get("gradient_clip_val"):
        raise ValueError(
            f"trainer.gradient_clip_val={options['gradient_clip_val']}: the model clips its gradients itself. Remove "
            "it, and set model.optimizer.max_grad_norm."
        )
    if options.get("accumulate_grad_batches") not in (None, 1):
        raise ValueError(
            f"trainer.accumulate_grad_batches={options['accumulate_grad_batches']}: a step is the whole batch, in "
            "micro-batches. Remove it, and set data.batch_size for more tasks a step, "
            "model.policy.max_tokens_per_microbatch for less memory."
        )
    strategy = options.get("strategy")
    if isinstance(strategy, str) and strategy not in ("auto", "single_device"):
        raise ValueError(
            f"trainer.strategy={strategy}: expected one that is made for learning online. Remove it, and stack "
            f"--config configs/strategies/{_like(strategy)}.yaml (there are ddp, zero1, zero2, zero3, zero3_offload)."
        )


def _like(strategy: str) -> str:
    """The overlay below configs/strategies that corresponds to a strategy of Lightning."""
    if strategy.startswith("fsdp"):
        return "zero3"
    stage = next((digit for digit in "123" if f"stage_{digit}" in strategy), "2")
    if not strategy.startswith("deepspeed"):
        return "ddp"
    return "zero3_offload" if stage == "3" and "offload" in strategy else f"zero{stage}"
