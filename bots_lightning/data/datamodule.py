"""The data module: a pool of tasks and the selector that draws from it."""

# Shapes: N tasks in the pool, B tasks per step over all ranks, G rollouts per task.

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
import torch.distributed as dist
from lightning import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from torch.utils.data import DataLoader

from bots_lightning.beliefs import Evidence
from bots_lightning.data.batches import DrawnBatches, FixedBatches, Places, task_loader
from bots_lightning.data.state import arrays_to_tensors, feed, stream_of, tensors_to_arrays
from bots_lightning.data.workload import Workload, equal_shares
from bots_lightning.evaluation import CountHistogram
from bots_lightning.selection import TaskSelector
from bots_lightning.tasks import Task, TaskPool, TaskSource
from bots_lightning.tasks.contents import Contents

log = logging.getLogger(__name__)

NAMED = 3  # tasks in a log line


@dataclass
class Forecast:
    """What was believed of a step's tasks before their evidence was observed, and that evidence.

    Attributes:
        evidence: of all ranks, merged: one row per task that was rolled out.
        alpha: (B,) α of each row's task.
        beta: (B,) β.
        dispersion: (B,) φ of its rewards, 1 for rewards of 0 and 1.
    """

    evidence: Evidence
    alpha: npt.NDArray[np.float64]
    beta: npt.NDArray[np.float64]
    dispersion: npt.NDArray[np.float64]


class TaskDataModule(LightningDataModule):
    """Serves the tasks that the selector chooses, and tells it what came of them.

    The train loader draws lazily, one batch when Lightning asks for it, or takes the one that was drawn ahead;
    `observe` closes the step. Draws and evidence alternate strictly, so that no draw is ever stale.

    Args:
        source: the training tasks.
        selector: chooses the tasks of each step.
        batch_size: B, tasks per step over all ranks.
        evaluation: held-out tasks by name; scores appear as `eval/NAME/…`.
        steps_per_epoch: length of an epoch in steps; by default N / B, rounded up.
        eval_batch_size: tasks per evaluation batch.
        seed: of the selector's draws.
    """

    def __init__(
        self,
        source: TaskSource,
        selector: TaskSelector,
        batch_size: int = 32,
        evaluation: dict[str, TaskSource] | None = None,
        steps_per_epoch: int | None = None,
        eval_batch_size: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value in (("steps_per_epoch", steps_per_epoch), ("eval_batch_size", eval_batch_size)):
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}; expected at least 1.")
        if any("/" in name for name in evaluation or {}):
            raise ValueError(f"evaluation names {sorted(evaluation or {})}; a slash would break metric names.")
        self.source = source
        self.selector = selector
        self.batch_size = batch_size
        self.evaluation = evaluation or {}
        self.steps_per_epoch = steps_per_epoch
        self.eval_batch_size = eval_batch_size
        self.seed = seed
        self.pool: TaskPool | None = None
        self.eval_pools: dict[str, TaskPool] = {}
        self.selection_counts = np.zeros(0, dtype=np.int64)
        self.count_histogram = CountHistogram(self.selection_counts)
        self.drawn: list[int] = []  # tasks whose evidence is awaited
        self._ahead = False  # whether the loader has yet to serve those
        self.between_steps: list[Callable[[], None]] = []  # called before each draw: the step before it is whole
        self.workload = Workload(0, np.empty(0, dtype=np.str_))
        self.forecasts: list[Forecast] = []  # of the iteration's batches, before their evidence was observed
        self._added: list[npt.NDArray[np.uint8]] = []  # the tasks of each `add_tasks`, as Arrow streams
        self._epoch_tasks = 0  # tasks that an epoch's length is reckoned by
        self.measured: Callable[[], Collection[str]] = frozenset  # ids that `predict` leaves out, asked when it starts
        self.select_seconds = 0.0
        self.observe_seconds = 0.0

    # --- the pool -----------------------------------------------------------------------------------------------

    def setup(self, stage: str | None = None) -> None:
        """Loads the pools and starts the selector, once."""
        if self.pool is not None:
            return
        pool = self.source.load()
        self.selector.setup(pool.features(), seed=self.seed)
        self.selector.check_batch_size(self.batch_size)
        self.eval_pools = {name: source.load() for name, source in self.evaluation.items()}
        self.selection_counts = np.zeros(len(pool), dtype=np.int64)
        self.count_histogram = CountHistogram(self.selection_counts)
        self.pool, self._epoch_tasks = pool, len(pool)
        if _world_size() > 1:
            self.workload = Workload(len(pool), pool.groups)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """A batch holds text only; it stays where it is."""
        return batch

    # --- one step: select, then observe -------------------------------------------------------------------------

    def select(self) -> list[int]:
        """Draws the next B tasks; the same on every rank.

        Raises:
            RuntimeError: the last draw has not been observed.
        """
        if self.drawn:
            raise RuntimeError(
                "the selector was asked for a batch before it saw the evidence of the last one, so that the draw would "
                "be stale. Call datamodule.observe(evidence) in training_step, and do not wrap the train loader."
            )
        start = time.perf_counter()
        indices = self.selector.select(self.batch_size)
        self.count_histogram.add(self.selection_counts[indices])
        self.selection_counts[indices] += 1
        self.drawn = indices.tolist()
        self.select_seconds = time.perf_counter() - start
        return self.drawn

    def select_ahead(self) -> list[int]:
        """Draws the batch that the loader serves next, before this step ends: its rollouts can begin."""
        drawn = self.select()
        self._ahead = True
        return drawn

    def _next_batch(self, first: bool) -> list[Places]:
        """This rank's share of the next batch: drawn ahead, by an earlier run that did not live to see it, or now."""
        for act in self.between_steps:
            act()
        self.forecasts.clear()
        if not (self.drawn and (first or self._ahead)):
            return self.share(self.select())
        self._ahead, self.select_seconds = False, 0.0
        return self.share(self.drawn)

    def share(self, drawn: list[int]) -> list[Places]:
        """This rank's part of what was drawn, as (place in the draw, position in the pool)."""
        if _world_size() == 1:
            return list(enumerate(drawn))
        places = equal_shares(self.workload.expected(drawn), _world_size())[_rank()]
        return [(place, drawn[place]) for place in places]

    def observe(self, evidence: Evidence, tokens: dict[int, float] | None = None) -> None:
        """Gathers the evidence of all ranks and updates the selector, identically on each.

        Args:
            evidence: success counts of this rank's tasks.
            tokens: of the completions of each task, by position in the pool; further work is shared out by it.
        """
        if _world_size() > 1:
            parts: list[Any] = [None] * _world_size()
            dist.all_gather_object(parts, (evidence, tokens or {}))
            evidence = Evidence.concatenate([part for part, _ in parts])
            for _, counted in parts:
                self.workload.observe(counted)
        start = time.perf_counter()
        self._forecast(evidence.merged())
        self.selector.observe(evidence)
        self.drawn = []
        self.observe_seconds = time.perf_counter() - start

    def fingerprint(self) -> str:
        """A digest of the selector's state and the selection counts: equal on all ranks, or they have drifted apart."""
        digest = hashlib.sha256()
        counts, workload = self.selection_counts, self.workload.state_dict()
        feed(digest, {"selector": self.selector.state_dict(), "counts": counts, "workload": workload})
        return digest.hexdigest()[:16]

    def _forecast(self, evidence: Evidence) -> None:
        believed = self.selector.forecast(evidence.indices) if len(evidence) else None
        if believed is not None:
            self.forecasts.append(Forecast(evidence, *believed, self.selector.dispersion(evidence.indices)))

    def add_tasks(self, more: TaskPool) -> None:
        """Appends tasks while the run goes on, between two steps; the belief starts them from what their group shows.

        Checkpoints hold them, so that a resumed run has them too. An epoch stays as long as it was. Call it with the
        same tasks on every rank; their prompts must fit the policy's `max_prompt_length`. Not for runs whose
        `max_staleness` is 1.

        Raises:
            RuntimeError: a batch has been selected and its evidence is still awaited.
            ValueError: an id is there already, or the selector cannot take the tasks in; nothing has changed then.
        """
        if self.drawn:
            raise RuntimeError(
                "tasks were added between select and observe. Add them between two training steps, and with "
                "max_staleness=0: otherwise the next batch is always drawn already."
            )
        stream, pool = stream_of(more.table), self.require_pool().extended(more)
        self.selector.add_tasks(pool.features())
        self.pool = pool
        if _world_size() > 1:
            self.workload.add_tasks(len(pool), pool.groups)
        new = np.zeros(len(more), dtype=np.int64)
        self.selection_counts = np.concatenate([self.selection_counts, new])
        self.count_histogram = CountHistogram(self.selection_counts)
        self._added.append(stream)

    # --- loaders ------------------------------------------------------------------------------------------------

    def train_dataloader(self) -> DataLoader[tuple[int, int, Task]]:
        """A sized loader whose batches are drawn one at a time; building it draws nothing."""
        if self.batch_size % _world_size():
            raise ValueError(
                f"batch_size={self.batch_size} tasks do not divide evenly over {_world_size()} ranks; "
                f"choose a multiple of {_world_size()}."
            )
        self.require_pool()
        steps = self.steps_per_epoch or -(-self._epoch_tasks // self.batch_size)
        return task_loader(self.require_pool, DrawnBatches(self._next_batch, steps))

    def val_dataloader(self) -> list[DataLoader[tuple[int, int, Task]]]:
        """One loader for each held-out pool, in the order of `evaluation`."""
        return [self._sequential_loader(pool) for pool in self.eval_pools.values()]

    def test_dataloader(self) -> list[DataLoader[tuple[int, int, Task]]]:
        """The same held-out pools."""
        return self.val_dataloader()

    def predict_dataloader(self) -> DataLoader[tuple[int, int, Task]] | list[DataLoader[tuple[int, int, Task]]]:
        """The training pool from first to last task but for those that are `measured`; no loader if none is left.

        Batches are blocks of the pool, whatever the number of ranks and wherever a killed run goes on, so that even
        the rounding in a batch repeats itself. A rank for which there is none repeats the last.
        """
        pool, measured = self.require_pool(), self.measured()
        starts = range(0, len(pool), self.eval_batch_size)
        blocks = [range(start, min(start + self.eval_batch_size, len(pool))) for start in starts]
        left = [[(i, i) for i in block if pool.ids[i] not in measured] for block in blocks]
        left = [block for block in left if block]
        mine = left[_rank() :: _world_size()] or left[-1:]
        return task_loader(lambda: pool, FixedBatches(mine)) if mine else []

    def _sequential_loader(self, pool: TaskPool) -> DataLoader[tuple[int, int, Task]]:
        mine = range(_rank(), len(pool), _world_size())
        batches = [
            [(index, index) for index in mine[i : i + self.eval_batch_size]]
            for i in range(0, len(mine), self.eval_batch_size)
        ]
        return task_loader(lambda: pool, FixedBatches(batches))

    def require_pool(self) -> TaskPool:
        """The training pool.

        Raises:
            RuntimeError: `setup` has not run.
        """
        if self.pool is None:
            raise RuntimeError("the pool is not loaded; call setup() before asking for loaders.")
        return self.pool

    # --- state --------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The selector's state and the selection counts; tensors, numbers, strings and lists only."""
        state = {
            "selector": self.selector.state_dict(),
            "selection_counts": self.selection_counts,
            "added_tasks": {str(at): stream for at, stream in enumerate(self._added)},
            "drawn": self.drawn,
            "workload": self.workload.state_dict(),
            "contents": vars(self.require_pool().contents).copy(),
        }
        return arrays_to_tensors(state)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues from a checkpoint of the same pool, or of one that differs in answers only.

        Evaluation and prediction need no selector and leave it.
        """
        if self.trainer is not None and self.trainer.state.fn != TrainerFn.FITTING:
            return
        state = tensors_to_arrays(state_dict)
        for stream in list(state["added_tasks"].values())[len(self._added) :]:
            self.add_tasks(TaskPool(pa.ipc.open_stream(stream.tobytes()).read_all()))
        self._accept_corrections(state)
        self.selector.load_state_dict(state["selector"])
        self.selection_counts = state["selection_counts"].copy()
        self.count_histogram = CountHistogram(self.selection_counts)
        self.drawn, self._ahead = list(state["drawn"]), False
        if len(state["workload"]["tokens"]) == len(self.workload.tokens):  # else of another number of ranks
            self.workload.load_state_dict(state["workload"])

    def _accept_corrections(self, state: dict[str, Any]) -> None:
        """Takes a state of this pool before answers were corrected for one of this pool, and says what has changed.

        Without an id column, a task's id is a hash of its answer too, and a pool's fingerprint one of all ids.
        """
        if "contents" not in state:
            return  # an earlier version's: only the fingerprint tells
        pool, selector, before = self.require_pool(), state["selector"], Contents(**state["contents"])
        if len(before.answers) != len(pool):
            return  # the selector refuses it
        if pool.contents.is_correction_of(before):
            selector["fingerprint"] = self.selector.fingerprint
        changed = pool.contents.changed_answers(before)
        if len(changed) and selector["fingerprint"] == self.selector.fingerprint and _rank() == 0:
            named = ", ".join(map(pool.named, changed[:NAMED].tolist())) + (", …" if len(changed) > NAMED else "")
            log.warning(
                "%d answers are not those of the checkpoint: %s. The run goes on with the new ones; what the selector "
                "has counted of these tasks stays until they are rolled out again.",
                len(changed),
                named,
            )


def _world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
