"""The table says how often each task was solved, and a run that failed or was cut short goes on where it was."""

# G rollouts per task.

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lightning import Trainer
from lightning.pytorch.callbacks import Callback

from bots_lightning.algorithms import GRPO
from bots_lightning.beliefs import BetaBelief, ReferenceInterpolation
from bots_lightning.data import DrawnTask, TaskDataModule
from bots_lightning.data.loaders import FixedBatches, task_loader
from bots_lightning.policy import Policy
from bots_lightning.rewards import RewardFunctionError, Scorer
from bots_lightning.rollouts.segments import by_group
from bots_lightning.selection import ThompsonSelector, UniformSelector
from bots_lightning.tasks import TaskPool, TaskSource
from bots_lightning.tasks.pass_rates import WithPassRates
from bots_lightning.training import Evaluation, OnlineModule, Sampler, Updater
from callbacks import PassRateWriter

G = 4
# The rewards of each task's four completions, in the range from −1 to 1.
REWARDS = {
    "a": [1.0, -1.0, 1.0, 1.0],
    "b": [None, 0.5, 0.0, None],
    "c": [None, None, None, None],
    "d": [-1.0, -1.0, -1.0, -1.0],
    "e": [1.0, 1.0, 1.0, 1.0],
}
# n, successes, pass_rate: −1 counts 0, 0 counts ½, ½ counts ¾, 1 counts 1.
COLUMNS = {
    "id": ["a", "b", "c", "d", "e"],
    "n": [4, 2, 0, 4, 4],
    "successes": [3.0, 0.75 + 0.5, 0.0, 0.0, 4.0],
    "pass_rate": [0.75, 0.625, None, 0.0, 1.0],
}


class Letters(TaskSource):
    def __init__(self, ids: str = "abcde", prompt: str = "{}=") -> None:
        self.ids, self.prompt = ids, prompt

    def load(self) -> TaskPool:
        return TaskPool.from_rows([{"id": i, "prompt": self.prompt.format(i), "answer": i} for i in self.ids])


def scripted(prompts: list[str], completions: list[str], answer: list[str], **_: Any) -> list[float | None]:
    tried: Counter[str] = Counter()
    rewards = []
    for task in answer:
        rewards.append(REWARDS[task][tried[task]])
        tried[task] += 1
    return rewards


def varied(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
    """The share of different characters, at most 1."""
    return [min(len(set(completion)) / 8, 1.0) for completion in completions]


def online(
    checkpoint: str, reward: Any, num_generations: int = G, temperature: float = 1.0, seed: int = 0
) -> OnlineModule:
    """The tiny policy; the scripted rewards are those from −1 to 1."""
    policy = Policy(checkpoint, temperature=temperature)
    scorer = Scorer([reward], reward_range=(-1.0 if reward is scripted else 0.0, 1.0))
    sampler = Sampler(num_generations, max_completion_length=8)
    return OnlineModule(policy, scorer, sampler, GRPO(), Updater(), Evaluation(), seed=seed)


def predict(
    folder: Path,
    checkpoint: str,
    writer: PassRateWriter | None = None,
    source: TaskSource | None = None,
    reward: Any = scripted,
    ckpt_path: str | None = None,
    limit: int | None = None,
    batch: int = 2,
    **options: Any,
) -> list[list[str]]:
    """Profiles the tiny policy; the tasks of each batch that was rolled out."""
    seen = Seen()
    module = online(checkpoint, reward, **options)
    data = TaskDataModule(source or Letters(), UniformSelector(), batch_size=1, eval_batch_size=batch)
    writer = writer or PassRateWriter(progress=False, picture=False)
    trainer = quiet(folder, [writer, seen], limit_predict_batches=limit)
    trainer.predict(module, data, return_predictions=False, ckpt_path=ckpt_path)
    return seen.batches


def quiet(folder: Path, callbacks: list[Callback], **options: Any) -> Trainer:
    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary", "use_distributed_sampler")
    options |= dict.fromkeys(off, False)
    return Trainer(default_root_dir=folder, accelerator="cpu", devices=1, callbacks=callbacks, **options)


class Seen(Callback):
    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def on_predict_batch_start(self, trainer: Any, pl_module: Any, batch: Any, *_: Any) -> None:
        self.batches.append([task.id for task in batch.tasks])


def table(folder: Path) -> pa.Table:
    return pq.read_table(folder / "pass_rates.parquet")


def test_the_columns_by_hand(tmp_path: Path, checkpoint: str) -> None:
    assert predict(tmp_path, checkpoint, seed=5) == [["a", "b"], ["c", "d"], ["e"]]
    assert table(tmp_path).to_pydict() == COLUMNS | {"seed": [5] * 5, "model": [checkpoint] * 5}
    assert [path.name for path in tmp_path.iterdir()] == ["pass_rates.parquet"]


def test_a_run_that_failed_goes_on_with_the_batch_that_failed(tmp_path: Path, checkpoint: str) -> None:
    calls = 0

    def failing(**columns: Any) -> list[float]:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise ConnectionError("no grader is left")
        return varied(**columns)

    failing.__name__ = varied.__name__
    predict(tmp_path / "whole", checkpoint, reward=varied)
    with pytest.raises(RewardFunctionError, match=r"reward function varied raised ConnectionError: no grader is left"):
        predict(tmp_path / "failed", checkpoint, reward=failing)
    assert not (tmp_path / "failed" / "pass_rates.parquet").exists()
    assert predict(tmp_path / "failed", checkpoint, reward=failing) == [["c", "d"], ["e"]]
    tables = [(tmp_path / name / "pass_rates.parquet").read_bytes() for name in ("whole", "failed")]
    assert tables[0] == tables[1]
    assert len(table(tmp_path / "whole")["pass_rate"].unique()) > 2


def test_a_finished_table_is_read_and_nothing_is_rolled_out(
    tmp_path: Path, checkpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    predict(tmp_path, checkpoint)
    first = capsys.readouterr().out
    assert predict(tmp_path, checkpoint) == []
    assert capsys.readouterr().out == first
    assert "mean pass rate    0.594" in first  # (0.75 + 0.625 + 0 + 1) / 4


def test_a_run_that_was_cut_short_leaves_tasks_untried_and_goes_on_later(tmp_path: Path, checkpoint: str) -> None:
    assert predict(tmp_path, checkpoint, limit=1) == [["a", "b"]]
    assert table(tmp_path)["n"].to_pylist() == [4, 2, None, None, None]
    assert predict(tmp_path, checkpoint) == [["c", "d"], ["e"]]
    assert table(tmp_path)["n"].to_pylist() == COLUMNS["n"]


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"seed": 1}, "seed=0 there, 1 here"),
        ({"num_generations": 8}, "num_generations=4 there, 8 here"),
        ({"temperature": 0.5}, "temperature=1.0 there, 0.5 here"),
        ({"reward": varied}, r"reward_funcs=\['scripted'\] there, \['varied'\] here"),
        ({"source": Letters("abcd")}, "tasks=5 there, 4 here, pool="),
        ({"source": Letters("eabcd")}, "another run: pool="),
        ({"source": Letters(prompt="{}?")}, "another run: pool="),
    ],
)
def test_another_run_is_refused_by_name_and_replaced_on_demand(
    changes: dict[str, Any], difference: str, tmp_path: Path, checkpoint: str
) -> None:
    predict(tmp_path, checkpoint)
    with pytest.raises(ValueError, match=rf"{difference}.*Set another `file`, or `overwrite: true`"):
        predict(tmp_path, checkpoint, **changes)
    overwriting = PassRateWriter(overwrite=True, progress=False, picture=False)
    reward = {"reward": varied} if "num_generations" in changes else {}  # the script is for four completions
    assert predict(tmp_path, checkpoint, overwriting, **changes | reward)[0] != []
    assert predict(tmp_path, checkpoint, overwriting, **changes | reward) == []  # its own run is not replaced


def test_another_model_is_refused_by_name(tmp_path: Path, checkpoint: str) -> None:
    predict(tmp_path, checkpoint)
    other = tmp_path / "other"
    other.symlink_to(checkpoint)
    with pytest.raises(ValueError, match=f"model={checkpoint!r} there, {str(other)!r} here"):
        predict(tmp_path, str(other))


def test_a_checkpoint_is_named_with_the_age_of_its_policy(tmp_path: Path, checkpoint: str) -> None:
    module = online(checkpoint, varied)
    trainer = quiet(tmp_path, [], max_epochs=1)
    trainer.fit(module, TaskDataModule(Letters(), UniformSelector(), batch_size=4, steps_per_epoch=2))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    predict(tmp_path, checkpoint, reward=varied, ckpt_path=str(tmp_path / "last.ckpt"))
    expected = f"{checkpoint} + {tmp_path / 'last.ckpt'} after 2 iterations"
    assert table(tmp_path)["model"].unique().to_pylist() == [expected]


def test_completions_are_kept_with_their_rewards(tmp_path: Path, checkpoint: str) -> None:
    path = tmp_path / "texts.jsonl"
    writer = PassRateWriter(str(tmp_path / "t.parquet"), str(path), progress=False, picture=False)
    predict(tmp_path, checkpoint, writer, limit=2, reward=varied)
    predict(tmp_path, checkpoint, writer, reward=varied)
    rows = [json.loads(line) for line in path.read_text().split("\n")[:-1]]
    assert [row["task_id"] for row in rows] == [task for task in "abcde" for _ in range(G)]
    assert [row["reward"] for row in rows] == varied([], [row["completion"] for row in rows])
    means = np.mean([row["reward"] for row in rows])
    assert means == pytest.approx(np.mean(pq.read_table(tmp_path / "t.parquet")["pass_rate"].to_pylist()))
    with pytest.raises(ValueError, match="completions=True there, False here"):
        predict(tmp_path, checkpoint, PassRateWriter(writer.file), reward=varied)


def test_tasks_of_unequal_numbers_of_rollouts_by_hand(
    tmp_path: Path, checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = [4, 2, 1, 3, 4]
    drawn = [DrawnTask(index, index, count) for index, count in enumerate(counts)]
    batches = FixedBatches([drawn[:2], drawn[2:]])
    monkeypatch.setattr(
        "bots_lightning.data.datamodule.predict_loader", lambda pool, *_: task_loader(lambda: pool, batches)
    )
    path = tmp_path / "texts.jsonl"
    assert predict(tmp_path, checkpoint, PassRateWriter(completions=str(path), progress=False, picture=False)) != []
    measured = table(tmp_path).to_pydict()
    assert measured["n"] == [4, 1, 0, 3, 4]
    assert measured["successes"] == [3.0, 0.75, 0.0, 0.0, 4.0]
    assert measured["pass_rate"] == [0.75, 0.75, None, 0.0, 1.0]
    rows = [json.loads(line) for line in path.read_text().split("\n")[:-1]]
    expected = [(task, reward) for task, count in zip("abcde", counts, strict=True) for reward in REWARDS[task][:count]]
    assert [(row["task_id"], row["reward"]) for row in rows] == expected


def test_the_bar_counts_tasks_and_shows_their_mean(
    tmp_path: Path, checkpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    predict(tmp_path, checkpoint, limit=1)
    capsys.readouterr()
    predict(tmp_path, checkpoint, PassRateWriter())
    shown = capsys.readouterr().out.split("\r")
    assert "2/5" in next(line for line in shown if "pass_rate" in line)  # what an earlier run has measured
    last = [line for line in shown if "Pass rates" in line][-1]
    assert "5/5" in last
    assert "pass_rate=0.594" in last
    assert (tmp_path / "pass_rates.png").is_file()


def test_a_name_without_parquet_is_refused() -> None:
    with pytest.raises(ValueError, match=r"file=rates.json; expected a name that ends with .parquet"):
        PassRateWriter("rates.json")


def short(**columns: Any) -> list[float]:
    return [value / 2 for value in varied(**columns)]


def longer(**columns: Any) -> list[float]:
    return [(value + 1) / 2 for value in varied(**columns)]


def test_fit_interpolates_between_two_profiled_columns(tmp_path: Path, checkpoint: str) -> None:
    for name, reward in {"weak": short, "strong": longer}.items():
        writer = PassRateWriter(str(tmp_path / f"{name}.parquet"), progress=False, picture=False)
        predict(tmp_path, checkpoint, writer, reward=reward)
    source = WithPassRates(Letters("ecabdx"), {name: str(tmp_path / f"{name}.parquet") for name in ("weak", "strong")})
    implicit = ReferenceInterpolation("weak", "strong")
    data = TaskDataModule(
        source, ThompsonSelector(BetaBelief(implicit=implicit, implicit_weight=0.5)), batch_size=4, steps_per_epoch=1
    )
    outcome: dict[str, Any] = {}

    class Outcome(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            rewards = by_group(outputs["rewards"], outputs["group_of_row"])
            outcome.update(rates=rewards.mean(dim=1).numpy(), ids=[task.id for task in batch.tasks])

    module = online(checkpoint, varied)
    quiet(tmp_path, [Outcome()], max_epochs=1).fit(module, data)
    rates = {name: dict(zip(*columns(tmp_path / f"{name}.parquet"), strict=True)) for name in ("weak", "strong")}
    known = [i for i, task in enumerate(outcome["ids"]) if task != "x"]
    weak, strong = (np.mean([rates[name][outcome["ids"][i]] for i in known]) for name in ("weak", "strong"))
    assert implicit.ability == pytest.approx((outcome["rates"][known].mean() - weak) / (strong - weak))
    predicted = dict(zip(data.require_pool().ids, implicit.predict(), strict=True))
    assert np.isnan(predicted.pop("x"))
    for task, rate in predicted.items():
        middle = rates["weak"][task] + implicit.ability * (rates["strong"][task] - rates["weak"][task])
        assert rate == pytest.approx(np.clip(middle, 0, 1))


def columns(path: Path) -> tuple[list[str], list[float]]:
    read = pq.read_table(path)
    return read["id"].to_pylist(), read["pass_rate"].to_pylist()
