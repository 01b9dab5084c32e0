"""Runs that go on from a checkpoint: the same as undisturbed ones, and what a checkpoint holds."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from run_helpers import NewModule, Tasks, bots, data, trainer, weights

from bots_lightning.algorithms import GRPO
from bots_lightning.data import TaskDataModule
from bots_lightning.policy import LoRA
from bots_lightning.selection import ThompsonSelector, UniformSelector
from bots_lightning.tasks import TaskSource
from bots_lightning.training import OnlineModule
from callbacks import EffectiveTaskRatio


@pytest.fixture
def grpo(build: Callable[..., OnlineModule]) -> NewModule:
    """`grpo(**options)`: a module with a linear schedule."""
    return partial(build, GRPO, lr_scheduler_type="linear")


def assert_same_state(first: tuple[OnlineModule, TaskDataModule], second: tuple[OnlineModule, TaskDataModule]) -> None:
    """Weights, posterior, counters and the next ten draws, to the bit."""
    (module_a, data_a), (module_b, data_b) = first, second
    weights_a, weights_b = weights(module_a), weights(module_b)
    assert weights_a.keys() == weights_b.keys()
    assert all(torch.equal(weights_a[name], weights_b[name]) for name in weights_a)
    assert module_a.progress == module_b.progress
    np.testing.assert_array_equal(data_a.selection_counts, data_b.selection_counts)
    selector_a, selector_b = data_a.selector, data_b.selector
    if isinstance(selector_a, ThompsonSelector) and isinstance(selector_b, ThompsonSelector):
        np.testing.assert_array_equal(selector_a.belief.mean(), selector_b.belief.mean())
    for _ in range(10):
        np.testing.assert_array_equal(selector_a.select(4), selector_b.select(4))


@pytest.mark.parametrize("lora", [LoRA(r=4, alpha=8), None], ids=["lora", "full"])
@pytest.mark.parametrize("selector", [bots, UniformSelector], ids=["bots", "uniform"])
@pytest.mark.parametrize("k", [2, 4], ids=["mid-epoch", "epoch boundary"])
@pytest.mark.parametrize("after_evaluation", [False, True], ids=["after a step", "after an evaluation"])
def test_a_resumed_run_equals_the_undisturbed_one_bit_for_bit(
    grpo: NewModule, tmp_path: Path, lora: LoRA | None, selector: Any, k: int, after_evaluation: bool
) -> None:
    def run(folder: str, steps: int, ckpt_path: str | None = None) -> tuple[OnlineModule, TaskDataModule, str]:
        torch.manual_seed(steps)  # the global generator must not matter
        module = grpo(lora=lora, lr_scheduler_type="constant")
        tasks = data(selector(), evaluation={"heldout": Tasks(8)})
        save = ModelCheckpoint(tmp_path / folder, every_n_epochs=1, save_on_train_epoch_end=False, save_last=True)
        if not after_evaluation:
            save = ModelCheckpoint(tmp_path / folder, every_n_train_steps=k, save_last=True)
        options = {"max_steps": steps, "callbacks": [save, EffectiveTaskRatio()], "enable_checkpointing": True}
        options |= {"val_check_interval": k, "num_sanity_val_steps": -1} if after_evaluation else {}
        trainer(tmp_path, **options).fit(module, tasks, ckpt_path=ckpt_path)
        return module, tasks, str(tmp_path / folder / "last.ckpt")

    *whole, _ = run("whole", 2 * k)
    *_, last = run("first", k)
    *resumed, _ = run("second", 2 * k, ckpt_path=last)
    assert resumed[0].progress.iterations == 2 * k
    if after_evaluation:
        assert [evaluation["iteration"] for evaluation in resumed[0].history] == [0, k, 2 * k]
        assert resumed[0].history == whole[0].history
    assert_same_state(tuple(whole), tuple(resumed))


def test_the_schedule_and_the_effective_task_ratio_continue_on_resume(grpo: NewModule, tmp_path: Path) -> None:
    def run(steps: int, ckpt_path: str | None = None) -> tuple[float, float]:
        module, ratio = grpo(), EffectiveTaskRatio()
        save = ModelCheckpoint(tmp_path, every_n_train_steps=4, save_last=True, filename="{step}", save_top_k=-1)
        # Both runs plan eight steps, the first is stopped after four.
        tasks = data(steps_per_epoch=8)
        limits = {"max_epochs": 1, "max_steps": -1, "limit_train_batches": steps}
        fit = trainer(tmp_path, callbacks=[save, ratio], enable_checkpointing=True, **limits)
        fit.fit(module, tasks, ckpt_path=ckpt_path)
        return module.optimizers().param_groups[0]["lr"], ratio.mean

    whole = run(8)
    assert run(8, ckpt_path=str(tmp_path / "step=4.ckpt")) == whole
    assert whole[0] == pytest.approx(0.0)


def test_a_checkpoint_holds_the_adapters_and_not_the_base(grpo: NewModule, tmp_path: Path) -> None:
    module = grpo()
    save = ModelCheckpoint(tmp_path, save_last=True, every_n_train_steps=4)
    trainer(tmp_path, callbacks=[save], enable_checkpointing=True).fit(module, data())
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["state_dict"]
    assert all("lora_" in name for name in saved["state_dict"])
    tokens = module.progress.generated_tokens
    counted = {"iterations": 4, "rollouts": 64, "generated_tokens": tokens, "skipped_steps": 0, "skipped_in_a_row": 0}
    assert saved["progress"] == counted


@pytest.mark.parametrize(
    ("policy_options", "source", "message"),
    [
        ({"lora": LoRA(r=4, alpha=8, target_modules=["q_proj"])}, Tasks(), "trained weights"),
        ({"lora": None}, Tasks(), "trained weights"),
        ({}, Tasks(25), "belongs to the pool"),
        ({}, Tasks(weak=0.1), "belongs to the pool"),
    ],
    ids=["other adapters", "no adapters", "other tasks", "other references"],
)
def test_a_checkpoint_of_another_model_or_pool_is_refused(
    grpo: NewModule, tmp_path: Path, policy_options: dict[str, Any], source: TaskSource, message: str
) -> None:
    save = ModelCheckpoint(tmp_path, save_last=True, every_n_train_steps=4)
    trainer(tmp_path, callbacks=[save], enable_checkpointing=True).fit(grpo(), data())
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, max_steps=8).fit(
            grpo(**policy_options), data(source=source), ckpt_path=str(tmp_path / "last.ckpt")
        )


def test_a_selector_of_another_kind_is_refused_on_resume_and_left_alone_by_validate(
    grpo: NewModule, tmp_path: Path
) -> None:
    save = ModelCheckpoint(tmp_path, save_last=True, every_n_train_steps=4)
    trainer(tmp_path, callbacks=[save], enable_checkpointing=True).fit(grpo(), data())
    last = str(tmp_path / "last.ckpt")
    other = data(UniformSelector(), evaluation={"heldout": Tasks(8)})
    with pytest.raises(ValueError, match="saved with ThompsonSelector, this run selects with UniformSelector"):
        trainer(tmp_path, max_steps=8).fit(grpo(), other, ckpt_path=last)
    assert trainer(tmp_path).validate(grpo(), other, ckpt_path=last, verbose=False)
