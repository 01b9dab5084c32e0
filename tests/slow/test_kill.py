"""Many kills of one run, and some of every selector and algorithm; all take minutes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from killed_runs import FEW_STEPS, QUICKSTART, ROOT, STEPS_PER_KILL, Kills, check_kills

from bots_lightning.cli import main

__all__ = ["check_kills"]

pytestmark = pytest.mark.slow
# Every selector, and every algorithm at least once.
SELECTORS = sorted(path.stem for path in (ROOT / "configs/selectors").glob("*.yaml"))
ALGORITHMS = sorted(path.stem for path in (ROOT / "configs/algorithms").glob("*.yaml") if path.stem != "full_ppo")
PAIRS = [
    ("quickstart_ppo" if algorithm == "ppo" else f"algorithms/{algorithm}", f"selectors/{selector}")
    for selector, algorithm in zip(SELECTORS, itertools.cycle(["ppo", *ALGORITHMS]), strict=False)
]
ZERO2 = ["--config", str(ROOT / "configs/strategies/zero2.yaml"), "--trainer.devices", "2"]


def random_kills(number: int, seed: int, changes_per_step: int, files_per_step: int) -> Kills:
    """Two thirds while checkpoints are written, moved and deleted, the others at any moment."""
    rng = np.random.default_rng(seed)
    kinds = [("write", "torn", "seconds")[i % 3] for i in range(number)]
    limits = {"write": changes_per_step * STEPS_PER_KILL, "torn": files_per_step * STEPS_PER_KILL}
    return [
        (kind, float(rng.uniform(0.0, 0.6)) if kind == "seconds" else int(rng.integers(1, limits[kind] + 1)))
        for kind in kinds
    ]


@pytest.mark.parametrize("number", range(len(PAIRS)), ids=[" ".join(pair) for pair in PAIRS])
def test_two_kills_of_every_selector_and_algorithm(number: int, check_kills: Callable[..., None]) -> None:
    """With checkpoints after evaluations, or after every step."""
    options = [word for overlay in PAIRS[number] for word in ("--config", str(ROOT / f"configs/{overlay}.yaml"))]
    if number % 2:
        options += ["--config", str(ROOT / "tests/assets/every_step.yaml")]
    kinds = random_kills(3, seed=2 + number, changes_per_step=8, files_per_step=2)
    check_kills([kinds[number % 2], kinds[2]], options)


def test_thirty_kills(check_kills: Callable[..., None]) -> None:
    check_kills(random_kills(30, seed=0, changes_per_step=8, files_per_step=2))


def test_ten_kills_of_two_ranks_with_zero2(check_kills: Callable[..., None], tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    main(["validate", *QUICKSTART, *FEW_STEPS, "--runs_dir", str(tmp_path / "made")])  # one process fills the cache
    check_kills(random_kills(10, seed=1, changes_per_step=40, files_per_step=6), ZERO2)
