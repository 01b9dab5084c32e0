"""Trains with checkpoints and goes on from them, one leg after another; started by `torchrun` or alone.

    torchrun --nproc_per_node 2 tests/assets/resumed.py CHECKPOINT FOLDER train:zero2:lora load:single:zero3:lora

"train" saves FOLDER/STRATEGY-KIND.ckpt after half of its steps, and then trains the other half anew from there;
"load" goes on from what another strategy has saved, and stops before its first step. FOLDER/LEG.json says what was.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import ranks
import torch
from allocations import InTurn
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from ranks import Diary, Recipe

from bots_lightning.strategies import gathered_parameters

HALF = 2
KINDS = {
    "lora": Recipe(),
    "full": Recipe(lora=None),
    "asynchronous": Recipe(max_staleness=1),
    "ragged": Recipe(max_staleness=1, allocation=InTurn(), num_generations=7),
}


def snapshot(trainer: Trainer) -> dict[str, Any]:
    """Trained weights, belief, counters, learning rate, and whether the optimizer has moments."""
    module: Any = trainer.lightning_module
    with gathered_parameters(trainer.strategy):
        weights = {n: w.detach().flatten().tolist() for n, w in module.named_parameters() if w.requires_grad}
    selector: Any = trainer.datamodule.selector  # type: ignore[attr-defined]
    return {
        "weights": weights,
        "posterior": selector.belief.mean().tolist(),
        "generator": repr(selector.state_dict()["generator"]) if "generator" in selector.state_dict() else "",
        "progress": vars(module.progress),
        "learning_rate": module.optimizers().param_groups[0]["lr"],
    }


class Keeper(Callback):
    """Saves after half of the steps, and keeps what was then."""

    def __init__(self, path: Path) -> None:
        self.path, self.then = path, {}

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == HALF - 1:
            trainer.save_checkpoint(self.path)
            self.then = json.loads(json.dumps(snapshot(trainer)))


class Stopper(Callback):
    """Keeps what is there before the first step, and how far that moves the weights; then stops."""

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.then = json.loads(json.dumps(snapshot(trainer)))

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.then["learning_rate"] = pl_module.optimizers().param_groups[0]["lr"]  # set when training starts

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        pairs = [(w, self.then["weights"][name]) for name, w in snapshot(trainer)["weights"].items()]
        self.moved = max(abs(a - b) for after, before in pairs for a, b in zip(after, before, strict=True))
        raise KeyboardInterrupt


def fit(checkpoint: str, strategy: str, kind: str, folder: Path, callbacks: list[Any], path: Path | None) -> Trainer:
    recipe = KINDS[kind]
    module = ranks.module_of(recipe, checkpoint, folder)
    return ranks.fit(module, recipe.allocation, strategy, 2 * HALF, folder, callbacks, path)


def train(checkpoint: str, folder: Path, strategy: str, kind: str) -> dict[str, Any]:
    path = folder / f"{strategy}-{kind}.ckpt"
    keeper, diaries = Keeper(path), [Diary(), Diary()]
    whole = fit(checkpoint, strategy, kind, folder, [diaries[0], keeper], None)
    ends = [snapshot(whole)]
    ends.append(snapshot(fit(checkpoint, strategy, kind, folder, [diaries[1]], path)))
    return {"then": keeper.then, "ends": ends, "steps": [diary.steps for diary in diaries]}


def load(checkpoint: str, folder: Path, origin: str, strategy: str, kind: str) -> dict[str, Any]:
    stopper = Stopper()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            fit(checkpoint, strategy, kind, folder, [stopper], folder / f"{origin}-{kind}.ckpt")
        except (KeyboardInterrupt, SystemExit) as error:
            print("ended by", repr(error))
    said = [str(warning.message) for warning in caught if "start afresh" in str(warning.message)]
    return {"then": stopper.then, "moved": stopper.moved, "said": said}


def main(checkpoint: str, folder: str, *legs: str) -> None:
    torch.set_num_threads(1)
    for leg in legs:
        what, *words = leg.split(":")
        result = {"train": train, "load": load}[what](checkpoint, Path(folder), *words)
        if ranks.RANK == 0:
            (Path(folder) / f"{leg}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
