"""Rollouts of the next batch, sampled while the policy learns from the present one."""

# Shapes: B tasks on this rank, G rollouts per task, R = B·G rows.

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from bots_lightning.data import TaskBatch
from bots_lightning.rewards import RewardStream
from bots_lightning.rollouts import Rollouts, concatenate


@dataclass(frozen=True)
class Drawn:
    """The rollouts of one batch, and their rewards as far as these could be judged meanwhile.

    Attributes:
        rollouts: R rows.
        rewards: knows those of completed tasks, and judges the rest.
    """

    rollouts: Rollouts
    rewards: RewardStream


class PolicyCopy:
    """The policy as it was at some moment, while it goes on learning.

    Weights that are frozen are shared with it, those that are trained are copied: with LoRA that is little.

    Args:
        policy: in whole, on its device.
    """

    def __init__(self, policy: nn.Module) -> None:
        shared: dict[int, Any] = {id(weight): weight for weight in policy.parameters() if not weight.requires_grad}
        self.policy = copy.deepcopy(policy, shared).requires_grad_(False).eval()
        trained = {name: weight for name, weight in policy.named_parameters() if weight.requires_grad}
        copies = dict(self.policy.named_parameters())
        self._pairs = [(copies[name], weight) for name, weight in trained.items()]

    @torch.no_grad()
    def refresh(self) -> nn.Module:
        """The copy, which is now the policy as it is."""
        for mine, theirs in self._pairs:
            mine.copy_(theirs)
        return self.policy


class RolloutsAhead:
    """Rolls out one batch at a time beside the caller, with a copy of the policy.

    One thread, one copy and, on a GPU, one stream last for a whole run, so that memory that is kept for them is used
    again. On a CPU, thread and caller have half of the cores each while both compute.

    Args:
        policy: in whole, on its device.
        device: where it is.

    Attributes:
        batch: what is under way, or done and not yet taken; None if there is nothing.
        seconds: how long it took, once it is done.
    """

    def __init__(self, policy: nn.Module, device: torch.device) -> None:
        self.batch: TaskBatch | None = None
        self.seconds = 0.0
        self._copy, self._device = PolicyCopy(policy), device
        self._thread = ThreadPoolExecutor(1, "rollouts ahead")
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._cores: int | None = None  # of the caller, while it has half of them
        self._drawn: Future[Drawn] = Future()

    def begin(self, batch: TaskBatch, draw: Callable[[nn.Module], Drawn]) -> None:
        """Starts to roll out a batch; the one before has been taken.

        Args:
            batch: what is rolled out.
            draw: rolls it out with the copy that it is given, without collectives, and takes the result to the CPU.
        """
        policy, self.batch = self._copy.refresh(), batch
        queued = None if self._stream is None else torch.cuda.current_stream(self._device).record_event()
        half = None
        if self._device.type == "cpu":
            self._cores = torch.get_num_threads()
            half = max(1, self._cores // 2)
            torch.set_num_threads(half)
        self._drawn = self._thread.submit(self._run, draw, policy, queued, half)

    def _run(
        self, draw: Callable[[nn.Module], Drawn], policy: nn.Module, queued: torch.cuda.Event | None, cores: int | None
    ) -> Drawn:
        """All that the thread does."""
        start = time.perf_counter()
        if cores is not None:
            torch.set_num_threads(cores)  # of this thread
        if self._stream is None or queued is None:
            drawn = draw(policy)
        else:  # kernels are queued beside those of the caller, after the copy that is queued there
            with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
                self._stream.wait_event(queued)
                drawn = draw(policy)
                self._stream.synchronize()
        self.seconds = time.perf_counter() - start
        return drawn

    def wait(self) -> None:
        """Returns once the batch is rolled out, or has failed, and nothing of it is being judged any more."""
        if self.batch is None:
            return
        wait([self._drawn])
        self._take_cores()
        if (drawn := self._finished()) is not None:
            drawn.rewards.wait()

    def result(self) -> Drawn:
        """What was drawn, once it is.

        Raises:
            Exception: what rolling out has raised.
        """
        self.wait()
        return self._drawn.result()

    def taken(self) -> None:
        """The batch is used up."""
        self.batch = None

    def rollouts(self) -> Rollouts | None:
        """Those of the batch, once they are drawn; None if there is no batch, or it has failed."""
        self.wait()
        drawn = None if self.batch is None else self._finished()
        return None if drawn is None else drawn.rollouts

    def _take_cores(self) -> None:
        if self._cores is not None:
            torch.set_num_threads(self._cores)
            self._cores = None

    def _finished(self) -> Drawn | None:
        if self._drawn.cancelled() or self._drawn.exception() is not None:
            return None
        return self._drawn.result()

    def close(self) -> None:
        """Gives up what has not been taken; returns at once. Whoever draws must be told to end, see `cancel`."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._take_cores()
        if self.batch is not None:
            self._drawn.add_done_callback(lambda _: self._forget())

    def _forget(self) -> None:
        if (drawn := self._finished()) is not None:
            drawn.rewards.close()


# --- checkpoints ----------------------------------------------------------------------------------------------------


def ahead_state(ahead: RolloutsAhead | None, pad_token_id: int) -> dict[str, Any] | None:
    """What a checkpoint holds of a batch that was rolled out ahead: the rows of all ranks, and whose they are.

    All ranks call it together. None if there is no such batch, or it has failed on some rank: whoever resumes rolls the
    batch out anew.
    """
    rollouts = None if ahead is None else ahead.rollouts()
    mine = None
    if ahead is not None and ahead.batch is not None and rollouts is not None:
        mine = ahead.batch.positions, ahead.batch.indices, rollouts.to(torch.device("cpu"))
    everyones: list[Any] = [mine]
    if dist.is_available() and dist.is_initialized():
        everyones = [None] * dist.get_world_size()
        dist.all_gather_object(everyones, mine)
    if any(theirs is None for theirs in everyones):
        return None
    positions, indices = ([place for theirs in everyones for place in theirs[part]] for part in (0, 1))
    whole = concatenate([theirs[2] for theirs in everyones], pad_token_id)
    return {"positions": positions, "indices": indices, "rollouts": vars(whole).copy()}


def rows_of_batch(state: dict[str, Any] | None, batch: TaskBatch, generations: int) -> Rollouts | None:
    """This rank's rows of such a state; None if they are not those of the batch, or groups have another size.

    Args:
        state: of `ahead_state`.
        batch: B tasks.
        generations: G.
    """
    if state is None:
        return None
    saved = list(zip(state["positions"], state["indices"], strict=True))
    wanted = list(zip(batch.positions, batch.indices, strict=True))
    rollouts = Rollouts(**state["rollouts"])
    if not set(wanted) <= set(saved) or len(rollouts) != len(saved) * generations:
        return None
    places = torch.tensor([saved.index(place) for place in wanted])
    rows = places.unsqueeze(1) * generations + torch.arange(generations)
    return rollouts.rows(rows.flatten())
