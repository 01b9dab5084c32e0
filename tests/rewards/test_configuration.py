"""Reward functions by dotted path and class path, through the command line, on a policy that knows nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from bots_lightning.cli import main
from bots_lightning.evaluation import read_metrics

pytest.importorskip("trl.rewards", reason='needs the extra: pip install -e ".[trl]"')


@pytest.fixture
def config(checkpoint: str, tmp_path: Path) -> dict[str, Any]:
    """Two steps on a file of tasks that have a column `solution`."""
    rows = [{"prompt": f"{i}+{i}=", "solution": str(2 * i)} for i in range(8)]
    (tmp_path / "tasks.jsonl").write_text("\n".join(map(json.dumps, rows)))
    path = str(tmp_path / "tasks.jsonl")
    source = {"class_path": "bots_lightning.tasks.JsonlTasks", "init_args": {"path": path}}
    scorer = {
        "reward_range": [-2.0, 3.0],
        "reward_funcs": [
            "bots_lightning.rewards.exact_match",
            "trl.rewards.accuracy_reward",
            {
                "class_path": "bots_lightning.rewards.ChatReward",
                "init_args": {"function": "trl.rewards.think_format_reward"},
            },
            {
                "class_path": "trl.rewards.get_soft_overlong_punishment",
                "init_args": {"max_completion_len": 6, "soft_punish_cache": 4},
            },
        ],
    }
    selector = {"class_path": "bots_lightning.selection.UniformSelector"}
    data = {
        "source": source,
        "selector": selector,
        "batch_size": 4,
        "steps_per_epoch": 2,
        "evaluation": {"all": source},
    }
    model = {
        "policy": {"pretrained": checkpoint, "lora": {"r": 4}},
        "scorer": scorer,
        "sampler": {"num_generations": 4, "max_prompt_length": 16, "max_completion_length": 6},
        "algorithm": {"class_path": "bots_lightning.algorithms.GRPO"},
    }
    return {
        "model": model,
        "data": data,
        "trainer": {"accelerator": "cpu", "max_epochs": 1, "enable_progress_bar": False, "log_every_n_steps": 1},
    }


def fit(config: dict[str, Any], folder: Path, *options: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    main(["fit", "--config", str(path), "--runs_dir", str(folder / "runs"), *options])
    return folder / "runs" / "run"


NAMES = ["exact_match", "accuracy_reward", "think_format_reward", "soft_overlong_punishment_reward"]


@pytest.mark.parametrize("evidence", ["accuracy_reward", "1"])
def test_trls_functions_and_the_evidence(config: dict[str, Any], tmp_path: Path, evidence: str) -> None:
    run = fit(config, tmp_path, "--model.scorer.evidence", evidence)
    rows = read_metrics(run / "metrics.csv")
    logged = {name for row in rows for name in row}
    assert {f"rewards/{name}/mean" for name in NAMES} <= logged
    lengths = [row["rewards/soft_overlong_punishment_reward/mean"] for row in rows if "reward" in row]
    assert all(-1 <= penalty < 0 for penalty in lengths)
    assert {row["eval/all/avg@4"] for row in rows if "eval/all/avg@4" in row} == {0.0}  # not 2/5, the sum's fraction


def test_an_evidence_that_is_not_there_is_an_error_of_one_line(config: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"evidence='accuracy' names none of reward_funcs; .*1: accuracy_reward, 2:"):
        fit(config, tmp_path, "--model.scorer.evidence", "accuracy")
