"""The quickstart's pool: procedural tasks with measured pass rates of two reference models."""

# Shapes: N tasks in the pool.

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm
from transformers import AutoModelForCausalLM

from bots_lightning.quickstart.cache import digest, made_folder
from bots_lightning.quickstart.warm_start import STRONG, WEAK, WarmStart
from bots_lightning.rewards import Scorer, exact_match
from bots_lightning.rollouts import (
    CompactEngine,
    GenerationRequest,
    PromptEncoder,
    SamplingParams,
    derive_seed,
    load_tokenizer,
)
from bots_lightning.tasks import ProceduralTasks, TaskPool, TaskSource

COLUMNS = {WEAK: "weak_pass_rate", STRONG: "strong_pass_rate"}
DRAWN = "by the noise of each task"  # names how completions are sampled; part of the cache's key


class QuickstartTasks(TaskSource):
    """Procedural tasks of the warm start's families, with measured reference pass rates.

    The columns `weak_pass_rate` and `strong_pass_rate` are measured by rollouts of two warm-start checkpoints on the
    train split; those of the default pool are shipped, others are measured on first use and cached. Held-out tasks
    have neither.

    Args:
        num_tasks: N.
        seed: of the tasks and of the references' rollouts.
        split: "train", or "heldout" for tasks that share no prompt with it.
        reference_rollouts: completions per task and reference.
        warm_start: the references' training run; by default that of the policy.
        levels: difficulties from 1 (mostly solved) to 8 (never solved); None uses all.

    Raises:
        ValueError: an option is not allowed or out of range.
    """

    def __init__(
        self,
        num_tasks: int = 3000,
        seed: int = 0,
        split: Literal["train", "heldout"] = "train",
        reference_rollouts: int = 8,
        warm_start: WarmStart | None = None,
        levels: list[int] | None = None,
    ) -> None:
        self.warm_start = warm_start or WarmStart()
        self.tasks = ProceduralTasks(num_tasks, seed, split, families=self.warm_start.families, levels=levels)
        self.seed = seed
        self.split = split
        self.reference_rollouts = reference_rollouts

    def load(self) -> TaskPool:
        """Draws the pool; the train split has both reference columns.

        Raises:
            ValueError: there are fewer tasks than `num_tasks`.
        """
        pool = self.tasks.load()
        if self.split == "heldout":
            return pool
        key = digest([self.warm_start.key(), pool.fingerprint, self.reference_rollouts, self.seed, DRAWN])
        folder = made_folder(f"references-{key}", lambda folder: self._measure(pool, folder))
        table = pq.read_table(folder / "pass_rates.parquet")
        columns = {name: table[name].to_pylist() for name in COLUMNS.values()}
        return pool.with_columns(columns, references=list(COLUMNS.values()))

    def _measure(self, pool: TaskPool, folder: Path) -> None:
        columns = {column: self._pass_rates(pool, name) for name, column in COLUMNS.items()}
        pq.write_table(pa.table({"id": pool.ids} | columns), folder / "pass_rates.parquet")

    def _pass_rates(self, pool: TaskPool, name: str) -> list[float]:
        """Measures the pass rates of one warm-start checkpoint, N numbers."""
        checkpoint = self.warm_start.checkpoint(name)
        model = AutoModelForCausalLM.from_pretrained(checkpoint)
        tokenizer = load_tokenizer(checkpoint)
        encoder = PromptEncoder(tokenizer, max_prompt_length=64)
        sampling = SamplingParams(12, (tokenizer.eos_token_id,), tokenizer.pad_token_id)
        engine, scorer = CompactEngine(), Scorer([exact_match])
        rates: list[float] = []
        batches = range(0, len(pool), 256)
        for start in tqdm(batches, desc=f"Pass rates of the {name} reference", file=sys.stdout, dynamic_ncols=True):
            tasks = [pool[i] for i in range(start, min(start + 256, len(pool)))]
            prompts = encoder.encode([task.prompt for task in tasks], [task.id for task in tasks])
            seeds = [derive_seed(self.seed, position) for position in range(start, start + len(tasks))]
            counts = [self.reference_rollouts] * len(tasks)
            rollouts = engine.generate(GenerationRequest(model, prompts, counts, sampling, seeds))
            completions = encoder.decode(rollouts.completion_ids, rollouts.completion_mask)
            rates += np.mean(scorer(tasks, completions).reshape(len(tasks), -1), axis=1).tolist()
        return rates
