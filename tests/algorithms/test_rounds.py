"""Groups that are sampled in rounds, whose number depends on rewards: the gradient is exact, by enumeration.

A policy of three arms, of which the first two have reward 1, stands for all policies: the rule, the baseline and the
weights see nothing but rewards, and the rows of a round are independent given those before.
"""

# Shapes: R rows of one group; rounds of 2, 2 and 4 rows, or as many as the rule asks for.

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from bots_lightning.algorithms.advantages import group_advantages, task_weights
from bots_lightning.allocation import Allocation, PilotCommitAllocation, SequentialAllocation, TriedTasks

G = 4  # on average
Rounds = list[list[int]]
POLICIES = [np.array(policy) for policy in ([0.02, 0.01, 0.97], [0.1, 0.2, 0.7], [0.4, 0.2, 0.4], [0.5, 0.45, 0.05])]
# With the most rows that there are, and the belief before the first.
RULES: dict[str, tuple[Allocation, int, tuple[float, float]]] = {
    "until they differ": (SequentialAllocation(2, max_generations=8, min_chance=0.0), 100, (1.0, 1.0)),
    "while there is hope": (SequentialAllocation(2, max_generations=8, min_chance=0.3), 100, (0.5, 2.0)),
    "as far as the budget goes": (SequentialAllocation(2, max_generations=8, min_chance=0.0), 5, (1.0, 1.0)),
    "committed to a band": (PilotCommitAllocation(3, 0.3, 0.7, max_generations=7), 7, (1.0, 1.0)),
}


@pytest.fixture(params=RULES)
def rule(request: pytest.FixtureRequest) -> Callable[[Rounds], int]:
    """`rule(rounds)`: the rows of the next round after those rewards, 0 if there is none."""
    allocation, budget, (alpha, beta) = RULES[request.param]

    def rule(rounds: Rounds) -> int:
        rewards = [reward for one in rounds for reward in one]
        if not rewards:
            return int(allocation.allocate(np.ones(1), np.ones(1), G)[0])
        solved, n = sum(rewards), len(rewards)
        if budget <= n:
            return 0
        seen = np.array([alpha + solved]), np.array([beta + n - solved]), np.array([n]), np.array([solved / n])
        return int(allocation.more(TriedTasks(*seen, mixed=np.array([0 < solved < n])), budget - n)[0])

    return rule


def histories(rule: Callable[[Rounds], int], rounds: Rounds) -> Iterator[Rounds]:
    """All rewards that a group may end with, by round."""
    size = rule(rounds)
    if not size:
        yield rounds
        return
    for rewards in product([0, 1], repeat=size):
        yield from histories(rule, [*rounds, list(rewards)])


def expected_gradient(
    policy: Any, rule: Callable[[Rounds], int], in_rounds: bool, weighted: bool, estimator: Any
) -> Any:
    """E[Σ_i w_i A_i ∇ log π(arm_i)] by the logits, over all arms that all rows may have drawn.

    Given its reward, the arm of a row does not depend on anything else: E[∇ log π | r] is summed instead of each.
    """
    scores = np.eye(3) - policy
    solved = policy[:2].sum()
    by_reward = [scores[2], (policy[:2, None] * scores[:2]).sum(0) / solved]
    total = np.zeros(3)
    for rounds in histories(rule, []):
        rewards = torch.tensor([float(reward) for one in rounds for reward in one], dtype=torch.float64)
        number = torch.tensor([t for t, one in enumerate(rounds) for _ in one])
        group, known = torch.zeros_like(number), number if in_rounds else torch.zeros_like(number)
        advantages = group_advantages(rewards, group, "none", estimator, round_of_row=known)
        advantages *= task_weights(group, known, G).double() if weighted else 1.0
        chance = solved ** float(rewards.sum()) * (1 - solved) ** float((1 - rewards).sum())
        for reward, advantage in zip(rewards.int().tolist(), advantages.tolist(), strict=True):
            total += chance * advantage * by_reward[reward]
    return total


def true_gradient(policy: Any) -> Any:
    """∇ E[r] by the logits: π_a (r_a − E[r])."""
    return policy * (np.array([1, 1, 0]) - policy[:2].sum())


def expected_share(policy: Any, rule: Callable[[Rounds], int], share: Callable[[int, int], float]) -> float:
    """E[Σ_t share(n_t, N_t)] over the rounds that there are."""
    solved, total = policy[:2].sum(), 0.0
    for rounds in histories(rule, []):
        rewards = [reward for one in rounds for reward in one]
        chance = solved ** sum(rewards) * (1 - solved) ** (len(rewards) - sum(rewards))
        ends = np.cumsum([len(one) for one in rounds])
        total += chance * sum(share(len(one), int(end)) for one, end in zip(rounds, ends, strict=True))
    return total


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: f"p={policy[:2].sum():.2f}")
def test_the_rounds_of_a_group_are_unbiased(policy: Any, rule: Callable[[Rounds], int]) -> None:
    """Each round has the gradient of its rows, or their share of the rollouts so far."""
    plain = expected_gradient(policy, rule, in_rounds=True, weighted=False, estimator="rloo")
    rows = expected_share(policy, rule, lambda n, total: n)
    np.testing.assert_allclose(plain, rows * true_gradient(policy), rtol=0, atol=1e-12)
    weighted = expected_gradient(policy, rule, in_rounds=True, weighted=True, estimator="rloo")
    share = expected_share(policy, rule, lambda n, total: G * n / total)
    np.testing.assert_allclose(weighted, share * true_gradient(policy), rtol=0, atol=1e-6)
    with_itself = expected_gradient(policy, rule, in_rounds=True, weighted=True, estimator="grpo")
    share = expected_share(policy, rule, lambda n, total: G * n / total * (total - 1) / total)
    np.testing.assert_allclose(with_itself, share * true_gradient(policy), rtol=0, atol=1e-6)


def test_one_baseline_for_all_rounds_is_biased(rule: Callable[[Rounds], int]) -> None:
    """The mean of the others in the whole group: by so much of the true gradient, and by other shares for other p."""
    errors = []
    for policy in POLICIES:
        naive = expected_gradient(policy, rule, in_rounds=False, weighted=False, estimator="rloo")
        rows = expected_share(policy, rule, lambda n, total: n)
        errors.append(naive[2] / (rows * true_gradient(policy)[2]) - 1)
    assert max(np.abs(errors)) > 0.05
    assert np.ptp(errors) > 0.04


def test_rounds_by_hand() -> None:
    """0 0, then 1 0: the first two are equal; the others are compared with all four."""
    rewards, rounds = torch.tensor([0.0, 0.0, 1.0, 0.0]), torch.tensor([0, 0, 1, 1])
    group = torch.zeros_like(rounds)
    plain = group_advantages(rewards, group, "none", "grpo", round_of_row=rounds)
    assert plain.tolist() == [0, 0, 1 - 1 / 4, -1 / 4]
    others = group_advantages(rewards, group, "none", "rloo", round_of_row=rounds)
    assert others.tolist() == pytest.approx([0, 0, 1, -1 / 3])
    scaled = group_advantages(rewards, group, "group", "grpo", round_of_row=rounds, eps=1e-9)
    assert scaled.tolist() == pytest.approx([0, 0, 3 / 4 / 0.5, -1 / 4 / 0.5])  # deviation √(3/4 / 3)


def test_groups_have_rounds_of_their_own_in_any_order_of_rows() -> None:
    rewards = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0, 0.0])
    group, rounds = torch.tensor([0, 1, 0, 1, 1, 0]), torch.tensor([0, 0, 0, 0, 1, 1])
    found = group_advantages(rewards, group, "none", "grpo", round_of_row=rounds)
    assert found.tolist() == pytest.approx([1 / 2, -1 / 2, -1 / 2, 1 / 2, 1 / 3, -1 / 3])
    assert task_weights(group, rounds, 6).tolist() == [3, 3, 3, 3, 2, 2]


def test_rows_without_a_reward_have_no_part_in_it() -> None:
    rewards, rounds = torch.tensor([0.0, torch.nan, torch.nan, 1.0]), torch.tensor([0, 0, 1, 1])
    found = group_advantages(rewards, torch.zeros_like(rounds), "none", "grpo", round_of_row=rounds)
    assert found.tolist() == [0, 0, 0, 0.5]


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_one_round_is_a_plain_group_to_the_bit(scale: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    rewards, group = torch.rand(30, generator=generator), torch.arange(30) // 6
    rounds = torch.zeros_like(group)
    given = group_advantages(rewards, group, scale, round_of_row=rounds) * task_weights(group, rounds, 6)
    assert torch.equal(given, group_advantages(rewards, group, scale))


def test_tasks_count_alike_whatever_their_rollouts_are() -> None:
    """One round of 2 and one of 6: each has the gradient of 4 rows."""
    group = torch.tensor([0] * 2 + [1] * 6)
    weights = task_weights(group, torch.zeros_like(group), 4)
    assert weights.tolist() == pytest.approx([2.0] * 2 + [4 / 6] * 6)
    policy = POLICIES[1]
    for size in (2, 6):
        found = expected_gradient(policy, lambda rounds, size=size: 0 if rounds else size, True, True, "rloo")
        np.testing.assert_allclose(found, G * true_gradient(policy), atol=1e-6)
