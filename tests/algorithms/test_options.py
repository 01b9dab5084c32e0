"""Options of algorithms that are out of bounds are refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from bots_lightning.algorithms import GRPO, PPO


@pytest.mark.parametrize(
    ("algorithm", "option", "value"),
    [
        (GRPO, "epsilon", -0.2),
        (GRPO, "epsilon_high", -0.1),
        (GRPO, "kl_coef", -0.1),
        (GRPO, "entropy_coef", -0.1),
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
def test_a_number_out_of_bounds_is_refused(algorithm: Any, option: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{option}={value}; expected"):
        algorithm(**{option: value})
