"""Whether anybody keeps what `predict` rolls out."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.callbacks import BasePredictionWriter


def check_kept(trainer: Any) -> None:
    """Refuses to predict where nobody keeps what comes of it.

    Raises:
        ValueError: says what to add.
    """
    if trainer.predict_loop.return_predictions:
        return
    hooks = [type(callback).on_predict_batch_end.__module__ for callback in trainer.callbacks]
    if not any(hook == BasePredictionWriter.__module__ or not hook.startswith("lightning.") for hook in hooks):
        raise ValueError(
            "predict would keep nothing: no callback writes what it rolls out. Add callbacks.PassRateWriter (pass "
            "rates) or callbacks.CompletionsLog (completions) to trainer.callbacks."
        )
