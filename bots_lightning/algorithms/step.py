"""What a training step hands to its parts: the strategy, the clock, the run's counters, and other ranks."""

# Shapes: W ranks, R rows of this rank.

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from bots_lightning.strategies import gathered_parameters, trained_pass

Computed = TypeVar("Computed")

# Of a step. `logprobs` is all that an update is prepared with: log-probabilities to compare with, values, advantages;
# `backward` holds the forward passes too, `observe` the update of the belief, and `sync` what waits for other ranks.
PHASES = ("select", "rollout", "reward", "observe", "logprobs", "backward", "optimizer", "sync", "other")


class StepClock:
    """The seconds of one step by phase. A phase interrupts the one around it: every second counts once.

    An accelerator works on while Python goes ahead, so that a phase ends too early by this clock unless it ends by
    waiting. Rollouts and losses do, when they are read. What else leaves work behind names its device, and waits: once
    in a step or in an optimizer step, never in a micro-batch, and only where the next line would wait anyway.

    Attributes:
        seconds: of each of `PHASES`.
        running: the phase that the time goes to now.
    """

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.running = "other"
        self._since = time.perf_counter()

    @contextmanager
    def phase(self, name: str, device: torch.device | None = None) -> Iterator[None]:
        """Gives a phase the seconds of its block, except those of phases inside.

        Args:
            name: one of `PHASES`.
            device: whose work the phase waits for at its end, if that is an accelerator; None waits for nothing.
        """
        outer = self._switch(name)
        try:
            yield
            if device is not None and device.type == "cuda":
                torch.cuda.synchronize(device)
        finally:
            self._switch(outer)

    def stop(self) -> dict[str, float]:
        """Returns the seconds of all phases until now."""
        self._switch(self.running)
        return dict(self.seconds)

    def move(self, seconds: float, source: str, target: str) -> None:
        """Moves seconds from the phase `source` to the phase `target`."""
        self.seconds[source] -= seconds
        self.seconds[target] += seconds

    def _switch(self, name: str) -> str:
        """Starts a phase; returns the one that was running until now."""
        now, before = time.perf_counter(), self.running
        self.seconds[before] += now - self._since
        self._since, self.running = now, name
        return before


@dataclass
class Progress:
    """Counters of a run, kept in its checkpoints. `global_step` of the trainer counts optimizer steps instead.

    Attributes:
        iterations: RL steps: one selection, one batch of rollouts, one update.
        rollouts: completions sampled for training, over all ranks.
        generated_tokens: tokens of those completions.
        skipped_steps: optimizer steps left out because loss or gradient was not finite.
        skipped_in_a_row: those since the last that was taken.
    """

    iterations: int = 0
    rollouts: int = 0
    generated_tokens: int = 0
    skipped_steps: int = 0
    skipped_in_a_row: int = 0


@dataclass
class StepContext:
    """What one step hands to its parts; made by hand, it runs them without a Trainer.

    Attributes:
        strategy: of the trainer.
        device: of this rank.
        rank: of this process.
        world_size: W.
        all_gather: Lightning's, (…) to (W, …); called only where there are several ranks.
        backward: differentiates a loss, by way of the strategy.
        seed: of the run; all randomness is derived from it.
        progress: counters of the run.
        max_completion_length: tokens.
        optimizer: Lightning's.
        scheduler: of the learning rate.
        global_step: how many optimizer steps the trainer has counted.
        trained: the weights that are trained, by name, in the same order on all ranks.
        folder: of the run.
        clock: of this step.
    """

    strategy: Any
    device: torch.device
    rank: int
    world_size: int
    all_gather: Callable[[Tensor], Any]
    backward: Callable[[Tensor], Any]
    seed: int
    progress: Progress
    max_completion_length: int
    optimizer: Any = None
    scheduler: Any = None
    global_step: Callable[[], int] = int
    trained: dict[str, nn.Parameter] = field(default_factory=dict)
    folder: Path = Path()
    clock: StepClock = field(default_factory=StepClock)

    def gather(self, tensor: Tensor) -> Tensor:
        """Gathers one tensor of every rank; all ranks call it together.

        Args:
            tensor: (…), of the same shape on all ranks.

        Returns:
            (W, …), on every rank.
        """
        if self.world_size == 1:
            return tensor.unsqueeze(0)
        with self.clock.phase("sync"):
            gathered: Tensor = self.all_gather(tensor)
        return gathered

    @property
    def gather_if_several(self) -> Callable[[Tensor], Tensor] | None:
        """`gather`, or None in a single process."""
        return self.gather if self.world_size > 1 else None

    def gather_rows(self, rows: Tensor) -> Tensor:
        """Gathers the rows of all ranks, which may have different numbers of them.

        Args:
            rows: (R, …), with the same further dimensions on all ranks.

        Returns:
            (ΣR, …), those of the first rank first, on every rank.
        """
        if self.world_size == 1:
            return rows
        sizes = self.gather(torch.tensor(len(rows), device=rows.device)).tolist()
        missing = max(sizes) - len(rows)
        gathered = self.gather(pad(rows, (0, 0) * (rows.ndim - 1) + (0, missing)))
        return torch.cat([theirs[:size] for theirs, size in zip(gathered, sizes, strict=True)])

    def on_all_ranks(self, decision: bool) -> bool:
        """Whether all ranks have decided so."""
        return bool(self.strategy.reduce_boolean_decision(decision, all=True))

    def forward(self, compute: Callable[[], Computed]) -> Computed:
        """Runs a forward pass: through the strategy if it will be differentiated, directly otherwise.

        Args:
            compute: the pass. All ranks make equally many.

        Returns:
            what `compute` returns.
        """
        return trained_pass(self.strategy, compute) if torch.is_grad_enabled() else compute()

    @contextmanager
    def gathered_parameters(self) -> Iterator[None]:
        """Holds all weights on every rank, for passes without gradient; all ranks enter and leave it together."""
        running = self.clock.running
        with self.clock.phase("sync"), gathered_parameters(self.strategy), self.clock.phase(running):
            yield
