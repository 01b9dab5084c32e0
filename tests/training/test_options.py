"""Options out of bounds are refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from bots_lightning.algorithms import GRPO, PPO
from bots_lightning.options import check_numbers
from bots_lightning.training import DynamicSampling


def test_bounds_are_inclusive_unless_above_and_none_is_no_number() -> None:
    check_numbers(0, epsilon=0.0, lam=None)
    check_numbers(0, above=True, high=1, gamma=1)
    for value in (-0.1, float("nan")):
        with pytest.raises(ValueError, match=r"epsilon=.*expected at least 0"):
            check_numbers(0, epsilon=value)
    with pytest.raises(ValueError, match="rate=0; expected more than 0 and at most 1"):
        check_numbers(0, above=True, high=1, rate=0)


@pytest.mark.parametrize(
    ("algorithm", "option", "value"),
    [
        (GRPO, "epsilon", -0.2),
        (GRPO, "epsilon_high", -0.1),
        (GRPO, "kl_coef", -0.1),
        (GRPO, "entropy_coef", -0.1),
        (GRPO, "learning_rate", -1e-3),
        (GRPO, "weight_decay", -0.1),
        (GRPO, "warmup_steps", -1),
        (GRPO, "max_grad_norm", 0.0),
        (GRPO, "max_skipped_steps", 0),
        (GRPO, "max_tokens_per_microbatch", -5),
        (GRPO, "target_kl", 0.0),
        (GRPO, "soft_punish_cache", 0),
        (PPO, "gamma", 1.5),
        (PPO, "lam", -0.1),
        (PPO, "cliprange", -0.2),
        (PPO, "cliprange_value", -0.2),
        (PPO, "vf_coef", -1.0),
        (PPO, "critic_learning_rate", -1.0),
        (PPO, "missing_eos_penalty", -1.0),
    ],
)
def test_a_number_out_of_bounds_is_refused_before_anything_is_loaded(
    build: Any, algorithm: Any, option: str, value: float
) -> None:
    with pytest.raises(ValueError, match=f"{option}={value}; expected"):
        build(algorithm, **{option: value})


def test_dynamic_sampling_needs_groups(build: Any) -> None:
    with pytest.raises(ValueError, match="num_generations=1"):
        build(PPO, num_generations=1, dynamic_sampling=DynamicSampling())
