"""Tasks and where they come from."""

from bots_lightning.tasks.datasets import DatasetTasks
from bots_lightning.tasks.files import JsonlTasks, ParquetTasks
from bots_lightning.tasks.filters import FilteredTasks, Groups, PassRates, PromptCharacters, PromptTokens, TaskFilter
from bots_lightning.tasks.mixed import MixedTasks
from bots_lightning.tasks.pass_rates import WithPassRates
from bots_lightning.tasks.pool import Task, TaskPool, task_id
from bots_lightning.tasks.procedural import ProceduralTasks
from bots_lightning.tasks.reasoning_gym import ReasoningGymTasks
from bots_lightning.tasks.source import TaskSource
from bots_lightning.tasks.splits import SplitTasks

__all__ = [
    "DatasetTasks",
    "FilteredTasks",
    "Groups",
    "JsonlTasks",
    "MixedTasks",
    "ParquetTasks",
    "PassRates",
    "ProceduralTasks",
    "PromptCharacters",
    "PromptTokens",
    "ReasoningGymTasks",
    "SplitTasks",
    "Task",
    "TaskFilter",
    "TaskPool",
    "TaskSource",
    "WithPassRates",
    "task_id",
]
