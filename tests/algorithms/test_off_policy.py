"""Importance sampling by hand, and what it is for: gradients of the policy from what another has sampled."""

# Shapes: R rows, T completion tokens.

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from algorithm_helpers import Assembled, groups_of

from bots_lightning.algorithms import GRPO, PPO
from bots_lightning.algorithms.losses import grpo_loss
from bots_lightning.algorithms.meter import Meter
from bots_lightning.algorithms.off_policy import ImportanceSampling, Mode, off_policy_mask
from bots_lightning.rollouts import CompactEngine, GenerationRequest, Rollouts

LOG2, LOG3 = math.log(2), math.log(3)
NAN = math.nan
# log π − log μ of three rows: e^… = 2, ½, 2;  3, 3, –;  1, unknown, –
DIFFERENCE = torch.tensor([[LOG2, -LOG2, LOG2], [LOG3, LOG3, 5.0], [0.0, NAN, 5.0]])
MASK = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 1, 0]], dtype=torch.bool)
OLD = torch.full((3, 3), -1.0)


@pytest.mark.parametrize(
    ("mode", "bounds", "expected"),
    [
        ("token_truncate", (2.5, None), [[2, 0.5, 2], [2.5, 2.5, 1], [1, 1, 1]]),
        ("token_truncate", (2.5, 0.8), [[2, 0.8, 2], [2.5, 2.5, 1], [1, 1, 1]]),
        ("token_mask", (2.5, 0.8), [[2, 0, 2], [0, 0, 1], [1, 1, 1]]),
        ("token_mask", (None, 0.8), [[2, 0, 2], [3, 3, 1], [1, 1, 1]]),
        ("sequence_truncate", (3.0, None), [[2], [3], [1]]),
        ("sequence_truncate", (3.0, 1.5), [[2], [3], [1.5]]),
        ("sequence_mask", (3.0, None), [[2], [0], [1]]),
        ("sequence_mask", (None, None), [[2], [9], [1]]),
    ],
)
def test_weights_by_hand(mode: Mode, bounds: tuple[float | None, float | None], expected: list[list[float]]) -> None:
    weights = ImportanceSampling(mode, *bounds).weights(OLD, OLD - DIFFERENCE, MASK)
    torch.testing.assert_close(weights, torch.tensor(expected, dtype=torch.float32))


def test_weights_carry_no_gradient_and_scale_the_surrogate_but_not_the_penalty() -> None:
    logprobs = OLD.clone().requires_grad_()
    weights = ImportanceSampling("token_truncate", 2.5).weights(logprobs, OLD - DIFFERENCE, MASK)
    assert not weights.requires_grad
    advantages, options = torch.tensor([1.0, 2.0, -1.0]), {"loss_type": "bnpo", "kl_coef": 0.5, "kl_estimator": "k2"}
    loss = grpo_loss(logprobs, OLD, advantages, MASK, weights=weights, ref_logprobs=OLD - 1, **options).loss
    # −(1·(2 + ½ + 2) + 2·(2.5 + 2.5) − 1·(1 + 1)) / 7 tokens, and ½·½·1² for each of them
    assert float(loss.detach()) == pytest.approx(-(4.5 + 10 - 2) / 7 + 0.25)
    loss.backward()
    # of ρ at 1: −w A / 7; of the penalty β·w·d = 0.5·1 / 7 each
    by_hand = (-weights * advantages.unsqueeze(1) + 0.5) / 7 * MASK
    torch.testing.assert_close(logprobs.grad, by_hand)


def test_expectations_under_the_policy_come_out_of_samples_of_another() -> None:
    generator = torch.Generator().manual_seed(0)
    policy, other = (torch.randn(5, generator=generator).log_softmax(0) for _ in range(2))
    values = torch.tensor([1.0, -2.0, 3.0, 0.5, 0.0])
    tokens = torch.multinomial(other.exp(), 200_000, replacement=True, generator=generator).unsqueeze(1)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    exact = float((policy.exp() * values).sum())
    assert abs(float(values[tokens].mean()) - exact) > 0.2
    for mode in ("token_mask", "sequence_mask"):
        weights = ImportanceSampling(mode, None).weights(policy[tokens], other[tokens], mask)
        assert float((weights * values[tokens]).mean()) == pytest.approx(exact, abs=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "rows"}, r"importance_sampling_mode='rows'; expected one of 'token_truncate'"),
        ({"clip_max": 0.0}, r"importance_sampling_clip_max=0.0; expected more than 0"),
        ({"clip_min": -1.0}, r"importance_sampling_clip_min=-1.0; expected at least 0"),
        ({"clip_min": 3.0}, r"clip_min=3.0 and importance_sampling_clip_max=3.0; expected the fir"),
        (
            {"mode": "token_truncate", "clip_max": None},
            r"importance_sampling_mode='token_truncate' without bounds truncates nothing. Set",
        ),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImportanceSampling(**options)


# --- in an update ---------------------------------------------------------------------------------------------------


class Stranger(CompactEngine):
    """An engine whose log-probabilities are not the policy's."""

    def __init__(self, shift: float) -> None:
        super().__init__(logprobs=True)
        self.shift = shift

    def generate(self, request: GenerationRequest) -> Rollouts:
        rollouts = super().generate(request)
        assert rollouts.logprobs is not None
        return replace(rollouts, logprobs=rollouts.logprobs - self.shift)


@pytest.mark.parametrize(
    ("algorithm", "options"),
    [(GRPO, {}), (GRPO, {"num_iterations": 2}), (PPO, {"num_ppo_epochs": 2})],
    ids=["one step", "two steps", "ppo"],
)
def test_a_mismatch_is_measured_and_corrected(build: Any, fit: Any, algorithm: Any, options: dict[str, Any]) -> None:
    options |= {"importance_sampling": ImportanceSampling("token_truncate", clip_max=1.05)}
    logged = fit(build(algorithm, engine=Stranger(0.1), **options)).history.logged[0]
    assert logged["sampling/sampling_logp_difference/mean"] == pytest.approx(0.1, abs=1e-4)
    assert logged["sampling/sampling_logp_difference/max"] == pytest.approx(0.1, abs=1e-4)
    for statistic in ("min", "mean", "max"):
        assert logged[f"sampling/importance_sampling_ratio/{statistic}"] == pytest.approx(1.05)  # e^0.1, truncated


def test_an_engine_that_samples_with_the_policy_itself_has_no_mismatch_to_log(build: Any, fit: Any) -> None:
    assert not [name for name in fit(build(GRPO)).history.logged[0] if name.startswith("sampling/")]
    logged = fit(build(GRPO, engine=CompactEngine(logprobs=True))).history.logged[0]
    assert logged["sampling/sampling_logp_difference/max"] < 1e-4
    assert logged["sampling/importance_sampling_ratio/mean"] == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("algorithm", [GRPO, PPO])
def test_weights_of_one_step_multiply_its_gradient(checkpoint: str, make_rollouts: Any, algorithm: Any) -> None:
    rollouts, rewards = make_rollouts([3, 6, 1, 4], [2, 5, 3, 1]), [1.0, 0.0, 0.5, 0.0]
    found = {}
    for shift in (0.0, LOG2):
        module = Assembled(algorithm(importance_sampling=ImportanceSampling("token_truncate")), checkpoint)
        with torch.no_grad():
            for weight in module.parameters():
                weight.copy_(weight if not weight.requires_grad else weight + 0.02)
        present = module.policy.logprobs(rollouts)
        experience, _ = module.prepare(groups_of(replace(rollouts, logprobs=present - shift), rewards, [4]))
        size = module.algorithm.size(experience.mask, module.context)
        loss = next(module.algorithm.losses(experience, size, Meter(), module.context))
        found[shift] = torch.autograd.grad(
            loss, [w for n, w in module.policy.named_parameters() if ".lora_B.default." in n]
        )
    for one, twice in zip(found[0.0], found[LOG2], strict=True):
        assert one.abs().max() > 1e-4
        torch.testing.assert_close(twice, 2 * one, rtol=1e-4, atol=1e-7)


def test_who_did_badly_is_left_out_once_the_policy_has_moved_away_by_hand() -> None:
    moved = torch.tensor([[0.9, 0.0, 0.0], [0.1, 0.6, 9.0], [0.8, NAN, 9.0], [0.1, NAN, 9.0], [9.0, 9.0, 9.0]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 1, 0], [1, 1, 0], [0, 0, 0]], dtype=torch.bool)
    logprobs = torch.full((5, 3), -1.0, requires_grad=True)
    for sign, expected in ((-1.0, [1, 0, 0, 1, 1]), (1.0, [1] * 5), (0.0, [1] * 5)):  # means 0.3, 0.35, 0.4, 0.05, none
        kept = off_policy_mask(torch.full((5,), sign), logprobs, -1.0 + moved, mask, 0.3 + 1e-6)
        assert kept.squeeze(1).tolist() == expected
        assert not kept.requires_grad


def test_the_mask_takes_part_in_the_loss_and_is_told(build: Any, fit: Any) -> None:
    """Two steps ahead, where the policy has moved by some hundredths of a nat per token."""
    masked = fit(build(GRPO, max_staleness=2, off_policy_mask_threshold=0.0, learning_rate=0.02), 4).history
    whole = fit(build(GRPO, max_staleness=2, learning_rate=0.02), 4).history
    shares = masked["sampling/off_policy_frac"]
    assert shares[0] == 0  # on-policy
    assert 0 < max(shares) < 1
    assert "sampling/off_policy_frac" not in whole.logged[0]
    assert masked["loss"][0] == whole["loss"][0]
    assert masked["loss"][-1] != whole["loss"][-1]
    with pytest.raises(ValueError, match="off_policy_mask_threshold=-1"):
        GRPO(off_policy_mask_threshold=-1)
