"""Rewards: how good a completion is."""

from bots_lightning.rewards.answers import AnswerMatch, after_thinking, last_tagged
from bots_lightning.rewards.calls import tasks_of_rows
from bots_lightning.rewards.code import CodeReward
from bots_lightning.rewards.comparisons import same_data, same_normalised, same_text, share_of_cells
from bots_lightning.rewards.functions import exact_match
from bots_lightning.rewards.gradable import Gradable
from bots_lightning.rewards.graded import GradedReward, Outcomes, RewardPoolError
from bots_lightning.rewards.maths import MathReward
from bots_lightning.rewards.reasoning_gym import ReasoningGymReward
from bots_lightning.rewards.scorer import Scorer
from bots_lightning.rewards.signatures import ChatReward, RewardFunction, RewardFunctionError, adapted
from bots_lightning.rewards.stream import RewardStream
from bots_lightning.rewards.style import CosineLength, FormatMatch, LengthPenalty, RepetitionPenalty

__all__ = [
    "AnswerMatch",
    "ChatReward",
    "CodeReward",
    "CosineLength",
    "FormatMatch",
    "Gradable",
    "GradedReward",
    "LengthPenalty",
    "MathReward",
    "Outcomes",
    "ReasoningGymReward",
    "RepetitionPenalty",
    "RewardFunction",
    "RewardFunctionError",
    "RewardPoolError",
    "RewardStream",
    "Scorer",
    "adapted",
    "after_thinking",
    "exact_match",
    "last_tagged",
    "same_data",
    "same_normalised",
    "same_text",
    "share_of_cells",
    "tasks_of_rows",
]
