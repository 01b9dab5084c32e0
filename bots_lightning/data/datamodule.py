"""The data module: a pool of tasks and the selector that draws from it."""

# Shapes: N tasks in the pool, B tasks per step over all ranks, W ranks.

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch
from lightning import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from torch.utils.data import DataLoader

from bots_lightning.allocation import Allocation, FixedAllocation
from bots_lightning.beliefs import Evidence
from bots_lightning.data import ranks
from bots_lightning.data.corrections import accept_corrections
from bots_lightning.data.draws import Draw, DrawnTask, Draws, allocated, expected_tokens, own_share
from bots_lightning.data.forecasts import Forecast
from bots_lightning.data.loaders import DrawnBatches, evaluation_loader, predict_loader, task_loader
from bots_lightning.data.state import arrays_to_tensors, digest_of, stream_of, table_of, tensors_to_arrays
from bots_lightning.data.workload import Workload
from bots_lightning.evaluation import CountHistogram
from bots_lightning.options import check_numbers
from bots_lightning.selection import TaskSelector
from bots_lightning.tasks import TaskPool, TaskSource


@final
class TaskDataModule(LightningDataModule):
    """Serves the tasks that the selector chooses, and tells it what came of them.

    The train loader draws lazily, one batch when Lightning asks for it, or takes the first of those that were drawn
    ahead; `observe` closes the step. Unless something is drawn ahead, no draw is ever stale.

    Args:
        source: the training tasks.
        selector: chooses the tasks of each step.
        batch_size: B, tasks per step over all ranks.
        evaluation: held-out tasks by name; scores appear as `eval/NAME/…`.
        steps_per_epoch: length of an epoch in steps; by default N / B, rounded up.
        eval_batch_size: tasks per evaluation batch.
        seed: of the selector's draws.
        allocation: how many rollouts each task gets, `num_generations` on average; `FixedAllocation` by default.

    Attributes:
        num_generations: rollouts of each task in `predict`, and on average in training; the module that trains sets it
            in its `setup`, like the next.
        eval_num_generations: rollouts of each held-out task.
        draws: whose evidence is awaited, of all ranks.
        selection_counts: (N,) how often each task was selected; `count_histogram` sums that up.
        forecasts: one for each batch of the iteration, of before its evidence was observed.
        between_steps: called before each draw, when the step before it is complete.
        measured: gives the ids of tasks that `predict` leaves out; asked when it starts.
        select_seconds: of the last draw, as `observe_seconds` of the last update of the selector.

    Raises:
        ValueError: an option is out of bounds, or a name in `evaluation` has a slash.
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
        allocation: Allocation | None = None,
    ) -> None:
        super().__init__()
        check_numbers(1, steps_per_epoch=steps_per_epoch, eval_batch_size=eval_batch_size)
        if any("/" in name for name in evaluation or {}):
            raise ValueError(f"evaluation names {sorted(evaluation or {})}; a slash would break metric names.")
        self.source, self.selector, self.evaluation = source, selector, evaluation or {}
        self.allocation = allocation or FixedAllocation()
        self.batch_size, self.eval_batch_size, self.steps_per_epoch = batch_size, eval_batch_size, steps_per_epoch
        self.seed = seed
        self.num_generations = self.eval_num_generations = 1
        self.pool: TaskPool | None = None
        self.eval_pools: dict[str, TaskPool] = {}
        self.draws = Draws()
        self._count_from(np.zeros(0, dtype=np.int64))
        self.forecasts: list[Forecast] = []
        self.between_steps: list[Callable[[], None]] = []
        self.workload = Workload(0, np.empty(0, dtype=np.str_))
        self.measured: Callable[[], Collection[str]] = frozenset
        self._added: list[npt.NDArray[np.uint8]] = []  # the tasks of each `add_tasks`, as Arrow streams
        self._epoch_tasks = 0  # tasks that the length of an epoch is computed from
        self.select_seconds = self.observe_seconds = 0.0

    # --- the pool -----------------------------------------------------------------------------------------------

    def setup(self, stage: str | None = None) -> None:
        """Loads the pools and starts the selector, once.

        Raises:
            ValueError: the pool has fewer than B tasks.
        """
        if self.pool is not None:
            return
        pool = self.source.load()
        self.selector.setup(pool.features(), seed=self.seed)
        self.selector.check_batch_size(self.batch_size)
        self.eval_pools = {name: source.load() for name, source in self.evaluation.items()}
        self._count_from(np.zeros(len(pool), dtype=np.int64))
        self.pool, self._epoch_tasks = pool, len(pool)
        if ranks.world_size() > 1:
            self.workload = Workload(len(pool), pool.groups)

    def require_pool(self) -> TaskPool:
        """The training pool.

        Raises:
            RuntimeError: `setup` has not run.
        """
        if self.pool is None:
            raise RuntimeError("the pool is not loaded; call setup() before asking for loaders.")
        return self.pool

    def add_tasks(self, more: TaskPool) -> None:
        """Appends tasks while the run goes on, between two steps; the belief starts them from what their group shows.

        Checkpoints hold them, so that a resumed run has them too. An epoch stays as long as it was. Not for runs whose
        `max_staleness` is above 0.

        Args:
            more: the same tasks on every rank; their prompts must fit the policy's `max_prompt_length`.

        Raises:
            RuntimeError: a batch has been selected and its evidence is still awaited.
            ValueError: an id is there already, or the selector cannot take the tasks in; nothing has changed then.
        """
        if len(self.draws):
            raise RuntimeError(
                "tasks were added between select and observe. Add them between two training steps, and with "
                "max_staleness=0: otherwise the next batch is always drawn already."
            )
        stream, pool = stream_of(more.table), self.require_pool().extended(more)
        self.selector.add_tasks(pool.features())
        self.pool = pool
        if ranks.world_size() > 1:
            self.workload.add_tasks(len(pool), pool.groups)
        self._count_from(np.concatenate([self.selection_counts, np.zeros(len(more), dtype=np.int64)]))
        self._added.append(stream)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """The batch, which holds text only and needs no device."""
        return batch

    # --- one step: select, then observe -------------------------------------------------------------------------

    def select(self, ahead: bool = False) -> list[int]:
        """Draws the next B tasks and their numbers of rollouts.

        Args:
            ahead: for the loader to serve when all that is drawn before has been learned from: their rollouts can
                begin. Otherwise their evidence comes next.

        Returns:
            the tasks' positions in the pool, the same on every rank.

        Raises:
            RuntimeError: the evidence of the draw that was served last has not been observed.
            ValueError: the allocation gives what is no number of rollouts.
        """
        if self.draws.served:
            raise RuntimeError(
                "the selector was asked for a batch before it saw the evidence of the last one, so that the draw would "
                "be stale. Call datamodule.observe(evidence) in training_step, and do not wrap the train loader."
            )
        start = time.perf_counter()
        indices = self.selector.select(self.batch_size)
        drawn, counts = indices.tolist(), allocated(self.allocation, self.selector, indices, self.num_generations)
        self.count_histogram.add(self.selection_counts[indices])
        self.selection_counts[indices] += 1
        self.draws.put(Draw(drawn, counts, expected_tokens(drawn, counts, self.workload)), ahead)
        self.select_seconds = time.perf_counter() - start
        return drawn

    def _next_batch(self, first: bool) -> list[DrawnTask]:
        """This rank's share of the next batch: drawn ahead, by an earlier run that did not live to see it, or now."""
        for act in self.between_steps:
            act()
        self.forecasts.clear()
        if not len(self.draws) or (self.draws.served and not first):
            return self.share(self.select())
        self.select_seconds = 0.0
        return self.share(self.draws.serve().indices)

    def share(self, drawn: list[int]) -> list[DrawnTask]:
        """This rank's B / W tasks, which are expected to take about as many tokens as those of any other rank.

        Args:
            drawn: the list that `select` returned.
        """
        return own_share(self.draws.of(drawn), self.workload)

    def observe(self, evidence: Evidence, tokens: dict[int, float] | None = None) -> None:
        """Gathers the evidence of the first draw from all ranks and updates the selector, identically on each.

        Args:
            evidence: success counts of this rank's tasks.
            tokens: that `num_generations` completions of each task take, by position in the pool; ranks share further
                batches out by it.
        """
        if ranks.world_size() > 1:
            everyones = ranks.gathered((evidence, tokens or {}))
            evidence = Evidence.concatenate([theirs for theirs, _ in everyones])
            for _, used in everyones:
                self.workload.observe(used)
        start = time.perf_counter()
        forecast = Forecast.of(self.selector, evidence.merged())
        self.forecasts += [] if forecast is None else [forecast]
        self.selector.observe(evidence)
        self.draws.done()
        self.observe_seconds = time.perf_counter() - start

    def fingerprint(self) -> str:
        """A digest of the selector's state and the selection counts: equal on all ranks, or they have drifted apart."""
        held = {"counts": self.selection_counts, "workload": self.workload.state_dict()}
        return digest_of(held | {"selector": self.selector.state_dict()})

    def _count_from(self, counts: npt.NDArray[np.int64]) -> None:
        """Goes on from (N,) selection counts."""
        self.selection_counts, self.count_histogram = counts, CountHistogram(counts)

    # --- loaders ------------------------------------------------------------------------------------------------

    def train_dataloader(self) -> DataLoader[DrawnTask]:
        """A sized loader whose batches are drawn one at a time; building it draws nothing.

        Raises:
            ValueError: the ranks cannot share a batch evenly.
        """
        ranks.check_shares(self.batch_size)
        self.require_pool()
        steps = self.steps_per_epoch or -(-self._epoch_tasks // self.batch_size)
        return task_loader(self.require_pool, DrawnBatches(self._next_batch, steps))

    def val_dataloader(self) -> list[DataLoader[DrawnTask]]:
        """One loader for each held-out pool, in the order of `evaluation`."""
        options = self.eval_batch_size, self.eval_num_generations
        return [evaluation_loader(pool, *options) for pool in self.eval_pools.values()]

    def test_dataloader(self) -> list[DataLoader[DrawnTask]]:
        """One loader for each held-out pool, as for validation."""
        return self.val_dataloader()

    def predict_dataloader(self) -> DataLoader[DrawnTask] | list[DataLoader[DrawnTask]]:
        """The training pool from first to last task, except for those that are `measured`; see `predict_loader`."""
        return predict_loader(self.require_pool(), self.eval_batch_size, self.num_generations, self.measured())

    # --- state --------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The selector's state, the selection counts and what is drawn; tensors, numbers, strings and lists only."""
        state = self.draws.state_dict() | {
            "num_generations": self.num_generations,
            "selector": self.selector.state_dict(),
            "selection_counts": self.selection_counts,
            "added_tasks": {str(at): stream for at, stream in enumerate(self._added)},
            "workload": self.workload.state_dict(),
            "contents": vars(self.require_pool().contents).copy(),
        }
        return arrays_to_tensors(state)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues from a checkpoint of the same pool, or of one that differs in answers only.

        Evaluation and prediction need no selector and leave it. Tasks that were drawn get the rollouts that they were
        to get, or `num_generations` each if the checkpoint is of a run with another number, or of an earlier version.

        Args:
            state_dict: as `state_dict` returned it.

        Raises:
            ValueError: the state is of another selector or pool.
        """
        if self.trainer is not None and self.trainer.state.fn != TrainerFn.FITTING:
            return
        state = tensors_to_arrays(state_dict)
        for stream in list(state["added_tasks"].values())[len(self._added) :]:
            self.add_tasks(TaskPool(table_of(stream)))
        accept_corrections(state, self.require_pool(), self.selector.fingerprint)
        self.selector.load_state_dict(state["selector"])
        self._count_from(state["selection_counts"].copy())
        alike = state.get("num_generations") == self.num_generations
        self.draws.load_state_dict(state, None if alike else self.num_generations)
        if len(state["workload"]["tokens"]) == len(self.workload.tokens):  # else of another number of ranks
            self.workload.load_state_dict(state["workload"])
