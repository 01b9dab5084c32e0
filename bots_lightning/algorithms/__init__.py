"""Algorithms: pure advantages and losses, and the LightningModules that apply them."""

from bots_lightning.algorithms.advantages import group_advantages
from bots_lightning.algorithms.dynamic_sampling import DynamicSampling
from bots_lightning.algorithms.grpo import GRPO
from bots_lightning.algorithms.losses import LossOutputs, grpo_loss
from bots_lightning.algorithms.module import PolicyModule
from bots_lightning.algorithms.online import OnlineModule
from bots_lightning.algorithms.policy import LoRA, PretrainedSource

__all__ = [
    "GRPO",
    "DynamicSampling",
    "LoRA",
    "LossOutputs",
    "OnlineModule",
    "PolicyModule",
    "PretrainedSource",
    "group_advantages",
    "grpo_loss",
]
