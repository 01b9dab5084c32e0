"""Rewards: how good a completion is."""

from bots_lightning.rewards.functions import exact_match
from bots_lightning.rewards.scorer import RewardFunction, Scorer

__all__ = ["RewardFunction", "Scorer", "exact_match"]
