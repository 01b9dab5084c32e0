"""Asynchronous rollouts: which policy samples what, what that does to evidence, and that runs can be resumed."""

from __future__ import annotations

import copy
import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import nn

from bots_lightning.algorithms import GRPO, PPO, Experience, RolloutGroups, StepContext
from bots_lightning.data import TaskDataModule
from bots_lightning.policy import LoRA, Policy
from bots_lightning.policy.loading import language_model
from bots_lightning.policy.recording import policy_logprobs
from bots_lightning.rewards import GradedReward, Outcomes
from bots_lightning.rollouts import CompactEngine, GenerationRequest, Rollouts
from bots_lightning.selection import UniformSelector
from bots_lightning.tasks import ProceduralTasks
from bots_lightning.training import DynamicSampling, StepFailedError, checks
from bots_lightning.training.ahead import RolloutsAhead
from callbacks import GracefulStop

THREAD = "rollouts_0"
Prepared = tuple[Experience, dict[str, float]]


class Watched(CompactEngine):
    """Notes every call: the version asked for, the thread, and the weights that sampled."""

    def __init__(self, full: bool = False) -> None:
        super().__init__()
        self.full = full  # whether all weights are trained
        self.calls: list[dict[str, Any]] = []

    def generate(self, request: GenerationRequest) -> Rollouts:
        named = request.model.named_parameters()
        weights = {name: weight.detach().clone() for name, weight in named if self.full or "lora" in name}
        thread = threading.current_thread().name
        call = {"version": request.policy_version, "thread": thread, "weights": weights, "seeds": request.seeds}
        rollouts = super().generate(request)
        self.calls.append(call)
        return rollouts


def weights_of(history: Any, step: int) -> dict[str, torch.Tensor]:
    """After so many updates, by the names within the language model."""
    return {name.split("base_model.model.")[1]: weight for name, weight in history.weights[step - 1].items()}


def watch_prepare(module: Any, seen: Callable[[RolloutGroups, Experience], None]) -> None:
    """Shows a function what each update is prepared from, and what it learns from."""
    prepare = module.algorithm.prepare

    def watched(groups: RolloutGroups, context: StepContext) -> Prepared:
        experience, metrics = prepare(groups, context)
        seen(groups, experience)
        return experience, metrics

    module.algorithm.prepare = watched


def test_each_batch_is_sampled_by_the_policy_before_its_last_update(build: Any, fit: Any) -> None:
    asynchronous, synchronous = Watched(), Watched()
    history = fit(build(GRPO, engine=asynchronous, max_staleness=1), 4, max_epochs=1).history
    fit(build(GRPO, engine=synchronous), 4)
    assert [call["version"] for call in asynchronous.calls] == [0, 0, 1, 2]
    assert [call["version"] for call in synchronous.calls] == [0, 1, 2, 3]
    assert [call["thread"] for call in asynchronous.calls] == ["MainThread", *[THREAD] * 3]
    assert [call["seeds"] for call in asynchronous.calls] == [call["seeds"] for call in synchronous.calls]
    for call in asynchronous.calls[2:]:  # by the weights as they were, though the update went on meanwhile
        expected = weights_of(history, call["version"])
        assert call["weights"].keys() == expected.keys()
        for name, weight in call["weights"].items():
            assert torch.equal(weight, expected[name])
    assert history["sampling/staleness"] == [0, 1, 1, 1]
    seconds = history["rollout_ahead_time"]
    assert seconds[0] == 0
    assert min(seconds[1:]) > 0
    assert [step["timings"]["ahead"] for step in history.steps] == pytest.approx(seconds, rel=1e-5)


@pytest.mark.parametrize(("max_staleness", "lora"), [(2, LoRA(r=4, alpha=8)), (4, None)], ids=["lora", "full"])
def test_further_ahead_each_batch_is_of_the_policy_that_many_updates_ago(
    build: Any, fit: Any, max_staleness: int, lora: Any
) -> None:
    engine, synchronous, steps = Watched(lora is None), Watched(), 7
    history = fit(build(GRPO, lora=lora, engine=engine, max_staleness=max_staleness), steps).history
    fit(build(GRPO, lora=lora, engine=synchronous), steps)
    versions = [max(0, batch - max_staleness) for batch in range(steps)]
    assert [call["version"] for call in engine.calls] == versions
    assert [call["seeds"] for call in engine.calls] == [call["seeds"] for call in synchronous.calls]
    assert history["sampling/staleness"] == [min(batch, max_staleness) for batch in range(steps)]
    for call in engine.calls:
        if call["version"] > 0:
            expected = history.weights[call["version"] - 1]
            for name, weight in call["weights"].items():
                assert torch.equal(weight, expected[next(n for n in expected if n.endswith(name))])


def test_sampling_and_learning_go_on_at_the_same_time(build: Any, fit: Any) -> None:
    """Neither ends before the other has begun: if they were synchronous, both would wait for ever."""
    sampling, learning = threading.Semaphore(0), threading.Semaphore(0)

    class Waiting(CompactEngine):
        def generate(self, request: GenerationRequest) -> Rollouts:
            if threading.current_thread().name == THREAD:
                sampling.release()
                assert learning.acquire(timeout=60)
            return super().generate(request)

    class Learning(GRPO):
        def prepare(self, groups: RolloutGroups, context: StepContext) -> Prepared:
            if context.progress.iterations < 2:  # the third of three batches has no successor
                learning.release()
                assert sampling.acquire(timeout=60)
            return super().prepare(groups, context)

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
    events.clear()
    fit(build(GRPO, max_staleness=2), 4)
    ahead = ["select", [0.0] * 4, "select", "select", [1.0] * 4, "select", [2.0] * 4, [2.0] * 4]
    assert events == ahead  # of one batch, the evidence comes after the draw of the next


@pytest.mark.parametrize(
    ("algorithm", "options"),
    [(GRPO, {}), (GRPO, {"num_iterations": 2}), (PPO, {"num_ppo_epochs": 2}), (GRPO, {"lora": None})],
    ids=["one step", "two steps", "ppo", "full"],
)
def test_log_probabilities_are_those_of_the_policy_that_sampled(
    build: Any, fit: Any, algorithm: Any, options: dict[str, Any]
) -> None:
    module = build(algorithm, max_staleness=1, temperature=0.8, learning_rate=0.02, **options)
    seen: list[Any] = []

    def watched(groups: RolloutGroups, experience: Experience) -> None:
        seen.append((groups.rollouts, experience, policy_logprobs(module.policy.model, groups.rollouts, 0.8)))

    watch_prepare(module, watched)
    history = fit(module, 3).history
    assert seen[0][0].logprobs is None
    for (rollouts, experience, present), logged in zip(seen[1:], history.logged[1:], strict=True):
        mask = rollouts.completion_mask
        assert experience.sampling_logprobs is rollouts.logprobs
        difference = (rollouts.logprobs - present)[mask].abs()
        assert difference.max() > 1e-3  # it has moved
        assert logged["sampling/sampling_logp_difference/mean"] == pytest.approx(float(difference.mean()), rel=1e-3)
        if experience.old_logprobs is not None:
            torch.testing.assert_close(experience.old_logprobs[mask], present[mask], rtol=0, atol=1e-5)


@pytest.mark.parametrize("max_staleness", [1, 3, 4])
def test_the_last_batch_has_no_successor(build: Any, fit: Any, max_staleness: int) -> None:
    engine = Watched()
    run = fit(build(GRPO, engine=engine, max_staleness=max_staleness), max_epochs=2, limit_train_batches=2)
    assert len(engine.calls) == 4
    assert len(run.tasks.draws) == 0
    assert int(run.tasks.selection_counts.sum()) == 4 * 4


@pytest.mark.parametrize(("max_staleness", "versions"), [(1, [0, 1]), (2, [0, 0])])
def test_dynamic_sampling_takes_further_rounds_by_the_present_policy(
    build: Any, fit: Any, max_staleness: int, versions: list[int]
) -> None:
    engine = Watched()
    module = build(GRPO, engine=engine, max_staleness=max_staleness, dynamic_sampling=DynamicSampling(max_batches=2))
    run = fit(module, 3)
    assert [call["version"] for call in engine.calls if call["thread"] == THREAD] == versions
    others = [call["version"] for call in engine.calls if call["thread"] == "MainThread"]
    assert others == sorted(others)
    assert len(others) > 1
    rounds = run.history["dynamic_sampling/batches"]
    assert len(engine.calls) == sum(rounds)


class Elsewhere(CompactEngine):
    """Has the weights of the last few versions itself, as servers have, and samples by them several at a time."""

    own_weights = True

    def __init__(self, at_a_time: int = 1) -> None:
        super().__init__(logprobs=True)
        self.models: dict[int, nn.Module] = {}
        self.told: tuple[Any, int] | None = None
        self.together = threading.Barrier(at_a_time)
        self.versions: list[int] = []

    def run_ahead(self, prompt: Any, max_staleness: int) -> None:
        self.told = prompt, max_staleness

    def sync(self, policy: nn.Module, policy_version: int) -> None:
        super().sync(policy, policy_version)
        self.models[policy_version] = copy.deepcopy(policy)

    def generate(self, request: GenerationRequest) -> Rollouts:
        if threading.current_thread() is not threading.main_thread():
            self.together.wait(60)
        self.versions.append(request.policy_version)
        own = language_model(self.models[request.policy_version])
        return super().generate(dataclasses.replace(request, model=own))


def test_an_engine_with_weights_of_its_own_serves_several_batches_at_a_time_without_copies(
    build: Any, fit: Any
) -> None:
    """All three wait for each other: if one were begun after another, they would wait for ever."""
    engine = Elsewhere(3)
    module = build(GRPO, engine=engine, max_staleness=3)
    run = fit(module, 4)
    assert engine.versions == [0] * 4
    assert engine.told is not None
    assert engine.told[1] == 3
    assert engine.told[0] == module.sampler.encoder.encode([run.tasks.require_pool()[0].prompt], ["x"])[0]
    same = fit(build(GRPO, engine=CompactEngine(logprobs=True), max_staleness=3), 4)
    assert [step["completions"] for step in run.history.steps] == [step["completions"] for step in same.history.steps]


def test_how_long_the_engine_had_nothing_to_do_is_told(build: Any, fit: Any) -> None:
    class Slow(GRPO):
        def prepare(self, groups: RolloutGroups, context: StepContext) -> Prepared:
            threading.Event().wait(0.3)  # a step waits for it before it begins the next batch
            return super().prepare(groups, context)

    idle = fit(build(Slow, max_staleness=1, max_completion_length=1), 4).history["rollout_idle_time"]
    assert idle[:2] == [0, 0]  # nothing has been begun before the first, nor before the second
    assert min(idle[2:]) > 0.2


# --- with others that use the engine and the graders ------------------------------------------------------------------


class Letters(GradedReward):
    """Grades whether there is an a; counts."""

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


@pytest.mark.parametrize("max_staleness", [1, 3])
def test_engine_and_graders_serve_one_at_a_time_and_outcomes_stay_with_their_batch(
    build: Any, fit: Any, max_staleness: int
) -> None:
    sampling, grading = Exclusive(), Exclusive()

    class Alone(CompactEngine):
        def generate(self, request: GenerationRequest) -> Rollouts:
            with sampling:
                return super().generate(request)

    class Slow(Letters):
        def __call__(self, *args: Any, **kwargs: Any) -> list[float | None]:
            with grading:
                threading.Event().wait(0.1)  # longer than sampling
                return super().__call__(*args, **kwargs)

    held_out = {"heldout": ProceduralTasks(8, seed=1)}
    module = build(GRPO, engine=Alone(), max_staleness=max_staleness, reward_funcs=[Slow()])
    run = fit(module, 4, evaluation=held_out, val_check_interval=1)
    assert sampling.entered == 4 + 5  # a batch per iteration; evaluations after each, and before the first
    assert grading.entered >= 4 + 5
    assert sampling.overlaps == grading.overlaps == 0
    for logged in run.history.logged:
        assert 0 < logged["rewards/error_frac"] <= 4 / 16


class Unknown(CompactEngine):
    """Does not tell the log-probability of the first token of each completion."""

    def __init__(self) -> None:
        super().__init__(logprobs=True)

    def generate(self, request: GenerationRequest) -> Rollouts:
        rollouts = super().generate(request)
        assert rollouts.logprobs is not None
        rollouts.logprobs[:, 0] = torch.nan
        return rollouts


def test_what_the_engine_does_not_tell_is_recorded_before_the_policy_moves(build: Any, fit: Any) -> None:
    module, seen = build(GRPO, engine=Unknown(), max_staleness=1), []
    watch_prepare(module, lambda groups, _: seen.append(groups.rollouts))
    fit(module, 3)
    unknown = [int((rollouts.logprobs.isnan() & rollouts.completion_mask).sum()) for rollouts in seen]
    assert unknown == [16, 0, 0]  # of the first batch, nothing is stale


def test_a_failure_stops_the_step_that_needs_the_batch(build: Any, fit: Any) -> None:
    class Failing(CompactEngine):
        def generate(self, request: GenerationRequest) -> Rollouts:
            if threading.current_thread().name == THREAD:
                raise ConnectionError("no server is left")
            return super().generate(request)

    module = build(GRPO, engine=Failing(), max_staleness=1)
    with pytest.raises(StepFailedError, match="ConnectionError: no server is left"):
        fit(module, 3)
    assert module.progress.iterations == 1


def test_sharded_parameters_are_refused_before_the_first_step(
    build: Any, fit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "shards_parameters", lambda strategy: True)
    fit(build(GRPO))
    with pytest.raises(ValueError, match=r"max_staleness=2 .* under ZeRO-3 no rank holds .* Use configs/.*zero2.yaml"):
        fit(build(GRPO, max_staleness=2))
    assert len(fit(build(GRPO, engine=Elsewhere(), max_staleness=2), 3).history.steps) == 3


def test_another_batch_than_was_drawn_ahead_is_refused(build: Any, fit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    served = TaskDataModule._next_batch
    monkeypatch.setattr(TaskDataModule, "_next_batch", lambda self, first: served(self, first)[::-1])
    with pytest.raises(RuntimeError, match="served another batch than was drawn ahead"):
        fit(build(GRPO, max_staleness=1), 2)


def test_a_run_that_fails_ends_what_is_under_way(build: Any, fit: Any) -> None:
    started, cancelled = threading.Event(), threading.Event()

    class Endless(CompactEngine):
        def generate(self, request: GenerationRequest) -> Rollouts:
            if threading.current_thread() is threading.main_thread():
                return super().generate(request)
            started.set()
            assert cancelled.wait(60)
            raise RuntimeError("cancelled")

        def cancel(self) -> None:
            cancelled.set()

    class Failing(GRPO):
        def prepare(self, groups: RolloutGroups, context: StepContext) -> Prepared:
            assert started.wait(60)
            raise ArithmeticError("the update")

    module = build(Failing, engine=Endless(), max_staleness=1)
    with pytest.raises(ArithmeticError, match="the update"):
        fit(module, 3)
    assert cancelled.is_set()
    assert not module.sampler._ahead.is_begun


def test_a_second_run_of_the_same_module_starts_anew(build: Any, fit: Any) -> None:
    module = build(GRPO, max_staleness=1)
    fit(module, max_epochs=-1, limit_train_batches=100, max_steps=2)
    assert not module.sampler._ahead.is_begun  # nor is the policy held twice
    module.progress.iterations = 0
    assert len(fit(module, 3).history.steps) == 3


# --- checkpoints ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("max_staleness", "options"),
    [
        (1, {}),
        (1, {"dynamic_sampling": DynamicSampling(max_batches=2)}),
        (2, {}),
        (2, {"lora": None}),
        (4, {"dynamic_sampling": DynamicSampling(max_batches=2)}),
    ],
    ids=str,
)
def test_a_resumed_run_equals_the_undisturbed_one_bit_for_bit(
    build: Any, fit: Any, tmp_path: Path, max_staleness: int, options: dict[str, Any]
) -> None:
    def run(folder: str, steps: int, ckpt_path: str | None = None) -> tuple[Any, Any]:
        torch.manual_seed(steps)  # the global generator must not matter
        module = build(GRPO, max_staleness=max_staleness, **options)
        save = ModelCheckpoint(tmp_path / folder, every_n_train_steps=2, save_top_k=-1)
        limits = {"limit_train_batches": 100, "max_steps": steps, "max_epochs": -1, "enable_checkpointing": True}
        return module, fit(module, callbacks=[save], ckpt_path=ckpt_path, **limits)

    whole, undisturbed = run("whole", 8)
    path = next((tmp_path / "whole").glob("*step=2.ckpt"))
    states = torch.load(path, weights_only=True)["ahead"]
    assert [state["positions"] for state in states] == [[0, 1, 2, 3]] * max_staleness
    assert [state["rollouts"]["policy_version"] for state in states] == [0] * (max_staleness - 1) + [1]
    resumed, rest = run("second", 8, str(path))
    completions = [step["completions"] for step in undisturbed.history.steps]
    assert [step["completions"] for step in rest.history.steps] == completions[2:]
    assert rest.history["sampling/staleness"] == [min(step, max_staleness) for step in range(2, 8)]
    assert resumed.progress == whole.progress
    for name, weight in undisturbed.history.weights[-1].items():
        assert torch.equal(rest.history.weights[-1][name], weight)
    assert np.array_equal(rest.tasks.selection_counts, undisturbed.tasks.selection_counts)


@pytest.mark.parametrize("max_staleness", [1, 3])
def test_a_step_whose_reward_fails_is_saved_as_it_began(
    build: Any, fit: Any, tmp_path: Path, max_staleness: int
) -> None:
    faults = iter([False, False, True])

    def moody(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
        if next(faults, False):
            raise ConnectionError("no grader is left")
        return [float("a" in completion) for completion in completions]

    whole = fit(build(GRPO, max_staleness=max_staleness), 5).history
    save = ModelCheckpoint(tmp_path)
    limits = {"limit_train_batches": 5, "enable_checkpointing": True}
    with pytest.raises(StepFailedError, match="no grader is left"):
        fit(build(GRPO, max_staleness=max_staleness, reward_funcs=[moody]), callbacks=[GracefulStop(), save], **limits)
    rest = fit(
        build(GRPO, max_staleness=max_staleness), ckpt_path=str(tmp_path / "last.ckpt"), limit_train_batches=5
    ).history
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
    [first], [second] = (torch.load(p, weights_only=True)["ahead"] for p in (path, tmp_path / "again.ckpt"))
    assert first["indices"] == second["indices"]
    assert torch.equal(first["rollouts"]["completion_ids"], second["rollouts"]["completion_ids"])


@pytest.mark.parametrize(
    ("before", "after", "versions", "staleness"),
    [
        (1, 0, [2, 3, 4, 5, 6], [0, 0, 0, 0, 0]),
        (3, 0, [2, 3, 4, 5, 6], [0, 0, 0, 0, 0]),
        (3, 1, [4, 5], [2, 3, 3, 1, 1]),  # three are there, and the next is begun when the last of them is learned from
        (1, 3, [2, 2, 2, 3], [1, 1, 2, 3, 3]),
        (0, 2, [2, 2, 2, 3, 4], [0, 1, 2, 2, 2]),
    ],
)
def test_a_run_goes_on_from_one_of_another_staleness(
    build: Any, fit: Any, tmp_path: Path, before: int, after: int, versions: list[int], staleness: list[int]
) -> None:
    save = ModelCheckpoint(tmp_path, every_n_train_steps=2, save_top_k=-1)
    limits = {"limit_train_batches": 100, "max_epochs": -1, "enable_checkpointing": True, "max_steps": 7}
    fit(build(GRPO, max_staleness=before), callbacks=[save], **limits)
    engine, seen = Watched(), []
    path = str(next(tmp_path.glob("*step=2.ckpt")))
    module = build(GRPO, engine=engine, max_staleness=after)
    watch_prepare(module, lambda groups, _: seen.append(groups.rollouts.policy_version))
    fit(module, ckpt_path=path, **limits | {"enable_checkpointing": False})
    assert [call["version"] for call in engine.calls] == versions
    assert [step - version for step, version in zip(range(2, 7), seen, strict=True)] == staleness


def test_checkpoints_of_earlier_versions_have_one_batch_ahead() -> None:
    ahead = RolloutsAhead(Policy("none"), CompactEngine(), 1)
    for state, expected in ((None, []), ({"positions": []}, [{"positions": []}])):
        ahead.load_state_dict(state)
        assert ahead.state_dict(0) == expected
