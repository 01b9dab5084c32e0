"""Dynamic sampling by hand, and in the whole loop: what is rolled out, reported, kept, carried over and counted."""

# Shapes: B tasks per iteration, G rollouts per task, R = B·G rows.

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning import Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor

from bots_lightning.algorithms import GRPO, group_advantages
from bots_lightning.beliefs import Evidence
from bots_lightning.data import TaskDataModule
from bots_lightning.evaluation import mixed_groups
from bots_lightning.policy import LoRA
from bots_lightning.policy.logprobs import completion_logprobs
from bots_lightning.rollouts import Rollouts
from bots_lightning.selection import TaskSelector, UniformSelector
from bots_lightning.tasks import ProceduralTasks
from bots_lightning.training import DynamicSampling
from bots_lightning.training.groups import Groups
from callbacks import CompletionsLog, EffectiveTaskRatio

NAN = math.nan
MIXED, EQUAL = [0.0, 1.0], [1.0, 1.0]

# --- by hand --------------------------------------------------------------------------------------------------------


def groups(rewards: list[list[float]], iteration: int, first: int = 0) -> Groups:
    """Groups of two completions of one token, which names the group: first, first + 1, …"""
    rows = 2 * len(rewards)
    ids = first + torch.arange(len(rewards)).repeat_interleave(2).unsqueeze(1)
    ones = torch.ones(rows, 1, dtype=torch.bool)
    rollouts = Rollouts(ids, ones, ids, ones, ones[:, 0], iteration)
    return Groups(rollouts, torch.tensor(rewards), torch.full((len(rewards),), iteration))


def names(chosen: Groups | None) -> list[int]:
    return [] if chosen is None else chosen.rollouts.completion_ids[::2, 0].tolist()


def compose(options: DynamicSampling, leftovers: Groups | None, *rounds: Groups, size: int = 2) -> Any:
    """(names in the batch, names of leftovers, metrics without their prefix) of iteration 7."""
    batch, rest, metrics = options.compose(leftovers, rounds, size, iteration=7, pad_token_id=0)
    return names(batch), names(rest), {name.removeprefix("dynamic_sampling/"): int(n) for name, n in metrics.items()}


def counts(batches: int, dropped: int = 0, filled: int = 0, leftover: int = 0, expired: int = 0) -> dict[str, int]:
    values = {"dropped": dropped, "filled": filled, "leftover": leftover, "expired": expired}
    return {"batches": batches} | {f"{name}_groups": value for name, value in values.items()}


def test_groups_of_equal_rewards_are_dropped_and_the_surplus_is_kept() -> None:
    first, second = groups([EQUAL, MIXED], 7), groups([MIXED, MIXED], 7, first=2)
    assert compose(DynamicSampling(), None, first, second) == ([1, 2], [3], counts(2, dropped=1))


def test_leftovers_come_first_and_what_is_too_old_is_thrown_away() -> None:
    leftovers, fresh = groups([MIXED, MIXED, MIXED], 6), groups([EQUAL, MIXED], 7, first=3)
    assert compose(DynamicSampling(), leftovers, fresh) == ([0, 1], [4], counts(1, dropped=1, leftover=2, expired=1))
    older = DynamicSampling(max_age=2)
    assert compose(older, leftovers, fresh) == ([0, 1], [2, 4], counts(1, dropped=1, leftover=2))
    none = DynamicSampling(max_age=0)
    assert compose(none, None, groups([MIXED] * 3, 7)) == ([0, 1], [], counts(1, expired=1))


def test_a_batch_that_lacks_mixed_groups_is_filled_up_in_the_order_of_sampling() -> None:
    first, second = groups([EQUAL, EQUAL], 7), groups([MIXED, EQUAL], 7, first=2)
    assert compose(DynamicSampling(2), None, first, second) == ([0, 2], [], counts(2, dropped=2, filled=1))
    assert compose(DynamicSampling(1), None, first) == ([0, 1], [], counts(1, filled=2))


def test_rewards_that_do_not_apply_are_no_difference() -> None:
    fresh = groups([[1.0, NAN], [NAN, NAN], MIXED], 7)
    assert compose(DynamicSampling(), None, fresh, size=1) == ([2], [], counts(1, dropped=2))
    assert not DynamicSampling().enough(None, [fresh], size=2)


def test_enough_counts_leftovers_and_all_rounds() -> None:
    one = groups([EQUAL, MIXED], 7)
    options = DynamicSampling()
    assert not options.enough(None, [one], size=2)
    assert options.enough(None, [one, one], size=2)
    assert options.enough(groups([MIXED], 6), [one], size=2)


@given(st.data(), st.integers(1, 4), st.integers(1, 4), st.integers(0, 2))
def test_the_batch_has_its_size_and_no_mixed_group_is_lost_or_doubled(
    data: st.DataObject, size: int, num_rounds: int, max_age: int
) -> None:
    kinds = st.lists(st.sampled_from([MIXED, EQUAL]), min_size=size, max_size=size)
    leftovers = groups([MIXED] * data.draw(st.integers(1, 3)), 6) if data.draw(st.booleans()) else None
    old = len(leftovers) if leftovers else 0
    rounds = [groups(data.draw(kinds), 7, first=old + size * number) for number in range(num_rounds)]
    batch, rest, metrics = compose(DynamicSampling(num_rounds, max_age), leftovers, *rounds, size=size)
    pool = Groups.concatenate([*([leftovers] if leftovers else []), *rounds], 0)
    mixed = mixed_groups(pool.rewards).nonzero().flatten().tolist()
    assert len(batch) == len(set(batch)) == size
    assert sorted(batch) == batch
    assert [name for name in batch if name in mixed] == mixed[:size]
    surplus = mixed[size:]
    assert rest == [name for name in surplus if (8 - 6 if name < old else 8 - 7) <= max_age]
    assert metrics["expired_groups"] == len(surplus) - len(rest)
    assert metrics["filled_groups"] == max(0, size - len(mixed))
    assert metrics["dropped_groups"] + metrics["filled_groups"] == len(pool) - len(mixed)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"max_batches": 0}, "max_batches=0; expected at least 1"), ({"max_age": -1}, "max_age=-1; expected 0 or more")],
)
def test_impossible_options_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DynamicSampling(**options)


# --- in the loop ----------------------------------------------------------------------------------------------------

IDS = ProceduralTasks(24).load().ids
B, G = 2, 4


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
    """Rewards 0, 1, 0, 1 in every group but those of the given tasks, which are solved throughout."""

    def __init__(self, *equal: int) -> None:
        self.equal = {IDS[index] for index in equal}

    def __call__(self, prompts: list[str], completions: list[str], task_id: list[str], **_: Any) -> list[float]:
        return [1.0 if name in self.equal else float(row % 2) for row, name in enumerate(task_id)]


def share_of_a(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
    """Something that a random model does now and then: writing the letter a."""
    return [float("a" in completion) for completion in completions]


class Outputs(Callback):
    """Keeps what every step returned and logged."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []
        self.logged: list[dict[str, float]] = []

    def on_train_batch_end(self, *args: Any) -> None:
        self.steps.append(args[2])
        self.logged.append({name: float(value) for name, value in args[0].callback_metrics.items()})

    def __getitem__(self, name: str) -> list[float]:
        return [logged[name] for logged in self.logged]


class Watched(GRPO):
    """Keeps what every update was given, and the log-probabilities of the policy that it began with."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.updates: list[tuple[Rollouts, Tensor, Tensor]] = []

    def update(self, rollouts: Rollouts, rewards: Tensor) -> dict[str, float]:
        assert self.policy is not None
        with torch.no_grad():
            present, _ = completion_logprobs(self.policy, rollouts, self.temperature)
        self.updates.append((rollouts, rewards, present))
        return super().update(rollouts, rewards)


def module(checkpoint: str, dynamic_sampling: DynamicSampling | None, reward: Any, **overrides: Any) -> Watched:
    options: dict[str, Any] = {
        "pretrained": checkpoint,
        "reward_funcs": [reward],
        "lora": LoRA(r=4, alpha=8),
        "num_generations": G,
        "max_prompt_length": 32,
        "max_completion_length": 6,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "dynamic_sampling": dynamic_sampling,
        "loss_type": "grpo",
    }
    return Watched(**options | overrides)


def fit(
    folder: Path, policy: GRPO, selector: TaskSelector, steps: int, batch_size: int = B, **overrides: Any
) -> tuple[Outputs, TaskDataModule]:
    outputs = Outputs()
    tasks = TaskDataModule(ProceduralTasks(24), selector, batch_size=batch_size, steps_per_epoch=20)
    ckpt_path = overrides.pop("ckpt_path", None)
    options: dict[str, Any] = {
        "default_root_dir": folder,
        "accelerator": "cpu",
        "max_steps": steps,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
        "callbacks": [outputs, *overrides.pop("callbacks", [])],
    }
    Trainer(**options | overrides).fit(policy, tasks, ckpt_path=ckpt_path)
    return outputs, tasks


def weights(policy: GRPO) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in policy.state_dict().items()}


def assert_same_weights(first: GRPO, second: GRPO) -> None:
    mine, theirs = weights(first), weights(second)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_rounds_evidence_and_counts_of_a_script(checkpoint: str, tmp_path: Path) -> None:
    # Iteration 1: one of two mixed, then two of two: three rounds' worth of tasks, one group is left over.
    # Iteration 2: the leftover and one of its own batch are enough. Iteration 3: nothing left, two equal, two mixed.
    selector = Script([0, 10], [1, 2], [11, 3], [12, 13], [4, 5])
    policy = module(checkpoint, DynamicSampling(), Alternating(10, 11, 12, 13))
    ratio, log = EffectiveTaskRatio(), CompletionsLog(every_n_steps=1, max_tasks=99)
    outputs, tasks = fit(tmp_path, policy, selector, steps=3, callbacks=[ratio, log])
    assert selector.calls == ["select", "observe"] * 5
    assert selector.evidence == [
        ([0, 10], [2.0, 4.0], [4.0, 4.0]),
        ([1, 2], [2.0, 2.0], [4.0, 4.0]),
        ([11, 3], [4.0, 2.0], [4.0, 4.0]),
        ([12, 13], [4.0, 4.0], [4.0, 4.0]),
        ([4, 5], [2.0, 2.0], [4.0, 4.0]),
    ]
    assert outputs["dynamic_sampling/batches"] == [2, 1, 2]
    assert outputs["dynamic_sampling/dropped_groups"] == [1, 1, 2]
    assert outputs["dynamic_sampling/leftover_groups"] == [0, 1, 0]
    assert outputs["dynamic_sampling/filled_groups"] == [0, 0, 0]
    assert outputs["dynamic_sampling/expired_groups"] == [0, 0, 0]
    assert policy.progress.iterations == 3
    assert policy.progress.rollouts == 5 * B * G
    assert outputs["num_rollouts"] == [2 * B * G, 3 * B * G, 5 * B * G]
    assert policy.progress.generated_tokens == sum(step["num_tokens"] for step in outputs.steps)
    assert tasks.selection_counts.sum() == 5 * B
    assert ratio.mean == pytest.approx(6 / 10)  # dropped groups count
    assert [[IDS.index(task.id) for task in step["tasks"]] for step in outputs.steps] == [
        [0, 10, 1, 2],
        [11, 3],
        [12, 13, 4, 5],
    ]
    assert outputs.steps[0]["rewards"].tolist() == [[0, 1, 0, 1], [1, 1, 1, 1], [0, 1, 0, 1], [0, 1, 0, 1]]
    assert [len(step["completions"]) for step in outputs.steps] == [4 * G, 2 * G, 4 * G]
    assert outputs["reward"] == pytest.approx([(3 * 0.5 + 1) / 4, (1 + 0.5) / 2, (2 * 1 + 2 * 0.5) / 4])
    assert len((tmp_path / "completions.jsonl").read_text().splitlines()) == 5 * B * G
    for rollouts, rewards, _ in policy.updates:
        assert len(rollouts) == B * G
        assert mixed_groups(rewards).all()


def test_the_bound_holds_and_equal_rewards_for_ever_end_no_run(checkpoint: str, tmp_path: Path) -> None:
    policy = module(checkpoint, DynamicSampling(max_batches=3), Alternating(*range(24)))
    policy.configure_model()
    before = weights(policy)
    outputs, _ = fit(tmp_path, policy, UniformSelector(), steps=4)
    assert outputs["dynamic_sampling/batches"] == [3] * 4
    assert outputs["dynamic_sampling/filled_groups"] == [B] * 4
    assert outputs["dynamic_sampling/dropped_groups"] == [2 * B] * 4
    assert [float(step["loss"]) for step in outputs.steps] == [0.0] * 4
    assert outputs["grad_norm"] == [0.0] * 4
    assert policy.progress.rollouts == 4 * 3 * B * G
    assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())


def test_rewards_that_never_apply_end_no_run(checkpoint: str, tmp_path: Path) -> None:
    def never(prompts: list[str], completions: list[str], **_: Any) -> list[None]:
        return [None] * len(completions)

    policy = module(checkpoint, DynamicSampling(max_batches=2), never)
    outputs, _ = fit(tmp_path, policy, UniformSelector(), steps=2)
    assert outputs["dynamic_sampling/filled_groups"] == [B] * 2
    assert [float(step["loss"]) for step in outputs.steps] == [0.0] * 2
    assert all(torch.isfinite(value).all() for value in policy.state_dict().values())


@pytest.mark.parametrize(
    ("reward", "dynamic_sampling"),
    [(Alternating(), DynamicSampling()), (share_of_a, DynamicSampling(max_batches=1))],
    ids=["all groups mixed", "one batch only"],
)
def test_where_there_is_nothing_to_replace_nothing_changes(
    checkpoint: str, tmp_path: Path, reward: Any, dynamic_sampling: DynamicSampling
) -> None:
    plain, dynamic = module(checkpoint, None, reward), module(checkpoint, dynamic_sampling, reward)
    logs = [fit(tmp_path, policy, UniformSelector(), steps=4, batch_size=4)[0] for policy in (plain, dynamic)]
    assert [float(step["loss"]) for step in logs[0].steps] == [float(step["loss"]) for step in logs[1].steps]
    assert [step["completions"] for step in logs[0].steps] == [step["completions"] for step in logs[1].steps]
    assert plain.progress == dynamic.progress
    assert_same_weights(plain, dynamic)


def test_rounds_of_an_iteration_draw_from_streams_of_their_own(checkpoint: str, tmp_path: Path) -> None:
    selector = Script([0, 1], [0, 1])
    outputs, _ = fit(tmp_path, module(checkpoint, DynamicSampling(2), Alternating(0, 1)), selector, steps=1)
    completions = outputs.steps[0]["completions"]
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
@pytest.mark.parametrize("correction", [True, False], ids=["weighted", "in the ratio"])
def test_leftovers_count_as_samples_of_the_policy_that_sampled_them(
    checkpoint: str, tmp_path: Path, max_tokens_per_microbatch: int | None, correction: bool
) -> None:
    selector = Script([10, 0], [1, 2], [3, 11])  # group 2 is learned from one update after it was sampled
    options = {"max_tokens_per_microbatch": max_tokens_per_microbatch, "temperature": 0.8}
    options |= {"importance_sampling_correction": correction, "importance_sampling_clip_max": 1e3}
    policy = module(checkpoint, DynamicSampling(), Alternating(10, 11), learning_rate=0.05, **options)
    policy.configure_model()
    assert policy.policy is not None
    before = weights(policy)
    outputs, _ = fit(tmp_path, policy, selector, steps=2)
    rollouts, rewards, present = policy.updates[1]
    recorded, mask = rollouts.logprobs, rollouts.completion_mask
    assert recorded is not None
    assert recorded[G:].isnan().all()  # the group of this iteration
    assert rollouts.policy_version == 0  # the oldest

    policy.load_state_dict(before)
    with torch.no_grad():
        sampled, _ = completion_logprobs(policy.policy, rollouts, temperature=0.8)
    torch.testing.assert_close(recorded[:G][mask[:G]], sampled[:G][mask[:G]], rtol=0, atol=1e-5)
    assert (recorded[:G] - present[:G])[mask[:G]].abs().max() > 0.1

    advantages = group_advantages(rewards).flatten()
    old = torch.cat([recorded[:G], present[G:]])
    if correction:
        by_row = torch.where(mask, present - old, torch.zeros(())).sum(dim=1).exp()
        assert by_row.max() > 1.1
        expected = clipped_surrogate(present, present, advantages * by_row, mask)
    else:
        expected = clipped_surrogate(present, old, advantages, mask)
    assert float(outputs.steps[1]["loss"]) == pytest.approx(expected, abs=1e-5)
    assert abs(expected - clipped_surrogate(present, present, advantages, mask)) > 1e-3


@pytest.mark.parametrize("lora", [LoRA(r=4, alpha=8), None], ids=["lora", "full"])
@pytest.mark.parametrize("k", [2, 3])
def test_a_run_resumed_with_leftovers_equals_the_undisturbed_one_bit_for_bit(
    checkpoint: str, tmp_path: Path, lora: LoRA | None, k: int
) -> None:
    def run(folder: str, steps: int, ckpt_path: str | None = None) -> tuple[GRPO, TaskDataModule, Outputs, str]:
        torch.manual_seed(steps)  # the global generator must not matter
        policy = module(checkpoint, DynamicSampling(), Alternating(*range(0, 24, 4)), lora=lora)
        save = ModelCheckpoint(tmp_path / folder, every_n_train_steps=k, save_last=True)
        options = {"callbacks": [save], "enable_checkpointing": True, "ckpt_path": ckpt_path}
        outputs, tasks = fit(tmp_path, policy, UniformSelector(), steps, batch_size=4, **options)
        return policy, tasks, outputs, str(tmp_path / folder / "last.ckpt")

    whole, whole_tasks, whole_outputs, _ = run("whole", 2 * k)
    *_, last = run("first", k)
    pending = torch.load(last, weights_only=True)["leftovers"]
    assert pending is not None
    resumed, resumed_tasks, outputs, _ = run("second", 2 * k, ckpt_path=last)
    assert outputs.logged[0]["dynamic_sampling/leftover_groups"] == len(pending["rewards"])
    assert [step["completions"] for step in outputs.steps] == [step["completions"] for step in whole_outputs.steps[k:]]
    assert resumed.progress == whole.progress
    assert_same_weights(whole, resumed)
    np.testing.assert_array_equal(resumed_tasks.selection_counts, whole_tasks.selection_counts)
    for _ in range(5):
        np.testing.assert_array_equal(resumed_tasks.selector.select(4), whole_tasks.selector.select(4))


@pytest.mark.parametrize(
    ("dynamic_sampling", "num_generations"), [(DynamicSampling(), 2), (None, G)], ids=["other groups", "no longer"]
)
def test_leftovers_that_no_longer_fit_are_left_behind(
    checkpoint: str, tmp_path: Path, dynamic_sampling: DynamicSampling | None, num_generations: int
) -> None:
    save = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_last=True)
    script, options = Script([10, 0], [1, 2]), {"callbacks": [save], "enable_checkpointing": True}
    fit(tmp_path, module(checkpoint, DynamicSampling(), Alternating(10)), script, steps=1, **options)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["leftovers"] is not None
    resumed = module(checkpoint, dynamic_sampling, Alternating(), num_generations=num_generations)
    fit(tmp_path, resumed, Script([3, 4]), steps=2, ckpt_path=str(tmp_path / "last.ckpt"))
    (rollouts, _, _) = resumed.updates[0]
    assert len(rollouts) == B * num_generations
    assert rollouts.logprobs is None
    assert resumed.leftovers is None


def test_selection_is_timed_over_all_rounds_and_counted_once(
    checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    outputs, _ = fit(tmp_path, module(checkpoint, DynamicSampling(), Alternating(10, 11)), selector, steps=1)
    timings = outputs.steps[0]["timings"]
    assert (timings["select"], timings["observe"]) == (3, 30)
    assert timings["select"] + timings["step"] == 33
    assert outputs["step_time"] == [33]
