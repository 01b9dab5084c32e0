"""A recorded run of BOTS: any change of its arithmetic or its use of the generator shows here.

After a change that is meant, or a numpy release that changes the stream of Beta draws, record it anew:

    python tests/selection/test_golden.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from bots_lightning.beliefs import BetaBelief, Evidence, ReferenceInterpolation, TaskFeatures
from bots_lightning.selection import ThompsonSelector

TRACE = Path(__file__).parents[1] / "golden" / "bots_trace.json"
TASKS, BATCH, STEPS = 24, 5, 20


def trace() -> list[dict[str, Any]]:
    """20 steps on 24 synthetic tasks whose pass rates rise from the weak to the strong reference.

    Every fifth task lacks its weak reference and every seventh its strong one; a step has 4, 8 or 12 rollouts per
    task, and the successes of the last two are fractional.

    Returns:
        per step: the selected tasks (B,), their successes (B,), rollouts, and α and β (N,) after the step.
    """
    rng = np.random.default_rng(2026)
    weak, strong = np.sort(rng.random((2, TASKS)), axis=0)
    known_weak, known_strong = weak.copy(), strong.copy()
    known_weak[::5], known_strong[::7] = np.nan, np.nan
    belief = BetaBelief(forgetting=0.1, implicit_weight=0.1, implicit=ReferenceInterpolation("weak", "strong"))
    selector = ThompsonSelector(belief, target_pass_rate=0.5)
    selector.setup(TaskFeatures(TASKS, {"weak": known_weak, "strong": known_strong}), seed=1)
    steps = []
    for step in range(STEPS):
        tasks = selector.select(BATCH)
        rollouts = (4, 8, 12)[step % 3]
        successes = rng.binomial(rollouts, (weak + step / STEPS * (strong - weak))[tasks]) * (0.75 if step % 3 else 1)
        selector.observe(Evidence(tasks, successes, np.full(BATCH, rollouts)))
        numbers = {"tasks": tasks, "successes": successes, "alpha": belief.alpha, "beta": belief.beta}
        steps.append({"rollouts": rollouts} | {name: values.tolist() for name, values in numbers.items()})
    return steps


def test_the_run_is_the_recorded_one() -> None:
    recorded, now = json.loads(TRACE.read_text()), trace()
    assert len(recorded) == STEPS
    for expected, seen in zip(recorded, now, strict=True):
        assert seen["tasks"] == expected["tasks"]
        assert seen["successes"] == expected["successes"]
        np.testing.assert_allclose(seen["alpha"], expected["alpha"], rtol=0, atol=1e-12)
        np.testing.assert_allclose(seen["beta"], expected["beta"], rtol=0, atol=1e-12)


if __name__ == "__main__":
    TRACE.parent.mkdir(exist_ok=True)
    TRACE.write_text("[\n" + ",\n".join(json.dumps(step) for step in trace()) + "\n]\n")
