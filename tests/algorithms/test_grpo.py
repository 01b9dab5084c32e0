"""The whole loop on a tiny policy: what is selected, observed, learned, saved and refused."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from transformers import AutoTokenizer

from bots_lightning.algorithms import GRPO
from bots_lightning.beliefs import BetaBelief, Evidence, ReferenceInterpolation
from bots_lightning.data import TaskDataModule
from bots_lightning.policy import LoRA
from bots_lightning.rewards import exact_match
from bots_lightning.selection import TaskSelector, ThompsonSelector, UniformSelector
from bots_lightning.tasks import ProceduralTasks, TaskPool, TaskSource
from bots_lightning.training import StepFailedError
from callbacks import CompletionsLog, EffectiveTaskRatio, RunSummary, SelectionOverhead


class Tasks(TaskSource):
    """Some procedural tasks, with reference pass rates that a test may choose."""

    def __init__(self, num_tasks: int = 24, weak: float | None = 0.2, strong: float | None = 0.7) -> None:
        self.num_tasks, self.weak, self.strong = num_tasks, weak, strong

    def load(self) -> TaskPool:
        pool = ProceduralTasks(self.num_tasks).load()
        rates = {"weak": [self.weak] * len(pool), "strong": [self.strong] * len(pool)}
        rates = {name: [math.nan if value is None else value for value in column] for name, column in rates.items()}
        return pool.with_columns(rates, references=list(rates))


def share_of_a(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
    """Something that a random model does now and then: writing the letter a."""
    return [float("a" in completion) for completion in completions]


def bots() -> ThompsonSelector:
    return ThompsonSelector(BetaBelief(implicit=ReferenceInterpolation("weak", "strong")))


def module(checkpoint: str, **overrides: Any) -> GRPO:
    options: dict[str, Any] = {
        "pretrained": checkpoint,
        "reward_funcs": [share_of_a],
        "lora": LoRA(r=4, alpha=8),
        "num_generations": 4,
        "max_prompt_length": 32,
        "max_completion_length": 6,
        "learning_rate": 1e-2,
        "eval_num_generations": 2,
    }
    return GRPO(**options | overrides)


def data(selector: TaskSelector | None = None, source: TaskSource | None = None, **overrides: Any) -> TaskDataModule:
    options: dict[str, Any] = {"batch_size": 4, "steps_per_epoch": 4}
    return TaskDataModule(source or Tasks(), selector or bots(), **options | overrides)


def trainer(folder: Path, **overrides: Any) -> Trainer:
    options: dict[str, Any] = {
        "default_root_dir": folder,
        "accelerator": "cpu",
        "max_steps": 4,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
        "log_every_n_steps": 1,
    }
    return Trainer(**options | overrides)


def weights(policy: GRPO) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in policy.state_dict().items()}


def assert_same_state(first: tuple[GRPO, TaskDataModule], second: tuple[GRPO, TaskDataModule]) -> None:
    """Weights, posterior, counters and the next ten draws, to the bit."""
    (policy_a, data_a), (policy_b, data_b) = first, second
    weights_a, weights_b = weights(policy_a), weights(policy_b)
    assert weights_a.keys() == weights_b.keys()
    assert all(torch.equal(weights_a[name], weights_b[name]) for name in weights_a)
    assert policy_a.progress == policy_b.progress
    np.testing.assert_array_equal(data_a.selection_counts, data_b.selection_counts)
    selector_a, selector_b = data_a.selector, data_b.selector
    if isinstance(selector_a, ThompsonSelector) and isinstance(selector_b, ThompsonSelector):
        np.testing.assert_array_equal(selector_a.belief.mean(), selector_b.belief.mean())
    for _ in range(10):
        np.testing.assert_array_equal(selector_a.select(4), selector_b.select(4))


def test_the_policy_learns_what_is_rewarded(checkpoint: str, tmp_path: Path) -> None:
    policy, tasks = module(checkpoint, num_generations=8), data(steps_per_epoch=30)
    log = RewardLog()
    trainer(tmp_path, max_steps=30, callbacks=[log]).fit(policy, tasks)
    assert np.mean(log.rewards[-5:]) > np.mean(log.rewards[:5]) + 0.2


class RewardLog(EffectiveTaskRatio):
    """Keeps the mean reward and the loss of every step."""

    def __init__(self) -> None:
        super().__init__()
        self.rewards: list[float] = []
        self.losses: list[float] = []

    def on_train_batch_end(self, *args: Any) -> None:
        super().on_train_batch_end(*args)
        self.rewards.append(float(args[2]["rewards"].mean()))
        self.losses.append(float(args[2]["loss"]))


class Recording(TaskSelector):
    """Writes down the order of calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def select(self, batch_size: int) -> np.ndarray:
        self.calls.append("select")
        return np.arange(batch_size)

    def observe(self, evidence: Evidence) -> None:
        self.calls.append(f"observe {len(evidence)} tasks of {int(evidence.counts[0])} rollouts")


def test_select_and_observe_alternate_strictly(checkpoint: str, tmp_path: Path) -> None:
    selector = Recording()
    tasks = data(selector, evaluation={"heldout": Tasks(8)})
    trainer(tmp_path, max_steps=6, num_sanity_val_steps=-1, val_check_interval=2).fit(module(checkpoint), tasks)
    assert selector.calls == ["select", "observe 4 tasks of 4 rollouts"] * 6


def test_losses_are_the_same_with_and_without_callbacks(checkpoint: str, tmp_path: Path) -> None:
    watched, alone = RewardLog(), RewardLog()
    others = [SelectionOverhead(), CompletionsLog(every_n_steps=1), RunSummary(table=False)]
    trainer(tmp_path / "a", callbacks=[watched, *others]).fit(module(checkpoint), data())
    trainer(tmp_path / "b", callbacks=[alone]).fit(module(checkpoint), data())
    assert len(alone.losses) == 4
    assert watched.losses == alone.losses
    assert (tmp_path / "a" / "summary.json").is_file()


@pytest.mark.parametrize("lora", [LoRA(r=4, alpha=8), None], ids=["lora", "full"])
@pytest.mark.parametrize("selector", [bots, UniformSelector], ids=["bots", "uniform"])
@pytest.mark.parametrize("k", [2, 4], ids=["mid-epoch", "epoch boundary"])
@pytest.mark.parametrize("after_evaluation", [False, True], ids=["after a step", "after an evaluation"])
def test_a_resumed_run_equals_the_undisturbed_one_bit_for_bit(
    checkpoint: str, tmp_path: Path, lora: LoRA | None, selector: Any, k: int, after_evaluation: bool
) -> None:
    def run(folder: str, steps: int, ckpt_path: str | None = None) -> tuple[GRPO, TaskDataModule, str]:
        torch.manual_seed(steps)  # the global generator must not matter
        policy = module(checkpoint, lora=lora, lr_scheduler_type="constant")
        tasks = data(selector(), evaluation={"heldout": Tasks(8)})
        save = ModelCheckpoint(tmp_path / folder, every_n_epochs=1, save_on_train_epoch_end=False, save_last=True)
        if not after_evaluation:
            save = ModelCheckpoint(tmp_path / folder, every_n_train_steps=k, save_last=True)
        options = {"max_steps": steps, "callbacks": [save, EffectiveTaskRatio()], "enable_checkpointing": True}
        options |= {"val_check_interval": k, "num_sanity_val_steps": -1} if after_evaluation else {}
        trainer(tmp_path, **options).fit(policy, tasks, ckpt_path=ckpt_path)
        return policy, tasks, str(tmp_path / folder / "last.ckpt")

    *whole, _ = run("whole", 2 * k)
    *_, last = run("first", k)
    *resumed, _ = run("second", 2 * k, ckpt_path=last)
    assert resumed[0].progress.iterations == 2 * k
    if after_evaluation:
        assert [evaluation["iteration"] for evaluation in resumed[0].evaluations] == [0, k, 2 * k]
        assert resumed[0].evaluations == whole[0].evaluations
    assert_same_state(tuple(whole), tuple(resumed))


def test_the_schedule_and_the_effective_task_ratio_continue_on_resume(checkpoint: str, tmp_path: Path) -> None:
    def run(steps: int, ckpt_path: str | None = None) -> tuple[float, float]:
        policy, ratio = module(checkpoint), EffectiveTaskRatio()
        save = ModelCheckpoint(tmp_path, every_n_train_steps=4, save_last=True, filename="{step}", save_top_k=-1)
        # Both runs plan eight steps, the first is stopped after four.
        tasks = data(steps_per_epoch=8)
        limits = {"max_epochs": 1, "max_steps": -1, "limit_train_batches": steps}
        fit = trainer(tmp_path, callbacks=[save, ratio], enable_checkpointing=True, **limits)
        fit.fit(policy, tasks, ckpt_path=ckpt_path)
        return policy.optimizers().param_groups[0]["lr"], ratio.mean

    whole = run(8)
    assert run(8, ckpt_path=str(tmp_path / "step=4.ckpt")) == whole
    assert whole[0] == pytest.approx(0.0)


def test_a_checkpoint_holds_the_adapters_and_not_the_base(checkpoint: str, tmp_path: Path) -> None:
    policy = module(checkpoint)
    save = ModelCheckpoint(tmp_path, save_last=True, every_n_train_steps=4)
    trainer(tmp_path, callbacks=[save], enable_checkpointing=True).fit(policy, data())
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["state_dict"]
    assert all("lora_" in name for name in saved["state_dict"])
    tokens = policy.progress.generated_tokens
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
    checkpoint: str, tmp_path: Path, policy_options: dict[str, Any], source: TaskSource, message: str
) -> None:
    save = ModelCheckpoint(tmp_path, save_last=True, every_n_train_steps=4)
    trainer(tmp_path, callbacks=[save], enable_checkpointing=True).fit(module(checkpoint), data())
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, max_steps=8).fit(
            module(checkpoint, **policy_options), data(source=source), ckpt_path=str(tmp_path / "last.ckpt")
        )


@pytest.mark.parametrize(("weak", "strong"), [(None, 0.7), (None, None), (0.5, 0.5)])
def test_missing_and_equal_references_do_no_harm(
    checkpoint: str, tmp_path: Path, weak: float | None, strong: float | None
) -> None:
    tasks = data(source=Tasks(weak=weak, strong=strong))
    trainer(tmp_path).fit(module(checkpoint), tasks)
    assert isinstance(tasks.selector, ThompsonSelector)
    means = tasks.selector.belief.mean()
    assert ((means > 0) & (means < 1)).all()
    unseen = tasks.selection_counts == 0
    np.testing.assert_array_equal(means[unseen], 0.5)  # no prediction: still the prior


def test_a_missing_reference_column_is_named(checkpoint: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no reference column 'weak'.*choose a selector that needs no references"):
        trainer(tmp_path).fit(module(checkpoint), data(source=ProceduralTasks(24)))


def twice_a(completions: list[str], **_: Any) -> list[float]:
    return [2.0] * len(completions)


def test_a_reward_out_of_range_names_task_and_value(checkpoint: str, tmp_path: Path) -> None:
    with pytest.raises(StepFailedError, match=r"task '[0-9a-f]{16}' got the reward 2, outside reward_range=\(0, 1\)"):
        trainer(tmp_path).fit(module(checkpoint, reward_funcs=[twice_a]), data())


def test_a_pool_smaller_than_the_batch_is_refused(checkpoint: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"batch_size=4 does not fit the pool of 3 tasks"):
        trainer(tmp_path).fit(module(checkpoint), data(source=Tasks(3)))


def test_a_prompt_that_is_too_long_is_refused_before_the_first_step_or_cut(checkpoint: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"tokens, max_prompt_length is 6\. Raise max_prompt_length.*truncate_prompts"):
        trainer(tmp_path).fit(module(checkpoint, max_prompt_length=6), data())
    policy = module(checkpoint, max_prompt_length=6, truncate_prompts=True)
    trainer(tmp_path, max_steps=1).fit(policy, data())
    assert policy.progress.iterations == 1


def test_what_would_go_wrong_silently_is_refused(checkpoint: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="full finetuning of bfloat16 weights loses most updates"):
        module(checkpoint, lora=None, dtype="bfloat16")


def test_a_selector_of_another_kind_is_refused_on_resume_and_left_alone_by_validate(
    checkpoint: str, tmp_path: Path
) -> None:
    save = ModelCheckpoint(tmp_path, save_last=True, every_n_train_steps=4)
    trainer(tmp_path, callbacks=[save], enable_checkpointing=True).fit(module(checkpoint), data())
    last = str(tmp_path / "last.ckpt")
    other = data(UniformSelector(), evaluation={"heldout": Tasks(8)})
    with pytest.raises(ValueError, match="saved with ThompsonSelector, this run selects with UniformSelector"):
        trainer(tmp_path, max_steps=8).fit(module(checkpoint), other, ckpt_path=last)
    assert trainer(tmp_path).validate(module(checkpoint), other, ckpt_path=last, verbose=False)


def test_a_part_of_the_held_out_set_is_no_evaluation_before_training(checkpoint: str, tmp_path: Path) -> None:
    policy, tasks = module(checkpoint), data(evaluation={"heldout": Tasks(8)}, eval_batch_size=2)
    trainer(tmp_path, max_steps=4, num_sanity_val_steps=1).fit(policy, tasks)
    assert [evaluation["iteration"] for evaluation in policy.evaluations] == [4]


def test_an_interrupted_run_can_be_started_again(checkpoint: str, tmp_path: Path) -> None:
    tasks, policy = data(), module(checkpoint, reward_funcs=[twice_a])
    with pytest.raises(StepFailedError, match="outside reward_range"):
        trainer(tmp_path).fit(policy, tasks)
    again = module(checkpoint)
    trainer(tmp_path).fit(again, tasks)
    assert again.progress.iterations == 4


def test_overfit_batches_and_a_foreign_data_module_are_refused(checkpoint: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="overfit_batches replaces the selector"):
        trainer(tmp_path, overfit_batches=2).fit(module(checkpoint), data())
    with pytest.raises(ValueError, match="training needs a TaskDataModule"):
        trainer(tmp_path).fit(module(checkpoint), [1, 2, 3])


def test_empty_completions_are_scored_and_harmless(checkpoint: str, tmp_path: Path) -> None:
    """A policy that stops at once: every completion is the empty string."""
    policy = module(checkpoint, reward_funcs=[exact_match])
    policy.configure_model()
    assert policy.policy is not None
    with torch.no_grad():
        embedding = policy.policy.get_input_embeddings().weight
        embedding[1] = 100 * policy.policy.get_base_model().model.norm.weight
        embedding[2:] = -embedding[1]
    log = CompletionsLog(every_n_steps=1)
    trainer(tmp_path, max_steps=2, callbacks=[log]).fit(policy, data())
    lines = (tmp_path / "completions.jsonl").read_text().splitlines()
    assert len(lines) == 2 * 4 * 4
    assert all(torch.isfinite(value).all() for value in policy.state_dict().values())


def test_a_tokenizer_without_pad_token_uses_its_stop_token(checkpoint: str, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    tokenizer.pad_token = None
    folder = tmp_path / "no-pad"
    module(checkpoint, lora=None).configure_model()
    policy = module(checkpoint, lora=None)
    policy.configure_model()
    assert policy.policy is not None
    policy.policy.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with_pad, without = RewardLog(), RewardLog()
    trainer(tmp_path, callbacks=[with_pad]).fit(module(checkpoint), data())
    trainer(tmp_path, callbacks=[without]).fit(module(str(folder)), data())
    assert without.rewards == with_pad.rewards  # pads are masked by position, so that their identity is nothing
    np.testing.assert_allclose(without.losses, with_pad.losses, atol=1e-6)


@pytest.mark.parametrize("budget", [40, 100, 10_000])
def test_microbatches_change_nothing(checkpoint: str, tmp_path: Path, budget: int) -> None:
    whole, parts = module(checkpoint), module(checkpoint, max_tokens_per_microbatch=budget)
    logs = RewardLog(), RewardLog()
    for policy, log in zip((whole, parts), logs, strict=True):
        trainer(tmp_path, max_steps=2, callbacks=[log]).fit(policy, data())
    np.testing.assert_allclose(logs[1].losses, logs[0].losses, atol=1e-6)
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(parts)[name], value, rtol=0, atol=1e-4)


def test_several_iterations_on_a_batchclip_and_step_the_schedule(checkpoint: str, tmp_path: Path) -> None:
    policy = module(checkpoint, num_iterations=3, learning_rate=0.05)
    fit = trainer(tmp_path, max_steps=-1, max_epochs=1)
    fit.fit(policy, data(steps_per_epoch=4))
    assert policy.progress.iterations == 4
    assert fit.global_step == 12
    assert policy.optimizers().param_groups[0]["lr"] == pytest.approx(0.0)  # the linear schedule has just ended
    clipped = fit.callback_metrics["clip_ratio/low_mean"] + fit.callback_metrics["clip_ratio/high_mean"]
    assert clipped > 0


def test_evaluation_before_and_after_is_kept_and_repeatable(checkpoint: str, tmp_path: Path) -> None:
    policy, tasks = module(checkpoint), data(evaluation={"heldout": Tasks(8)})
    trainer(tmp_path, max_steps=3, num_sanity_val_steps=-1).fit(policy, tasks)
    assert [evaluation["iteration"] for evaluation in policy.evaluations] == [0, 3]
    assert {"eval/heldout/avg@2", "eval/heldout/pass@2", "eval/heldout/maths/avg@2"} <= set(
        policy.evaluations[0]["scores"]
    )
    again = trainer(tmp_path).validate(policy, tasks, verbose=False)[0]
    assert again["eval/heldout/avg@2"] == pytest.approx(policy.evaluations[1]["scores"]["eval/heldout/avg@2"])


def test_predict_rolls_out_every_task_of_the_pool(checkpoint: str, tmp_path: Path) -> None:
    outputs = trainer(tmp_path).predict(module(checkpoint), data(eval_batch_size=10))
    assert [task_id for batch in outputs for task_id in batch["task_ids"]] == Tasks().load().ids
    assert [tuple(batch["rewards"].shape) for batch in outputs] == [(10, 4), (10, 4), (4, 4)]


def test_an_endless_run_needs_a_constant_schedule(checkpoint: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"lr_scheduler_type='linear' needs the length of the run"):
        trainer(tmp_path, max_steps=-1, max_epochs=-1).fit(module(checkpoint), data())


def test_a_bound_of_the_ratio_below_the_upper_clip_is_refused(checkpoint: str) -> None:
    with pytest.raises(ValueError, match=r"delta=1.25 does nothing below the upper clip; expected more than 1.28"):
        module(checkpoint, delta=1.25, epsilon_high=0.28)
    assert module(checkpoint, delta=1.5, epsilon_high=0.28).loss_options["delta"] == 1.5


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.75 / 0.5, -0.25 / 0.5, -0.25 / 0.5, -0.25 / 0.5, 0, 0, 0, 0]),
        ({"scale_rewards": "none"}, [0.75, -0.25, -0.25, -0.25, 0, 0, 0, 0]),
        ({"scale_rewards": "none", "adv_estimator": "rloo"}, [1, -1 / 3, -1 / 3, -1 / 3, 0, 0, 0, 0]),
    ],
)
def test_advantages_are_by_the_estimator_and_scale_that_were_chosen(
    checkpoint: str, make_rollouts: Any, options: dict[str, Any], expected: list[float]
) -> None:
    policy = module(checkpoint, **options)
    policy.configure_model()
    rewards = torch.tensor([[1.0, 0, 0, 0], [1, 1, 1, 1]])
    experience, _ = policy.prepare(make_rollouts([2, 3] * 4, [2] * 8), rewards)
    assert experience.advantages.tolist() == pytest.approx(expected, abs=1e-3)


def test_the_policy_is_recorded_only_where_it_will_have_moved(checkpoint: str, make_rollouts: Any) -> None:
    rollouts, rewards = make_rollouts([2, 3], [2, 2]), torch.tensor([[1.0, 0.0]])
    known = replace(rollouts, logprobs=torch.tensor([[-1.0, -2.0, 0.0], [math.nan] * 3]))
    one, several = module(checkpoint), module(checkpoint, steps_per_generation=2)
    bypass = module(checkpoint, importance_sampling_correction=False)
    for policy in (one, several, bypass):
        policy.configure_model()
    present = several.prepare(rollouts, rewards)[0].old_logprobs
    for policy in (one, bypass):
        assert policy.prepare(rollouts, rewards)[0].old_logprobs is None
    assert present is not None
    for policy, old in ((one, None), (several, present)):
        experience = policy.prepare(known, rewards)[0]
        assert (experience.old_logprobs is None) == (old is None)
        assert experience.sampling_logprobs is known.logprobs
    experience = bypass.prepare(known, rewards)[0]
    assert experience.sampling_logprobs is None
    assert experience.old_logprobs is not None
    assert experience.old_logprobs[0, :2].tolist() == [-1, -2]
    torch.testing.assert_close(experience.old_logprobs[1], present[1])
