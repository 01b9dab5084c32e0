"""Tasks, pools of tasks, and their sources: files, datasets, generators; filters, splits and mixtures."""

from bots_lightning.tasks.datasets import DatasetTasks
from bots_lightning.tasks.files import JsonlTasks, ParquetTasks
from bots_lightning.tasks.filters import FilteredTasks, Groups, PassRates, PromptCharacters, PromptTokens, TaskFilter
from bots_lightning.tasks.mixed import MixedTasks
from bots_lightning.tasks.pass_rates import WithPassRates
from bots_lightning.tasks.pool import TaskPool
from bots_lightning.tasks.procedural import ProceduralTasks
from bots_lightning.tasks.prompts import Example
from bots_lightning.tasks.questions import QuestionTasks
from bots_lightning.tasks.reasoning_gym import ReasoningGymTasks
from bots_lightning.tasks.source import TaskSource
from bots_lightning.tasks.splits import SplitTasks
from bots_lightning.tasks.task import Prompt, Task, task_id

__all__ = [
    "DatasetTasks",
    "Example",
    "FilteredTasks",
    "Groups",
    "JsonlTasks",
    "MixedTasks",
    "ParquetTasks",
    "PassRates",
    "ProceduralTasks",
    "Prompt",
    "PromptCharacters",
    "PromptTokens",
    "QuestionTasks",
    "ReasoningGymTasks",
    "SplitTasks",
    "Task",
    "TaskFilter",
    "TaskPool",
    "TaskSource",
    "WithPassRates",
    "task_id",
]
