"""The sampler: what is rolled out, reported, kept and counted, in one batch and in the rounds of dynamic sampling."""

# Shapes: B tasks per iteration, G rollouts per task.

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from module_fixtures import History, share_of_a
from torch import Tensor

from bots_lightning.algorithms import GRPO, ImportanceSampling, RolloutGroups, StepContext, group_advantages
from bots_lightning.beliefs import BetaBelief, Evidence
from bots_lightning.data import TaskBatch, TaskDataModule
from bots_lightning.evaluation import mixed_groups
from bots_lightning.policy import LoRA
from bots_lightning.policy.logprobs import completion_logprobs
from bots_lightning.selection import TaskSelector, ThompsonSelector, UniformSelector
from bots_lightning.tasks import ProceduralTasks
from bots_lightning.training import DynamicSampling, Sampler
from callbacks import CompletionsLog, EffectiveTaskRatio

IDS = ProceduralTasks(24).load().ids
B, G = 2, 4

# --- options --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [-1, 5])
def test_more_than_four_steps_off_policy_are_refused(value: int) -> None:
    with pytest.raises(ValueError, match=rf"max_staleness={value}; expected at least 0 and at most 4"):
        Sampler(max_staleness=value)


def test_dynamic_sampling_needs_groups() -> None:
    with pytest.raises(ValueError, match="num_generations=1"):
        Sampler(num_generations=1, dynamic_sampling=DynamicSampling())


@pytest.mark.parametrize("option", ["num_generations", "max_prompt_length", "max_completion_length"])
def test_numbers_below_1_are_refused(option: str) -> None:
    with pytest.raises(ValueError, match=f"{option}=0; expected at least 1"):
        Sampler(**{option: 0})  # type: ignore[arg-type]


# --- one batch ------------------------------------------------------------------------------------------------------


class HasA:
    """1 for completions with the letter a."""

    def __call__(self, completions: list[str], **_: Any) -> list[float]:
        return [float("a" in completion) for completion in completions]


def length(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [0.1 * len(ids) for ids in completion_ids]


def test_one_function_is_the_evidence_and_the_policy_learns_from_the_sum(build: Any, ready: Any, step_of: Any) -> None:
    options = {"reward_funcs": [length, HasA()], "reward_range": (0.0, 2.0), "evidence": "HasA"}
    module = ready(build(GRPO, **options), torch.float32)
    tasks = TaskDataModule(ProceduralTasks(24), ThompsonSelector(BetaBelief()), 4)
    tasks.setup()
    tasks.num_generations, module.sampler.tasks = 4, tasks
    batch = TaskBatch.of(tasks.share(tasks.select()), tasks.require_pool())
    (scored,) = module.sampler.sample(batch, step_of(module))
    (forecast,) = tasks.forecasts
    expected = torch.tensor(HasA()(scored.completions))
    assert 0 < expected.mean() < 1
    torch.testing.assert_close(torch.as_tensor(scored.evidence).float(), expected)
    tokenizer = module.sampler.encoder.tokenizer
    ids = [len(ids) for ids in tokenizer(scored.completions, add_special_tokens=False)["input_ids"]]
    with_stop = torch.tensor(ids) + scored.groups.rollouts.finished
    torch.testing.assert_close(scored.groups.rewards, 0.1 * with_stop + expected)
    order = np.argsort(batch.indices)
    assert forecast.evidence.successes.tolist() == expected.reshape(4, 4).sum(dim=1)[order].tolist()
    assert forecast.evidence.interior.tolist() == [0.0] * 4
    assert len(tasks.draws) == 0


# --- the rounds of dynamic sampling, in runs ------------------------------------------------------------------------


class Script(TaskSelector):
    """Draws the given batches in turn, and keeps what it is told."""

    def __init__(self, *batches: list[int]) -> None:
        self.batches = list(batches)
        self.calls: list[str] = []
        self.evidence: list[tuple[list[int], list[float], list[float]]] = []

    def select(self, batch_size: int) -> np.ndarray:
        self.calls.append("select")
        return np.array(self.batches.pop(0))

    def observe(self, evidence: Evidence) -> None:
        self.calls.append("observe")
        self.evidence.append((evidence.indices.tolist(), evidence.successes.tolist(), evidence.counts.tolist()))


class Alternating:
    """Rewards 0, 1, 0, 1 in every group except those of the given tasks, which are solved throughout."""

    def __init__(self, *equal: int) -> None:
        self.equal = {IDS[index] for index in equal}

    def __call__(self, prompts: list[str], completions: list[str], task_id: list[str], **_: Any) -> list[float]:
        return [1.0 if name in self.equal else float(row % 2) for row, name in enumerate(task_id)]


class Watched(GRPO):
    """Keeps what every update was given, and the log-probabilities of the policy that it began with."""

    def attach(self, *args: Any) -> None:
        super().attach(*args)
        self.updates: list[tuple[RolloutGroups, Tensor]] = []

    def prepare(self, groups: RolloutGroups, context: StepContext) -> Any:
        with torch.no_grad():
            present, _ = completion_logprobs(self.policy.model, groups.rollouts, self.policy.temperature)
        self.updates.append((groups, present))
        return super().prepare(groups, context)


@pytest.fixture
def dynamic(build: Any) -> Any:
    """`dynamic(dynamic_sampling, reward, **options)`: a module whose updates are watched."""

    def dynamic(dynamic_sampling: DynamicSampling | None, reward: Any, **options: Any) -> Any:
        given = {"num_generations": G, "loss_type": "grpo"} | options
        return build(Watched, dynamic_sampling=dynamic_sampling, reward_funcs=[reward], **given)

    return dynamic


@pytest.fixture
def run(new_trainer: Any) -> Any:
    """`run(module, selector, steps)`: its history, and the data module."""

    def run(
        module: Any, selector: TaskSelector, steps: int, batch_size: int = B, **overrides: Any
    ) -> tuple[History, TaskDataModule]:
        history, ckpt_path = History(), overrides.pop("ckpt_path", None)
        callbacks = [history, *overrides.pop("callbacks", [])]
        tasks = TaskDataModule(ProceduralTasks(24), selector, batch_size, steps_per_epoch=20)
        trainer = new_trainer(max_epochs=-1, max_steps=steps, callbacks=callbacks, **overrides)
        trainer.fit(module, tasks, ckpt_path=ckpt_path)
        return history, tasks

    return run


def weights(module: Any) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_same_weights(first: Any, second: Any) -> None:
    mine, theirs = weights(first), weights(second)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_rounds_evidence_and_counts_of_a_script(dynamic: Any, run: Any, tmp_path: Path) -> None:
    # Iteration 1: one of two mixed, then two of two: three rounds' worth of tasks, one group is left over.
    # Iteration 2: the leftover and one of its own batch are enough. Iteration 3: nothing left, two equal, two mixed.
    selector = Script([0, 10], [1, 2], [11, 3], [12, 13], [4, 5])
    module = dynamic(DynamicSampling(), Alternating(10, 11, 12, 13))
    ratio, log = EffectiveTaskRatio(), CompletionsLog(every_n_steps=1, max_tasks=99)
    history, tasks = run(module, selector, steps=3, callbacks=[ratio, log])
    assert selector.calls == ["select", "observe"] * 5
    assert selector.evidence == [
        ([0, 10], [2.0, 4.0], [4.0, 4.0]),
        ([1, 2], [2.0, 2.0], [4.0, 4.0]),
        ([11, 3], [4.0, 2.0], [4.0, 4.0]),
        ([12, 13], [4.0, 4.0], [4.0, 4.0]),
        ([4, 5], [2.0, 2.0], [4.0, 4.0]),
    ]
    assert history["dynamic_sampling/batches"] == [2, 1, 2]
    assert history["dynamic_sampling/dropped_groups"] == [1, 1, 2]
    assert history["dynamic_sampling/leftover_groups"] == [0, 1, 0]
    assert history["dynamic_sampling/filled_groups"] == [0, 0, 0]
    assert history["dynamic_sampling/expired_groups"] == [0, 0, 0]
    assert module.progress.iterations == 3
    assert module.progress.rollouts == 5 * B * G
    assert history["num_rollouts"] == [2 * B * G, 3 * B * G, 5 * B * G]
    assert module.progress.generated_tokens == sum(step["num_tokens"] for step in history.steps)
    assert tasks.selection_counts.sum() == 5 * B
    assert ratio.mean == pytest.approx(6 / 10)  # dropped groups count
    assert [[IDS.index(task.id) for task in step["tasks"]] for step in history.steps] == [
        [0, 10, 1, 2],
        [11, 3],
        [12, 13, 4, 5],
    ]
    first = history.steps[0]
    assert first["rewards"].tolist() == [0, 1, 0, 1, 1, 1, 1, 1, 0, 1, 0, 1, 0, 1, 0, 1]
    assert first["group_of_row"].tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4
    assert [len(step["completions"]) for step in history.steps] == [4 * G, 2 * G, 4 * G]
    assert history["reward"] == pytest.approx([(3 * 0.5 + 1) / 4, (1 + 0.5) / 2, (2 * 1 + 2 * 0.5) / 4])
    assert len((tmp_path / "completions.jsonl").read_text().splitlines()) == 5 * B * G
    for groups, _ in module.algorithm.updates:
        assert len(groups.rollouts) == B * G
        assert mixed_groups(groups.rewards, groups.group_of_row).all()


def test_the_bound_holds_and_equal_rewards_for_ever_end_no_run(dynamic: Any, run: Any) -> None:
    module = dynamic(DynamicSampling(max_batches=3), Alternating(*range(24)))
    module.configure_model()
    before = weights(module)
    history, _ = run(module, UniformSelector(), steps=4)
    assert history["dynamic_sampling/batches"] == [3] * 4
    assert history["dynamic_sampling/filled_groups"] == [B] * 4
    assert history["dynamic_sampling/dropped_groups"] == [2 * B] * 4
    assert [float(step["loss"]) for step in history.steps] == [0.0] * 4
    assert history["grad_norm"] == [0.0] * 4
    assert module.progress.rollouts == 4 * 3 * B * G
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_rewards_that_never_apply_end_no_run(dynamic: Any, run: Any) -> None:
    def never(prompts: list[str], completions: list[str], **_: Any) -> list[None]:
        return [None] * len(completions)

    module = dynamic(DynamicSampling(max_batches=2), never)
    history, _ = run(module, UniformSelector(), steps=2)
    assert history["dynamic_sampling/filled_groups"] == [B] * 2
    assert [float(step["loss"]) for step in history.steps] == [0.0] * 2
    assert all(torch.isfinite(value).all() for value in module.state_dict().values())


@pytest.mark.parametrize(
    ("reward", "dynamic_sampling"),
    [(Alternating(), DynamicSampling()), (share_of_a, DynamicSampling(max_batches=1))],
    ids=["all groups mixed", "one batch only"],
)
def test_where_there_is_nothing_to_replace_nothing_changes(
    dynamic: Any, run: Any, reward: Any, dynamic_sampling: DynamicSampling
) -> None:
    modules = dynamic(None, reward), dynamic(dynamic_sampling, reward)
    plain, other = (run(module, UniformSelector(), steps=4, batch_size=4)[0] for module in modules)
    assert [float(step["loss"]) for step in plain.steps] == [float(step["loss"]) for step in other.steps]
    assert [step["completions"] for step in plain.steps] == [step["completions"] for step in other.steps]
    assert modules[0].progress == modules[1].progress
    assert_same_weights(*modules)


def test_rounds_of_an_iteration_draw_from_streams_of_their_own(dynamic: Any, run: Any) -> None:
    history, _ = run(dynamic(DynamicSampling(2), Alternating(0, 1)), Script([0, 1], [0, 1]), steps=1)
    completions = history.steps[0]["completions"]
    assert completions[: B * G] != completions[B * G :]


def clipped_surrogate(present: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, epsilon: float = 0.2) -> float:
    """The loss of GRPO token by token."""
    total = 0.0
    for row, advantage in enumerate(advantages.tolist()):
        terms = []
        for t in mask[row].nonzero().flatten().tolist():
            ratio = math.exp(float(present[row, t]) - float(old[row, t]))
            terms.append(min(ratio * advantage, min(max(ratio, 1 - epsilon), 1 + epsilon) * advantage))
        total -= sum(terms) / len(terms) / len(advantages)
    return total


@pytest.mark.parametrize("max_tokens_per_microbatch", [None, 60])
@pytest.mark.parametrize("corrected", [True, False], ids=["weighted", "in the ratio"])
def test_leftovers_count_as_samples_of_the_policy_that_sampled_them(
    dynamic: Any, run: Any, max_tokens_per_microbatch: int | None, corrected: bool
) -> None:
    selector = Script([10, 0], [1, 2], [3, 11])  # group 2 is learned from one update after it was sampled
    options = {"max_tokens_per_microbatch": max_tokens_per_microbatch, "temperature": 0.8, "learning_rate": 0.05}
    options |= {"importance_sampling": ImportanceSampling(clip_max=1e3) if corrected else None}
    module = dynamic(DynamicSampling(), Alternating(10, 11), **options)
    module.configure_model()
    before = weights(module)
    history, _ = run(module, selector, steps=2)
    groups, present = module.algorithm.updates[1]
    rollouts = groups.rollouts
    recorded, mask = rollouts.logprobs, rollouts.completion_mask
    assert recorded is not None
    assert recorded[G:].isnan().all()  # the group of this iteration
    assert rollouts.policy_version == 0  # the oldest

    module.load_state_dict(before)
    with torch.no_grad():
        sampled, _ = completion_logprobs(module.policy.model, rollouts, temperature=0.8)
    torch.testing.assert_close(recorded[:G][mask[:G]], sampled[:G][mask[:G]], rtol=0, atol=1e-5)
    assert (recorded[:G] - present[:G])[mask[:G]].abs().max() > 0.1

    advantages = group_advantages(groups.rewards, groups.group_of_row)
    old = torch.cat([recorded[:G], present[G:]])
    if corrected:
        by_row = torch.where(mask, present - old, torch.zeros(())).sum(dim=1).exp()
        assert by_row.max() > 1.1
        expected = clipped_surrogate(present, present, advantages * by_row, mask)
    else:
        expected = clipped_surrogate(present, old, advantages, mask)
    assert float(history.steps[1]["loss"]) == pytest.approx(expected, abs=1e-5)
    assert abs(expected - clipped_surrogate(present, present, advantages, mask)) > 1e-3


@pytest.mark.parametrize("lora", [LoRA(r=4, alpha=8), None], ids=["lora", "full"])
@pytest.mark.parametrize("k", [2, 3])
def test_a_run_resumed_with_leftovers_equals_the_undisturbed_one_bit_for_bit(
    dynamic: Any, run: Any, tmp_path: Path, lora: LoRA | None, k: int
) -> None:
    def saved(folder: str, steps: int, ckpt_path: str | None = None) -> tuple[Any, TaskDataModule, History, str]:
        torch.manual_seed(steps)  # the global generator must not matter
        module = dynamic(DynamicSampling(), Alternating(*range(0, 24, 4)), lora=lora)
        save = ModelCheckpoint(tmp_path / folder, every_n_train_steps=k, save_last=True)
        options = {"callbacks": [save], "enable_checkpointing": True, "ckpt_path": ckpt_path}
        history, tasks = run(module, UniformSelector(), steps, batch_size=4, **options)
        return module, tasks, history, str(tmp_path / folder / "last.ckpt")

    whole, whole_tasks, whole_history, _ = saved("whole", 2 * k)
    *_, last = saved("first", k)
    pending = torch.load(last, weights_only=True)["leftovers"]
    assert pending is not None
    resumed, resumed_tasks, history, _ = saved("second", 2 * k, ckpt_path=last)
    assert history.logged[0]["dynamic_sampling/leftover_groups"] == len(pending["iterations"])
    assert [step["completions"] for step in history.steps] == [step["completions"] for step in whole_history.steps[k:]]
    assert resumed.progress == whole.progress
    assert_same_weights(whole, resumed)
    np.testing.assert_array_equal(resumed_tasks.selection_counts, whole_tasks.selection_counts)
    for _ in range(5):
        np.testing.assert_array_equal(resumed_tasks.selector.select(4), whole_tasks.selector.select(4))


@pytest.mark.parametrize("options", [None, DynamicSampling()], ids=["no longer", "with other groups"])
def test_a_resumed_run_learns_from_leftovers_if_it_asks_for_them(
    dynamic: Any, run: Any, tmp_path: Path, options: DynamicSampling | None
) -> None:
    save, last = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_last=True), str(tmp_path / "last.ckpt")
    keeping = {"callbacks": [save], "enable_checkpointing": True}
    run(dynamic(DynamicSampling(), Alternating(10)), Script([10, 0], [1, 2]), steps=1, **keeping)
    assert torch.load(last, weights_only=True)["leftovers"] is not None
    resumed = dynamic(options, Alternating(), num_generations=2)
    run(resumed, Script([3, 4]), steps=2, ckpt_path=last)
    (groups, _) = resumed.algorithm.updates[0]
    if options is None:
        assert groups.group_of_row.tolist() == [0, 0, 1, 1]
        assert groups.rollouts.logprobs is None
        assert resumed.sampler.leftovers is None
    else:
        assert groups.group_of_row.tolist() == [0] * G + [1] * 2
        assert not groups.rollouts.logprobs[:G].isnan().any(dim=1).all()
        assert len(resumed.sampler.leftovers.rewards) == 2


def test_selection_is_timed_over_all_rounds_and_counted_once(
    dynamic: Any, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(Script):
        now = 0.0

        def select(self, batch_size: int) -> np.ndarray:
            self.now += 1
            return super().select(batch_size)

        def observe(self, evidence: Evidence) -> None:
            self.now += 10
            super().observe(evidence)

    selector = Slow([10, 11], [10, 11], [0, 1])
    monkeypatch.setattr(time, "perf_counter", lambda: selector.now)
    history, _ = run(dynamic(DynamicSampling(), Alternating(10, 11)), selector, steps=1)
    timings = history.steps[0]["timings"]
    assert (timings["select"], timings["observe"]) == (3, 30)
    assert timings["select"] + timings["step"] == 33
    assert history["step_time"] == [33]
