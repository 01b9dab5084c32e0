"""What one of two ranks does, for tests that compare the two; the fixture `on_two_ranks` starts both.

python tests/assets/on_two_ranks.py NAME RANK FOLDER
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from algorithm_helpers import step_context
from torch import nn

from bots_lightning.strategies import DeepSpeed
from bots_lightning.strategies.data_parallel import average_over_ranks, complete_gradients
from bots_lightning.strategies.meeting import check_same_checkpoint
from bots_lightning.strategies.reached import check_same_weights
from bots_lightning.tasks import Task
from bots_lightning.training.checks import check_ranks_agree
from callbacks import StalledLearning


class Pool:
    """One task of each of two groups."""

    groups = np.array(["a", "b"])

    def __len__(self) -> int:
        return 2


def unsolved_group(rank: int) -> Any:
    """A step in which only the second rank has tasks of the group b, none of them solved: the log, and the state."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("callbacks.stalled_learning").addHandler(handler)

    def all_gather(counts: torch.Tensor) -> torch.Tensor:
        found = [torch.zeros_like(counts) for _ in range(2)]
        dist.all_gather(found, counts)
        return torch.stack(found)

    rewards = torch.tensor([1.0, 0.0, 0.0, 0.0]) * (1 - rank)
    outputs = {
        "rewards": rewards,
        "evidence": rewards,
        "group_of_row": torch.tensor([0, 0, 1, 1]),
        "tasks": [Task(f"rank {rank}", "ask", "42", "ab"[rank])] * 2,
        "completions": ["said"] * 4,
        "finished": torch.ones(4, dtype=torch.bool),
    }
    module = SimpleNamespace(
        scorer=SimpleNamespace(low=0.0, high=1.0),
        sampler=SimpleNamespace(max_completion_length=16),
        progress=SimpleNamespace(iterations=1),
        all_gather=all_gather,
    )
    trainer = SimpleNamespace(datamodule=SimpleNamespace(require_pool=Pool))
    callback = StalledLearning(group_rollouts=4, false_alarm=1)
    callback.on_train_batch_end(trainer, module, outputs, None, 0)  # type: ignore[arg-type]
    return said, callback.state_dict()


class Letters(nn.Module):
    """Weights a, b, c and d; no loss reaches d."""

    def __init__(self, b: float = 1.0) -> None:
        super().__init__()
        for name in "abcd":
            setattr(self, name, nn.Parameter(torch.full((2,), b if name == "b" else 1.0)))

    def loss(self, rank: int) -> torch.Tensor:
        """A loss of a and c on the first rank, of b and c on the second."""
        return 2 * (self.b if rank else self.a).sum() + (4 + 2 * rank) * self.c.sum()


def gradients_of_different_weights(rank: int) -> Any:
    """The averaged gradients."""
    module = Letters()
    module.loss(rank).backward()
    weights = list(module.parameters())
    complete_gradients(weights)
    average_over_ranks([weight.grad for weight in weights if weight.grad is not None])
    return {name: None if w.grad is None else w.grad.tolist() for name, w in module.named_parameters()}


def losses_of_different_weights(rank: int) -> Any:
    """The errors where the ranks' losses reach the same weights, twice, and where they reach different ones."""
    module, said = Letters(), []
    for loss in (module.c.sum(), module.loss(0), module.loss(rank)):
        try:
            check_same_weights(loss, module)
            said.append("")
        except ValueError as error:
            said.append(str(error))
    return said


def deepspeed_with_losses_of_different_weights(rank: int) -> Any:
    """The strategy's error instead of a backward pass."""
    strategy, module = DeepSpeed(), Letters()
    strategy._lightning_module = module  # type: ignore[assignment]
    try:
        strategy.backward(module.loss(rank), None)
    except ValueError as error:
        return str(error)
    return ""


def drifted_apart(rank: int) -> Any:
    """The errors where ranks agree, where their beliefs differ, and where their weights b are one ulp apart."""
    said = []
    after = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0)).item()
    for belief, module in (
        ("same", Letters()),
        (f"digest-{rank}", Letters()),
        ("same", Letters(after if rank else 1.0)),
    ):
        try:
            check_ranks_agree(lambda belief=belief: belief, module.named_parameters())
            said.append("")
        except RuntimeError as error:
            said.append(str(error))
    return said


def different_checkpoints(rank: int) -> Any:
    """The errors where ranks have the same checkpoint, none, different ones, and where only one has any."""
    said = []
    for path in ("a.ckpt", None, f"{rank}.ckpt", "a.ckpt" if rank else None):
        try:
            check_same_checkpoint(path)
            said.append("")
        except ValueError as error:
            said.append(str(error))
    return said


def rows_of_different_numbers(rank: int) -> Any:
    """What a step gathers where the first rank has one row and the second three, or none and three, or two each."""

    def all_gather(rows: torch.Tensor) -> torch.Tensor:
        found = [torch.zeros_like(rows) for _ in range(2)]
        dist.all_gather(found, rows)
        return torch.stack(found)

    context = step_context(rank=rank, world_size=2, all_gather=all_gather)
    rows = torch.arange(3 if rank else 1) + 10 * rank
    gathered = {
        "rewards": context.gather_rows(rows.float()),
        "pairs": context.gather_rows(torch.stack([rows, rows + 100], dim=1)),
        "flags": context.gather_rows(rows % 2 == 0),
        "none of the first": context.gather_rows(rows.float() if rank else torch.zeros(0)),
        "equal": context.gather_rows(torch.arange(2.0) + 10 * rank),
    }
    return {name: tensor.tolist() for name, tensor in gathered.items()}


def main(name: str, rank: int, folder: str) -> None:
    """Writes what one rank has found to a file of its own."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    program: Callable[[int], Any] = globals()[name]
    Path(folder, f"{rank}.json").write_text(json.dumps(program(rank)))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
