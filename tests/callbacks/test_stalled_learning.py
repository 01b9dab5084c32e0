"""Each sign of a run that does not learn is told once, with a completion; a run that learns hears nothing."""

# Rewards are written as one list per task.

from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Trainer

from bots_lightning.algorithms import GRPO
from bots_lightning.data import TaskDataModule
from bots_lightning.policy import LoRA, Policy
from bots_lightning.rewards import Scorer
from bots_lightning.rollouts.segments import groups_of_rows
from bots_lightning.selection import UniformSelector
from bots_lightning.tasks import ProceduralTasks, Task
from bots_lightning.training import Evaluation, OnlineModule, Sampler, Updater
from callbacks import StalledLearning

NONE = math.nan


class Pool:
    """One task of each group, of one letter."""

    def __init__(self, groups: str) -> None:
        self.groups = np.array(list(groups))

    def __len__(self) -> int:
        return len(self.groups)


class Run:
    """Steps as the callback sees them."""

    def __init__(self, caplog: pytest.LogCaptureFixture, groups: str = "m", ranks: int = 1, **options: Any) -> None:
        self.caplog, self.ranks = caplog, ranks
        self.callback = StalledLearning(**{"group_rollouts": 8, "stuck_rollouts": 8, "false_alarm": 1} | options)
        self.pool = Pool(groups)
        self.iterations = 0

    def step(
        self,
        *rewards: list[float],
        groups: str = "",
        evidence: list[list[float]] | None = None,
        cut: int = 0,
        text: str = "said",
    ) -> list[str]:
        """What the callback says of a step with rewards from −1 to 1, of whose completions the first `cut` were cut."""
        self.iterations += 1
        labels = groups or "m" * len(rewards)
        flat, scores = (torch.tensor(list(chain(*each))) for each in (rewards, evidence or []))
        rows = len(flat)
        outputs = {
            "rewards": flat,
            "evidence": (flat + 1) / 2 if evidence is None else scores,
            "group_of_row": groups_of_rows([len(of_task) for of_task in rewards]),
            "tasks": [Task(f"t{i}", [{"role": "user", "content": "ask"}], "42", g) for i, g in enumerate(labels)],
            "completions": [f"{text} {i}" for i in range(rows)],
            "finished": torch.arange(rows) >= cut,
        }
        module = SimpleNamespace(
            scorer=SimpleNamespace(low=-1.0, high=1.0),
            sampler=SimpleNamespace(max_completion_length=16),
            progress=SimpleNamespace(iterations=self.iterations),
            all_gather=lambda counts: counts if self.ranks == 1 else torch.stack([counts] * self.ranks),
        )
        trainer = SimpleNamespace(datamodule=SimpleNamespace(require_pool=lambda: self.pool))
        self.caplog.clear()
        self.callback.on_train_batch_end(trainer, module, outputs, None, 0)  # type: ignore[arg-type]
        return [record.getMessage() for record in self.caplog.records]


def test_an_iteration_without_rewards(caplog: pytest.LogCaptureFixture) -> None:
    run = Run(caplog)
    assert run.step([NONE, NONE], [NONE, 1.0]) == []
    assert run.step([NONE, NONE], [NONE, NONE]) == [
        "iteration 2: none of 4 completions has a reward: all reward functions returned None. Look for the columns "
        "that they need. For example, task 't0' with the prompt 'ask' and the answer '42' got the completion 'said 0', "
        "whose reward is None."
    ]
    assert run.step([NONE, NONE]) == []


def test_completions_that_are_cut(caplog: pytest.LogCaptureFixture) -> None:
    run = Run(caplog)
    assert run.step([1.0, -1.0], [1.0, -1.0], cut=2) == []
    (said,) = run.step([1.0, -1.0], [1.0, -1.0], cut=3, text="x" * 500)
    assert said.startswith("iteration 2: 3 of 4 completions were cut at max_completion_length=16, before an answer")
    assert f"'{'x' * 200} … {'x' * 198} 0', whose reward is 1." in said
    assert run.step([1.0, -1.0], cut=2) == []


def test_rewards_at_one_end(caplog: pytest.LogCaptureFixture) -> None:
    run = Run(caplog, group_rollouts=100)
    low, high = [-1.0, -1.0], [1.0, 1.0]
    assert run.step(low, low, low) == []
    assert run.step(low, [NONE, -0.9]) == []  # begins anew
    assert run.step(low, low, low) == []
    assert run.step([NONE, -1.0]) == []
    (said,) = run.step(low)
    assert said.startswith("the last 9 rewards are all the lowest of reward_range=(-1, 1): there is nothing to learn.")
    assert said.endswith("got the completion 'said 0', whose reward is -1.")
    assert run.step(low, low, low, low) == []
    assert run.step(high, high, high) == []
    (said,) = run.step(high)
    assert said.startswith("the last 8 rewards are all the highest of reward_range=(-1, 1): there is nothing to learn.")


def test_groups_that_are_never_solved(caplog: pytest.LogCaptureFixture) -> None:
    run = Run(caplog, groups="abc")
    assert run.step([1.0, -1.0], [-0.5, 0.0], [0.1, -1.0], groups="abc") == []
    assert run.step([-0.5, 0.0], [-0.5, 0.0], [-1.0, -1.0], groups="bbc") == []
    (said,) = run.step([1.0, -1.0], [-0.5, 0.0], groups="ab")
    assert said.startswith("none of the first 8 completions for the group 'b', in 4 visits of its tasks, has solved")
    assert "task 't1'" in said
    assert run.step([-0.5, 0.0], [-0.5, 0.0], [-1.0, -0.5], [-1.0, -0.5], groups="bbcc") == []
    assert run.callback.unsolved == {"b": [12, 6], "c": [6, 3]}


def test_a_group_that_is_not_solved_any_more(caplog: pytest.LogCaptureFixture) -> None:
    """Three of four visits were solved: (1 − 0.75/2)^V ≤ 0.01 from V = 10."""
    run = Run(caplog, groups="ab", false_alarm=0.01, stuck_rollouts=1000)
    low, high = [-1.0, -1.0], [1.0, -1.0]
    assert run.step(high, high, high, low, high, groups="aaaab") == []
    for _ in range(9):
        assert run.step(low, high, groups="ab") == []
    assert run.callback.unsolved == {"a": [18, 9]}
    (said,) = run.step(low, high, groups="ab")
    assert 0.625**9 > 0.01 > 0.625**10
    assert said.startswith(
        "none of the last 20 completions for the group 'a', in 10 visits of its tasks, has solved its task; before, "
        "75% of the visits had a success. Look whether the policy has given up the form or mark"
    )
    assert "task 't0'" in said
    assert run.step(low, low, groups="aa") == []  # once
    assert run.step(high, groups="a") == []
    for _ in range(60):
        assert run.step(low, high, groups="ab") == []


def test_the_share_of_a_group_is_that_of_its_latest_visits(caplog: pytest.LogCaptureFixture) -> None:
    """Visits count 0.99 times as much for each later one; those of a run without a success are counted at its end."""
    run = Run(caplog, stuck_rollouts=1000, group_rollouts=1000)
    low, high = [-1.0, -1.0], [1.0, 1.0]
    run.step(high, low)
    run.step(low)
    run.step(low, high, high)
    assert run.callback.solved["m"] == pytest.approx([2 * 0.99**4 + 4, 0.99**4 + 2])
    for _ in range(14):
        run.step(*[high] * 50)
    assert run.callback._share("m") == pytest.approx(1, abs=1e-3)
    for _ in range(9):
        run.step(*[low] * 50)
    run.step(high)
    assert run.callback._share("m") < 0.05


def test_few_visits_are_no_alarm_however_many_their_rollouts(caplog: pytest.LogCaptureFixture) -> None:
    """Never solved: 0.9^V ≤ 1e-6 from V = 132; 256 rollouts of two hard tasks say little of a group."""
    run = Run(caplog, stuck_rollouts=10_000, group_rollouts=256, false_alarm=1e-6)
    for _ in range(131):
        assert run.step([-1.0] * 8) == []
    (said,) = run.step([-1.0] * 8)
    assert said.startswith("none of the first 1056 completions for the group 'm', in 132 visits of its tasks, has")
    few = Run(caplog, stuck_rollouts=10_000, group_rollouts=256, false_alarm=1e-6)
    for _ in range(255):
        assert few.step([-1.0]) == []
    assert len(few.step([-1.0])) == 1


@pytest.mark.parametrize("rates", [(0.1, 0.1), (0.5, 0.25), (0.9, 0.4)])
def test_a_group_that_is_solved_now_and_then_is_no_alarm(
    caplog: pytest.LogCaptureFixture, rates: tuple[float, float]
) -> None:
    """4,000 visits of a rollout each, the second half of them with tasks that are solved about half as often."""
    rng = np.random.default_rng(5)
    run = Run(caplog, stuck_rollouts=100_000, group_rollouts=16, false_alarm=1e-6)
    for step in range(400):
        solved = rng.random(10) < rates[step // 200]
        assert run.step(*np.where(solved[:, None], 1.0, -1.0).tolist()) == []


def test_a_group_is_solved_by_the_evidence(caplog: pytest.LogCaptureFixture) -> None:
    formatted, wrong, unknown = [0.8, 0.9], [0.0, 0.5], [NONE, NONE]
    run = Run(caplog)
    assert run.step(formatted, formatted, evidence=[unknown, wrong]) == []
    assert run.step(formatted, formatted, evidence=[wrong, wrong]) == []
    (said,) = run.step(formatted, evidence=[wrong])
    assert said.startswith("none of the first 8 completions")
    assert Run(caplog, groups=" ").step(*[[-1.0, 0.0]] * 4, groups="    ")  # a label like any other


def test_groups_of_unequal_numbers_of_rollouts_by_hand(caplog: pytest.LogCaptureFixture) -> None:
    """After two steps: 1 + 3 completions for a, of which one solves its task, and 5 + 3 for b."""
    run = Run(caplog, groups="ab")
    assert run.step([-1.0], [0.0, NONE, -0.5, 0.0, -1.0, 0.0], groups="ab") == []
    assert run.callback.unsolved == {"a": [1, 1], "b": [5, 1]}
    (said,) = run.step([-1.0, 1.0, -1.0], [-0.5, 0.0, -0.5], groups="ab")
    assert said.startswith("none of the first 8 completions for the group 'b', in 2 visits of its tasks, has solved")
    assert "task 't1'" in said
    assert "got the completion 'said 3', whose reward is -0.5." in said
    assert run.callback.solved == {"a": [2.0, 1.0]}
    (said,) = run.step([0.5], [0.5, NONE, NONE], groups="aa", cut=3)
    assert said.startswith("iteration 3: 3 of 4 completions were cut")


def test_ranks_count_together(caplog: pytest.LogCaptureFixture) -> None:
    run = Run(caplog, ranks=2)
    said = run.step([-1.0, -1.0], [-1.0, -1.0], cut=3)
    assert said[0].startswith("iteration 1: 6 of 8 completions were cut")
    assert "the last 8 rewards are all the lowest" in said[1]
    assert "none of the first 8 completions for the group 'm', in 4 visits" in said[2]


def test_a_resumed_run_goes_on_counting_and_says_nothing_twice(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    run, resumed = Run(caplog, groups="ab"), Run(caplog, groups="ab")
    assert len(run.step([-1.0, -1.0], [-1.0, -1.0], [0.2, 0.2], groups="aab", cut=6)) == 1
    torch.save(run.callback.state_dict(), tmp_path / "callback.ckpt")
    resumed.callback.load_state_dict(torch.load(tmp_path / "callback.ckpt", weights_only=True))
    for each in (run, resumed):
        (said,) = each.step([-1.0, -1.0], [-1.0, -1.0], groups="aa", cut=4)
        assert said.startswith("none of the first 8 completions for the group 'a'")
        assert each.step([1.0, -1.0], [-1.0, -1.0], [-1.0, -1.0], groups="bab") == []
    assert resumed.callback.solved == {"b": pytest.approx([0.99**2 + 2, 0.99**2 + 1])}
    assert resumed.callback.state_dict() == run.callback.state_dict()
    assert resumed.callback.in_a_row == {"lowest": 0, "highest": 0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group_rollouts": 0}, "group_rollouts=0; expected at least 1"),
        ({"stuck_rollouts": 0}, "stuck_rollouts=0; expected at least 1"),
        ({"cut_share": 1.5}, r"cut_share=1.5; expected a share in \[0, 1\]"),
        ({"false_alarm": 0.0}, "false_alarm=0.0; expected more than 0 and at most 1"),
    ],
)
def test_options_out_of_bounds_are_refused(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StalledLearning(**options)


# --- several ranks ----------------------------------------------------------------------------------------------------


def test_the_first_rank_tells_what_another_has_seen(on_two_ranks: Callable[[str], list[Any]]) -> None:
    (said, state), (silent, same) = on_two_ranks("unsolved_group")
    (line,) = said
    assert line.startswith(
        "none of the first 4 completions for the group 'b', in 2 visits of its tasks, has solved its"
    )
    assert "For example, task 'rank 1' with the prompt 'ask'" in line
    assert silent == []
    assert state == same


# --- a real run -------------------------------------------------------------------------------------------------------


def wrong(completions: list[str], group: list[str], **_: Any) -> list[float | None]:
    return [None if of == "logic" else 0.0 for of in group]


def test_a_run_that_cannot_learn_says_so(checkpoint: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sampler = Sampler(num_generations=4, max_prompt_length=32, max_completion_length=2)
    policy = Policy(checkpoint, LoRA(r=4))
    module = OnlineModule(policy, Scorer([wrong]), sampler, GRPO(), Updater(), Evaluation())
    data = TaskDataModule(ProceduralTasks(24), UniformSelector(), 8, steps_per_epoch=4)
    trainer = Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        logger=False,
        max_epochs=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[StalledLearning(group_rollouts=16, stuck_rollouts=64, false_alarm=1)],
    )
    trainer.fit(module, data)
    said = [record.getMessage() for record in caplog.records if record.name == "callbacks.stalled_learning"]
    starts = [
        "were cut at max_completion_length=2",
        "for the group 'maths'",
        "for the group 'strings'",
        "the lowest of",
    ]
    assert [sum(start in line for line in said) for start in starts] == [1, 1, 1, 1]
    assert len(said) == len(starts)
    assert all("For example, task '" in line for line in said)
    ckpt = tmp_path / "run.ckpt"
    trainer.save_checkpoint(ckpt)
    saved = torch.load(ckpt, weights_only=True)["callbacks"]
    assert json.dumps(saved["StalledLearning"]["warned"])
