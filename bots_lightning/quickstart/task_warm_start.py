"""A tiny policy that has been shown any source's tasks, for runs on a CPU."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from bots_lightning.quickstart.cache import digest
from bots_lightning.quickstart.warm_start import POLICY, SupervisedStart
from bots_lightning.tasks import TaskPool, TaskSource


class TaskWarmStart(SupervisedStart):
    """A small Qwen3 model after a short supervised training on the answers of a pool, made on first use and cached.

    It reads and writes characters, those of the pool's prompts and answers. Give it tasks that the held-out ones share
    no question with.

    Args:
        source: of tasks whose prompts are strings, drawn alike.
        steps: of the optimizer.
        hidden_size: width of the transformer.
        num_layers: its depth.
        batch_size: examples per step.
        learning_rate: of AdamW, constant after a short warm-up.
        seed: of weights and examples.

    Raises:
        ValueError: `steps` is out of range, or (when it is made) a prompt is no string.
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
        if steps < 1:
            raise ValueError(f"steps={steps}; expected at least 1.")
        super().__init__({POLICY: steps}, hidden_size, num_layers, batch_size, learning_rate, seed)
        self._source = source

    @cached_property
    def _pool(self) -> TaskPool:
        return self._source.load()

    @cached_property
    def _shown(self) -> list[tuple[str, str]]:
        """All (prompt, answer) of the pool."""
        prompts, answers = self._pool.table["prompt"].to_pylist(), self._pool.table["answer"].to_pylist()
        if not all(isinstance(prompt, str) for prompt in prompts):
            raise ValueError("the warm start reads characters; expected prompts that are strings, not chat messages.")
        return list(zip(prompts, answers, strict=True))

    @property
    def alphabet(self) -> str:
        """The characters of the pool."""
        return "".join(sorted({character for example in self._shown for text in example for character in text}))

    @property
    def positions(self) -> int:
        """Twice those of the longest prompt and answer with its stop token, since others may be longer."""
        prompts, answers = zip(*self._shown, strict=True)
        return 2 * (max(map(len, prompts)) + max(map(len, answers)) + 1)

    def key(self) -> str:
        """Changes with everything that the weights depend on; examples count by the ids of their tasks."""
        options = [self.stops, self.hidden_size, self.num_layers, self.batch_size, self.learning_rate, self.seed]
        return digest(["tasks", *options, self.positions, self._pool.fingerprint])

    def examples(self, rng: np.random.Generator, n: int) -> list[tuple[str, str]]:
        """Draws n (prompt, answer), each task as likely as any other."""
        return [self._shown[i] for i in rng.integers(len(self._shown), size=n).tolist()]
