"""What is known of each task: beliefs about success probabilities, on numpy and scipy alone."""

from bots_lightning.beliefs.ability import AbilityBelief
from bots_lightning.beliefs.adaptive import AdaptiveBetaBelief
from bots_lightning.beliefs.belief import Belief, TaskFeatures
from bots_lightning.beliefs.beta import BetaBelief
from bots_lightning.beliefs.evidence import Evidence
from bots_lightning.beliefs.implicit import ReferenceInterpolation
from bots_lightning.beliefs.reward_shape import RewardShape
from bots_lightning.beliefs.visited import VisitedBetaBelief

__all__ = [
    "AbilityBelief",
    "AdaptiveBetaBelief",
    "Belief",
    "BetaBelief",
    "Evidence",
    "ReferenceInterpolation",
    "RewardShape",
    "TaskFeatures",
    "VisitedBetaBelief",
]
