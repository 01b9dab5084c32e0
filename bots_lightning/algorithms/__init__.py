"""Algorithms: pure advantages and losses, and the LightningModules that apply them."""

from bots_lightning.algorithms.advantages import generalized_advantages, group_advantages
from bots_lightning.algorithms.experience import Experience
from bots_lightning.algorithms.grpo import GRPO
from bots_lightning.algorithms.losses import BatchSize, LossOutputs, grpo_loss, kl_divergence, value_loss
from bots_lightning.algorithms.ppo import PPO
from bots_lightning.policy.critic import Critic, SeparateCritic, SharedCritic
from bots_lightning.policy.loading import LoRA, PretrainedSource
from bots_lightning.training.dynamic_sampling import DynamicSampling
from bots_lightning.training.failures import StepFailedError
from bots_lightning.training.old_module import PolicyModule
from bots_lightning.training.old_online import OnlineModule
from bots_lightning.training.old_policy_gradient import PolicyGradientModule

__all__ = [
    "GRPO",
    "PPO",
    "BatchSize",
    "Critic",
    "DynamicSampling",
    "Experience",
    "LoRA",
    "LossOutputs",
    "OnlineModule",
    "PolicyGradientModule",
    "PolicyModule",
    "PretrainedSource",
    "SeparateCritic",
    "SharedCritic",
    "StepFailedError",
    "generalized_advantages",
    "group_advantages",
    "grpo_loss",
    "kl_divergence",
    "value_loss",
]
