"""The data module: a pool of tasks and the selector that draws from it."""

from bots_lightning.data.batches import TaskBatch
from bots_lightning.data.datamodule import Forecast, TaskDataModule

__all__ = ["Forecast", "TaskBatch", "TaskDataModule"]
