"""A model is profiled by `predict`, through kills, and `fit` reads the table as a reference column."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from lightning import Trainer

from bots_lightning.cli import main
from bots_lightning.tasks.pass_rates import WithPassRates

ROOT = Path(__file__).parents[1]
PROFILE = ROOT / "configs/profile.yaml"
TASKS, BATCH = 40, 8
Attempt = tuple[str, str | None, Any, list[str]]
UNDISTURBED: list[Attempt] = [("whole", None, None, [])]
TWO_RANKS = ["--config", str(ROOT / "configs/strategies/ddp.yaml"), "--trainer.devices", "2"]


def killed(kind: str, moment: Any = None, *options: str) -> Attempt:
    return ("killed", kind, moment, list(options))


def finished(*options: str) -> Attempt:
    return ("killed", None, None, list(options))


@pytest.fixture
def profile(forks: Any) -> Callable[..., list[int]]:
    """`profile(folder, checkpoint, attempts, tasks)`: the first task of every batch that was rolled out in them."""
    return partial(make, forks)


def make(forks: Any, folder: Path, checkpoint: str, attempts: list[Attempt], tasks: int = TASKS) -> list[int]:
    """Makes the attempts in turn."""
    words = ["predict", "--config", str(PROFILE), "--runs_dir", str(folder), "--model.policy.pretrained", checkpoint]
    words += ["--data.source.init_args.num_tasks", str(tasks), "--trainer.accelerator", "cpu"]
    words += ["--data.eval_batch_size", str(BATCH), "--model.scorer.reward_funcs", "[profiled.letters]"]
    rolled_out = folder / "rolled_out"
    process = ([json.dumps(attempts), *words], {"ROLLED_OUT": str(rolled_out)})
    (ended,) = forks(ROOT / "tests/assets/profiled.py", [process])
    assert ended.code == 0, ended.said
    codes = json.loads(ended.printed.splitlines()[-1])
    assert codes == [-9 if kind else 0 for _, kind, _, _ in attempts], ended.said[-3000:]
    return [int(line) for line in rolled_out.read_text().split()]


def assert_the_same(folder: Path) -> None:
    """The same bytes, of a column that says something."""
    files = [folder / name / "pass_rates.parquet" for name in ("whole", "killed")]
    assert files[0].read_bytes() == files[1].read_bytes()
    rates = pq.read_table(files[0])["pass_rate"]
    assert 0 < rates.null_count < len(rates) / 2
    assert len(rates.unique()) > 10
    left = {path.name for path in (folder / "killed").iterdir()}
    assert left == {"pass_rates.parquet", "pass_rates.png"}


def test_a_run_that_is_killed_ends_as_the_undisturbed_one(profile: Any, tmp_path: Path, checkpoint: str) -> None:
    """While a batch is written, once more, before and behind the table: no batch is lost but the one in flight."""
    kills = [killed("torn", 4), killed("torn", 1), killed("table"), killed("journals")]
    batches = profile(tmp_path, checkpoint, [*UNDISTURBED, *kills, finished()])
    assert_the_same(tmp_path)
    # whole; two batches and a torn one (a journal has a first line); a torn one; the rest
    assert batches == [0, 8, 16, 24, 32, 0, 8, 16, 16, 16, 24, 32]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_three_random_moments(seed: int, profile: Any, tmp_path: Path, checkpoint: str) -> None:
    moments = np.random.default_rng(seed).uniform(0.0, 0.5, 3)  # together less than a quick machine needs for all tasks
    kills = [killed("seconds", float(moment)) for moment in moments]
    batches = profile(tmp_path, checkpoint, [*UNDISTURBED, *kills, finished()], tasks=1000)
    assert_the_same(tmp_path)
    assert 2 * 1000 // BATCH <= len(batches) <= 2 * 1000 // BATCH + len(kills)


@pytest.mark.slow
def test_a_restart_with_another_number_of_ranks(profile: Any, tmp_path: Path, checkpoint: str) -> None:
    attempts = [killed("torn", 3, *TWO_RANKS), killed("torn", 2), killed("table", None, *TWO_RANKS), finished()]
    profile(tmp_path, checkpoint, [*UNDISTURBED, *attempts])
    assert_the_same(tmp_path)


def test_the_config_profiles_and_fit_reads_what_it_wrote(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    start = "{weak_steps: 1, policy_steps: 2, strong_steps: 3, hidden_size: 16, batch_size: 8}"
    few = ["--data.source.init_args.num_tasks", "20", "--model.policy.pretrained.init_args", start]
    main(["predict", "--config", str(PROFILE), *few])
    assert "mean pass rate" in capsys.readouterr().out
    head = PROFILE.read_text().split("\nname:")[0]
    overlay = head[head.index("#   data:") :].replace("\n#   ", "\n").removeprefix("#   ")
    source = "{class_path: bots_lightning.tasks.ProceduralTasks, init_args: {num_tasks: 30}}"
    overlay = overlay.replace("...  # as below", source).replace("runs/OTHER", "runs/profile")
    (tmp_path / "my_pool.yaml").write_text(overlay)
    built: list[Any] = []
    monkeypatch.setattr(Trainer, "fit", lambda self, model, datamodule=None, **_: built.append(datamodule))
    main(["fit", "--config", str(ROOT / "configs/quickstart.yaml"), "--config", "my_pool.yaml"])
    assert isinstance(built[0].source, WithPassRates)
    assert built[0].source.load().references == ("weak_pass_rate", "strong_pass_rate")
