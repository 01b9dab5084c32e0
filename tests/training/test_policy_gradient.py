"""The update: micro-batches, mini-batches and passes that change nothing but memory; what is left out, and why."""

# Shapes: B tasks, G rollouts per task, R = B·G rows, T completion tokens.

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from bots_lightning.algorithms import GRPO, PPO, Experience, group_advantages, logprobs
from bots_lightning.algorithms.losses import BatchSize
from bots_lightning.algorithms.meter import Meter
from bots_lightning.policy import LoRA, SeparateCritic
from bots_lightning.policy.loading import language_model
from bots_lightning.rollouts import CompactEngine, GenerateEngine, RolloutEngine, Rollouts
from bots_lightning.selection import UniformSelector
from bots_lightning.tasks import ProceduralTasks
from callbacks import CompletionsLog, EffectiveTaskRatio, RunSummary, SelectionOverhead

LENGTHS, PROMPTS = [3, 6, 1, 4, 6, 2], [2, 5, 3, 1, 4, 4]
ENGINES: list[Callable[[], RolloutEngine]] = [
    CompactEngine,
    lambda: CompactEngine(max_tokens=150),
    GenerateEngine,
    lambda: GenerateEngine(max_rows=5),
]
POOL = ProceduralTasks(24).load()


def gradients(policy: Any, experience: Experience, max_tokens: int | None = None) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradient of one optimizer step, in micro-batches of so many tokens."""
    policy.zero_grad()
    policy.max_tokens_per_microbatch = max_tokens
    loss = policy._accumulate_gradients(experience, Meter())
    trained = {name: weight for name, weight in policy.named_parameters() if weight.requires_grad}
    assert all(weight.grad is not None for weight in trained.values())
    return loss, {name: weight.grad.clone() for name, weight in trained.items()}


def assert_same_gradients(one: dict[str, Tensor], other: dict[str, Tensor], atol: float = 1e-10) -> None:
    assert one.keys() == other.keys()
    for name, gradient in one.items():
        torch.testing.assert_close(other[name], gradient, rtol=0, atol=atol, msg=lambda text, n=name: f"{n}: {text}")


def size_of(gradient: dict[str, Tensor]) -> float:
    return max(float(value.abs().max()) for value in gradient.values())


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
    build: Any, attach: Any, shake: Any, experience: Experience, loss_type: str, level: str, extras: dict[str, float]
) -> None:
    policy = attach(build(GRPO, loss_type=loss_type, importance_sampling_level=level, epsilon=2.0, **extras))
    shake(policy)
    loss, whole = gradients(policy, experience)
    assert size_of(whole) > 1e-3
    for max_tokens, count in ((1, 6), (20, 3)):
        part_loss, part_gradients = gradients(policy, experience, max_tokens)
        assert len(policy._microbatches(experience, torch.ones(6, dtype=torch.bool))) == count
        assert part_loss == pytest.approx(loss, abs=1e-6)
        assert_same_gradients(whole, part_gradients)


@pytest.mark.parametrize("lora", [LoRA(r=4, alpha=8), None], ids=["shared critic", "separate critic"])
def test_microbatches_change_the_gradient_of_neither_policy_nor_critic(
    build: Any, attach: Any, shake: Any, experience: Experience, lora: LoRA | None
) -> None:
    policy = attach(build(PPO, lora=lora, cliprange=2.0, entropy_coef=0.01))
    shake(policy)
    generator = torch.Generator().manual_seed(2)
    advantages, values, returns = torch.randn(3, *experience.mask.shape, generator=generator, dtype=torch.float64)
    experience = replace(experience, advantages=advantages, values=values, returns=returns, ref_logprobs=None)
    loss, whole = gradients(policy, experience)
    of_critic = {id(weight) for weight in policy.critic.trained(policy.policy)}
    critic = {n: whole[n] for n, weight in policy.named_parameters() if id(weight) in of_critic}
    rest = {name: gradient for name, gradient in whole.items() if name not in critic}
    assert min(size_of(critic), size_of(rest)) > 1e-3
    for max_tokens in (1, 20):
        part_loss, part_gradients = gradients(policy, experience, max_tokens)
        assert part_loss == pytest.approx(loss, abs=1e-6)
        assert_same_gradients(whole, part_gradients)


def test_the_loss_is_that_of_the_whole_batch_by_hand(
    build: Any, attach: Any, shake: Any, experience: Experience
) -> None:
    policy = attach(build(GRPO, loss_type="dapo", epsilon=0.2, temperature=0.7))
    shake(policy)
    loss, _ = gradients(policy, experience, max_tokens=15)
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
            logits = policy.policy(input_ids=torch.cat([prompt, completion]).unsqueeze(0)).logits[0] / 0.7
        for t, token in enumerate(completion.tolist()):
            if not experience.mask[row, t]:
                continue
            logprob = float(logits[len(prompt) + t - 1].log_softmax(-1)[token])
            ratio = math.exp(logprob - float(experience.old_logprobs[row, t]))
            advantage = float(experience.advantages[row])
            total -= min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage)
    assert loss == pytest.approx(total / int(experience.mask.sum()), abs=1e-6)


# --- the policy that has just sampled -------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("algorithm", [GRPO, PPO])
@pytest.mark.parametrize("lora", [LoRA(r=4, alpha=8), None], ids=["lora", "full"])
@pytest.mark.parametrize(("recording", "learning"), [(None, 1), (60, None)])
def test_at_first_the_ratio_is_one_and_nothing_is_clipped(
    build: Any, attach: Any, engine: Any, algorithm: Any, lora: LoRA | None, recording: Any, learning: Any
) -> None:
    passes = {"num_iterations": 2} if algorithm is GRPO else {}
    options = {"lora": lora, "engine": engine(), "kl_coef": 0.1, "max_tokens_per_microbatch": recording, **passes}
    policy = attach(build(algorithm, temperature=0.8, **options), torch.float32)
    rollouts = policy.rollout([POOL[i] for i in range(4)], 4, [0, 1, 2, 3])
    rewards = torch.arange(16.0).reshape(4, 4)
    experience, metrics = policy.prepare(rollouts, rewards)
    policy.max_tokens_per_microbatch = learning
    meter = Meter()
    policy._accumulate_gradients(experience, meter)
    figures = policy.metrics(meter)
    tokens = int(experience.mask.sum())
    assert tokens == int(rollouts.lengths.sum())
    largest = math.sqrt(2 * meter.mean("approxkl") * tokens)  # a bound: the root of the sum of all squares
    assert largest < 1e-5
    assert meter.mean("ratio") == pytest.approx(1, abs=1e-5)
    assert figures["clip_ratio/low_mean"] == figures["clip_ratio/high_mean"] == figures["clip_ratio/region_mean"] == 0
    assert figures["policy/approxkl_avg"] < 1e-10
    assert figures["entropy"] > 0.1
    kl = metrics["kl"] if algorithm is PPO else figures["kl"]
    assert kl == pytest.approx(0, abs=1e-6)
    assert experience.ref_logprobs is not None
    assert experience.old_logprobs is not None
    mask = experience.mask
    assert torch.equal(experience.ref_logprobs[mask], experience.old_logprobs[mask])  # the very same computation


# --- rows without a gradient ----------------------------------------------------------------------------------------


class Scripted:
    """Rewards 0, 1, 0, 1, …; but in some of its calls 1 throughout."""

    def __init__(self, equal: Sequence[int], half: bool = False) -> None:
        self.equal, self.half, self.calls = equal, half, 0

    def __call__(self, prompts: list[str], completions: list[str], **_: Any) -> list[float]:
        self.calls += 1
        rewards = [float(row % 2) for row in range(len(completions))]
        if self.calls - 1 in self.equal:
            return [1.0] * len(rewards)
        return [1.0] * (len(rewards) // 2) + rewards[len(rewards) // 2 :] if self.half else rewards


@pytest.mark.parametrize("equal", [[], [1]], ids=["half of the rows", "all rows of some steps"])
@pytest.mark.parametrize("loss_type", ["dapo", "grpo"])
def test_rows_without_advantage_may_be_left_out(
    build: Any, fit: Any, monkeypatch: pytest.MonkeyPatch, equal: list[int], loss_type: str
) -> None:
    def run() -> Any:
        reward = Scripted(equal, half=True)
        options = {"num_iterations": 2, "weight_decay": 0.1, "learning_rate": 0.05, "max_tokens_per_microbatch": 60}
        policy = build(GRPO, reward_funcs=[reward], loss_type=loss_type, **options)
        policy.configure_model()
        policy.double()
        return fit(policy, 3).history

    # The model's norms are float32, so that prompts shared among other rows would round otherwise.
    monkeypatch.setattr(logprobs, "WORTH_SHARING", math.inf)
    backward = []
    monkeypatch.setattr(GRPO, "manual_backward", lambda self, loss: (backward.append(1), loss.backward()))
    left_out = run()
    few = len(backward)
    monkeypatch.setattr(GRPO, "idle", lambda self, part: torch.zeros(len(part), dtype=torch.bool))
    all_in = run()
    assert few <= (len(backward) - few) * 0.6
    for one, other in zip(left_out.weights, all_in.weights, strict=True):
        assert_same_gradients(one, other, atol=1e-9)
    if equal:  # momentum and weight decay go on
        before, after = left_out.weights[0], left_out.weights[1]
        assert all(not torch.equal(before[name], after[name]) for name in before)
    metrics = {name for name in left_out.logged[0] if name.startswith(("clip_ratio", "entropy", "policy", "loss"))}
    assert len(metrics) >= 8
    for name in metrics:
        assert left_out[name] == pytest.approx(all_in[name], abs=1e-6, nan_ok=True), name
    assert max(left_out["clip_ratio/region_mean"]) > 0


def test_penalty_and_bonus_act_on_rows_without_advantage(build: Any, attach: Any, experience: Experience) -> None:
    for extras, idle in (({}, True), ({"kl_coef": 0.1}, False), ({"entropy_coef": 0.1}, False)):
        policy = attach(build(GRPO, **extras))
        assert policy.idle(experience).tolist() == [False, False, False, True, idle, False]
        assert policy.idle(experience.without_tokens()).all()


# --- passes and mini-batches ----------------------------------------------------------------------------------------


def test_every_row_is_used_once_per_pass_in_an_order_of_its_own(build: Any, attach: Any) -> None:
    def order(iteration: int = 3, **options: Any) -> list[list[int]]:
        policy = attach(build(GRPO, num_iterations=2, **options))
        policy.progress.iterations = iteration
        torch.manual_seed(iteration + len(options))  # the global generator must not matter
        return [part.tolist() for part in policy._minibatches(10)]

    parts = order(steps_per_generation=3)
    assert [len(part) for part in parts] == [4, 3, 3] * 2
    passes = list(chain(*parts[:3])), list(chain(*parts[3:]))
    assert sorted(passes[0]) == sorted(passes[1]) == list(range(10))
    assert passes[0] != passes[1]
    assert order(steps_per_generation=3) == parts
    assert order(4, steps_per_generation=3) != parts
    assert order(steps_per_generation=3, seed=1) != parts
    assert order() == [list(range(10))] * 2


def test_two_passes_of_two_steps_are_those_of_a_plain_loop(build: Any, fit: Any, checkpoint: str) -> None:
    options = {"num_iterations": 2, "steps_per_generation": 2, "loss_type": "grpo", "max_tokens_per_microbatch": 40}
    policy = build(GRPO, **options, learning_rate=0.02, weight_decay=0.1, max_grad_norm=0.3, lora=None)
    policy.configure_model()
    policy.double()
    update, seen = policy.update, []

    def watched(rollouts: Rollouts, rewards: Tensor) -> dict[str, float]:
        seen.extend([rollouts, rewards, list(policy._minibatches(len(rollouts)))])
        return update(rollouts, rewards)

    policy.update = watched
    run = fit(policy, 1)
    rollouts, rewards, order = seen
    assert len(order) == 4
    assert run.history["optimizer_steps"] == [4]

    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02, weight_decay=0.1)
    advantages = group_advantages(rewards).flatten()

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
    for name, weight in policy.policy.named_parameters():  # what is recorded of the old policy is float32
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("algorithm", "options", "message"),
    [
        (GRPO, {"steps_per_generation": 17}, "17 optimizer steps per pass over 16 rollouts"),
        (GRPO, {"num_iterations": 0}, "0 passes of 1 optimizer steps"),
        (PPO, {"num_mini_batches": 0}, "4 passes of 0 optimizer steps"),
    ],
)
def test_more_steps_than_rows_and_no_step_at_all_are_refused(
    build: Any, fit: Any, algorithm: Any, options: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fit(build(algorithm, **options))


# --- options that judge completions ---------------------------------------------------------------------------------


def test_the_belief_sees_rewards_without_the_penalty_of_long_completions(
    build: Any, fit: Any, make_rollouts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Canned(make_rollouts, [1, 2, 3, 4, 5, 6])
    policy = build(GRPO, soft_punish_cache=4, scale_rewards="none", reward_funcs=[Scripted([])], engine=engine)
    prepare, seen, evidence = policy.prepare, [], []

    def watched(rollouts: Rollouts, rewards: Tensor) -> Any:
        experience, metrics = prepare(rollouts, rewards)
        seen.append((rollouts.lengths, rewards, experience.advantages))
        return experience, metrics

    policy.prepare = watched
    observe = UniformSelector.observe
    monkeypatch.setattr(UniformSelector, "observe", lambda self, seen: evidence.append(seen) or observe(self, seen))
    run = fit(policy, 1)
    ((lengths, rewards, advantages),) = seen
    raw = torch.tensor([[0.0, 1.0, 0.0, 1.0]] * 4)
    assert evidence[0].successes.tolist() == [2.0] * 4
    assert torch.equal(run.history.steps[0]["rewards"], raw)
    assert run.history["reward"] == [0.5]
    penalty = {1: 0.0, 2: 0.0, 3: 0.25, 4: 0.5, 5: 0.75, 6: 1.0}
    shaped = raw - torch.tensor([penalty[length] for length in lengths.tolist()]).reshape(4, 4)
    torch.testing.assert_close(rewards, shaped)
    torch.testing.assert_close(advantages.reshape(4, 4), shaped - shaped.mean(dim=1, keepdim=True))


def test_truncated_completions_give_no_gradient_but_count_in_the_baseline(
    build: Any, attach: Any, make_rollouts: Any
) -> None:
    policy = attach(build(GRPO, mask_truncated_completions=True, scale_rewards="none", num_iterations=2))
    rollouts = make_rollouts([2, 6, 3, 6], [3, 3, 2, 2])
    assert rollouts.finished.tolist() == [True, False, True, False]
    experience, _ = policy.prepare(rollouts, torch.tensor([[1.0, 0.0, 0.0, 0.0]]))
    assert experience.advantages.tolist() == [0.75, -0.25, -0.25, -0.25]
    assert experience.mask.sum(dim=1).tolist() == [2, 0, 3, 0]
    loss, gradient = gradients(policy, experience)
    kept = torch.tensor([0, 2])
    alone, of_kept = gradients(policy, experience.rows(kept))
    assert loss == pytest.approx(alone)
    assert size_of(gradient) > 1e-3
    assert_same_gradients(gradient, of_kept)


def test_a_bonus_on_entropy_raises_it(build: Any, fit: Any) -> None:
    never = Scripted(range(99))  # no advantage: the bonus alone
    options = {"reward_funcs": [never], "temperature": 0.3}
    still = fit(build(GRPO, **options), 10, batch_size=8).history["entropy"]
    raised = fit(build(GRPO, **options, entropy_coef=0.1), 10, batch_size=8).history["entropy"]
    assert raised[0] == pytest.approx(still[0])
    assert sum(raised[-4:]) / 4 > sum(still[-4:]) / 4 + 0.15


def test_the_bonus_is_the_mean_entropy_of_tokens(build: Any, attach: Any, shake: Any, experience: Experience) -> None:
    losses, all_gradients = [], []
    for coefficient in (0.0, 0.3):
        policy = attach(build(GRPO, entropy_coef=coefficient))
        shake(policy)
        loss, gradient = gradients(policy, experience, max_tokens=12)
        losses.append(loss)
        all_gradients.append(gradient)
    policy.zero_grad()
    rollouts = experience.rollouts
    ids = torch.cat([rollouts.prompt_ids, rollouts.completion_ids], dim=1)
    attention = torch.cat([rollouts.prompt_mask, rollouts.completion_mask], dim=1).long()
    positions = (attention.cumsum(dim=1) - 1).clamp(min=0)
    logits = policy.policy(input_ids=ids, attention_mask=attention, position_ids=positions).logits
    p = logits[:, rollouts.prompt_ids.shape[1] - 1 : -1].softmax(-1)
    entropy = -(p * p.log()).sum(-1)[experience.mask].mean()
    (-0.3 * entropy).backward()
    assert losses[1] == pytest.approx(losses[0] - 0.3 * entropy.item(), abs=1e-6)
    for name, weight in policy.named_parameters():
        if weight.requires_grad:
            torch.testing.assert_close(all_gradients[1][name], all_gradients[0][name] + weight.grad)


# --- deliberate faults ----------------------------------------------------------------------------------------------

ALGORITHMS = [(GRPO, LoRA(r=4, alpha=8)), (PPO, LoRA(r=4, alpha=8)), (PPO, None)]
algorithms = pytest.mark.parametrize(("algorithm", "lora"), ALGORITHMS, ids=["grpo", "ppo shared", "ppo separate"])


class Canned(RolloutEngine):
    """Completions of given lengths, in turn, whatever the prompts; what is asked for beyond them is repeated."""

    def __init__(self, make_rollouts: Callable[..., Rollouts], lengths: list[int]) -> None:
        self.make_rollouts, self.lengths = make_rollouts, lengths

    def generate(
        self,
        model: Any,
        prompts: Any,
        n: int,
        sampling: Any,
        seeds: Any,
        policy_version: int = 0,
        on_completed: Any = None,
    ) -> Rollouts:
        rows = len(prompts) * n
        lengths = (self.lengths * rows)[:rows]
        return replace(self.make_rollouts(lengths, [1 + row % 5 for row in range(rows)], seeds[0] % 1000))


def is_finite(weights: dict[str, Tensor]) -> bool:
    return all(bool(weight.isfinite().all()) for weight in weights.values())


@algorithms
def test_rewards_that_never_apply_leave_the_weights_alone(
    build: Any, fit: Any, algorithm: Any, lora: LoRA | None, tmp_path: Path
) -> None:
    def never(prompts: list[str], completions: list[str], **_: Any) -> list[None]:
        return [None] * len(completions)

    policy = build(algorithm, reward_funcs=[never], lora=lora, kl_coef=0.1, entropy_coef=0.1)
    policy.configure_model()
    before = {name: weight.detach().clone() for name, weight in policy.named_parameters()}
    watching = [CompletionsLog(every_n_steps=1), EffectiveTaskRatio(), SelectionOverhead(), RunSummary(table=False)]
    history = fit(policy, 3, callbacks=watching).history
    assert policy.progress.iterations == 3
    assert history["loss"] == history["grad_norm"] == [0.0] * 3
    assert history["skipped_steps"] == [0.0] * 3
    assert all(math.isnan(reward) for reward in history["reward"])
    for name, weight in history.weights[-1].items():
        assert torch.equal(weight, before[name])
    assert len((tmp_path / "completions.jsonl").read_text().splitlines()) == 3 * 16


@pytest.mark.parametrize("algorithm", [GRPO, PPO])
def test_a_row_without_reward_gives_no_gradient(build: Any, attach: Any, make_rollouts: Any, algorithm: Any) -> None:
    policy = attach(build(algorithm, kl_coef=0.1, **({"num_iterations": 2} if algorithm is GRPO else {})))
    rollouts = make_rollouts([2, 5, 3, 6], [3, 3, 2, 2])
    experience, metrics = policy.prepare(rollouts, torch.tensor([[1.0, math.nan, 0.0, 0.5]]))
    assert experience.mask.sum(dim=1).tolist() == [2, 0, 3, 6]
    assert all(math.isfinite(value) for value in metrics.values())
    others = torch.tensor([0, 2, 3])
    alone, _ = policy.prepare(rollouts.rows(others), torch.tensor([[1.0, 0.0, 0.5]]))
    loss, gradient = gradients(policy, experience)
    expected, of_others = gradients(policy, alone)
    # "dapo" averages over tokens, so that a row without any makes no difference at all.
    assert loss == pytest.approx(expected, abs=1e-6)
    assert size_of(gradient) > 1e-4
    assert_same_gradients(gradient, of_others, atol=1e-6)  # values and old log-probabilities are float32


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
    options = {"engine": engine, "reward_funcs": [Scripted([])], "mask_truncated_completions": True}
    policy = build(algorithm, lora=lora, max_tokens_per_microbatch=30, **options)
    policy.configure_model()
    before = {name: weight.detach().clone() for name, weight in policy.named_parameters() if weight.requires_grad}
    history = fit(policy, 2).history
    assert all(map(math.isfinite, history["loss"]))
    assert history["skipped_steps"] == [0, 0]
    assert is_finite(history.weights[-1])
    learned = any(not torch.equal(before[name], weight) for name, weight in history.weights[-1].items())
    assert learned == (lengths == [3, 0, 6, 2])  # else: nothing to learn from; rows that all end at the limit


def _all_masked(make_rollouts: Any, prompts: list[int], seed: int) -> Rollouts:
    rollouts = make_rollouts([1] * len(prompts), prompts, seed)
    return replace(rollouts, completion_mask=torch.zeros_like(rollouts.completion_mask))


@pytest.mark.parametrize("algorithm", [GRPO, PPO])
def test_stop_tokens_in_the_prompt_end_nothing(build: Any, attach: Any, make_rollouts: Any, algorithm: Any) -> None:
    policy = attach(build(algorithm, **({"num_iterations": 2} if algorithm is GRPO else {})))
    rollouts = make_rollouts([2, 5, 3, 6], [3, 3, 2, 2])
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.5]])
    with_stops = replace(rollouts, prompt_ids=rollouts.prompt_ids.masked_fill(rollouts.prompt_ids > 6, 1))
    assert (with_stops.prompt_ids == 1)[rollouts.prompt_mask].any()
    experience, _ = policy.prepare(with_stops, rewards)
    assert experience.mask.sum(dim=1).tolist() == [2, 5, 3, 6]
    loss, gradient = gradients(policy, experience, max_tokens=20)
    assert math.isfinite(loss)
    assert is_finite(gradient)
    assert size_of(gradient) > 1e-4


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
    policy = build(algorithm, pretrained=several_stops, lora=lora, max_tokens_per_microbatch=60)
    update, seen = policy.update, []
    policy.update = lambda rollouts, rewards: seen.append(rollouts) or update(rollouts, rewards)
    history = fit(policy, 3, batch_size=8).history
    assert policy.sampling.stop_token_ids == (1, 5, 6, 7)
    assert policy.sampling.pad_token_id == 7
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


def test_training_leaves_the_modes_as_they_were(build: Any, fit: Any) -> None:
    policy = build(GRPO, gradient_checkpointing=True)
    policy.configure_model()
    model = language_model(policy.policy)
    assert model.training
    assert model.is_gradient_checkpointing
    fit(policy, 2, evaluation={"heldout": ProceduralTasks(4)}, val_check_interval=1)
    assert all(module.training for module in model.modules())
    assert model.is_gradient_checkpointing


def test_tokens_are_counted_over_the_batch_that_is_learned_from(build: Any, attach: Any) -> None:
    mask = torch.tensor([[1, 1, 0], [0, 0, 0]], dtype=torch.bool)
    assert attach(build(GRPO, loss_type="dapo")).size(mask) == BatchSize(2, 2.0, 6)
    assert attach(build(PPO, critic=SeparateCritic())).size(mask) == BatchSize(2, 2.0, 6)
