"""What the package ships is found, is what its sources would make, and learns what the README says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bots_lightning.quickstart import QuickstartTasks, WarmStart
from bots_lightning.quickstart.cache import SHIPPED
from bots_lightning.quickstart.ship import WEAK_START, policy_of, ship
from bots_lightning.quickstart.tasks import COLUMNS
from bots_lightning.quickstart.warm_start import POLICY
from bots_lightning.tasks import TaskPool

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BOTS_LIGHTNING_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def pool() -> TaskPool:
    return QuickstartTasks().load()


@pytest.mark.parametrize("name", ["quickstart", "quickstart_ppo", "reasoning_gym"])
def test_the_policies_of_the_configs_are_shipped(name: str, empty_cache: Path) -> None:
    if name == "reasoning_gym":
        pytest.importorskip("reasoning_gym")
    folder = Path(policy_of(CONFIGS / f"{name}.yaml").prepare())
    assert SHIPPED in folder.parents
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in folder.iterdir()}
    assert not list(empty_cache.iterdir())


def test_that_of_the_benchmark_is_shipped_and_its_references_are_not(empty_cache: Path) -> None:
    assert SHIPPED in Path(WEAK_START.prepare()).parents
    assert [path.name for path in Path(WEAK_START.prepare()).parent.iterdir()] == [POLICY]


def test_the_package_stays_small() -> None:
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()) < 3e6


def test_pass_rates_are_shipped_and_are_those_of_the_references(pool: TaskPool, empty_cache: Path) -> None:
    assert set(COLUMNS.values()) <= set(pool.features().references)
    few = pool.select(range(300))
    source = QuickstartTasks()
    for name, column in COLUMNS.items():
        measured = np.array(source._pass_rates(few, name))
        shipped = pool.features().references[column][:300]
        assert (measured == shipped).mean() > 0.98  # a sum in another order may turn a draw
        assert 0.05 < shipped.mean() < 0.6
    assert not list(empty_cache.iterdir())


def test_the_policy_scores_between_its_references(pool: TaskPool) -> None:
    heldout = QuickstartTasks(split="heldout", num_tasks=600).load()
    policy = float(np.mean(QuickstartTasks()._pass_rates(heldout, POLICY)))
    assert policy == pytest.approx(0.28, abs=0.015)
    rates = [float(pool.features().references[column].mean()) for column in COLUMNS.values()]
    assert rates[0] < policy < rates[1]


def test_what_is_shipped_can_be_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Short(WarmStart):
        def __init__(self, **options: int) -> None:
            small = {"weak_steps": 1, "policy_steps": 2, "strong_steps": 3, "hidden_size": 16, "num_layers": 1}
            super().__init__(["add"], [1], **small)

    class Few(QuickstartTasks):
        def __init__(self) -> None:
            super().__init__(num_tasks=20, reference_rollouts=2, warm_start=Short())

    monkeypatch.setattr("bots_lightning.quickstart.ship.WEAK_START", Short())
    monkeypatch.setattr("bots_lightning.quickstart.ship.QuickstartTasks", Few)
    (tmp_path / "config.yaml").write_text(
        "model: {policy: {pretrained: {class_path: bots_lightning.quickstart.WarmStart, init_args: "
        "{families: [add], levels: [1], weak_steps: 1, policy_steps: 2, strong_steps: 4, hidden_size: 16}}}}"
    )
    ship([tmp_path / "config.yaml"], tmp_path / "shipped")
    made = sorted(
        path.relative_to(tmp_path / "shipped").parts[-1] for path in (tmp_path / "shipped").rglob("*.safetensors")
    )
    assert made == ["model.safetensors"] * 4  # three of the config, one of the weak start
    assert len(list((tmp_path / "shipped").glob("references-*/pass_rates.parquet"))) == 1
    assert oct((tmp_path / "shipped").stat().st_mode)[-3:] == "755"
