"""The quickstart on two ranks, under every strategy, is the quickstart on one: losses, draws, posterior."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bots_lightning.evaluation import read_metrics

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tests/assets/quickstart_ranks.py"
STRATEGIES = ("ddp", "zero1", "zero2", "zero3")
NAMES = ("configs/quickstart.yaml", "tests/assets/short_quickstart.yaml")
CONFIGS = [word for name in NAMES for word in ("--config", str(ROOT / name))]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path, ranks: Any) -> Path:
    """A folder with all runs."""
    pytest.importorskip("deepspeed", reason='needs the extra: pip install -e ".[deepspeed]"')
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BOTS_LIGHTNING_CACHE", str(shared_cache))
        patch.chdir(ROOT)
        ranks(SCRIPT, 1, "single", folder, *CONFIGS)
        ranks(SCRIPT, 2, " ".join(STRATEGIES), folder, *CONFIGS)
    return folder


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


@pytest.mark.parametrize(("strategy", "kind"), list(product(STRATEGIES, ("lora", "full"))))
def test_two_ranks_run_the_quickstart_of_one(runs: Path, strategy: str, kind: str) -> None:
    one, two = runs / f"single-{kind}", runs / f"{strategy}-{kind}"
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
def test_the_runs_learn_and_draw(runs: Path, kind: str) -> None:
    """The comparison above must not hold because nothing happens."""
    rows = read_metrics(runs / f"single-{kind}" / "metrics.csv")
    assert max(row.get("grad_norm", 0.0) for row in rows) > 1e-3
    assert (selector_state(runs / f"single-{kind}")["selection_counts"] > 0).sum() > 10
