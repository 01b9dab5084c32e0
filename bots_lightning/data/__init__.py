"""The data module: a pool of tasks and the selector that draws from it."""

from bots_lightning.data.batches import TaskBatch
from bots_lightning.data.datamodule import TaskDataModule
from bots_lightning.data.draws import DrawnTask
from bots_lightning.data.forecasts import Forecast

__all__ = ["DrawnTask", "Forecast", "TaskBatch", "TaskDataModule"]
