"""The gradient of a minibatch: micro-batches change nothing but memory; what is left out, and why."""

# Shapes: R rows, T completion tokens.

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from bots_lightning.algorithms import GRPO, PPO, BatchSize, Experience, RolloutGroups
from bots_lightning.data import TaskBatch
from bots_lightning.policy import LoRA, SeparateCritic
from bots_lightning.rollouts import CompactEngine, GenerateEngine, RolloutEngine, Rollouts
from bots_lightning.tasks import ProceduralTasks
from bots_lightning.training import StepFailedError
from bots_lightning.training import gradients as of_minibatch

LENGTHS, PROMPTS = [3, 6, 1, 4, 6, 2], [2, 5, 3, 1, 4, 4]
ENGINES: list[Callable[[], RolloutEngine]] = [
    CompactEngine,
    lambda: CompactEngine(max_tokens=150),
    GenerateEngine,
    lambda: GenerateEngine(max_rows=5),
]
POOL = ProceduralTasks(24).load()
Gradients = dict[str, Tensor]


@pytest.fixture
def gradients(step_of: Any) -> Callable[..., tuple[float, Gradients]]:
    """`gradients(module, experience, max_tokens)`: loss and gradient, in micro-batches of so many tokens."""

    def gradients(module: Any, experience: Experience, max_tokens: int | None = None) -> tuple[float, Gradients]:
        module.zero_grad()
        module.policy.max_tokens_per_microbatch = max_tokens
        context = step_of(module)
        loss, _ = of_minibatch.gradients(experience, module.algorithm, context, module.zero_grad)
        trained = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
        assert all(weight.grad is not None for weight in trained.values())
        return loss, {name: weight.grad.clone() for name, weight in trained.items()}

    return gradients


def assert_same_gradients(one: Gradients, other: Gradients, atol: float = 1e-10) -> None:
    assert one.keys() == other.keys()
    for name, gradient in one.items():
        torch.testing.assert_close(other[name], gradient, rtol=0, atol=atol, msg=lambda text, n=name: f"{n}: {text}")


def size_of(gradient: Gradients) -> float:
    return max(float(value.abs().max()) for value in gradient.values())


def groups_of(rollouts: Rollouts, rewards: list[float], *counts: int) -> RolloutGroups:
    """Groups with so many rows each; one of all rows if there are no counts."""
    sizes = torch.tensor(counts or (len(rewards),))
    group_of_row = torch.arange(len(sizes)).repeat_interleave(sizes)
    return RolloutGroups(rollouts, torch.tensor(rewards), group_of_row, torch.zeros(len(sizes), dtype=torch.long))


@pytest.fixture
def experience(make_rollouts: Callable[..., Rollouts]) -> Experience:
    """Of a policy that has moved since: ratios on both sides of the clip, one row that is masked, one idle."""
    rollouts = make_rollouts(LENGTHS, PROMPTS)
    generator = torch.Generator().manual_seed(1)
    mask = rollouts.completion_mask & (torch.arange(6) != 3).unsqueeze(1)
    old, ref = (torch.randn(mask.shape, generator=generator, dtype=torch.float64) - 3 for _ in range(2))
    advantages = torch.tensor([1.0, -0.5, 2.0, -1.0, 0.0, 0.3], dtype=torch.float64)
    return Experience(rollouts, mask, advantages, old, ref)


# --- micro-batches --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss_type", ["dapo", "dr_grpo", "bnpo", "grpo"])
@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("extras", [{}, {"kl_coef": 0.1}, {"entropy_coef": 0.05}], ids=["plain", "kl", "entropy"])
def test_microbatches_change_neither_loss_nor_gradient(
    build: Any,
    ready: Any,
    shake: Any,
    gradients: Any,
    experience: Experience,
    loss_type: str,
    level: str,
    extras: dict[str, float],
) -> None:
    module = ready(build(GRPO, loss_type=loss_type, importance_sampling_level=level, epsilon=2.0, **extras))
    shake(module)
    loss, whole = gradients(module, experience)
    assert size_of(whole) > 1e-3
    for max_tokens, count in ((1, 6), (20, 3)):
        micro_loss, micro_gradients = gradients(module, experience, max_tokens)
        assert len(of_minibatch._microbatches(experience, torch.ones(6, dtype=torch.bool), max_tokens)) == count
        assert micro_loss == pytest.approx(loss, abs=1e-6)
        assert_same_gradients(whole, micro_gradients)


@pytest.mark.parametrize("lora", [LoRA(r=4, alpha=8), None], ids=["shared critic", "separate critic"])
def test_microbatches_change_the_gradient_of_neither_policy_nor_critic(
    build: Any, ready: Any, shake: Any, gradients: Any, experience: Experience, lora: LoRA | None
) -> None:
    module = ready(build(PPO, lora=lora, cliprange=2.0, entropy_coef=0.01))
    shake(module)
    generator = torch.Generator().manual_seed(2)
    advantages, values, returns = torch.randn(3, *experience.mask.shape, generator=generator, dtype=torch.float64)
    experience = replace(experience, advantages=advantages, values=values, returns=returns, ref_logprobs=None)
    loss, whole = gradients(module, experience)
    of_critic = {id(weight) for weight in module.critic.trained(module.policy.model)}
    critic = {n: whole[n] for n, weight in module.named_parameters() if id(weight) in of_critic}
    rest = {name: gradient for name, gradient in whole.items() if name not in critic}
    assert min(size_of(critic), size_of(rest)) > 1e-3
    for max_tokens in (1, 20):
        micro_loss, micro_gradients = gradients(module, experience, max_tokens)
        assert micro_loss == pytest.approx(loss, abs=1e-6)
        assert_same_gradients(whole, micro_gradients)


def test_the_loss_is_that_of_the_whole_batch_by_hand(
    build: Any, ready: Any, shake: Any, gradients: Any, experience: Experience
) -> None:
    module = ready(build(GRPO, loss_type="dapo", epsilon=0.2, temperature=0.7))
    shake(module)
    loss, _ = gradients(module, experience, max_tokens=15)
    rollouts, total = experience.rollouts, 0.0
    assert experience.old_logprobs is not None
    for row in range(6):
        prompt, completion = (
            ids[row][mask[row]]
            for ids, mask in (
                (rollouts.prompt_ids, rollouts.prompt_mask),
                (rollouts.completion_ids, rollouts.completion_mask),
            )
        )
        with torch.no_grad():
            logits = module.policy.model(input_ids=torch.cat([prompt, completion]).unsqueeze(0)).logits[0] / 0.7
        for t, token in enumerate(completion.tolist()):
            if not experience.mask[row, t]:
                continue
            logprob = float(logits[len(prompt) + t - 1].log_softmax(-1)[token])
            ratio = math.exp(logprob - float(experience.old_logprobs[row, t]))
            advantage = float(experience.advantages[row])
            total -= min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage)
    assert loss == pytest.approx(total / int(experience.mask.sum()), abs=1e-6)


def test_tokens_are_counted_over_the_batch_that_is_learned_from(build: Any, step_of: Any) -> None:
    mask = torch.tensor([[1, 1, 0], [0, 0, 0]], dtype=torch.bool)
    for module in (build(GRPO, loss_type="dapo"), build(PPO, critic=SeparateCritic())):
        assert module.algorithm.size(mask, step_of(module)) == BatchSize(2, 2.0, 6)


# --- the policy that has just sampled -------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("algorithm", [GRPO, PPO])
@pytest.mark.parametrize("lora", [LoRA(r=4, alpha=8), None], ids=["lora", "full"])
@pytest.mark.parametrize(("recording", "learning"), [(None, 1), (60, None)])
def test_at_first_the_ratio_is_one_and_nothing_is_clipped(
    build: Any,
    ready: Any,
    step_of: Any,
    engine: Any,
    algorithm: Any,
    lora: LoRA | None,
    recording: Any,
    learning: Any,
) -> None:
    epochs = {"num_iterations": 2} if algorithm is GRPO else {}
    options = {"lora": lora, "engine": engine(), "kl_coef": 0.1, "max_tokens_per_microbatch": recording, **epochs}
    module = ready(build(algorithm, temperature=0.8, **options), torch.float32)
    context, counts = step_of(module), [4, 2, 3, 7]
    batch = TaskBatch(list(range(4)), [POOL[i] for i in range(4)], list(range(4)), counts)
    rollouts = module.sampler.generate(module.policy.model, 0, batch, [0, 1, 2, 3])
    groups = groups_of(rollouts, torch.arange(16.0).tolist(), *counts)
    experience, metrics = module.algorithm.prepare(groups, context)
    module.policy.max_tokens_per_microbatch = learning
    _, meter = of_minibatch.gradients(experience, module.algorithm, context, module.zero_grad)
    of_update = module.algorithm.metrics(meter)
    tokens = int(experience.mask.sum())
    assert tokens == int(rollouts.lengths.sum())
    largest = math.sqrt(2 * meter.mean("approxkl") * tokens)  # a bound: the root of the sum of all squares
    assert largest < 1e-5
    assert meter.mean("ratio") == pytest.approx(1, abs=1e-5)
    assert {value for name, value in of_update.items() if name.startswith("clip_ratio/")} == {0}
    assert {"clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/region_mean"} <= of_update.keys()
    assert of_update["policy/approxkl_avg"] < 1e-10
    assert of_update["entropy"] > 0.1
    kl = metrics["kl"] if algorithm is PPO else of_update["kl"]
    assert kl == pytest.approx(0, abs=1e-6)
    assert experience.ref_logprobs is not None
    assert experience.old_logprobs is not None
    mask = experience.mask
    assert torch.equal(experience.ref_logprobs[mask], experience.old_logprobs[mask])  # the very same computation


# --- rows without a gradient ----------------------------------------------------------------------------------------


def test_penalty_and_bonus_act_on_rows_without_advantage(build: Any, experience: Experience) -> None:
    for extras, idle in (({}, True), ({"kl_coef": 0.1}, False), ({"entropy_coef": 0.1}, False)):
        algorithm = build(GRPO, **extras).algorithm
        assert algorithm.idle(experience).tolist() == [False, False, False, True, idle, False]
        assert algorithm.idle(experience.without_tokens()).all()


def test_truncated_completions_give_no_gradient_but_count_in_the_baseline(
    build: Any, ready: Any, step_of: Any, gradients: Any, make_rollouts: Any
) -> None:
    module = ready(build(GRPO, mask_truncated_completions=True, scale_rewards="none", num_iterations=2))
    rollouts = make_rollouts([2, 6, 3, 6], [3, 3, 2, 2])
    assert rollouts.finished.tolist() == [True, False, True, False]
    experience, _ = module.algorithm.prepare(groups_of(rollouts, [1.0, 0.0, 0.0, 0.0]), step_of(module))
    assert experience.advantages.tolist() == [0.75, -0.25, -0.25, -0.25]
    assert experience.mask.sum(dim=1).tolist() == [2, 0, 3, 0]
    loss, gradient = gradients(module, experience)
    kept = torch.tensor([0, 2])
    alone, of_kept = gradients(module, experience.rows(kept))
    assert loss == pytest.approx(alone)
    assert size_of(gradient) > 1e-3
    assert_same_gradients(gradient, of_kept)


@pytest.mark.parametrize("algorithm", [GRPO, PPO])
def test_a_row_without_reward_gives_no_gradient(
    build: Any, ready: Any, step_of: Any, gradients: Any, make_rollouts: Any, algorithm: Any
) -> None:
    module = ready(build(algorithm, kl_coef=0.1, **({"num_iterations": 2} if algorithm is GRPO else {})))
    rollouts, context = make_rollouts([2, 5, 3, 6], [3, 3, 2, 2]), step_of(module)
    experience, metrics = module.algorithm.prepare(groups_of(rollouts, [1.0, math.nan, 0.0, 0.5]), context)
    assert experience.mask.sum(dim=1).tolist() == [2, 0, 3, 6]
    assert all(math.isfinite(value) for value in metrics.values())
    others = torch.tensor([0, 2, 3])
    module.algorithm.num_generations = 3  # a task counts as often, whether it has 4 of 4 rows or 3 of 3
    alone, _ = module.algorithm.prepare(groups_of(rollouts.rows(others), [1.0, 0.0, 0.5]), context)
    loss, gradient = gradients(module, experience)
    expected, of_others = gradients(module, alone)
    # "dapo" averages over tokens, so that a row without any makes no difference at all.
    assert loss == pytest.approx(expected, abs=1e-6)
    assert size_of(gradient) > 1e-4
    assert_same_gradients(gradient, of_others, atol=1e-6)  # values and old log-probabilities are float32


@pytest.mark.parametrize("algorithm", [GRPO, PPO])
def test_stop_tokens_in_the_prompt_end_nothing(
    build: Any, ready: Any, step_of: Any, gradients: Any, make_rollouts: Any, algorithm: Any
) -> None:
    module = ready(build(algorithm, **({"num_iterations": 2} if algorithm is GRPO else {})))
    rollouts = make_rollouts([2, 5, 3, 6], [3, 3, 2, 2])
    with_stops = replace(rollouts, prompt_ids=rollouts.prompt_ids.masked_fill(rollouts.prompt_ids > 6, 1))
    assert (with_stops.prompt_ids == 1)[rollouts.prompt_mask].any()
    experience, _ = module.algorithm.prepare(groups_of(with_stops, [1.0, 0.0, 0.0, 0.5]), step_of(module))
    assert experience.mask.sum(dim=1).tolist() == [2, 5, 3, 6]
    loss, gradient = gradients(module, experience, max_tokens=20)
    assert math.isfinite(loss)
    assert all(bool(value.isfinite().all()) for value in gradient.values())
    assert size_of(gradient) > 1e-4


def test_the_bonus_is_the_mean_entropy_of_tokens(
    build: Any, ready: Any, shake: Any, gradients: Any, experience: Experience
) -> None:
    losses, all_gradients = [], []
    for coefficient in (0.0, 0.3):
        module = ready(build(GRPO, entropy_coef=coefficient))
        shake(module)
        loss, gradient = gradients(module, experience, max_tokens=12)
        losses.append(loss)
        all_gradients.append(gradient)
    module.zero_grad()
    rollouts = experience.rollouts
    ids = torch.cat([rollouts.prompt_ids, rollouts.completion_ids], dim=1)
    attention = torch.cat([rollouts.prompt_mask, rollouts.completion_mask], dim=1).long()
    positions = (attention.cumsum(dim=1) - 1).clamp(min=0)
    logits = module.policy.model(input_ids=ids, attention_mask=attention, position_ids=positions).logits
    p = logits[:, rollouts.prompt_ids.shape[1] - 1 : -1].softmax(-1)
    entropy = -(p * p.log()).sum(-1)[experience.mask].mean()
    (-0.3 * entropy).backward()
    assert losses[1] == pytest.approx(losses[0] - 0.3 * entropy.item(), abs=1e-6)
    for name, weight in module.named_parameters():
        if weight.requires_grad:
            torch.testing.assert_close(all_gradients[1][name], all_gradients[0][name] + weight.grad)


# --- out of memory --------------------------------------------------------------------------------------------------


def lacking(algorithm: Any, limit: int) -> Any:
    """The algorithm on a machine that has memory for so many tokens; a gradient is there when the error comes."""

    class Lacking(algorithm):  # type: ignore[misc]
        def losses(self, batch: Any, *args: Any) -> Iterator[torch.Tensor]:
            yield from super().losses(batch, *args)
            if len(batch) * int(batch.lengths.max()) > limit:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    return Lacking


@pytest.mark.parametrize("algorithm", [GRPO, PPO])
def test_the_weights_are_those_of_smaller_micro_batches(build: Any, fit: Any, algorithm: Any) -> None:
    plain = build(algorithm, kl_coef=0.1)  # no row is idle
    expected = fit(plain, 3).history
    whole = 4 * 4 * int(max(step["num_tokens"] for step in expected.steps))  # more than any batch has
    short = build(lacking(algorithm, 300), kl_coef=0.1)
    with pytest.warns(UserWarning, match=r"out of memory with a micro-batch of \d+ tokens; it is halved") as warned:
        seen = fit(short, 3).history
    assert len([w for w in warned if "halved" in str(w.message)]) == 1
    assert short.policy.max_tokens_per_microbatch is not None
    assert short.policy.max_tokens_per_microbatch < whole
    assert seen["loss"] == pytest.approx(expected["loss"], abs=1e-5)
    assert seen["entropy"] == pytest.approx(expected["entropy"], abs=1e-5)  # metrics are not counted twice
    for name, weight in expected.weights[-1].items():
        torch.testing.assert_close(seen.weights[-1][name], weight, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:out of memory with a micro-batch")
def test_where_half_does_not_fit_either_the_step_fails_with_what_to_do(
    build: Any, ready: Any, step_of: Any, experience: Experience
) -> None:
    module = ready(build(lacking(GRPO, 5)))
    with pytest.raises(StepFailedError, match=r"and with half of it, max_tokens_per_microbatch=\d+\. Lower that"):
        of_minibatch.gradients(experience, module.algorithm, step_of(module), module.zero_grad)
    assert all(weight.grad is None for weight in module.parameters())
