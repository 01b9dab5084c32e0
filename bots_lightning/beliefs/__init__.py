"""What is known of each task: beliefs about success probabilities, on numpy and scipy alone."""

from bots_lightning.beliefs.belief import Belief, TaskFeatures
from bots_lightning.beliefs.beta import BetaBelief
from bots_lightning.beliefs.evidence import Evidence
from bots_lightning.beliefs.implicit import ReferenceInterpolation

__all__ = ["Belief", "BetaBelief", "Evidence", "ReferenceInterpolation", "TaskFeatures"]
