"""A tiny policy after supervised training on the tasks of any source, for runs on a CPU."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from bots_lightning.options import check_numbers
from bots_lightning.quickstart.cache import digest
from bots_lightning.quickstart.warm_start import POLICY, SupervisedStart
from bots_lightning.tasks import TaskPool, TaskSource


class TaskWarmStart(SupervisedStart):
    """A small Qwen3 model after a short supervised training on the answers of a pool, made on first use and cached.

    Its tokens are the characters of the pool's prompts and answers. Use tasks that share no question with held-out
    ones.

    Args:
        source: of tasks whose prompts are strings, drawn uniformly.
        steps: number of optimizer steps.
        hidden_size: width of the transformer.
        num_layers: depth of the transformer.
        batch_size: examples per step.
        learning_rate: of AdamW, constant after a short warm-up.
        seed: of weights and examples.

    Raises:
        ValueError: `steps` is out of range.
    """

    def __init__(
        self,
        source: TaskSource,
        steps: int = 1600,
        hidden_size: int = 64,
        num_layers: int = 2,
        batch_size: int = 64,
        learning_rate: float = 3e-3,
        seed: int = 0,
    ) -> None:
        check_numbers(1, steps=steps)
        super().__init__({POLICY: steps}, hidden_size, num_layers, batch_size, learning_rate, seed)
        self._source = source

    @cached_property
    def _pool(self) -> TaskPool:
        return self._source.load()

    @cached_property
    def _shown(self) -> list[tuple[str, str]]:
        """All (prompt, answer) pairs of the pool."""
        prompts, answers = self._pool.table["prompt"].to_pylist(), self._pool.table["answer"].to_pylist()
        if not all(isinstance(prompt, str) for prompt in prompts):
            raise ValueError("TaskWarmStart: expected prompts that are strings, not chat messages. Use another source.")
        return list(zip(prompts, answers, strict=True))

    @property
    def alphabet(self) -> str:
        """The characters of the pool."""
        return "".join(sorted({character for example in self._shown for text in example for character in text}))

    @property
    def positions(self) -> int:
        """Twice the length of the longest prompt and the longest answer, since other tasks may be longer."""
        prompts, answers = zip(*self._shown, strict=True)
        return 2 * (max(map(len, prompts)) + max(map(len, answers)) + 1)

    def key(self) -> str:
        """Hash of everything that the weights depend on; examples are identified by the pool's fingerprint."""
        options = [self.stops, self.hidden_size, self.num_layers, self.batch_size, self.learning_rate, self.seed]
        return digest(["tasks", *options, self.positions, self._pool.fingerprint])

    def examples(self, rng: np.random.Generator, n: int) -> list[tuple[str, str]]:
        """Draws n (prompt, answer) pairs, uniformly over tasks."""
        return [self._shown[i] for i in rng.integers(len(self._shown), size=n).tolist()]
