"""Which tasks next: selectors, on numpy alone."""

from bots_lightning.selection.selector import TaskSelector
from bots_lightning.selection.thompson import ThompsonSelector
from bots_lightning.selection.uniform import UniformSelector

__all__ = ["TaskSelector", "ThompsonSelector", "UniformSelector"]
