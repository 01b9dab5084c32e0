"""The module in a run: where the seconds of a step go, faulty rewards and completions, and what a step leaves alone."""

# Shapes: B tasks, G rollouts per task.

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from bots_lightning.algorithms import GRPO, PPO, Experience, RolloutGroups, StepContext
from bots_lightning.algorithms.step import PHASES
from bots_lightning.policy import LoRA
from bots_lightning.policy.loading import language_model
from bots_lightning.rewards import RewardStream
from bots_lightning.rollouts import GenerationRequest, RolloutEngine, Rollouts
from bots_lightning.selection import UniformSelector
from bots_lightning.tasks import ProceduralTasks
from bots_lightning.training import gradients, report
from callbacks import CompletionsLog, EffectiveTaskRatio, RunSummary, SelectionOverhead

# --- time -----------------------------------------------------------------------------------------------------------


class Work:
    """A clock that stands still except for what is known to take time."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now, self.patch = 0.0, patch
        patch.setattr(time, "perf_counter", lambda: self.now)

    def takes(self, seconds: float, owner: Any, name: str) -> None:
        """Each call of a function moves the clock on."""
        function: Callable[..., Any] = getattr(owner, name)

        def slow(*args: Any, **kwargs: Any) -> Any:
            self.now += seconds
            return function(*args, **kwargs)

        self.patch.setattr(owner, name, slow)


@pytest.mark.parametrize(
    ("algorithm", "options", "steps"),
    [
        (GRPO, {}, 1),
        (GRPO, {"num_iterations": 2, "kl_coef": 0.1}, 2),
        (PPO, {"num_ppo_epochs": 3}, 3),
    ],
)
def test_every_second_goes_to_the_phase_that_took_it(
    build: Any,
    fit: Any,
    monkeypatch: pytest.MonkeyPatch,
    algorithm: Any,
    options: dict[str, Any],
    steps: int,
) -> None:
    work = Work(monkeypatch)
    module = build(algorithm, **options)
    work.takes(1, UniformSelector, "select")
    work.takes(10, UniformSelector, "observe")
    work.takes(100, type(module.sampler.engine), "generate")
    work.takes(1_000, RewardStream, "finish")
    work.takes(10_000, gradients, "_accumulate")
    work.takes(100_000, torch.optim.AdamW, "step")
    work.takes(1_000_000, module.algorithm, "prepare")
    work.takes(10_000_000, report, "batch_metrics")
    history = fit(module, 2).history
    for step, logged in zip(history.steps, history.logged, strict=True):
        expected = {
            "select": 1,
            "observe": 10,
            "rollout": 100,
            "reward": 1_000,
            "backward": 10_000 * steps,
            "optimizer": 100_000 * steps,
            "logprobs": 1_000_000,
            "other": 10_000_000,
            "sync": 0,
        }
        assert {phase: step["timings"][phase] for phase in PHASES} == expected
        assert {phase: logged[f"timing_s/{phase}"] for phase in PHASES} == expected
        assert logged["step_time"] == sum(expected.values())
        assert step["timings"]["step"] == sum(expected.values()) - 1
        assert logged["tokens_per_second"] == pytest.approx(step["num_tokens"] / sum(expected.values()))


def test_the_phases_add_up_to_the_step(build: Any, fit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module = build(GRPO, num_generations=16)
    begin, end = module.training_step, report.log_step
    beside: list[float] = []

    def begins(*arguments: Any) -> Any:
        beside.append(-time.perf_counter())
        return begin(*arguments)

    def ends(*arguments: Any) -> None:
        beside[-1] += time.perf_counter()
        end(*arguments)

    monkeypatch.setattr(module, "training_step", begins)
    monkeypatch.setattr(report, "log_step", ends)
    gc.collect()
    gc.disable()  # a collection may fall between the two clocks
    try:
        history = fit(module, 6, batch_size=8).history
    finally:
        gc.enable()
    phases = [sum(step["timings"][phase] for phase in PHASES if phase != "select") for step in history.steps]
    assert phases == pytest.approx(beside, rel=0.02)
    others = [step["timings"]["other"] / whole for step, whole in zip(history.steps, beside, strict=True)]
    assert np.median(others) < 0.1
    assert all(min(step["timings"].values()) >= 0 for step in history.steps)


# --- rewards and completions ----------------------------------------------------------------------------------------

ALGORITHMS = [(GRPO, LoRA(r=4, alpha=8)), (PPO, LoRA(r=4, alpha=8)), (PPO, None)]
algorithms = pytest.mark.parametrize(("algorithm", "lora"), ALGORITHMS, ids=["grpo", "ppo shared", "ppo separate"])


class Scripted:
    """Rewards 0, 1, 0, 1, …; but in some of its calls 1 throughout."""

    def __init__(self, equal: Sequence[int] = ()) -> None:
        self.equal, self.calls = equal, 0

    def __call__(self, prompts: list[str], completions: list[str], **_: Any) -> list[float]:
        self.calls += 1
        if self.calls - 1 in self.equal:
            return [1.0] * len(completions)
        return [float(row % 2) for row in range(len(completions))]


class Canned(RolloutEngine):
    """Completions of given lengths, in turn, whatever the prompts; what is asked for beyond them is repeated."""

    def __init__(self, make_rollouts: Callable[..., Rollouts], lengths: list[int]) -> None:
        self.make_rollouts, self.lengths = make_rollouts, lengths

    def generate(self, request: GenerationRequest) -> Rollouts:
        rows = sum(request.counts)
        lengths = (self.lengths * rows)[:rows]
        return self.make_rollouts(lengths, [1 + row % 5 for row in range(rows)], request.seeds[0] % 1000)


def is_finite(weights: dict[str, Tensor]) -> bool:
    return all(bool(weight.isfinite().all()) for weight in weights.values())


def test_the_belief_sees_rewards_without_the_penalty_of_long_completions(
    build: Any, fit: Any, make_rollouts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Canned(make_rollouts, [1, 2, 3, 4, 5, 6])
    module = build(GRPO, soft_punish_cache=4, scale_rewards="none", reward_funcs=[Scripted()], engine=engine)
    prepare, seen, evidence = module.algorithm.prepare, [], []

    def watched(groups: RolloutGroups, context: StepContext) -> tuple[Experience, dict[str, float]]:
        experience, metrics = prepare(groups, context)
        seen.append((groups.rollouts.lengths, module.algorithm.shaped_rewards(groups, context), experience.advantages))
        return experience, metrics

    module.algorithm.prepare = watched
    observe = UniformSelector.observe
    monkeypatch.setattr(UniformSelector, "observe", lambda self, seen: evidence.append(seen) or observe(self, seen))
    run = fit(module, 1)
    ((lengths, rewards, advantages),) = seen
    raw = torch.tensor([[0.0, 1.0, 0.0, 1.0]] * 4)
    assert evidence[0].successes.tolist() == [2.0] * 4
    assert torch.equal(run.history.steps[0]["rewards"], raw.flatten())
    assert run.history["reward"] == [0.5]
    penalty = {1: 0.0, 2: 0.0, 3: 0.25, 4: 0.5, 5: 0.75, 6: 1.0}
    shaped = raw - torch.tensor([penalty[length] for length in lengths.tolist()]).reshape(4, 4)
    torch.testing.assert_close(rewards, shaped.flatten())
    torch.testing.assert_close(advantages.reshape(4, 4), shaped - shaped.mean(dim=1, keepdim=True))


def test_a_bonus_on_entropy_raises_it(build: Any, fit: Any) -> None:
    never = Scripted(range(99))  # no advantage: the bonus alone
    options = {"reward_funcs": [never], "temperature": 0.3}
    still = fit(build(GRPO, **options), 10, batch_size=8).history["entropy"]
    raised = fit(build(GRPO, **options, entropy_coef=0.1), 10, batch_size=8).history["entropy"]
    assert raised[0] == pytest.approx(still[0])
    assert sum(raised[-4:]) / 4 > sum(still[-4:]) / 4 + 0.15


@algorithms
def test_rewards_that_never_apply_leave_the_weights_alone(
    build: Any, fit: Any, algorithm: Any, lora: LoRA | None, tmp_path: Path
) -> None:
    def never(prompts: list[str], completions: list[str], **_: Any) -> list[None]:
        return [None] * len(completions)

    module = build(algorithm, reward_funcs=[never], lora=lora, kl_coef=0.1, entropy_coef=0.1)
    module.configure_model()
    before = {name: weight.detach().clone() for name, weight in module.named_parameters()}
    watching = [CompletionsLog(every_n_steps=1), EffectiveTaskRatio(), SelectionOverhead(), RunSummary(table=False)]
    history = fit(module, 3, callbacks=watching).history
    assert module.progress.iterations == 3
    assert history["loss"] == history["grad_norm"] == [0.0] * 3
    assert history["skipped_steps"] == [0.0] * 3
    assert all(math.isnan(reward) for reward in history["reward"])
    for name, weight in history.weights[-1].items():
        assert torch.equal(weight, before[name])
    assert len((tmp_path / "completions.jsonl").read_text().splitlines()) == 3 * 16


@algorithms
@pytest.mark.parametrize(
    "lengths",
    [[1], [3, 0, 6, 2], [0], [6]],
    ids=["one token each", "one all masked", "all of them all masked", "all truncated"],
)
def test_odd_completions_do_no_harm(
    build: Any, fit: Any, make_rollouts: Any, algorithm: Any, lora: LoRA | None, lengths: list[int]
) -> None:
    engine = Canned(make_rollouts if max(lengths) else lambda _, p, s: _all_masked(make_rollouts, p, s), lengths)
    options = {"engine": engine, "reward_funcs": [Scripted()], "mask_truncated_completions": True}
    module = build(algorithm, lora=lora, max_tokens_per_microbatch=30, **options)
    module.configure_model()
    before = {name: weight.detach().clone() for name, weight in module.named_parameters() if weight.requires_grad}
    history = fit(module, 2).history
    assert all(map(math.isfinite, history["loss"]))
    assert history["skipped_steps"] == [0, 0]
    assert is_finite(history.weights[-1])
    learned = any(not torch.equal(before[name], weight) for name, weight in history.weights[-1].items())
    assert learned == (lengths == [3, 0, 6, 2])  # else: nothing to learn from; rows that all end at the limit


def _all_masked(make_rollouts: Any, prompts: list[int], seed: int) -> Rollouts:
    rollouts = make_rollouts([1] * len(prompts), prompts, seed)
    masked = torch.zeros_like(rollouts.completion_mask)
    return replace(rollouts, completion_mask=masked, action_mask=masked)


@pytest.fixture
def several_stops(checkpoint: str, tmp_path: Path) -> str:
    """The checkpoint with three more stop tokens; pad is one of them."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
    model.generation_config.eos_token_id = [1, 5, 6, 7]
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(7)
    model.save_pretrained(tmp_path / "stops")
    tokenizer.save_pretrained(tmp_path / "stops")
    return str(tmp_path / "stops")


@algorithms
def test_every_stop_token_ends_a_completion_and_pad_may_be_one(
    build: Any, fit: Any, several_stops: str, algorithm: Any, lora: LoRA | None
) -> None:
    module = build(algorithm, pretrained=several_stops, lora=lora, max_tokens_per_microbatch=60)
    prepare, seen = module.algorithm.prepare, []
    module.algorithm.prepare = lambda groups, context: seen.append(groups.rollouts) or prepare(groups, context)
    history = fit(module, 3, batch_size=8).history
    assert module.sampler.sampling.stop_token_ids == (1, 5, 6, 7)
    assert module.sampler.sampling.pad_token_id == 7
    last = set()
    for rollouts in seen:
        for ids, mask, finished in zip(
            rollouts.completion_ids, rollouts.completion_mask, rollouts.finished, strict=True
        ):
            *others, end = ids[mask].tolist()
            assert not {1, 5, 6, 7} & set(others)
            assert (end in {1, 5, 6, 7}) == bool(finished)
            last.add(end)
    assert len(last & {1, 5, 6, 7}) >= 3
    assert all(map(math.isfinite, history["loss"]))
    assert is_finite(history.weights[-1])


# --- what a run leaves alone ----------------------------------------------------------------------------------------


def test_training_leaves_the_modes_as_they_were(build: Any, fit: Any) -> None:
    module = build(GRPO, gradient_checkpointing=True)
    module.configure_model()
    model = language_model(module.policy.model)
    assert model.training
    assert model.is_gradient_checkpointing
    fit(module, 2, evaluation={"heldout": ProceduralTasks(4)}, val_check_interval=1)
    assert all(each.training for each in model.modules())
    assert model.is_gradient_checkpointing
