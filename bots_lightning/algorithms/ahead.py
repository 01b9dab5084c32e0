"""Rollouts of the next batch, sampled while the policy learns from the present one."""

# Shapes: B tasks on this rank, G rollouts per task, R = B·G rows.

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Thread
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


class RolloutsAhead:
    """One batch that is rolled out on a thread of its own.

    Args:
        batch: what is rolled out.
        draw: rolls it out; without collectives.

    Attributes:
        seconds: how long that took, once it is done.
    """

    def __init__(self, batch: TaskBatch, draw: Callable[[], Drawn]) -> None:
        self.batch, self.seconds = batch, 0.0
        self._draw, self._drawn = draw, Future[Drawn]()
        self._thread = Thread(target=self._run, name="rollouts ahead", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Returns once it is done, or has failed."""
        self._thread.join()

    def result(self) -> Drawn:
        """What was drawn, once it is.

        Raises:
            Exception: what rolling out has raised.
        """
        self._thread.join()
        return self._drawn.result()

    def finished(self) -> Rollouts | None:
        """The rollouts once they are drawn; None if that has failed."""
        self._thread.join()
        return None if self._drawn.exception() else self._drawn.result().rollouts

    def _run(self) -> None:
        start = time.perf_counter()
        try:
            self._drawn.set_result(self._draw())
        except BaseException as error:  # raised again by `result`
            self._drawn.set_exception(error)
        self.seconds = time.perf_counter() - start


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


def own_stream(device: torch.device) -> Callable[[], Any]:
    """A context for another thread: on a GPU its work is queued beside this thread's, after all that is queued now.

    What comes out of the context is complete when that ends; take it to the CPU inside.
    """
    if device.type != "cuda":
        return _same_stream
    ready = torch.cuda.Event()
    ready.record(torch.cuda.current_stream(device))

    @contextmanager
    def beside() -> Iterator[None]:
        with torch.cuda.device(device), torch.cuda.stream(torch.cuda.Stream(device)) as _:
            stream = torch.cuda.current_stream(device)
            stream.wait_event(ready)
            yield
            stream.synchronize()

    return beside


@contextmanager
def _same_stream() -> Iterator[None]:
    yield


# --- checkpoints ----------------------------------------------------------------------------------------------------


def ahead_state(ahead: RolloutsAhead | None, pad_token_id: int) -> dict[str, Any] | None:
    """What a checkpoint holds of a batch that was rolled out ahead: the rows of all ranks, by place in the draw.

    All ranks call it together. None if there is no such batch, or it has failed on some rank: whoever resumes rolls the
    batch out anew.
    """
    rollouts = None if ahead is None else ahead.finished()
    mine = None if ahead is None or rollouts is None else (ahead.batch.positions, rollouts.to(torch.device("cpu")))
    everyones: list[Any] = [mine]
    if dist.is_available() and dist.is_initialized():
        everyones = [None] * dist.get_world_size()
        dist.all_gather_object(everyones, mine)
    if any(theirs is None for theirs in everyones):
        return None
    positions = [position for theirs, _ in everyones for position in theirs]
    whole = concatenate([rollouts for _, rollouts in everyones], pad_token_id)
    return {"positions": positions, "rollouts": vars(whole).copy()}


def rows_of_batch(state: dict[str, Any] | None, batch: TaskBatch, generations: int) -> Rollouts | None:
    """This rank's rows of such a state; None if they are not those of the batch, or groups have another size.

    Args:
        state: of `ahead_state`.
        batch: B tasks.
        generations: G.
    """
    if state is None or not set(batch.positions) <= set(state["positions"]):
        return None
    rollouts = Rollouts(**state["rollouts"])
    if len(rollouts) != len(state["positions"]) * generations:
        return None
    places = torch.tensor([state["positions"].index(position) for position in batch.positions])
    rows = places.unsqueeze(1) * generations + torch.arange(generations)
    return rollouts.rows(rows.flatten())
