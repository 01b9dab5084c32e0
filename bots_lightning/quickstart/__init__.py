"""The quickstart: tasks, a tiny policy and two reference models, shipped with the package."""

from bots_lightning.quickstart.smollm2 import SmolLM2
from bots_lightning.quickstart.task_warm_start import TaskWarmStart
from bots_lightning.quickstart.tasks import QuickstartTasks
from bots_lightning.quickstart.warm_start import WarmStart

__all__ = ["QuickstartTasks", "SmolLM2", "TaskWarmStart", "WarmStart"]
