"""Tasks of reasoning-gym, about a hundred generators, each with a verifier."""

from bots_lightning.tasks.reasoning_gym.generators import entry_text, new_dataset
from bots_lightning.tasks.reasoning_gym.source import ReasoningGymTasks

__all__ = ["ReasoningGymTasks", "entry_text", "new_dataset"]
