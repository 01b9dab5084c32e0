"""A run whose file of tasks was corrected goes on from its checkpoint, with the policy and the belief that it had."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bots_lightning.algorithms import GRPO
from bots_lightning.beliefs import BetaBelief
from bots_lightning.data import TaskDataModule
from bots_lightning.selection import ThompsonSelector
from bots_lightning.tasks import JsonlTasks


def write(path: Path, *answers: str) -> None:
    rows = [{"prompt": f"{i}+{i}=", "answer": answer} for i, answer in enumerate(answers)]
    path.write_text("\n".join(map(json.dumps, rows)))


def data(path: Path) -> TaskDataModule:
    return TaskDataModule(JsonlTasks(path), ThompsonSelector(BetaBelief()), 2, steps_per_epoch=100)


def test_correcting_an_answer_leaves_the_checkpoint_usable(
    build: Any, new_trainer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, checkpoint = tmp_path / "tasks.jsonl", tmp_path / "run.ckpt"
    write(path, "0", "2", "5", "6")
    first, before = new_trainer(limit_train_batches=2), data(path)
    first.fit(build(GRPO), before)
    first.save_checkpoint(checkpoint)
    write(path, "0", "2", "4", "6")
    resumed, after = new_trainer(limit_train_batches=3, max_epochs=2), data(path)
    seen: list[torch.Tensor] = []
    module = build(GRPO)
    module.on_train_start = lambda: seen.append(torch.as_tensor(after.selector.belief.mean()))  # type: ignore[attr-defined]
    resumed.fit(module, after, ckpt_path=checkpoint)
    assert f"1 answers are not those of the checkpoint: task '{after.require_pool().ids[2]}' ({path}, line 3)" in (
        caplog.text
    )
    assert module.progress.iterations > 2
    assert seen[0].tolist() == before.selector.belief.mean().tolist()  # type: ignore[attr-defined]
    write(path, "0", "2", "4", "6", "8")
    with pytest.raises(ValueError, match="Resume with the pool"):
        new_trainer(max_epochs=2).fit(build(GRPO), data(path), ckpt_path=checkpoint)
