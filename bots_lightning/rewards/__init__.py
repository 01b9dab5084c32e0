"""Rewards: how good a completion is."""

from bots_lightning.rewards.code import CodeReward
from bots_lightning.rewards.functions import exact_match
from bots_lightning.rewards.judged import JudgedReward, Outcomes, RewardPoolError
from bots_lightning.rewards.maths import MathReward
from bots_lightning.rewards.scorer import Scorer
from bots_lightning.rewards.signatures import RewardFunction, adapted

__all__ = [
    "CodeReward",
    "JudgedReward",
    "MathReward",
    "Outcomes",
    "RewardFunction",
    "RewardPoolError",
    "Scorer",
    "adapted",
    "exact_match",
]
