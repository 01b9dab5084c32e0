"""Whole runs whose rollouts come from servers that fail: they end as if nothing had happened."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
import torch
import yaml

from bots_lightning.cli import main
from bots_lightning.evaluation import read_metrics
from bots_lightning.training import StepFailedError

ROOT = Path(__file__).parents[2]
FEW_STEPS = ["--config", str(ROOT / "configs/quickstart.yaml"), "--config", str(ROOT / "tests/assets/few_steps.yaml")]
STEPS = 5
CLOCK = ("time", "timing", "overhead", "per_second", "memory")  # in the names of metrics that depend on the clock

Fit = Callable[..., Path]


@pytest.fixture(scope="module")
def fit(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path, checkpoint: str) -> Iterator[Fit]:
    """Trains with the servers at some URLs; returns the run's folder."""
    tmp_path = tmp_path_factory.mktemp("runs")

    def run(name: str, *urls: str, patience_seconds: float = 20.0, options: tuple[str, ...] = ()) -> Path:
        engine = {
            "class_path": "bots_lightning.rollouts.server.ServerEngine",
            "init_args": {
                "urls": list(urls),
                "adapter_dir": str(tmp_path / name / "adapters"),
                "timeout_seconds": 5.0,
                "patience_seconds": patience_seconds,
            },
        }
        reward = {"class_path": "bots_lightning.rewards.FormatMatch", "init_args": {"pattern": "[^0-9]*"}}
        sampler = {"engine": engine, "num_generations": 4}
        model = {"policy": {"pretrained": checkpoint}, "scorer": {"reward_funcs": [reward]}, "sampler": sampler}
        overlay = tmp_path / f"{name}.yaml"
        overlay.write_text(yaml.safe_dump({"model": model}))
        words = ["--config", str(overlay), "--name", name, "--runs_dir", str(tmp_path / "runs")]
        words += ["--data.steps_per_epoch", str(STEPS), "--trainer.accelerator", "cpu"]
        words += ["--trainer.val_check_interval", str(STEPS), "--trainer.num_sanity_val_steps", "0"]
        main(["fit", *FEW_STEPS, *words, *options])
        return tmp_path / "runs" / name

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BOTS_LIGHTNING_CACHE", str(shared_cache))
        yield run


@pytest.fixture(scope="module")
def undisturbed(fit: Fit, servers: Any, checkpoint: str) -> tuple[Path, int]:
    """A run's folder, and how many completions it asked for."""
    url = servers.start(checkpoint)
    return fit("whole", url), completions_of(url)


def learnt(run: Path) -> tuple[list[dict[str, float]], dict[str, Any]]:
    """Metrics, except those of the clock, and trained weights."""
    rows = read_metrics(run / "metrics.csv")
    metrics = [{k: v for k, v in row.items() if not any(word in k for word in CLOCK)} for row in rows]
    return metrics, torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def assert_the_same(first: Path, second: Path) -> None:
    (metrics, weights), (others, other_weights) = learnt(first), learnt(second)
    assert len(metrics) == len(others)
    for row, other in zip(metrics, others, strict=True):
        assert row.keys() == other.keys()
        assert [k for k in row if row[k] != other[k] and not (math.isnan(row[k]) and math.isnan(other[k]))] == []
    assert weights.keys() == other_weights.keys()
    assert all(torch.equal(weights[name], other_weights[name]) for name in weights)
    trained = [row for row in metrics if "reward" in row]
    assert len(trained) == STEPS
    assert len({row["reward"] for row in trained}) > 1
    assert any(weight.abs().sum() > 0 for name, weight in weights.items() if "lora_B" in name)


def completions_of(url: str) -> int:
    return sum("/v1/completions" in call for call in json.loads(urlopen(f"{url}/calls", timeout=5).read()))


def die_after(url: str, requests: int) -> None:
    urlopen(Request(f"{url}/fault", json.dumps({"kind": "die", "after": requests}).encode()), timeout=5).read()


def test_a_run_whose_server_is_killed_and_started_again_is_the_undisturbed_one(
    fit: Fit, servers: Any, checkpoint: str, undisturbed: tuple[Path, int]
) -> None:
    (whole, requests), url = undisturbed, servers.start(checkpoint)
    pid = servers.started[url]
    die_after(url, requests // 2)
    watch = threading.Thread(target=restart_when_dead, args=[servers, url, checkpoint])
    watch.start()
    disturbed = fit("killed", url)
    watch.join()
    assert servers.started[url] != pid
    assert 0 < completions_of(url) < requests
    assert_the_same(whole, disturbed)


def restart_when_dead(servers: Any, url: str, checkpoint: str) -> None:
    while True:
        try:
            servers.signal(url, 0)
        except ProcessLookupError:
            servers.start(checkpoint, url)
            return
        threading.Event().wait(0.05)


def test_a_run_that_loses_all_servers_is_saved_and_goes_on(
    fit: Fit, servers: Any, checkpoint: str, undisturbed: tuple[Path, int]
) -> None:
    (whole, requests), url = undisturbed, servers.start(checkpoint)
    die_after(url, requests // 2)
    with pytest.raises(StepFailedError, match=r"no rollout server has answered for 0\.5 s.*--ckpt_path last"):
        fit("stopped", url, patience_seconds=0.5)
    assert not (whole.parent / "stopped" / "summary.json").exists()
    servers.start(checkpoint, url)
    resumed = fit("stopped", url, options=("--ckpt_path", "last"))
    assert_the_same(whole, resumed)


def test_asynchronous_rollouts_survive_their_server_too(fit: Fit, servers: Any, checkpoint: str) -> None:
    one_step_off = ("--model.sampler.max_staleness", "1")
    url, other = servers.start(checkpoint), servers.start(checkpoint)
    whole = fit("asynchronous", url, options=one_step_off)
    rows = [row for row in read_metrics(whole / "metrics.csv") if "reward" in row]
    assert [row["sampling/staleness"] for row in rows] == [0, 1, 1, 1, 1]
    gaps = [row["sampling/sampling_logp_difference/mean"] for row in rows]
    assert gaps[0] < 1e-4  # the server's own
    assert min(gaps[1:]) > 1e-3  # an update's
    die_after(other, completions_of(url) // 2)
    watch = threading.Thread(target=restart_when_dead, args=[servers, other, checkpoint])
    watch.start()
    disturbed = fit("asynchronous-killed", other, options=one_step_off)
    watch.join()
    assert_the_same(whole, disturbed)
