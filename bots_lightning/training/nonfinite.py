"""Losses and gradients that are not finite: what is saved of them, and when a run has to stop."""

# Shapes: R rows, T completion tokens.

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

from bots_lightning.algorithms.experience import Experience

log = logging.getLogger(__name__)


def nonfinite_gradients(named_parameters: Iterable[tuple[str, nn.Parameter]]) -> list[str]:
    """Names of the weights whose gradient holds a NaN or an infinity.

    Args:
        named_parameters: weights by name, with their gradients or without.
    """
    return [
        name
        for name, weight in named_parameters
        if weight.grad is not None and not bool(torch.isfinite(weight.grad).all())
    ]


def dump_batch(
    path: Path, experience: Experience, loss: float, grad_norm: float, gradients: list[str], iteration: int
) -> None:
    """Saves what led to a non-finite step, for `torch.load(path, weights_only=True)`.

    Args:
        path: of the file; missing folders are created.
        experience: R rows, what the step learned from: token ids, masks, advantages, log-probabilities.
        loss: of the step.
        grad_norm: before clipping.
        gradients: names of the weights with a non-finite gradient.
        iteration: of the run.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = {"loss": loss, "grad_norm": grad_norm, "gradients": gradients, "iteration": iteration}
    torch.save(numbers | experience.state_dict(), path)
    log.warning(
        "iteration %d: loss %g, gradient norm %g (%d weights not finite). The optimizer step is skipped; its batch is "
        "in %s.",
        iteration,
        loss,
        grad_norm,
        len(gradients),
        path,
    )


def check_skipped(skipped_in_a_row: int, limit: int, folder: Path) -> None:
    """Stops a run that skips too many optimizer steps in a row.

    Args:
        skipped_in_a_row: optimizer steps skipped since the last one that was taken.
        limit: the number at which the run stops.
        folder: where their batches are saved.

    Raises:
        FloatingPointError: the limit is reached.
    """
    if skipped_in_a_row >= limit:
        raise FloatingPointError(
            f"{skipped_in_a_row} optimizer steps in a row had a loss or a gradient that is not finite; the weights are "
            f"those before them. Look at the batches in {folder}; a lower learning_rate or max_grad_norm, or "
            "trainer.precision=32, may help. max_skipped_steps sets the limit."
        )
