"""The update: minibatches and epochs, the steps of a plain loop, the schedule, and rows that may be left out."""

# Shapes: R rows.

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from bots_lightning.algorithms import GRPO, PPO, Progress, RolloutGroups, StepContext, group_advantages
from bots_lightning.policy import logprobs
from bots_lightning.training import Updater
from bots_lightning.training.updater import minibatches

# --- options --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("learning_rate", -1e-3),
        ("weight_decay", -0.1),
        ("warmup_steps", -1),
        ("max_grad_norm", 0.0),
        ("max_skipped_steps", 0),
    ],
)
def test_a_number_out_of_bounds_is_refused(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{option}={value}; expected"):
        Updater(**{option: value})  # type: ignore[arg-type]


def test_a_schedule_needs_the_length_of_the_run_unless_it_is_constant() -> None:
    weights, algorithm = [nn.Parameter(torch.zeros(2))], GRPO()
    for kind in ("linear", "cosine"):
        with pytest.raises(ValueError, match=f"lr_scheduler_type='{kind}' needs the length of the run; set trainer"):
            Updater(lr_scheduler_type=kind).optimizer(algorithm, weights, None)  # type: ignore[arg-type]
    endless = Updater(0.1, lr_scheduler_type="constant").optimizer(algorithm, weights, None)
    assert endless["lr_scheduler"].get_last_lr() == [0.1]
    schedule = Updater(0.1, warmup_steps=2).optimizer(algorithm, weights, 6)["lr_scheduler"]
    rates = []
    for _ in range(6):
        rates += schedule.get_last_lr()
        schedule.optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0, 0.05, 0.1, 0.075, 0.05, 0.025])


# --- epochs and minibatches -----------------------------------------------------------------------------------------


def context_of(iteration: int, seed: int = 0) -> StepContext:
    """Of a step without a model."""
    cpu, progress = torch.device("cpu"), Progress(iterations=iteration)
    return StepContext(SingleDeviceStrategy(), cpu, 0, 1, lambda x: x, lambda loss: None, seed, progress, 6)


def test_every_row_is_used_once_per_epoch_in_an_order_of_its_own() -> None:
    def order(iteration: int = 3, seed: int = 0, **options: Any) -> list[list[int]]:
        torch.manual_seed(iteration + len(options))  # the global generator must not matter
        algorithm, context = GRPO(num_iterations=2, **options), context_of(iteration, seed)
        return [rows.tolist() for rows in minibatches(10, algorithm, context)]

    batches = order(steps_per_generation=3)
    assert [len(batch) for batch in batches] == [4, 3, 3] * 2
    epochs = list(chain(*batches[:3])), list(chain(*batches[3:]))
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(10))
    assert epochs[0] != epochs[1]
    assert order(steps_per_generation=3) == batches
    assert order(4, steps_per_generation=3) != batches
    assert order(steps_per_generation=3, seed=1) != batches
    assert order() == [list(range(10))] * 2


def test_two_epochs_of_two_steps_are_those_of_a_plain_loop(build: Any, fit: Any, checkpoint: str) -> None:
    options = {"num_iterations": 2, "steps_per_generation": 2, "loss_type": "grpo", "max_tokens_per_microbatch": 40}
    module = build(GRPO, **options, learning_rate=0.02, weight_decay=0.1, max_grad_norm=0.3, lora=None)
    module.configure_model()
    module.double()
    prepare, seen = module.algorithm.prepare, []

    def watched(groups: RolloutGroups, context: StepContext) -> Any:
        seen.extend([groups, list(minibatches(len(groups.rollouts), module.algorithm, context))])
        return prepare(groups, context)

    module.algorithm.prepare = watched
    run = fit(module, 1)
    groups, order = seen
    rollouts = groups.rollouts
    assert len(order) == 4
    assert run.history["optimizer_steps"] == [4]

    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02, weight_decay=0.1)
    advantages = group_advantages(groups.rewards, groups.group_of_row)

    def logprob(row: int) -> Tensor:
        prompt = rollouts.prompt_ids[row][rollouts.prompt_mask[row]]
        completion = rollouts.completion_ids[row][rollouts.completion_mask[row]]
        logits = model(input_ids=torch.cat([prompt, completion]).unsqueeze(0)).logits[0, len(prompt) - 1 : -1]
        return logits.log_softmax(-1).gather(1, completion.unsqueeze(1)).squeeze(1)

    old = [logprob(row).detach() for row in range(len(rollouts))]
    losses, norms = [], []
    for rows in order:
        loss = torch.zeros((), dtype=torch.float64)
        for row in rows.tolist():
            ratio = (logprob(row) - old[row]).exp()
            gain = torch.minimum(ratio * advantages[row], ratio.clamp(0.8, 1.2) * advantages[row])
            loss = loss - gain.mean() / len(rows)
        optimizer.zero_grad()
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), 0.3)))
        losses.append(loss.item())
        optimizer.step()
    assert max(norms) > 0.3
    assert run.history["loss"][0] == pytest.approx(sum(losses) / 4, abs=1e-5)
    assert run.history["grad_norm"][0] == pytest.approx(sum(norms) / 4, rel=1e-4)
    expected = dict(model.named_parameters())
    for name, weight in module.policy.model.named_parameters():  # what is recorded of the old policy is float32
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-5)


# --- rows that may be left out --------------------------------------------------------------------------------------


class Scripted:
    """Rewards 0, 1, 0, 1, …, half of them 1; but in some of its calls 1 throughout."""

    def __init__(self, equal: Sequence[int]) -> None:
        self.equal, self.calls = equal, 0

    def __call__(self, prompts: list[str], completions: list[str], **_: Any) -> list[float]:
        self.calls += 1
        rewards = [float(row % 2) for row in range(len(completions))]
        if self.calls - 1 in self.equal:
            return [1.0] * len(rewards)
        return [1.0] * (len(rewards) // 2) + rewards[len(rewards) // 2 :]


@pytest.mark.parametrize("equal", [[], [1]], ids=["half of the rows", "all rows of some steps"])
@pytest.mark.parametrize("loss_type", ["dapo", "grpo"])
def test_rows_without_advantage_may_be_left_out(
    build: Any, fit: Any, monkeypatch: pytest.MonkeyPatch, equal: list[int], loss_type: str
) -> None:
    backward: list[int] = []

    def run(leave_out: bool) -> Any:
        options = {"num_iterations": 2, "weight_decay": 0.1, "learning_rate": 0.05, "max_tokens_per_microbatch": 60}
        module = build(GRPO, reward_funcs=[Scripted(equal)], loss_type=loss_type, **options)
        module.configure_model()
        module.double()
        module.manual_backward = lambda loss: (backward.append(1), loss.backward())
        if not leave_out:
            module.algorithm.idle = lambda batch: torch.zeros(len(batch), dtype=torch.bool)
        return fit(module, 3).history

    # The model's norms are float32, so that prompts shared among other rows would round otherwise.
    monkeypatch.setattr(logprobs, "WORTH_SHARING", math.inf)
    left_out = run(True)
    few = len(backward)
    all_in = run(False)
    assert few <= (len(backward) - few) * 0.6
    for one, other in zip(left_out.weights, all_in.weights, strict=True):
        assert one.keys() == other.keys()
        for name, weight in one.items():
            torch.testing.assert_close(other[name], weight, rtol=0, atol=1e-9, msg=lambda text, n=name: f"{n}: {text}")
    if equal:  # momentum and weight decay go on
        before, after = left_out.weights[0], left_out.weights[1]
        assert all(not torch.equal(before[name], after[name]) for name in before)
    metrics = {name for name in left_out.logged[0] if name.startswith(("clip_ratio", "entropy", "policy", "loss"))}
    assert len(metrics) >= 8
    for name in metrics:
        assert left_out[name] == pytest.approx(all_in[name], abs=1e-6, nan_ok=True), name
    assert max(left_out["clip_ratio/region_mean"]) > 0


# --- the step that is not taken -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("target_kl", "steps"), [(1e-12, 1), (1e3, 6)])
def test_target_kl_ends_an_update_and_the_schedule_goes_on(build: Any, fit: Any, target_kl: float, steps: int) -> None:
    """The first step is that of the policy that has sampled."""
    options = {"num_ppo_epochs": 3, "num_mini_batches": 2, "target_kl": target_kl}
    history = fit(build(PPO, **options, lr_scheduler_type="linear"), 2).history
    assert history["optimizer_steps"] == [steps, steps]
    assert history["learning_rate"] == pytest.approx([0.005, 0.0])
