"""Two ranks learn what one process learns, under every strategy: real process groups, real DeepSpeed, on a CPU."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[1] / "assets" / "ranks.py"
STRATEGIES = ("ddp", "zero1", "zero2", "zero3", "zero3_offload")
GRPO_RUNS = (
    "lora",
    "full",
    "microbatches",
    "recomputed",
    "faulty",
    "failing",
    "ragged",
    "rounds",
    "servers",
    "servers-ahead",
)
RUNS = (*(f"grpo-{name}" for name in GRPO_RUNS), "ppo-lora", "ppo-full", "ppo-ragged")
ONLY_SOME = {"ddp": ("grpo-out-of-memory", "grpo-asynchronous"), "zero1": ("grpo-asynchronous",)}
ONLY_SOME["zero2"] = ONLY_SOME["zero1"]
ALL = {strategy: (*RUNS, *ONLY_SOME.get(strategy, ())) for strategy in STRATEGIES}
# What each strategy does in the quick tests; the rest is done by the same code under another one.
QUICK = {
    "ddp": tuple(run for run in ALL["ddp"] if "servers" not in run),
    "zero1": ("grpo-lora", "ppo-full"),
    "zero2": (
        "grpo-lora",
        "grpo-full",
        "grpo-microbatches",
        "grpo-faulty",
        "grpo-ragged",
        "grpo-asynchronous",
        "grpo-servers",
        "ppo-lora",
    ),
    "zero3": (
        "grpo-lora",
        "grpo-full",
        "grpo-recomputed",
        "grpo-failing",
        "grpo-ragged",
        "grpo-servers",
        "ppo-lora",
        "ppo-full",
    ),
    "zero3_offload": ("grpo-lora", "ppo-ragged"),
}
PAIRS = [
    pytest.param(strategy, run, marks=[] if run in QUICK[strategy] else pytest.mark.slow)
    for strategy, runs in ALL.items()
    for run in runs
]


@pytest.fixture(scope="module", autouse=True)
def _two_servers(servers: Any, checkpoint: str) -> Iterator[None]:
    """Which the runs of servers ask, on one rank or on several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SERVERS", " ".join(servers.start(checkpoint) for _ in range(2)))
        yield


@pytest.fixture(scope="module")
def alone(checkpoint: str, tmp_path_factory: pytest.TempPathFactory, ranks: Any) -> dict[str, Any]:
    """What one process does."""
    output = tmp_path_factory.mktemp("alone") / "runs.json"
    ranks(SCRIPT, 1, checkpoint, output, "single")
    return json.loads(output.read_text())["single"]


@pytest.fixture(scope="module")
def together(checkpoint: str, tmp_path_factory: pytest.TempPathFactory, ranks: Any) -> Callable[[str, str], Any]:
    """`together(strategy, run)`: what two ranks do; all quick runs are made at once, and all others."""
    pytest.importorskip("deepspeed", reason='needs the extra: pip install -e ".[deepspeed]"')
    results: dict[bool, dict[str, Any]] = {}

    def together(strategy: str, run: str) -> Any:
        quick = run in QUICK[strategy]
        if quick not in results:
            output = tmp_path_factory.mktemp("together") / "runs.json"
            chosen = {name: [one for one in runs if (one in QUICK[name]) == quick] for name, runs in ALL.items()}
            ranks(SCRIPT, 2, checkpoint, output, *(f"{name}={','.join(runs)}" for name, runs in chosen.items() if runs))
            results[quick] = json.loads(output.read_text())
        return results[quick][strategy][run]

    return together


@pytest.mark.parametrize(("strategy", "run"), PAIRS)
def test_two_ranks_learn_what_one_process_learns(
    strategy: str, run: str, alone: dict[str, Any], together: Callable[[str, str], Any]
) -> None:
    one, two = alone[run], together(strategy, run)
    assert [step["draws"] for step in two["steps"]] == [step["draws"] for step in one["steps"]]
    assert two["posterior"] == one["posterior"]
    assert two["rollouts"] == one["rollouts"]
    for metric in ("loss", "grad_norm", "reward", "entropy"):
        seen, expected = ([step[metric] for step in history["steps"]] for history in (two, one))
        np.testing.assert_allclose(seen, expected, rtol=0, atol=1e-5, err_msg=metric)
    assert two["weights"].keys() == one["weights"].keys()
    for name, weight in one["weights"].items():
        np.testing.assert_allclose(two["weights"][name], weight, rtol=0, atol=1e-5, err_msg=name)


def test_the_runs_are_not_idle(alone: dict[str, Any]) -> None:
    """The comparison above must not hold because nothing is learned or drawn."""
    for name, run in alone.items():
        taken = [step["grad_norm"] for step in run["steps"] if not np.isnan(step["grad_norm"])]
        assert min(taken) > 1e-3
        assert len(taken) == (2 if name == "grpo-faulty" else 3)
        assert len({tuple(step["draws"]) for step in run["steps"]}) == 3
        if name == "grpo-rounds":  # 2 of each task, 2 more where those were equal
            assert 3 * 4 * 2 < run["rollouts"] < 3 * 4 * 4
        else:
            assert run["rollouts"] == 3 * (2 + 3 + 5 + 16 if name.endswith("ragged") else 4 * 4)


def test_ranks_that_have_drifted_apart_stop_with_both_digests(tmp_path: Path, ranks: Any) -> None:
    program = (
        "import torch.distributed as dist\n"
        "from bots_lightning.training.checks import check_ranks_agree\n"
        "dist.init_process_group('gloo')\n"
        "check_ranks_agree(lambda: 'same')\n"
        "try:\n"
        "    check_ranks_agree(lambda: f'digest-{dist.get_rank()}')\n"
        "except RuntimeError as error:\n"
        "    print(error, flush=True)\n"
        "dist.destroy_process_group()\n"
    )
    (tmp_path / "program.py").write_text(program)
    for rank in ranks(tmp_path / "program.py", 2):
        assert rank.printed.count("rank 0: digest-0, rank 1: digest-1") == 1


REFUSED = """
import sys
import torch.distributed as dist
from lightning import Trainer
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from bots_lightning.algorithms import GRPO
from bots_lightning.data import TaskDataModule
from bots_lightning.policy import Policy
from bots_lightning.rewards import Scorer, exact_match
from bots_lightning.selection import UniformSelector
from bots_lightning.strategies import DataParallel
from bots_lightning.tasks import ProceduralTasks
from bots_lightning.training import Evaluation, OnlineModule, Sampler, Updater, module

checked = module.check_prompts

def check(*args):
    print('looked\\n', end='', flush=True)
    checked(*args)

def fit(checkpoint, folder):
    module.check_prompts = check
    data = TaskDataModule(ProceduralTasks(8), UniformSelector(), batch_size=4)
    sampler = Sampler(max_prompt_length=3, max_completion_length=8)
    parts = Policy(checkpoint), Scorer([exact_match]), sampler, GRPO(), Updater(), Evaluation()
    policy = OnlineModule(*parts)
    trainer = Trainer(accelerator='cpu', devices=2, strategy=DataParallel(), logger=False, max_epochs=1,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False, default_root_dir=folder)
    try:
        trainer.fit(policy, data)
    except ValueError as error:
        print(f'refused: {error}\\n', end='', flush=True)  # at once: the other rank writes there too
    dist.destroy_process_group()

# As torchrun --standalone does, except that its ranks are forks of this process and need not import torch anew.
config = LaunchConfig(1, 1, 2, run_id='tests', rdzv_backend='c10d', rdzv_endpoint='localhost:0', start_method='fork')
elastic_launch(config, fit)(*sys.argv[1:])
"""


def test_what_the_first_rank_refuses_all_refuse_in_the_same_words(
    checkpoint: str, tmp_path: Path, forks: Callable[..., Any]
) -> None:
    """Its checks of the pool are made once, while the others wait; under torchrun's own launcher."""
    (tmp_path / "refused.py").write_text(REFUSED)
    (ended,) = forks(tmp_path / "refused.py", [([checkpoint, tmp_path], {})], seconds=120)
    assert ended.code == 0, ended.said[-2000:]
    lines = ended.printed.splitlines()
    refusals = [line for line in lines if line.startswith("refused: 8 of 8 tasks cannot be rolled out")]
    assert len(refusals) == 2, ended.printed
    assert len(set(refusals)) == 1
    assert lines.count("looked") == 1
