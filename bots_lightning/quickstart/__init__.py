"""The quickstart: tasks, a tiny policy and two reference models, made on the user's machine in about a minute."""

from bots_lightning.quickstart.task_warm_start import TaskWarmStart
from bots_lightning.quickstart.tasks import QuickstartTasks
from bots_lightning.quickstart.warm_start import WarmStart

__all__ = ["QuickstartTasks", "TaskWarmStart", "WarmStart"]
