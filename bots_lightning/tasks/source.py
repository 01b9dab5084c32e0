"""The contract of everything that yields a task pool."""

from __future__ import annotations

from abc import ABC, abstractmethod

from bots_lightning.tasks.pool import TaskPool


class TaskSource(ABC):
    """Where tasks come from. To write one, implement `load`."""

    @abstractmethod
    def load(self) -> TaskPool:
        """Reads or makes the pool, the same each time. It may be slow: keep the result."""
