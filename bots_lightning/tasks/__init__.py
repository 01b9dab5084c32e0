"""Tasks and where they come from."""

from bots_lightning.tasks.files import JsonlTasks, ParquetTasks
from bots_lightning.tasks.pool import Task, TaskPool, task_id
from bots_lightning.tasks.procedural import ProceduralTasks
from bots_lightning.tasks.source import TaskSource

__all__ = ["JsonlTasks", "ParquetTasks", "ProceduralTasks", "Task", "TaskPool", "TaskSource", "task_id"]
