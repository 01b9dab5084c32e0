"""Algorithms: GRPO and PPO as plain classes, their advantages and losses as pure functions."""

from bots_lightning.algorithms.advantages import generalized_advantages, group_advantages
from bots_lightning.algorithms.algorithm import Algorithm
from bots_lightning.algorithms.experience import Experience
from bots_lightning.algorithms.groups import RolloutGroups
from bots_lightning.algorithms.grpo import GRPO
from bots_lightning.algorithms.losses import BatchSize, LossOutputs, grpo_loss, kl_divergence, value_loss
from bots_lightning.algorithms.off_policy import ImportanceSampling
from bots_lightning.algorithms.ppo import PPO
from bots_lightning.algorithms.step import Progress, StepClock, StepContext

__all__ = [
    "GRPO",
    "PPO",
    "Algorithm",
    "BatchSize",
    "Experience",
    "ImportanceSampling",
    "LossOutputs",
    "Progress",
    "RolloutGroups",
    "StepClock",
    "StepContext",
    "generalized_advantages",
    "group_advantages",
    "grpo_loss",
    "kl_divergence",
    "value_loss",
]
