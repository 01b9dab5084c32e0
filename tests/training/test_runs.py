"""Whole runs on a tiny policy: what is selected, observed, evaluated and refused."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from run_helpers import NewModule, RewardLog, Tasks, data, trainer, weights
from transformers import AutoTokenizer

from bots_lightning.algorithms import GRPO
from bots_lightning.beliefs import Evidence
from bots_lightning.rewards import exact_match
from bots_lightning.selection import TaskSelector, ThompsonSelector
from bots_lightning.tasks import ProceduralTasks
from bots_lightning.training import OnlineModule, StepFailedError
from callbacks import CompletionsLog, RunSummary, SelectionOverhead


@pytest.fixture
def grpo(build: Callable[..., OnlineModule]) -> NewModule:
    """`grpo(**options)`: a module with a linear schedule."""
    return partial(build, GRPO, lr_scheduler_type="linear")


class Recording(TaskSelector):
    """Writes down the order of calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def select(self, batch_size: int) -> np.ndarray:
        self.calls.append("select")
        return np.arange(batch_size)

    def observe(self, evidence: Evidence) -> None:
        self.calls.append(f"observe {len(evidence)} tasks of {int(evidence.counts[0])} rollouts")


def test_select_and_observe_alternate_strictly(grpo: NewModule, tmp_path: Path) -> None:
    selector = Recording()
    tasks = data(selector, evaluation={"heldout": Tasks(8)})
    trainer(tmp_path, max_steps=6, num_sanity_val_steps=-1, val_check_interval=2).fit(grpo(), tasks)
    assert selector.calls == ["select", "observe 4 tasks of 4 rollouts"] * 6


def test_losses_are_the_same_with_and_without_callbacks(grpo: NewModule, tmp_path: Path) -> None:
    watched, alone = RewardLog(), RewardLog()
    others = [SelectionOverhead(), CompletionsLog(every_n_steps=1), RunSummary(table=False)]
    trainer(tmp_path / "a", callbacks=[watched, *others]).fit(grpo(), data())
    trainer(tmp_path / "b", callbacks=[alone]).fit(grpo(), data())
    assert len(alone.losses) == 4
    assert watched.losses == alone.losses
    assert (tmp_path / "a" / "summary.json").is_file()


@pytest.mark.parametrize(("weak", "strong"), [(None, 0.7), (None, None), (0.5, 0.5)])
def test_missing_and_equal_references_do_no_harm(
    grpo: NewModule, tmp_path: Path, weak: float | None, strong: float | None
) -> None:
    tasks = data(source=Tasks(weak=weak, strong=strong))
    trainer(tmp_path).fit(grpo(), tasks)
    assert isinstance(tasks.selector, ThompsonSelector)
    means = tasks.selector.belief.mean()
    assert ((means > 0) & (means < 1)).all()
    unseen = tasks.selection_counts == 0
    np.testing.assert_array_equal(means[unseen], 0.5)  # no prediction: still the prior


def test_a_missing_reference_column_is_named(grpo: NewModule, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no reference column 'weak'.*choose a selector that needs no references"):
        trainer(tmp_path).fit(grpo(), data(source=ProceduralTasks(24)))


def twice_a(completions: list[str], **_: Any) -> list[float]:
    return [2.0] * len(completions)


def test_a_reward_out_of_range_names_task_and_value(grpo: NewModule, tmp_path: Path) -> None:
    with pytest.raises(StepFailedError, match=r"task '[0-9a-f]{16}' got the reward 2, outside reward_range=\(0, 1\)"):
        trainer(tmp_path).fit(grpo(reward_funcs=[twice_a]), data())


def test_a_pool_smaller_than_the_batch_is_refused(grpo: NewModule, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"batch_size=4 does not fit the pool of 3 tasks"):
        trainer(tmp_path).fit(grpo(), data(source=Tasks(3)))


def test_a_prompt_that_is_too_long_is_refused_before_the_first_step_or_cut(grpo: NewModule, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"tokens, max_prompt_length is 6\. Raise max_prompt_length.*truncate_prompts"):
        trainer(tmp_path).fit(grpo(max_prompt_length=6), data())
    module = grpo(max_prompt_length=6, truncate_prompts=True)
    trainer(tmp_path, max_steps=1).fit(module, data())
    assert module.progress.iterations == 1


def test_an_interrupted_run_can_be_started_again(grpo: NewModule, tmp_path: Path) -> None:
    tasks, module = data(), grpo(reward_funcs=[twice_a])
    with pytest.raises(StepFailedError, match="outside reward_range"):
        trainer(tmp_path).fit(module, tasks)
    again = grpo()
    trainer(tmp_path).fit(again, tasks)
    assert again.progress.iterations == 4


def test_overfit_batches_and_a_foreign_data_module_are_refused(grpo: NewModule, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="overfit_batches replaces the selector"):
        trainer(tmp_path, overfit_batches=2).fit(grpo(), data())
    with pytest.raises(ValueError, match="training needs a TaskDataModule"):
        trainer(tmp_path).fit(grpo(), [1, 2, 3])


def test_empty_completions_are_scored_and_harmless(grpo: NewModule, tmp_path: Path) -> None:
    """A policy that stops at once: every completion is the empty string."""
    module = grpo(reward_funcs=[exact_match])
    module.configure_model()
    with torch.no_grad():
        embedding = module.policy.model.get_input_embeddings().weight
        embedding[1] = 100 * module.policy.model.get_base_model().model.norm.weight
        embedding[2:] = -embedding[1]
    log = CompletionsLog(every_n_steps=1)
    trainer(tmp_path, max_steps=2, callbacks=[log]).fit(module, data())
    lines = (tmp_path / "completions.jsonl").read_text().splitlines()
    assert len(lines) == 2 * 4 * 4
    assert all(torch.isfinite(value).all() for value in module.state_dict().values())


def test_a_tokenizer_without_pad_token_uses_its_stop_token(grpo: NewModule, checkpoint: str, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    tokenizer.pad_token = None
    folder = tmp_path / "no-pad"
    grpo(lora=None).configure_model()
    module = grpo(lora=None)
    module.configure_model()
    module.policy.model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with_pad, without = RewardLog(), RewardLog()
    trainer(tmp_path, callbacks=[with_pad]).fit(grpo(), data())
    trainer(tmp_path, callbacks=[without]).fit(grpo(pretrained=str(folder)), data())
    assert without.rewards == with_pad.rewards  # pads are masked by position, so that their identity is nothing
    np.testing.assert_allclose(without.losses, with_pad.losses, atol=1e-6)


@pytest.mark.parametrize("budget", [40, 100, 10_000])
def test_microbatches_change_nothing(grpo: NewModule, tmp_path: Path, budget: int) -> None:
    whole, parts = grpo(), grpo(max_tokens_per_microbatch=budget)
    logs = RewardLog(), RewardLog()
    for module, log in zip((whole, parts), logs, strict=True):
        trainer(tmp_path, max_steps=2, callbacks=[log]).fit(module, data())
    np.testing.assert_allclose(logs[1].losses, logs[0].losses, atol=1e-6)
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(parts)[name], value, rtol=0, atol=1e-4)


def test_a_part_of_the_held_out_set_is_no_evaluation_before_training(grpo: NewModule, tmp_path: Path) -> None:
    module, tasks = grpo(), data(evaluation={"heldout": Tasks(8)}, eval_batch_size=2)
    trainer(tmp_path, max_steps=4, num_sanity_val_steps=1).fit(module, tasks)
    assert [evaluation["iteration"] for evaluation in module.history] == [4]


def test_evaluation_before_and_after_is_kept_and_repeatable(grpo: NewModule, tmp_path: Path) -> None:
    module, tasks = grpo(), data(evaluation={"heldout": Tasks(8)})
    trainer(tmp_path, max_steps=3, num_sanity_val_steps=-1).fit(module, tasks)
    assert [evaluation["iteration"] for evaluation in module.history] == [0, 3]
    assert {"eval/heldout/avg@2", "eval/heldout/pass@2", "eval/heldout/maths/avg@2"} <= set(module.history[0]["scores"])
    again = trainer(tmp_path).validate(module, tasks, verbose=False)[0]
    assert again["eval/heldout/avg@2"] == pytest.approx(module.history[1]["scores"]["eval/heldout/avg@2"])


def test_predict_rolls_out_every_task_of_the_pool(grpo: NewModule, tmp_path: Path) -> None:
    outputs = trainer(tmp_path).predict(grpo(), data(eval_batch_size=10))
    assert [task_id for batch in outputs for task_id in batch["task_ids"]] == Tasks().load().ids
    assert [batch["counts"] for batch in outputs] == [[4] * 10, [4] * 10, [4] * 4]
    assert [tuple(batch["rewards"].shape) for batch in outputs] == [(40,), (40,), (16,)]


def test_an_endless_run_needs_a_constant_schedule(grpo: NewModule, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"lr_scheduler_type='linear' needs the length of the run"):
        trainer(tmp_path, max_steps=-1, max_epochs=-1).fit(grpo(), data())
