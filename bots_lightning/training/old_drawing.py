"""How a batch of tasks is rolled out: now, or one step ahead."""

# Shapes: B tasks on this rank, G rollouts per task.

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch import Callback
from torch import Tensor, nn

from bots_lightning.data import TaskBatch
from bots_lightning.options import check_numbers
from bots_lightning.policy.recording import record_logprobs
from bots_lightning.rewards import RewardStream
from bots_lightning.rollouts import derive_seed
from bots_lightning.strategies import divides_weights, whole_model
from bots_lightning.training.ahead import Drawn, RolloutsAhead, ahead_state, rows_of_batch
from bots_lightning.training.failures import together
from bots_lightning.training.metrics import StepClock
from bots_lightning.training.old_module import TRAIN, PolicyModule


class DrawingModule(PolicyModule):
    """Rolls out batches of training tasks, and judges what is completed meanwhile.

    Args:
        max_tokens_per_microbatch: budget of one forward and backward pass in tokens, prompts and padding included;
            None takes the whole batch at once.
        max_staleness: 0 takes turns. 1 rolls out the next batch while the policy learns from the present one: selection
            has seen all evidence, but the rollouts are those of the policy before its last update, which
            `importance_sampling_…` and the age of the evidence make up for. It pays where rollouts have a device of
            their own (`ServerEngine`). Trained weights are held twice, a static engine holds two caches, and on one
            device the memory of rollouts and of the update adds up. Saving and evaluating wait for the rollouts. A run
            that is continued beyond its planned end takes turns once, there.
        **kwargs: see `PolicyModule`.
    """

    def __init__(
        self, *args: Any, max_tokens_per_microbatch: int | None = None, max_staleness: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        check_numbers(1, max_tokens_per_microbatch=max_tokens_per_microbatch)
        check_numbers(0, high=1, max_staleness=max_staleness)
        self.max_tokens_per_microbatch = max_tokens_per_microbatch
        self.max_staleness = max_staleness
        self.clock = StepClock()  # of the present step
        self._ahead: RolloutsAhead | None = None
        self._resumed: dict[str, Any] | None = None  # a batch that was rolled out ahead, from a checkpoint

    @property
    def gather(self) -> Callable[[Tensor], Tensor] | None:
        """(…) to (W, …), the tensors of all W ranks; None if there is one, or no trainer."""
        return self._gather if self._trainer is not None and self.trainer.world_size > 1 else None

    def _gather(self, tensor: Tensor) -> Tensor:
        with self.clock.phase("sync"):
            return self.all_gather(tensor)  # type: ignore[return-value]

    @contextmanager
    def whole_model(self) -> Iterator[None]:
        """Holds all weights on every rank, for passes without gradient; see the function `whole_model`."""
        running = self.clock.running
        with self.clock.phase("sync"), whole_model(self.trainer.strategy), self.clock.phase(running):
            yield

    # --- a batch ------------------------------------------------------------------------------------------------

    def select(self, draw: Callable[[], list[int]]) -> TaskBatch:
        """This rank's share of one more batch."""
        with self.clock.phase("select"):
            places = self._datamodule.share(draw())
        pool = self._datamodule.require_pool()
        positions, indices = map(list, zip(*places, strict=True))
        return TaskBatch(indices, [pool[index] for index in indices], positions)

    def drawing(self, batch: TaskBatch, number: int) -> Callable[[], Drawn]:
        """How the rollouts of a round are come by: they may be under way, or in the checkpoint that was resumed.

        Args:
            batch: of that round.
            number: of the round in its iteration.
        """
        if self._ahead is not None and self._ahead.batch is not None:
            ahead = self._ahead.batch
            if (ahead.positions, ahead.indices) != (batch.positions, batch.indices):
                raise RuntimeError(
                    "the train loader served another batch than was drawn ahead. Do not wrap the loader, or set "
                    "max_staleness=0."
                )
            return self._ahead.result
        saved = rows_of_batch(self._resumed, batch, self.num_generations) if self.max_staleness else None
        if saved is not None:
            return lambda: Drawn(saved, self._reward_stream(batch))
        assert self.policy is not None
        policy, version, seeds = self.policy, self.progress.iterations, self._seeds(batch, 0, number)
        return lambda: self._draw(policy, version, batch, seeds)

    def drawn(self) -> None:
        """Rollouts that were under way, or in a checkpoint, are used up."""
        self._resumed = None
        if self._ahead is not None:
            self._ahead.taken()

    def _draw(self, policy: nn.Module, version: int, batch: TaskBatch, seeds: list[int]) -> Drawn:
        """Rolls out, and judges what is completed meanwhile; on any thread."""
        rewards = self._reward_stream(batch)
        with _closed_on_failure(rewards):
            rollouts = self.rollout_by(policy, version, batch.tasks, self.num_generations, seeds, rewards.completed)
        return Drawn(rollouts, rewards)

    def _reward_stream(self, batch: TaskBatch) -> RewardStream:
        return RewardStream(self.scorer, batch.tasks, self.num_generations, self.encoder.decode_rows)

    def _seeds(self, batch: TaskBatch, ahead: int, number: int) -> list[int]:
        """Of each task in that round of this iteration, or of one to come."""
        iteration = self.progress.iterations + ahead
        return [derive_seed(self.seed, TRAIN, iteration, number, position) for position in batch.positions]

    # --- one step ahead -----------------------------------------------------------------------------------------

    def begin_ahead(self) -> None:
        """Draws the next batch and starts to roll it out with the policy as it is, if there is to be a next one."""
        planned = self._datamodule.selector.planned_selections
        if not self.max_staleness or (planned is not None and self.progress.iterations + 1 >= planned):
            return
        policy, device, strategy = self.policy, self.device, self.trainer.strategy
        assert policy is not None
        batch = self.select(self._datamodule.select_ahead)
        with self.clock.phase("rollout"):
            if self._ahead is None:
                self._ahead = together(strategy, lambda: RolloutsAhead(policy, device))
            version, seeds = self.progress.iterations, self._seeds(batch, 1, 0)
            budget, precision = self.max_tokens_per_microbatch, self.trainer.precision_plugin

            def draw(copied: nn.Module) -> Drawn:
                with precision.forward_context():
                    drawn = self._draw(copied, version, batch, seeds)
                    with _closed_on_failure(drawn.rewards):
                        rollouts, known = drawn.rollouts, drawn.rollouts.logprobs
                        # Of tokens that the engine says nothing of: the policy will have moved on.
                        if known is None or bool((known.isnan() & rollouts.completion_mask).any()):
                            rollouts = record_logprobs(copied, rollouts, self.temperature, budget)
                        return replace(drawn, rollouts=rollouts.to(torch.device("cpu")))

            self._ahead.begin(batch, draw)

    def await_ahead(self) -> float:
        """Waits for what is under way: engine and judges serve one at a time. The seconds that it took in all."""
        if self._ahead is None or self._ahead.batch is None:
            return 0.0
        with self.clock.phase("rollout"):
            self._ahead.wait()
        return self._ahead.seconds

    def give_up_ahead(self) -> None:
        """Ends what is under way soon, and lets the copy of the policy go; returns at once."""
        if self._ahead is not None:
            self._ahead.close()
            self.engine.cancel()
        self._ahead = self._resumed = None

    def configure_callbacks(self) -> list[Callback]:
        """One that ends what is under way when a run fails."""
        return [_EndsAhead()] if self.max_staleness else []

    def on_fit_start(self) -> None:
        """Refuses to roll out ahead where there is no whole policy to copy, and prompts that do not fit."""
        if self.max_staleness and divides_weights(self.trainer.strategy):
            raise ValueError(
                "max_staleness=1 needs a copy of the policy, and under ZeRO-3 no rank holds it in whole. Use "
                "configs/strategies/zero2.yaml, or set max_staleness=0."
            )
        super().on_fit_start()

    def on_validation_epoch_start(self) -> None:
        """First waits for rollouts that are under way."""
        self.await_ahead()
        super().on_validation_epoch_start()

    def teardown(self, stage: str) -> None:
        """Ends what is under way, before the judges' processes."""
        self.give_up_ahead()
        super().teardown(stage)

    # --- checkpoints --------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the batch that was rolled out ahead; all ranks take part."""
        super().on_save_checkpoint(checkpoint)
        if self.max_staleness:
            resumed = self._resumed  # the same on all ranks
            checkpoint["ahead"] = resumed or ahead_state(self._ahead, self.sampling.pad_token_id)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes over a batch that was rolled out ahead; whether it is the one to come is seen when that comes."""
        super().on_load_checkpoint(checkpoint)
        self.give_up_ahead()
        self._resumed = checkpoint.get("ahead")


class _EndsAhead(Callback):
    """Lightning tears no module down when a run fails."""

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        assert isinstance(pl_module, DrawingModule)
        pl_module.give_up_ahead()


@contextmanager
def _closed_on_failure(rewards: RewardStream) -> Iterator[None]:
    try:
        yield
    except BaseException:  # raised again; Ctrl-C too must not leave judges at work
        rewards.close()
        raise
