"""The bar shows reward, effective task ratio and the overall scores of the last evaluation, and nothing else."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from callbacks import TaskProgressBar


def shown(logged: dict[str, float], *evaluations: float) -> Any:
    trainer: Any = SimpleNamespace(callback_metrics={name: torch.tensor(value) for name, value in logged.items()})
    module: Any = SimpleNamespace(history=[{"iteration": i, "overall": s} for i, s in enumerate(evaluations)])
    return TaskProgressBar().get_metrics(trainer, module)


def test_before_the_first_step_there_is_nothing_to_show() -> None:
    assert shown({}) == {}


def test_reward_and_ratio_are_rounded_and_other_metrics_left_out() -> None:
    logged = {"reward": 0.126, "selection/effective_task_ratio": 0.875, "loss": 1.0, "v_num": 0.0}
    assert shown(logged) == {"reward": "0.13", "ETR": "0.88"}


def test_the_evaluation_before_training_is_shown_from_the_start_and_the_last_one_beside_it() -> None:
    assert shown({}, 0.1) == {"before": "0.100"}
    assert shown({"reward": 1.0}, 0.1, 0.2, 0.28125) == {"reward": "1.00", "before": "0.100", "held-out": "0.281"}
