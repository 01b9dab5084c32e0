# Shapes: N tasks in the pool, M members of the grid.

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from bots_lightning.beliefs import AdaptiveBetaBelief, BetaBelief, Evidence, ReferenceInterpolation, TaskFeatures

N, G = 40, 8.0
WEAK, STRONG = np.linspace(0.05, 0.5, N), np.linspace(0.4, 0.95, N)
FEATURES = TaskFeatures(N, {"weak": WEAK, "strong": STRONG})


def belief_of(**options: Any) -> AdaptiveBetaBelief:
    belief = AdaptiveBetaBelief(implicit=ReferenceInterpolation("weak", "strong"), **options)
    belief.setup(FEATURES)
    return belief


def evidence_of(rng: np.random.Generator, rates: np.ndarray, batch: int = 8) -> Evidence:
    tasks = rng.permutation(len(rates))[:batch]
    return Evidence(tasks, rng.binomial(8, rates[tasks]).astype(float), np.full(batch, G))


def test_scores_are_the_discounted_log_predictives_of_every_member() -> None:
    """Two steps against members that are carried along by hand, with scipy's beta-binomial."""
    belief, rng = belief_of(forgetting=[0.05, 0.5], implicit_weight=[0.1], memory=0.5), np.random.default_rng(0)
    members = [BetaBelief(rate, 0.1, implicit=ReferenceInterpolation("weak", "strong")) for rate in (0.05, 0.5)]
    expected = np.zeros(2)
    for member in members:
        member.setup(FEATURES)
    for _ in range(2):
        evidence = evidence_of(rng, (WEAK + STRONG) / 2)
        expected *= 0.5
        for at, member in enumerate(members):
            alpha, beta = member.concentrations(evidence.indices)
            expected[at] += stats.betabinom.logpmf(evidence.successes, 8, alpha, beta).sum()
            member.observe(evidence)
        belief.observe(evidence)
    np.testing.assert_allclose(belief.scores, expected, rtol=1e-10)
    np.testing.assert_array_equal(belief.mean(), members[int(np.argmax(expected))].mean())


def test_rates_that_stay_are_remembered_and_rates_that_jump_forgotten() -> None:
    """With a pool that never changes little forgetting wins; with one that is drawn anew each step, much of it does."""
    still, moving = belief_of(implicit_weight=[0.0]), belief_of(implicit_weight=[0.0])
    rng = np.random.default_rng(1)
    fixed = rng.beta(0.5, 0.5, N)
    for _ in range(150):
        still.observe(evidence_of(rng, fixed, batch=20))
        moving.observe(evidence_of(rng, rng.beta(0.5, 0.5, N), batch=20))
    assert still.active.forgetting == 0.02
    assert moving.active.forgetting == 0.2


def test_correct_references_are_given_weight_and_others_are_not() -> None:
    rng = np.random.default_rng(2)
    truthful, misled = belief_of(forgetting=[0.1]), belief_of(forgetting=[0.1])
    truth = WEAK + 0.5 * (STRONG - WEAK)
    for _ in range(120):
        truthful.observe(evidence_of(rng, truth))
        misled.observe(evidence_of(rng, truth[::-1]))
    assert truthful.active.implicit_weight >= 0.1
    assert misled.active.implicit_weight == 0.0


def test_a_grid_of_one_is_the_published_belief() -> None:
    belief, published = (
        belief_of(forgetting=[0.1], implicit_weight=[0.1]),
        BetaBelief(implicit=ReferenceInterpolation("weak", "strong")),
    )
    published.setup(FEATURES)
    rng = np.random.default_rng(3)
    for _ in range(20):
        evidence = evidence_of(rng, WEAK)
        belief.observe(evidence)
        published.observe(evidence)
    np.testing.assert_array_equal(belief.concentrations(), published.concentrations())
    np.testing.assert_array_equal(belief.cells(slice(0, N)), published.cells(slice(0, N)))


def test_the_speaker_survives_a_checkpoint(tmp_path: Path) -> None:
    original, restored = belief_of(), belief_of()
    rng = np.random.default_rng(4)
    for _ in range(30):
        original.observe(evidence_of(rng, WEAK))

    def convert(state: Any, kind: type, change: Any) -> Any:
        if isinstance(state, dict):
            return {key: convert(value, kind, change) for key, value in state.items()}
        return change(state) if isinstance(state, kind) else state

    torch.save(convert(original.state_dict(), np.ndarray, torch.from_numpy), tmp_path / "belief.ckpt")
    loaded = torch.load(tmp_path / "belief.ckpt", weights_only=True)
    restored.load_state_dict(convert(loaded, torch.Tensor, lambda tensor: tensor.numpy()))
    for _ in range(10):
        evidence = evidence_of(rng, STRONG)
        for belief in (original, restored):
            belief.observe(evidence)
        draws = [belief.sample(np.random.default_rng(7)) for belief in (original, restored)]
        np.testing.assert_array_equal(*draws)
        assert restored.metrics() == original.metrics()


def test_a_state_of_another_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="a grid of 16 pairs, this one of 2"):
        belief_of(forgetting=[0.1, 0.2], implicit_weight=[0.1]).load_state_dict(belief_of().state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory": 0.0}, "memory=0.0; expected more than 0 and at most 1"),
        ({"forgetting": []}, "at least one value each"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdaptiveBetaBelief(**options)


def test_before_any_evidence_the_middle_of_the_grid_speaks() -> None:
    belief = belief_of()
    assert (belief.active.forgetting, belief.active.implicit_weight) == (0.1, 0.1)
