"""The interface of sources of tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod

from bots_lightning.tasks.pool import TaskPool


class TaskSource(ABC):
    """Loads a pool of tasks. Subclasses implement `load`."""

    @abstractmethod
    def load(self) -> TaskPool:
        """Reads or makes the pool, the same at every call. It may be slow: keep the result."""
