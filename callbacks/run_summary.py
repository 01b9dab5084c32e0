"""What a run has come to: `summary.json`, and a table for the person who waited."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from pathlib import Path
from typing import Any, TypeVar

from lightning import LightningModule, Trainer
from lightning.pytorch import Callback
from rich.console import Console
from rich.table import Table

from bots_lightning.algorithms.step import PHASES
from bots_lightning.checkpoints import write_text
from callbacks.belief_quality import BeliefQuality
from callbacks.effective_task_ratio import EffectiveTaskRatio
from callbacks.selection_overhead import SelectionOverhead

C = TypeVar("C", bound=Callback)


class RunSummary(Callback):
    """Writes `summary.json` in the run folder when training ends, and prints it as a table.

    Needs `EffectiveTaskRatio` and `SelectionOverhead` beside it; takes the metrics of `BeliefQuality` if it is there.
    Seconds are those of the first rank.

    Args:
        table: print the table.
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
        """The metrics of the run; None where there is none."""
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        progress: Any = pl_module.progress
        selected, step_seconds = datamodule.count_histogram, self.phase_seconds.total()
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
            "selection_overhead_fraction": self._overhead.fraction,
            "pool_tasks": int(selected.tasks.sum()),
            "distinct_tasks": selected.distinct,
            "effective_tasks": selected.effective_number,
            "belief": None if self._belief is None else self._belief.means,
            "evaluation": _before_after_best(pl_module.history, progress.iterations),  # type: ignore[arg-type]
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


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def print_summary(summary: dict[str, Any], folder: Path) -> None:
    """The table at the end of a run."""
    title = f"{folder.name}: {summary['iterations']} iterations in {summary['wall_seconds']:.0f} s"
    table = Table(title=title, title_justify="left", show_edge=False, pad_edge=False)
    table.add_column("")
    for column in ("before", "after", "change"):
        table.add_column(column, justify="right")
    evaluation = summary["evaluation"]
    before, after = (evaluation[when]["scores"] if evaluation[when] else {} for when in ("before", "after"))
    for name in before | after:
        table.add_row(name.removeprefix("eval/"), *_before_after(before.get(name), after.get(name)))
    ratio, overhead = summary["effective_task_ratio"], summary["selection_overhead_fraction"]
    facts = {
        "selector": summary["selector"],
        "effective task ratio": "–" if ratio is None else f"{ratio:.3f}{_by_group(summary)}",
        "distinct / effective tasks": f"{summary['distinct_tasks']:,} / {summary['effective_tasks']:,.0f} "
        f"of {summary['pool_tasks']:,}",
        "rollouts / tokens": f"{summary['rollouts']:,} / {summary['generated_tokens']:,}",
        "selection overhead": "–" if overhead is None else f"{100 * overhead:.3f} %",
        "belief": _belief_facts(summary.get("belief")),
        **_step_facts(summary),
        "files": str(folder),
    }
    console = Console()
    console.print()
    console.print(table)
    for label, fact in facts.items():
        if fact is not None:
            console.print(f"{label:<28}{fact}", highlight=False)


def _step_facts(summary: dict[str, Any]) -> dict[str, str]:
    """Seconds of a mean step, and of its phases with their shares; those below a thousandth are left out.

    Tokens per second are shown of rolling out, and of the whole step, of which that may be a small share.
    """
    seconds, ahead = summary["timing_s"], summary["rollout_ahead_s"]
    speeds = {"step": summary["tokens_per_second"], "rollout": summary["rollout_tokens_per_second"]}
    if speeds["step"] is None:
        return {}
    whole = sum(seconds.values())
    told = {phase: f"  {_digits(speed)} tokens/s" for phase, speed in speeds.items() if speed is not None}
    shown = {phase: value for phase, value in seconds.items() if value >= whole / 1000}
    facts = {"step": f"{whole:8.3f} s        {told['step']}, all phases"}
    facts |= {
        f"  {phase}": f"{value:8.3f} s {100 * value / whole:5.1f} %{told.get(phase, '')}"
        for phase, value in shown.items()
    }
    return facts | ({"  rollout, asynchronous": f"{ahead:8.3f} s"} if ahead else {})


def _digits(speed: float) -> str:
    return f"{speed:,.0f}" if speed >= 100 else f"{speed:.3g}"


def _by_group(summary: dict[str, Any], most: int = 6) -> str:
    """The ratio of each group in brackets, of the first few by name; empty if there is one group only."""
    ratios = summary.get("effective_task_ratio_by_group") or {}
    if len(ratios) < 2:
        return ""
    shown = [f"{group} {ratio:.2f}" for group, ratio in list(ratios.items())[:most]]
    return f" ({', '.join(shown)}{', …' if len(ratios) > most else ''})"


def _belief_facts(means: dict[str, float] | None) -> str | None:
    if means is None:
        return None
    errors = f"RMSE {means['rmse']:.3f}, log p {means['log_predictive']:.2f}"
    return f"{errors}, {means['coverage_90']:.0%} in 90 % intervals"


def _before_after(before: float | None, after: float | None) -> tuple[str, str, str]:
    if before is None or after is None:
        shown = ["–" if value is None else f"{value:.3f}" for value in (before, after)]
        return shown[0], shown[1], "–"
    return f"{before:.3f}", f"{after:.3f}", f"{after - before:+.3f}"
