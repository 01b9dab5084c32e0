"""Options of the trainer that another option does here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def check_trainer_options(options: Mapping[str, Any]) -> None:
    """Refuses what a trainer would be made with in vain, before it is.

    Args:
        options: the trainer's, as a config gives them; a strategy as a class is not text.

    Raises:
        ValueError: names the option and the one that does it here.
    """
    if options.get("gradient_clip_val"):
        raise ValueError(
            f"trainer.gradient_clip_val={options['gradient_clip_val']}: the model clips its gradients itself. Remove "
            "it, and set model.init_args.max_grad_norm."
        )
    if options.get("accumulate_grad_batches") not in (None, 1):
        raise ValueError(
            f"trainer.accumulate_grad_batches={options['accumulate_grad_batches']}: a step is the whole batch, in "
            "micro-batches. Remove it, and set data.init_args.batch_size for more tasks a step, "
            "model.init_args.max_tokens_per_microbatch for less memory."
        )
    strategy = options.get("strategy")
    if isinstance(strategy, str) and strategy not in ("auto", "single_device"):
        raise ValueError(
            f"trainer.strategy={strategy}: expected one that is made for learning online. Remove it, and stack "
            f"--config configs/strategies/{_like(strategy)}.yaml (there are ddp, zero1, zero2, zero3, zero3_offload)."
        )


def _like(strategy: str) -> str:
    """The overlay for what Lightning calls by this name."""
    if strategy.startswith("fsdp"):
        return "zero3"
    stage = next((digit for digit in "123" if f"stage_{digit}" in strategy), "2")
    if not strategy.startswith("deepspeed"):
        return "ddp"
    return "zero3_offload" if stage == "3" and "offload" in strategy else f"zero{stage}"
