"""The quickstart on two ranks, under every strategy, is the quickstart on one: losses, draws, posterior."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bots_lightning.evaluation import read_metrics

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tests/assets/quickstart_ranks.py"
QUICK, SLOW = ("ddp", "zero3"), ("zero1", "zero2")  # test_ranks.py has those four with a smaller policy
STRATEGIES = [*QUICK, *(pytest.param(strategy, marks=pytest.mark.slow) for strategy in SLOW)]
NAMES = ("configs/quickstart.yaml", "tests/assets/short_quickstart.yaml")
CONFIGS = [word for name in NAMES for word in ("--config", str(ROOT / name))]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path, ranks: Any) -> Iterator[Callable[[str], Path]]:
    """`runs(strategy)`: a folder with all runs of that strategy, and of one rank."""
    pytest.importorskip("deepspeed", reason='needs the extra: pip install -e ".[deepspeed]"')
    folder, made = tmp_path_factory.mktemp("runs"), set[str]()

    def runs(strategy: str) -> Path:
        for number, group in ((1, ("single",)), (2, QUICK if strategy in QUICK else SLOW)):
            if not made.issuperset(group):
                ranks(SCRIPT, number, " ".join(group), folder, *CONFIGS)
                made.update(group)
        return folder

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BOTS_LIGHTNING_CACHE", str(shared_cache))
        patch.chdir(ROOT)
        yield runs


def selector_state(run: Path) -> Any:
    path = run / "checkpoints/last.ckpt"
    return torch.load(path / "state.pt" if path.is_dir() else path)["TaskDataModule"]


def check_equal(ours: Any, theirs: Any) -> None:
    """Bit for bit."""
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours:
            check_equal(ours[key], theirs[key])
    elif isinstance(ours, torch.Tensor):
        assert torch.equal(ours.nan_to_num(7.0), theirs.nan_to_num(7.0))
    else:
        assert repr(ours) == repr(theirs)  # NaN is NaN


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_ranks_run_the_quickstart_of_one(runs: Callable[[str], Path], strategy: str, kind: str) -> None:
    folder = runs(strategy)
    one, two = folder / f"single-{kind}", folder / f"{strategy}-{kind}"
    expected, seen = read_metrics(one / "metrics.csv"), read_metrics(two / "metrics.csv")
    assert len(seen) == len(expected) >= 5
    clock = ("step_time", "tokens_per_second", "timing_s/", "selection/overhead")
    names = {name for row in expected for name in row if not name.startswith(clock)}
    assert {"loss", "grad_norm", "reward", "entropy", "belief/rmse", "eval/heldout/avg@2"} <= names
    for name in sorted(names):
        mine, theirs = ([row.get(name, np.nan) for row in rows] for rows in (seen, expected))
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5, err_msg=name)
    states = [selector_state(run) for run in (one, two)]
    for part in ("selector", "selection_counts"):  # draws, generator and posterior
        check_equal(states[1][part], states[0][part])


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_the_runs_learn_and_draw(runs: Callable[[str], Path], kind: str) -> None:
    """The comparison above must not hold because nothing happens."""
    run = runs("ddp") / f"single-{kind}"
    rows = read_metrics(run / "metrics.csv")
    assert max(row.get("grad_norm", 0.0) for row in rows) > 1e-3
    assert (selector_state(run)["selection_counts"] > 0).sum() > 10
