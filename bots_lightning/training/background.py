"""Rollouts of the next batch in a thread of their own, while the policy learns from the present one."""

# Shapes: K tasks on this rank, n_k rollouts of task k, R = Σ n_k rows.

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from bots_lightning.data import TaskBatch
from bots_lightning.rollouts import Rollouts, concatenate
from bots_lightning.training.batch import UnscoredBatch

# Rolls out a batch with a model; on any thread.
RollOut = Callable[[nn.Module], UnscoredBatch]


class PolicyCopy:
    """A snapshot of the policy, which samples while the policy itself goes on learning.

    Frozen weights are shared with the policy, trained ones are copied: with LoRA these are few.

    Args:
        policy: with all of its parameters, on its device.
    """

    def __init__(self, policy: nn.Module) -> None:
        shared: dict[int, Any] = {id(weight): weight for weight in policy.parameters() if not weight.requires_grad}
        self.policy = copy.deepcopy(policy, shared).requires_grad_(False).eval()
        trained = {name: weight for name, weight in policy.named_parameters() if weight.requires_grad}
        copies = dict(self.policy.named_parameters())
        self._pairs = [(copies[name], weight) for name, weight in trained.items()]

    @torch.no_grad()
    def refresh(self) -> nn.Module:
        """Copies the present weights of the policy; returns the copy."""
        for mine, theirs in self._pairs:
            mine.copy_(theirs)
        return self.policy


class BackgroundRollouts:
    """Rolls out one batch at a time in a thread of its own, with a copy of the policy.

    The thread, the copy and, on a GPU, the stream last for a whole run, so that their memory is reused. On a CPU,
    thread and caller have half of the cores each while both compute.

    Args:
        policy: with all of its parameters, on its device.
        device: of the policy.

    Attributes:
        batch: what is under way, or done and not yet taken; None if there is nothing.
        seconds: how long it took, once it is done.
    """

    def __init__(self, policy: nn.Module, device: torch.device) -> None:
        self.batch: TaskBatch | None = None
        self.seconds = 0.0
        self._copy, self._device = PolicyCopy(policy), device
        self._thread = ThreadPoolExecutor(1, "rollouts")
        new_stream: Callable[..., torch.cuda.Stream] = torch.cuda.Stream
        self._stream = new_stream(device) if device.type == "cuda" else None
        self._cores: int | None = None  # of the caller, while it has half of them
        self._result: Future[UnscoredBatch] = Future()

    def begin(self, batch: TaskBatch, draw: RollOut) -> None:
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
        self._result = self._thread.submit(self._run, draw, policy, queued, half)

    def _run(
        self,
        draw: RollOut,
        policy: nn.Module,
        queued: torch.cuda.Event | None,
        cores: int | None,
    ) -> UnscoredBatch:
        """Rolls out on the thread, and measures how long it takes."""
        start = time.perf_counter()
        if cores is not None:
            torch.set_num_threads(cores)  # of this thread
        if self._stream is None or queued is None:
            batch = draw(policy)
        else:  # kernels are queued beside those of the caller, after the copy that is queued there
            with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
                self._stream.wait_event(queued)
                batch = draw(policy)
                self._stream.synchronize()
        self.seconds = time.perf_counter() - start
        return batch

    def wait(self) -> None:
        """Waits until the batch is rolled out or has failed, and no completion of it is being graded."""
        if self.batch is None:
            return
        wait([self._result])
        self._take_cores()
        if (drawn := self._finished()) is not None:
            drawn.rewards.wait()

    def result(self) -> UnscoredBatch:
        """Waits for the batch and returns it.

        Raises:
            Exception: whatever rolling out has raised.
        """
        self.wait()
        return self._result.result()

    def taken(self) -> None:
        """Forgets the batch: it has been learned from."""
        self.batch = None

    def rollouts(self) -> Rollouts | None:
        """Waits for the rollouts of the batch and returns them; None if there is no batch, or it has failed."""
        self.wait()
        drawn = None if self.batch is None else self._finished()
        return None if drawn is None else drawn.rollouts

    def _take_cores(self) -> None:
        if self._cores is not None:
            torch.set_num_threads(self._cores)
            self._cores = None

    def _finished(self) -> UnscoredBatch | None:
        if self._result.cancelled() or self._result.exception() is not None:
            return None
        return self._result.result()

    def close(self) -> None:
        """Gives up the batch that is under way; returns at once. The caller cancels the engine."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._take_cores()
        if self.batch is not None:
            self._result.add_done_callback(lambda _: self._forget())

    def _forget(self) -> None:
        if (drawn := self._finished()) is not None:
            drawn.rewards.close()


# --- checkpoints ----------------------------------------------------------------------------------------------------


def background_state(background: BackgroundRollouts | None, pad_token_id: int) -> dict[str, Any] | None:
    """What a checkpoint holds of a batch that was rolled out in the background: the rows of all ranks, and whose.

    All ranks call it together.

    Args:
        background: of this rank, if it has begun.
        pad_token_id: fills up token ids where ranks differ in length.

    Returns:
        None if there is no such batch, or it has failed on some rank: whoever resumes rolls the batch out again.
    """
    rollouts = None if background is None else background.rollouts()
    mine = None
    if background is not None and background.batch is not None and rollouts is not None:
        batch = background.batch
        mine = batch.positions, batch.indices, batch.counts, rollouts.to(torch.device("cpu"))
    everyones: list[Any] = [mine]
    if dist.is_available() and dist.is_initialized():
        everyones = [None] * dist.get_world_size()
        dist.all_gather_object(everyones, mine)
    if any(theirs is None for theirs in everyones):
        return None
    names = ("positions", "indices", "counts")
    listed = {name: [one for theirs in everyones for one in theirs[at]] for at, name in enumerate(names)}
    return listed | {"rollouts": vars(concatenate([theirs[3] for theirs in everyones], pad_token_id)).copy()}


def rows_of_batch(state: dict[str, Any] | None, batch: TaskBatch) -> Rollouts | None:
    """This rank's rows of such a state.

    Args:
        state: of `background_state`.
        batch: K tasks with their numbers of rollouts.

    Returns:
        None if the state is not one of this batch.
    """
    if state is None:
        return None
    saved = list(zip(state["positions"], state["indices"], state["counts"], strict=True))
    wanted = list(zip(batch.positions, batch.indices, batch.counts, strict=True))
    if not set(wanted) <= set(saved):
        return None
    starts = np.cumsum([0, *state["counts"]])
    rows = [torch.arange(starts[at], starts[at + 1]) for at in map(saved.index, wanted)]
    return Rollouts(**state["rollouts"]).rows(torch.cat(rows))
