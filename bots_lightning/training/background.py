"""Rollouts of coming batches on threads of their own, while the policy learns from the present one."""

# Shapes: K tasks on this rank, n_k rollouts of task k, R = Σ n_k rows.

from __future__ import annotations

import copy
import time
from collections import deque
from collections.abc import Callable, Sequence
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


class BackgroundBatch:
    """One batch that is rolled out in the background.

    Args:
        batch: what is rolled out.

    Attributes:
        result: its rollouts, in the future.
        began: when its rollouts began, in seconds; 0 while they have not.
        ended: when they were done, or had failed.
    """

    def __init__(self, batch: TaskBatch) -> None:
        self.batch, self.result = batch, Future[UnscoredBatch]()
        self.began = self.ended = 0.0

    def wait(self) -> None:
        """Waits until the batch is rolled out or has failed, and no completion of it is being graded."""
        wait([self.result])
        if (drawn := self.finished()) is not None:
            drawn.rewards.wait()

    def finished(self) -> UnscoredBatch | None:
        """The rollouts, which are waited for; None if they have failed."""
        if self.result.cancelled() or self.result.exception() is not None:
            return None
        return self.result.result()

    def rollouts(self) -> Rollouts | None:
        """Waits for the rollouts and returns them; None if they have failed."""
        self.wait()
        drawn = self.finished()
        return None if drawn is None else drawn.rollouts

    def close(self) -> None:
        """Gives up what is still to be graded, once the rollouts are there."""
        self.result.add_done_callback(lambda _: self._forget())

    def _forget(self) -> None:
        if (drawn := self.finished()) is not None:
            drawn.rewards.close()


class BackgroundRollouts:
    """Rolls out some batches on threads of its own: one after the other with copies of the policy, or all at a time.

    Threads, copies and, on a GPU, the stream last for a whole run, so that their memory is reused. On a CPU, a thread
    that computes and the caller have half of the cores each meanwhile.

    Args:
        policy: with all of its parameters, on its device.
        device: of the policy.
        most: how many batches there may be at a time.
        own_weights: whether the engine has the weights itself, so that no copies are needed.

    Attributes:
        batches: what is under way, or done and not yet taken, in the order in which they were begun.
        idle_seconds: for how long nothing was under way before the batch that was begun last.
    """

    def __init__(self, policy: nn.Module, device: torch.device, most: int, own_weights: bool) -> None:
        self.batches: deque[BackgroundBatch] = deque()
        self.idle_seconds = 0.0
        self._last_end = 0.0  # of the batch that was taken last
        self._policy, self._device = policy, device
        self._copies = deque([] if own_weights else [PolicyCopy(policy) for _ in range(most)])
        self._threads = ThreadPoolExecutor(most if own_weights else 1, "rollouts")
        new_stream: Callable[..., torch.cuda.Stream] = torch.cuda.Stream
        on_gpu = device.type == "cuda" and not own_weights
        self._stream = new_stream(device) if on_gpu else None
        self._cores: int | None = None  # of the caller, while it has half of them

    def begin(self, batch: TaskBatch, draw: RollOut) -> None:
        """Starts to roll out a batch; there are fewer than `most` before it.

        Args:
            batch: what is rolled out.
            draw: rolls it out with the model that it is given, without collectives, and takes the result to the CPU.
        """
        ends = [self._last_end, *(other.ended for other in self.batches)]
        self.idle_seconds = time.perf_counter() - max(ends) if all(ends) else 0.0
        policy = self._policy
        if self._copies:
            policy = self._copies[0].refresh()  # whatever it has sampled was taken: there are as many as batches
            self._copies.rotate(-1)
        queued = None if self._stream is None else torch.cuda.current_stream(self._device).record_event()
        self._share_cores()
        begun = BackgroundBatch(batch)
        half = None if self._cores is None else max(1, self._cores // 2)
        begun.result = self._threads.submit(self._run, begun, draw, policy, queued, half)
        self.batches.append(begun)

    def _run(
        self,
        begun: BackgroundBatch,
        draw: RollOut,
        policy: nn.Module,
        queued: torch.cuda.Event | None,
        cores: int | None,
    ) -> UnscoredBatch:
        """Rolls out on the thread, and measures how long it takes."""
        begun.began = time.perf_counter()
        try:
            if cores is not None:
                torch.set_num_threads(cores)  # of this thread
            if self._stream is None or queued is None:
                return draw(policy)
            # Kernels are queued beside those of the caller, after the copy that is queued there.
            with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
                self._stream.wait_event(queued)
                rolled_out = draw(policy)
                self._stream.synchronize()
            return rolled_out
        finally:
            begun.ended = time.perf_counter()

    def wait(self, batches: int | None = None) -> None:
        """Waits for the first so many batches, or for all, and the grading of their completions."""
        for begun in list(self.batches)[:batches]:
            begun.wait()
        if all(begun.result.done() for begun in self.batches):
            self._take_cores()

    def taken(self) -> None:
        """Forgets the first batch: it has been learned from."""
        self._last_end = self.batches.popleft().ended

    def _share_cores(self) -> None:
        if self._device.type == "cpu" and self._copies and self._cores is None:
            self._cores = torch.get_num_threads()
            torch.set_num_threads(max(1, self._cores // 2))

    def _take_cores(self) -> None:
        if self._cores is not None:
            torch.set_num_threads(self._cores)
            self._cores = None

    def close(self) -> None:
        """Gives up the batches that are under way; returns at once. The caller has cancelled the engine."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._take_cores()
        for begun in self.batches:
            begun.close()


# --- checkpoints ----------------------------------------------------------------------------------------------------


def background_state(background: BackgroundRollouts | None, pad_token_id: int) -> list[dict[str, Any]]:
    """What a checkpoint holds of batches that were rolled out in the background: the rows of all ranks, and whose.

    All ranks call it together.

    Args:
        background: of this rank, if it has begun.
        pad_token_id: fills up token ids where ranks differ in length.

    Returns:
        one for each batch, up to the first that has failed on some rank: whoever resumes rolls those out again.
    """
    mine = []
    for begun in () if background is None else background.batches:
        if (rollouts := begun.rollouts()) is None:
            break
        batch = begun.batch
        mine.append((batch.positions, batch.indices, batch.counts, rollouts.to(torch.device("cpu"))))
    everyones: list[Any] = [mine]
    if dist.is_available() and dist.is_initialized():
        everyones = [None] * dist.get_world_size()
        dist.all_gather_object(everyones, mine)
    return [_state_of(parts, pad_token_id) for parts in zip(*everyones, strict=False)]


def _state_of(everyones: Sequence[Any], pad_token_id: int) -> dict[str, Any]:
    """One batch, of each rank its positions, indices, counts and rollouts."""
    names = ("positions", "indices", "counts")
    listed = {name: [one for theirs in everyones for one in theirs[at]] for at, name in enumerate(names)}
    return listed | {"rollouts": vars(concatenate([theirs[3] for theirs in everyones], pad_token_id)).copy()}


def rows_of_batch(state: dict[str, Any], batch: TaskBatch) -> Rollouts | None:
    """This rank's rows of such a batch.

    Args:
        state: one of `background_state`.
        batch: K tasks with their numbers of rollouts.

    Returns:
        None if the state is not one of this batch.
    """
    saved = list(zip(state["positions"], state["indices"], state["counts"], strict=True))
    wanted = list(zip(batch.positions, batch.indices, batch.counts, strict=True))
    if not set(wanted) <= set(saved):
        return None
    starts = np.cumsum([0, *state["counts"]])
    rows = [torch.arange(starts[at], starts[at + 1]) for at in map(saved.index, wanted)]
    return Rollouts(**state["rollouts"]).rows(torch.cat(rows))
