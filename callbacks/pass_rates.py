"""Measures the pass rate of every task while `predict` rolls out the pool."""

# Shapes: K tasks in a batch, n_k rollouts of each, R = Σ n_k.

from __future__ import annotations

import math
import sys
from collections.abc import Collection
from functools import partial
from hashlib import sha256
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from lightning import LightningModule, Trainer
from lightning.pytorch import Callback
from torch import Tensor
from tqdm import tqdm

from bots_lightning.evaluation.pass_rates.files import PassRateFiles
from bots_lightning.evaluation.pass_rates.journal import Count, Journal, Run
from bots_lightning.tasks import TaskPool


class PassRateWriter(Callback):
    """Writes a table of pass rates, to be read by `bots_lightning.tasks.WithPassRates` as a reference column.

    Columns: `id`; `n`, the rollouts that were scored; `successes`, the sum of their rewards as fractions of the reward
    range, or of the scores of the scorer's `evidence`; `pass_rate`, their mean; `seed`; `model`. A task that was not
    tried, or of which no rollout was scored, has the pass rate null.

    Every batch is kept in a journal, so that a run that was killed goes on by the same command, on any number of ranks
    that share the folder, and ends with the table of an undisturbed run. A finished table is not changed.

    Args:
        file: the Parquet table; by default `pass_rates.parquet` in the run folder.
        completions: a JSONL file for the completions, one a line; none keeps none.
        overwrite: replace the files of a run with another model, seed, pool or number of rollouts. Those of the same
            run are continued all the same.
        progress: show a bar.
        picture: draw a histogram, saved as PNG next to the table.

    Raises:
        ValueError: `file` is no Parquet file by its name; or, when a run starts, the files are of another run.
    """

    def __init__(
        self,
        file: str | None = None,
        completions: str | None = None,
        overwrite: bool = False,
        progress: bool = True,
        picture: bool = True,
    ) -> None:
        if file is not None and Path(file).suffix != ".parquet":
            raise ValueError(f"file={file}; expected a name that ends with .parquet.")
        self.file = file
        self.completions = completions
        self.overwrite = overwrite
        self.progress = progress
        self.picture = picture
        self._files: PassRateFiles | None = None
        self._journal: Journal | None = None
        self._bar: tqdm | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Has the predict loader ask which tasks are measured; by then a checkpoint's weights are loaded."""
        if stage == "predict":
            trainer.datamodule.measured = partial(self._measured, trainer, pl_module)  # type: ignore[attr-defined]

    def _measured(self, trainer: Trainer, pl_module: LightningModule) -> Collection[str]:
        table = Path(self.file or Path(trainer.default_root_dir) / "pass_rates.parquet").expanduser()
        completions = None if self.completions is None else Path(self.completions).expanduser()
        run = _describe(trainer, pl_module) | {"completions": completions is not None}
        self._files = PassRateFiles(table, run, completions)
        if self.overwrite and trainer.is_global_zero:
            self._files.discard_others()
        trainer.strategy.barrier("pass rates of another run")
        return self._files.measured()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Opens the journal of this rank."""
        assert self._files is not None
        self._journal = self._files.journal(trainer.global_rank)
        if self.progress and trainer.is_global_zero:
            tasks = len(trainer.datamodule.pool)  # type: ignore[attr-defined]
            self._bar = tqdm(total=tasks, desc="Pass rates", unit="task", file=sys.stdout, dynamic_ncols=True)
            self._show(self._bar, self._files.measured())

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Adds a batch."""
        assert self._files is not None
        assert self._journal is not None
        ends = list(accumulate(outputs["counts"]))[:-1]
        counts = [_count(rollouts) for rollouts in np.split(outputs["evidence"].cpu().numpy(), ends)]
        kept = {} if self.completions is None else _kept(outputs["completions"], outputs["rewards"], outputs["counts"])
        self._journal.append(batch.positions[0], outputs["task_ids"], counts, **kept)
        if self._bar is not None:
            self._show(self._bar, self._files.measured())

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Waits until all ranks have written."""
        self._close()
        trainer.strategy.barrier("pass rates of all ranks")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Writes the table, also where no task was left to be tried; no other hook runs then."""
        if stage != "predict" or self._files is None:
            return
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        if trainer.is_global_zero:
            self._finish(self._files, datamodule.pool.ids)
        datamodule.measured, self._files = frozenset, None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Closes the journal."""
        self._close()

    def _finish(self, files: PassRateFiles, ids: list[str]) -> None:
        from bots_lightning.evaluation.pass_rates.report import draw_picture, report  # loads matplotlib

        table = files.finish(ids)
        if self.picture:
            draw_picture(table, files.table.with_suffix(".png"))
        print(f"\n{report(table, files.table)}", flush=True)

    def _close(self) -> None:
        if self._journal is not None:
            self._journal.close()
        if self._bar is not None:
            self._bar.close()
        self._journal = self._bar = None

    @staticmethod
    def _show(bar: tqdm, measured: dict[str, Count]) -> None:
        """Tasks and mean pass rate of all ranks so far."""
        rates = [count.pass_rate for count in measured.values() if count.pass_rate is not None]
        bar.n = len(measured)
        bar.set_postfix(pass_rate=f"{np.mean(rates):.3f}" if rates else "–")


def _describe(trainer: Trainer, pl_module: LightningModule) -> Run:
    """All that the pass rates depend on."""
    module: Any = pl_module
    pool: TaskPool = trainer.datamodule.pool  # type: ignore[attr-defined]
    policy, sampler, scorer = module.policy, module.sampler, module.scorer
    checkpoint = trainer.ckpt_path
    after = f" + {checkpoint} after {module.progress.iterations} iterations" if checkpoint else ""
    own = scorer.evidence_range
    evidence = {} if scorer.counted is None else {"evidence": [scorer.names[scorer.counted], own.low, own.high]}
    return evidence | {
        "model": f"{policy.folder}{after}",
        "seed": module.seed,
        "num_generations": sampler.num_generations,
        "temperature": policy.temperature,
        "max_prompt_length": sampler.max_prompt_length,
        "max_completion_length": sampler.max_completion_length,
        "truncate_prompts": sampler.truncate_prompts,
        "dtype": policy.dtype_name,
        "precision": trainer.precision,
        "reward_funcs": scorer.names,
        "reward_weights": scorer.weights.tolist(),
        "reward_range": [scorer.low, scorer.high],
        "tasks": len(pool),
        "pool": _digest(pool),
    }


def _digest(pool: TaskPool) -> str:
    """16 hex characters that stand for ids, prompts, answers, and their order."""
    digest = sha256()
    for batch in pool.table.select(["id", "prompt", "answer"]).to_batches():
        for row in batch.to_pylist():
            digest.update(repr(list(row.values())).encode())
    return digest.hexdigest()[:16]


def _count(fractions: Any) -> Count:
    """Of one task's (n_k,) rewards in [0, 1], NaN for those that were not scored."""
    scored = fractions[np.isfinite(fractions)]
    return Count(len(scored), math.fsum(scored))


def _kept(completions: list[str], rewards: Tensor, counts: list[int]) -> dict[str, Any]:
    """Completions and rewards, K lists of n_k each, None for the reward of one that was not scored.

    Args:
        completions: R of them.
        rewards: (R,) float, NaN where there is none.
        counts: K numbers of rollouts.
    """
    numbers = [None if math.isnan(reward) else reward for reward in rewards.tolist()]
    slices = [slice(end - count, end) for end, count in zip(accumulate(counts), counts, strict=True)]
    return {"completions": [completions[rows] for rows in slices], "rewards": [numbers[rows] for rows in slices]}
