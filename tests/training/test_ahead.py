"""Rollouts one step ahead: which policy samples what, what that does to evidence, and that runs can be resumed."""

# Shapes: B tasks, G rollouts per task.

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from bots_lightning.algorithms import GRPO, PPO, drawing
from bots_lightning.data import TaskBatch, TaskDataModule
from bots_lightning.policy import LoRA
from bots_lightning.policy.loading import load_policy
from bots_lightning.policy.recording import policy_logprobs
from bots_lightning.rewards import JudgedReward, Outcomes, RewardStream, Scorer
from bots_lightning.rollouts import CompactEngine, Rollouts
from bots_lightning.selection import UniformSelector
from bots_lightning.tasks import ProceduralTasks
from bots_lightning.training import DynamicSampling, StepFailedError
from bots_lightning.training.ahead import Drawn, PolicyCopy, RolloutsAhead, ahead_state, rows_of_batch
from callbacks import GracefulStop


class Watched(CompactEngine):
    """Notes every call: the version asked for, the thread, and the weights that sampled."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[dict[str, Any]] = []

    def generate(self, model: Any, prompts: Any, n: Any, sampling: Any, seeds: Any, *args: Any) -> Rollouts:
        weights = {name: weight.detach().clone() for name, weight in model.named_parameters() if "lora" in name}
        thread = threading.current_thread().name
        rollouts = super().generate(model, prompts, n, sampling, seeds, *args)
        self.calls.append({"version": args[0], "thread": thread, "weights": weights, "seeds": seeds, "of": rollouts})
        return rollouts


def weights_of(history: Any, step: int) -> dict[str, torch.Tensor]:
    """After so many updates, by the names within the language model."""
    return {name.split("base_model.model.")[1]: weight for name, weight in history.weights[step - 1].items()}


def test_each_batch_is_sampled_by_the_policy_before_its_last_update(build: Any, fit: Any) -> None:
    ahead, turns = Watched(), Watched()
    history = fit(build(GRPO, engine=ahead, max_staleness=1), 4, max_epochs=1).history
    fit(build(GRPO, engine=turns), 4)
    assert [call["version"] for call in ahead.calls] == [0, 0, 1, 2]
    assert [call["version"] for call in turns.calls] == [0, 1, 2, 3]
    assert [call["thread"] for call in ahead.calls] == ["MainThread", *["rollouts ahead_0"] * 3]
    assert [call["seeds"] for call in ahead.calls] == [call["seeds"] for call in turns.calls]
    for call in ahead.calls[2:]:  # by the weights as they were, though the update went on meanwhile
        expected = weights_of(history, call["version"])
        assert call["weights"].keys() == expected.keys()
        for name, weight in call["weights"].items():
            assert torch.equal(weight, expected[name])
    assert history["sampling/staleness"] == [0, 1, 1, 1]
    seconds = history["rollout_ahead_time"]
    assert seconds[0] == 0
    assert min(seconds[1:]) > 0
    assert [step["timings"]["ahead"] for step in history.steps] == pytest.approx(seconds, rel=1e-5)


def test_sampling_and_learning_go_on_at_the_same_time(build: Any, fit: Any) -> None:
    """Neither ends before the other has begun: with turns, both would wait for ever."""
    sampling, learning = threading.Semaphore(0), threading.Semaphore(0)

    class Waiting(CompactEngine):
        def generate(self, *args: Any) -> Rollouts:
            if threading.current_thread().name == "rollouts ahead_0":
                sampling.release()
                assert learning.acquire(timeout=60)
            return super().generate(*args)

    class Learning(GRPO):
        def update(self, *args: Any) -> dict[str, float]:
            if self._ahead is not None and self._ahead.batch is not None:
                learning.release()
                assert sampling.acquire(timeout=60)
            return super().update(*args)

    assert len(fit(build(Learning, engine=Waiting(), max_staleness=1), 3).history.steps) == 3


def test_selection_sees_all_evidence_and_that_of_earlier_policies_has_an_age(
    build: Any, fit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[Any] = []
    select, observe = UniformSelector.select, UniformSelector.observe
    monkeypatch.setattr(UniformSelector, "select", lambda s, size: events.append("select") or select(s, size))
    monkeypatch.setattr(
        UniformSelector, "observe", lambda s, seen: events.append(seen.ages.tolist()) or observe(s, seen)
    )
    fit(build(GRPO, max_staleness=1), 3)
    assert events == ["select", [0.0] * 4, "select", [1.0] * 4, "select", [1.0] * 4]


@pytest.mark.parametrize(
    ("algorithm", "options"),
    [(GRPO, {}), (GRPO, {"num_iterations": 2}), (PPO, {"num_ppo_epochs": 2}), (GRPO, {"lora": None})],
    ids=["one step", "two steps", "ppo", "full"],
)
def test_log_probabilities_are_those_of_the_policy_that_sampled(
    build: Any, fit: Any, algorithm: Any, options: dict[str, Any]
) -> None:
    policy, seen = build(algorithm, max_staleness=1, temperature=0.8, learning_rate=0.02, **options), []
    prepare = policy.prepare

    def watched(rollouts: Rollouts, rewards: torch.Tensor) -> Any:
        experience, metrics = prepare(rollouts, rewards)
        present = policy_logprobs(policy.policy, rollouts, 0.8)
        seen.append((rollouts, experience, present))
        return experience, metrics

    policy.prepare = watched
    history = fit(policy, 3).history
    assert seen[0][0].logprobs is None
    for (rollouts, experience, present), logged in zip(seen[1:], history.logged[1:], strict=True):
        mask = rollouts.completion_mask
        assert experience.sampling_logprobs is rollouts.logprobs
        difference = (rollouts.logprobs - present)[mask].abs()
        assert difference.max() > 1e-3  # it has moved
        assert logged["sampling/sampling_logp_difference/mean"] == pytest.approx(float(difference.mean()), rel=1e-3)
        if experience.old_logprobs is not None:
            torch.testing.assert_close(experience.old_logprobs[mask], present[mask], rtol=0, atol=1e-5)


def test_the_last_batch_has_no_successor(build: Any, fit: Any) -> None:
    engine = Watched()
    run = fit(build(GRPO, engine=engine, max_staleness=1), max_epochs=2, limit_train_batches=2)
    assert len(engine.calls) == 4
    assert run.tasks.drawn == []
    assert int(run.tasks.selection_counts.sum()) == 4 * 4


def test_dynamic_sampling_takes_further_rounds_by_the_present_policy(build: Any, fit: Any) -> None:
    engine = Watched()
    policy = build(GRPO, engine=engine, max_staleness=1, dynamic_sampling=DynamicSampling(max_batches=2))
    run = fit(policy, 3)
    assert [call["version"] for call in engine.calls if call["thread"] == "rollouts ahead_0"] == [0, 1]
    others = [call["version"] for call in engine.calls if call["thread"] == "MainThread"]
    assert others == sorted(others)
    assert len(others) > 1
    rounds = run.history["dynamic_sampling/batches"]
    assert len(engine.calls) == sum(rounds)


# --- with others that use the engine and the judges -----------------------------------------------------------------


class Letters(JudgedReward):
    """Judges whether there is an a; counts."""

    def __call__(self, prompts: Any, completions: Any, answer: Any, **columns: Any) -> list[float | None]:
        self.outcomes = Outcomes(len(completions), 0, 1)
        return [float("a" in completion) for completion in completions]


class Exclusive:
    """Notices when two are in the same place at once."""

    def __init__(self) -> None:
        self.inside, self.entered, self.overlaps = 0, 0, 0

    def __enter__(self) -> None:
        self.inside, self.entered = self.inside + 1, self.entered + 1
        self.overlaps += self.inside > 1

    def __exit__(self, *_: object) -> None:
        self.inside -= 1


def test_evaluations_wait_for_engine_and_judges_and_outcomes_stay_with_their_batch(build: Any, fit: Any) -> None:
    engine_room, court = Exclusive(), Exclusive()

    class Alone(CompactEngine):
        def generate(self, *args: Any) -> Rollouts:
            with engine_room:
                return super().generate(*args)

    class Slow(Letters):
        def __call__(self, *args: Any, **kwargs: Any) -> list[float | None]:
            with court:
                threading.Event().wait(0.1)  # longer than sampling
                return super().__call__(*args, **kwargs)

    held_out = {"heldout": ProceduralTasks(8, seed=1)}
    policy = build(GRPO, engine=Alone(), max_staleness=1, reward_funcs=[Slow()])
    run = fit(policy, 4, evaluation=held_out, val_check_interval=1)
    assert engine_room.entered == 4 + 5  # a batch per iteration; evaluations after each, and before the first
    assert court.entered >= 4 + 5
    assert engine_room.overlaps == court.overlaps == 0
    for logged in run.history.logged:
        assert 0 < logged["rewards/error_frac"] <= 4 / 16


class Unsaid(CompactEngine):
    """Says nothing of the first token of each completion."""

    def __init__(self) -> None:
        super().__init__(logprobs=True)

    def generate(self, *args: Any) -> Rollouts:
        rollouts = super().generate(*args)
        assert rollouts.logprobs is not None
        rollouts.logprobs[:, 0] = torch.nan
        return rollouts


def test_what_the_engine_leaves_unsaid_is_recorded_before_the_policy_moves(build: Any, fit: Any) -> None:
    policy, seen = build(GRPO, engine=Unsaid(), max_staleness=1), []
    prepare = policy.prepare
    policy.prepare = lambda rollouts, rewards: seen.append(rollouts) or prepare(rollouts, rewards)
    fit(policy, 3)
    unsaid = [int((rollouts.logprobs.isnan() & rollouts.completion_mask).sum()) for rollouts in seen]
    assert unsaid == [16, 0, 0]  # of the first batch, nothing is stale


def test_a_failure_stops_the_step_that_needs_the_batch(build: Any, fit: Any) -> None:
    class Failing(CompactEngine):
        def generate(self, *args: Any) -> Rollouts:
            if threading.current_thread().name == "rollouts ahead_0":
                raise ConnectionError("no server is left")
            return super().generate(*args)

    policy = build(GRPO, engine=Failing(), max_staleness=1)
    with pytest.raises(StepFailedError, match="ConnectionError: no server is left"):
        fit(policy, 3)
    assert policy.progress.iterations == 1


def test_a_policy_in_parts_is_refused_before_the_first_step(
    build: Any, fit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "divides_weights", lambda strategy: True)
    fit(build(GRPO))
    with pytest.raises(ValueError, match=r"under ZeRO-3 no rank holds it in whole. Use configs/strategies/zero2.yaml"):
        fit(build(GRPO, max_staleness=1))


def test_another_batch_than_was_drawn_ahead_is_refused(build: Any, fit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    served = TaskDataModule._next_batch
    monkeypatch.setattr(TaskDataModule, "_next_batch", lambda self, first: served(self, first)[::-1])
    with pytest.raises(RuntimeError, match="served another batch than was drawn ahead"):
        fit(build(GRPO, max_staleness=1), 2)


def test_tasks_cannot_be_added_while_a_batch_is_drawn_ahead() -> None:
    tasks = TaskDataModule(ProceduralTasks(24), UniformSelector(), batch_size=4)
    tasks.setup()
    tasks.select_ahead()
    with pytest.raises(RuntimeError, match=r"Add them between two training steps, and with max_staleness=0"):
        tasks.add_tasks(ProceduralTasks(4, seed=9).load())


def test_a_run_that_fails_ends_what_is_under_way(build: Any, fit: Any) -> None:
    started, cancelled = threading.Event(), threading.Event()

    class Endless(CompactEngine):
        def generate(self, *args: Any) -> Rollouts:
            if threading.current_thread() is threading.main_thread():
                return super().generate(*args)
            started.set()
            assert cancelled.wait(60)
            raise RuntimeError("cancelled")

        def cancel(self) -> None:
            cancelled.set()

    class Failing(GRPO):
        def update(self, *args: Any) -> dict[str, float]:
            assert started.wait(60)
            raise ArithmeticError("the update")

    policy = build(Failing, engine=Endless(), max_staleness=1)
    with pytest.raises(ArithmeticError, match="the update"):
        fit(policy, 3)
    assert cancelled.is_set()
    assert policy._ahead is None


def test_a_second_run_of_the_same_module_starts_anew(build: Any, fit: Any) -> None:
    policy = build(GRPO, max_staleness=1)
    fit(policy, max_epochs=-1, limit_train_batches=100, max_steps=2)
    assert policy._ahead is None  # nor is the policy held twice
    policy.progress.iterations = 0
    assert len(fit(policy, 3).history.steps) == 3


@pytest.mark.parametrize("value", [-1, 2])
def test_more_than_one_step_is_refused(build: Any, value: int) -> None:
    with pytest.raises(ValueError, match=rf"max_staleness={value}; expected at least 0 and at most 1"):
        build(GRPO, max_staleness=value)


# --- checkpoints ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"lora": None}, {"dynamic_sampling": DynamicSampling(max_batches=2)}], ids=str)
def test_a_resumed_run_equals_the_undisturbed_one_bit_for_bit(
    build: Any, fit: Any, tmp_path: Path, options: dict[str, Any]
) -> None:
    def run(folder: str, steps: int, ckpt_path: str | None = None) -> tuple[Any, Any]:
        torch.manual_seed(steps)  # the global generator must not matter
        policy = build(GRPO, max_staleness=1, **options)
        save = ModelCheckpoint(tmp_path / folder, every_n_train_steps=2, save_top_k=-1)
        limits = {"limit_train_batches": 100, "max_steps": steps, "max_epochs": -1, "enable_checkpointing": True}
        return policy, fit(policy, callbacks=[save], ckpt_path=ckpt_path, **limits)

    whole, undisturbed = run("whole", 5)
    path = next((tmp_path / "whole").glob("*step=2.ckpt"))
    state = torch.load(path, weights_only=True)["ahead"]
    assert state["positions"] == [0, 1, 2, 3]
    assert state["rollouts"]["policy_version"] == 1
    resumed, rest = run("second", 5, str(path))
    completions = [step["completions"] for step in undisturbed.history.steps]
    assert [step["completions"] for step in rest.history.steps] == completions[2:]
    assert rest.history["sampling/staleness"] == [1, 1, 1]
    assert resumed.progress == whole.progress
    for name, weight in undisturbed.history.weights[-1].items():
        assert torch.equal(rest.history.weights[-1][name], weight)
    assert np.array_equal(rest.tasks.selection_counts, undisturbed.tasks.selection_counts)


def test_a_step_whose_reward_fails_is_saved_as_it_began(build: Any, fit: Any, tmp_path: Path) -> None:
    faults = iter([False, False, True])

    def moody(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
        if next(faults, False):
            raise ConnectionError("no judge is left")
        return [float("a" in completion) for completion in completions]

    whole = fit(build(GRPO, max_staleness=1), 5).history
    save = ModelCheckpoint(tmp_path)
    limits = {"limit_train_batches": 5, "enable_checkpointing": True}
    with pytest.raises(StepFailedError, match="no judge is left"):
        fit(build(GRPO, max_staleness=1, reward_funcs=[moody]), callbacks=[GracefulStop(), save], **limits)
    rest = fit(build(GRPO, max_staleness=1), ckpt_path=str(tmp_path / "last.ckpt"), limit_train_batches=5).history
    assert [step["completions"] for step in rest.steps] == [step["completions"] for step in whole.steps[2:]]
    for name, weight in whole.weights[-1].items():
        assert torch.equal(rest.weights[-1][name], weight)


def test_what_was_resumed_is_saved_again_before_its_turn(build: Any, fit: Any, tmp_path: Path) -> None:
    class Saves(Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            trainer.save_checkpoint(tmp_path / "again.ckpt")

    save = ModelCheckpoint(tmp_path, every_n_train_steps=2, save_top_k=-1)
    limits = {"limit_train_batches": 100, "max_epochs": -1, "max_steps": 3, "enable_checkpointing": True}
    fit(build(GRPO, max_staleness=1), callbacks=[save], **limits)
    path = next(tmp_path.glob("*step=2.ckpt"))
    fit(build(GRPO, max_staleness=1), callbacks=[Saves()], ckpt_path=str(path), **limits)
    first, second = (torch.load(p, weights_only=True)["ahead"] for p in (path, tmp_path / "again.ckpt"))
    assert first["indices"] == second["indices"]
    assert torch.equal(first["rollouts"]["completion_ids"], second["rollouts"]["completion_ids"])


def test_a_run_that_takes_turns_goes_on_from_one_that_did_not(build: Any, fit: Any, tmp_path: Path) -> None:
    save = ModelCheckpoint(tmp_path, every_n_train_steps=2, save_top_k=-1)
    limits = {"limit_train_batches": 100, "max_epochs": -1, "enable_checkpointing": True}
    fit(build(GRPO, max_staleness=1), callbacks=[save], max_steps=3, **limits)
    engine = Watched()
    path = str(next(tmp_path.glob("*step=2.ckpt")))
    run = fit(build(GRPO, engine=engine), ckpt_path=path, max_steps=4, **limits | {"enable_checkpointing": False})
    assert [call["version"] for call in engine.calls] == [2, 3]
    assert len(run.history.steps) == 2


@pytest.fixture
def ahead(checkpoint: str) -> Iterator[RolloutsAhead]:
    ahead = RolloutsAhead(load_policy(checkpoint, LoRA(r=4, alpha=8)), torch.device("cpu"))
    yield ahead
    ahead.close()


def drawn(rollouts: Rollouts) -> Drawn:
    return Drawn(rollouts, RewardStream(Scorer([Letters()]), [ProceduralTasks(1).load()[0]], 2, lambda rows: []))


def test_rows_are_found_by_their_place_in_the_draw(
    ahead: RolloutsAhead, make_rollouts: Callable[..., Rollouts]
) -> None:
    rollouts = replace(make_rollouts([4, 4, 1, 1, 3, 3], [2] * 6), policy_version=7)  # the length tells the place
    ahead.begin(TaskBatch([30, 10, 20], [], [3, 0, 2]), lambda _: drawn(rollouts))
    state = ahead_state(ahead, pad_token_id=0)
    found = rows_of_batch(state, TaskBatch([10, 30], [], [0, 3]), generations=2)
    assert found is not None
    assert found.lengths.tolist() == [1, 1, 4, 4]
    assert found.policy_version == 7
    for other in (TaskBatch([10, 30], [], [0, 1]), TaskBatch([10, 31], [], [0, 3])):  # of another draw
        assert rows_of_batch(state, other, generations=2) is None
    assert rows_of_batch(state, TaskBatch([10, 30], [], [0, 3]), generations=4) is None
    assert rows_of_batch(None, TaskBatch([10, 30], [], [0, 3]), generations=2) is None
    ahead.taken()
    assert ahead_state(ahead, 0) is None


def test_what_failed_is_not_saved(ahead: RolloutsAhead) -> None:
    def fail(_: Any) -> Any:
        raise ConnectionError("no server is left")

    ahead.begin(TaskBatch([], [], [0]), fail)
    assert ahead_state(ahead, 0) is None
    assert ahead_state(None, 0) is None
    with pytest.raises(ConnectionError, match="no server is left"):
        ahead.result()


def test_caller_and_thread_share_the_cores(
    ahead: RolloutsAhead, make_rollouts: Callable[..., Rollouts], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, seen, gate = torch.get_num_threads(), [], threading.Event()
    try:
        torch.set_num_threads(4)

        def draw(_: Any) -> Drawn:
            gate.wait(60)
            seen.append(torch.get_num_threads())
            return drawn(make_rollouts([1], [1]))

        ahead.begin(TaskBatch([], [], [0]), draw)
        seen.append(torch.get_num_threads())
        gate.set()
        ahead.wait()
        assert seen == [2, 2]
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


# --- the copy -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [LoRA(r=4, alpha=8), None], ids=["lora", "full"])
def test_a_copy_keeps_still_and_shares_what_is_frozen(
    checkpoint: str, make_rollouts: Any, shake: Any, lora: LoRA | None
) -> None:
    rollouts = make_rollouts([3, 6, 1, 4], [2, 5, 3, 1])
    policy = load_policy(checkpoint, lora)
    shake(policy)
    mask, copy = rollouts.completion_mask, PolicyCopy(policy)
    before = policy_logprobs(policy, rollouts)[mask]
    assert torch.equal(policy_logprobs(copy.policy, rollouts)[mask], before)
    shake(policy, seed=1)
    assert torch.equal(policy_logprobs(copy.policy, rollouts)[mask], before)
    after = policy_logprobs(policy, rollouts)[mask]
    assert (after - before).abs().max() > 1e-3
    assert torch.equal(policy_logprobs(copy.refresh(), rollouts)[mask], after)
    mine = {weight.data_ptr() for weight in copy.policy.parameters()}
    for weight in policy.parameters():
        assert (weight.data_ptr() in mine) == (not weight.requires_grad)
    assert not any(weight.requires_grad for weight in copy.policy.parameters())
