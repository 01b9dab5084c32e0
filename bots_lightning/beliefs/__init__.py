"""What is known of each task: probability distributions of success probabilities. Needs numpy and scipy only."""

from bots_lightning.beliefs.ability import AbilityBelief
from bots_lightning.beliefs.adaptive import AdaptiveBetaBelief
from bots_lightning.beliefs.belief import Belief, TaskFeatures
from bots_lightning.beliefs.beta import BetaBelief
from bots_lightning.beliefs.dispersion import RewardDispersion
from bots_lightning.beliefs.evidence import Evidence
from bots_lightning.beliefs.implicit import ReferenceInterpolation
from bots_lightning.beliefs.visited import VisitedBetaBelief

__all__ = [
    "AbilityBelief",
    "AdaptiveBetaBelief",
    "Belief",
    "BetaBelief",
    "Evidence",
    "ReferenceInterpolation",
    "RewardDispersion",
    "TaskFeatures",
    "VisitedBetaBelief",
]
