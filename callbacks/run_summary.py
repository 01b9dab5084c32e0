"""What a run has come to: `summary.json`, and a table for the person who waited."""

from __future__ import annotations

import json
import math
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any, TypeVar

from lightning import LightningModule, Trainer
from lightning.pytorch import Callback

from bots_lightning.algorithms.step import PHASES
from bots_lightning.checkpoints import write_text
from callbacks.belief_quality import BeliefQuality
from callbacks.effective_task_ratio import EffectiveTaskRatio
from callbacks.selection_overhead import SelectionOverhead
from callbacks.summary_table import print_summary

C = TypeVar("C", bound=Callback)


class RunSummary(Callback):
    """Writes `summary.json` in the run folder when training ends, and prints it as a table.

    Needs `EffectiveTaskRatio` and `SelectionOverhead`; takes the metrics of `BeliefQuality` if it is there. Seconds are
    those of the first rank.

    Args:
        table: print the table.

    Raises:
        ValueError: a callback that it needs is missing, when a run is set up.
    """

    def __init__(self, table: bool = True) -> None:
        self.table = table
        self.wall_seconds = 0.0
        self.steps = 0
        self.phase_seconds: Counter[str] = Counter()  # over all those steps
        self.ahead_seconds = 0.0  # of asynchronous rollouts, which are not in the phases
        self._started: float | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Looks for the callbacks whose metrics it collects."""
        self._etr = _sibling(trainer, EffectiveTaskRatio)
        self._overhead = _sibling(trainer, SelectionOverhead)
        self._belief = _find(trainer, BeliefQuality)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self._started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Adds the timings of one step."""
        self.steps += 1
        self.phase_seconds.update({phase: outputs["timings"][phase] for phase in PHASES})
        self.ahead_seconds += outputs["timings"]["ahead"]

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops the clock."""
        self.wall_seconds, self._started = self._elapsed(), None

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes and prints; the module's last evaluation is over by now."""
        if not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir)
        summary = self.summarize(trainer, pl_module)
        write_text(folder / "summary.json", json.dumps(summary, indent=2) + "\n")
        if self.table:
            print_summary(summary, folder)

    def summarize(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """What the run has come to so far.

        Args:
            trainer: of the run.
            pl_module: its module.

        Returns:
            the contents of `summary.json`: numbers, strings and dictionaries; None where there is no number.
        """
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        progress: Any = pl_module.progress
        selected, step_seconds = datamodule.count_histogram, self.phase_seconds.total()
        evaluation = _before_after_best(pl_module.history, progress.iterations)  # type: ignore[arg-type]
        summary = {
            "seed": pl_module.seed,
            "selector": type(datamodule.selector).__name__,
            "iterations": progress.iterations,
            "rollouts": progress.rollouts,
            "generated_tokens": progress.generated_tokens,
            "wall_seconds": self._elapsed(),
            "tokens_per_second": progress.generated_tokens / step_seconds if step_seconds else None,
            "rollout_tokens_per_second": self._rollout_speed(progress.generated_tokens),
            "timing_s": {phase: seconds / self.steps for phase, seconds in self.phase_seconds.items()},
            "rollout_ahead_s": self.ahead_seconds / self.steps if self.steps else 0.0,
            "effective_task_ratio": self._etr.mean,
            "effective_task_ratio_by_group": self._etr.group_means,
            "mixed_per_1000_rollouts": self._etr.mixed_per_1000_rollouts,
            "selection_overhead_fraction": self._overhead.fraction,
            "pool_tasks": int(selected.tasks.sum()),
            "distinct_tasks": selected.distinct,
            "seen_fraction": selected.seen_fraction,
            "effective_tasks": selected.effective_number,
            "forgetting": _forgetting(evaluation["after"]),
            "belief": None if self._belief is None else self._belief.means,
            "evaluation": evaluation,
        }
        return _without_nan(summary)

    def _rollout_speed(self, tokens: int) -> float | None:
        """Tokens per second of rolling out; None where rollouts are asynchronous, or took no time."""
        seconds = self.phase_seconds["rollout"]
        return None if self.ahead_seconds or not seconds else tokens / seconds

    def _elapsed(self) -> float:
        running = 0.0 if self._started is None else time.perf_counter() - self._started
        return self.wall_seconds + running

    def state_dict(self) -> dict[str, Any]:
        """The seconds so far."""
        seconds = {"wall_seconds": self._elapsed(), "ahead_seconds": self.ahead_seconds}
        return seconds | {"steps": self.steps, "phase_seconds": dict(self.phase_seconds)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues the clock and the means."""
        self.wall_seconds, self.steps = state_dict["wall_seconds"], state_dict.get("steps", 0)
        self.phase_seconds = Counter(state_dict.get("phase_seconds", {}))
        self.ahead_seconds = state_dict.get("ahead_seconds", 0.0)


def _find(trainer: Trainer, kind: type[C]) -> C | None:
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback for callback in callbacks if isinstance(callback, kind)), None)


def _sibling(trainer: Trainer, kind: type[C]) -> C:
    if (callback := _find(trainer, kind)) is None:
        raise ValueError(f"RunSummary needs callbacks.{kind.__name__}; add it to trainer.callbacks.")
    return callback


def _before_after_best(evaluations: list[dict[str, Any]], iterations: int) -> dict[str, Any]:
    """The evaluations before the first iteration and after the last, and the best by the mean of the overall avg@n.

    Null where there was none: one that was made on the way is neither before nor after.
    """
    made = {evaluation["iteration"]: evaluation for evaluation in evaluations}
    scored = [evaluation for evaluation in evaluations if not math.isnan(evaluation["overall"])]
    best = max(scored, key=lambda evaluation: evaluation["overall"], default=None)
    return {"before": made.get(0), "after": made.get(iterations), "best": best}


def _forgetting(evaluation: dict[str, Any] | None) -> float | None:
    """The mean of the held-out sets that have one; null without an evaluation after the last iteration."""
    scores = {} if evaluation is None else evaluation["scores"]
    found = [score for name, score in scores.items() if re.fullmatch(r"eval/[^/]+/forgetting", name)]
    return sum(found) / len(found) if found else None


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
