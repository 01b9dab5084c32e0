"""Checks that a callback, or the caller, keeps what `predict` rolls out."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.callbacks import BasePredictionWriter


def check_kept(trainer: Any) -> None:
    """Refuses to predict where neither a callback nor the caller keeps the predictions.

    Args:
        trainer: of the run.

    Raises:
        ValueError: names the callbacks that write predictions.
    """
    if trainer.predict_loop.return_predictions:
        return
    hooks = [type(callback).on_predict_batch_end.__module__ for callback in trainer.callbacks]
    if not any(hook == BasePredictionWriter.__module__ or not hook.startswith("lightning.") for hook in hooks):
        raise ValueError(
            "predict would keep nothing: no callback writes what it rolls out. Add callbacks.PassRateWriter (pass "
            "rates) or callbacks.CompletionsLog (completions) to trainer.callbacks."
        )
