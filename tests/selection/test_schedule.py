from __future__ import annotations

import numpy as np
import pytest

from bots_lightning.beliefs import BetaBelief, Evidence, TaskFeatures
from bots_lightning.selection import LinearSchedule, ThompsonSelector


def test_a_schedule_by_hand() -> None:
    schedule = LinearSchedule(0.75, 0.25, 4)
    assert [schedule.at(step) for step in range(7)] == [0.75, 0.625, 0.5, 0.375, 0.25, 0.25, 0.25]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((0.5, 0.5, 0), "steps=0; expected at least 1"),
        ((1.5, 0.5, 3), "start=1.5; expected at least 0 and at most 1"),
        ((0.5, float("nan"), 3), "end=nan"),
    ],
)
def test_impossible_schedules_are_refused(values: tuple[float, float, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LinearSchedule(*values)


def test_a_selector_follows_its_schedule_and_goes_on_with_it_after_a_resume() -> None:
    """Nearly exact knowledge: task k succeeds at a rate of k/10, and the target goes from 0.8 to 0.2 in 6 steps."""

    def new() -> ThompsonSelector:
        selector = ThompsonSelector(BetaBelief(0.0), LinearSchedule(0.8, 0.2, 6), explore=False)
        selector.setup(TaskFeatures(11))
        return selector

    counts = np.full(11, 1e6)
    first, resumed, chosen = new(), new(), []
    first.observe(Evidence(np.arange(11), counts * np.arange(11) / 10, counts))
    for step in range(9):
        assert first.metrics()["selection/target_pass_rate"] == pytest.approx(max(0.8 - step / 10, 0.2))
        chosen.append(first.select(1)[0])
        if step == 3:
            resumed.load_state_dict(first.state_dict())
    assert chosen == [8, 7, 6, 5, 4, 3, 2, 2, 2]
    assert [resumed.select(1)[0] for _ in range(5)] == chosen[4:]
    assert "selection/target_pass_rate" not in fixed_target().metrics()


def fixed_target() -> ThompsonSelector:
    selector = ThompsonSelector(BetaBelief(), 0.5)
    selector.setup(TaskFeatures(3))
    return selector
