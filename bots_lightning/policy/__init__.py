"""The policy: a causal language model, how it is loaded, computes and is exported; and PPO's critic."""

from bots_lightning.policy.critic import Critic, SeparateCritic, SharedCritic
from bots_lightning.policy.loading import LoRA, PretrainedSource
from bots_lightning.policy.policy import Policy

__all__ = ["Critic", "LoRA", "Policy", "PretrainedSource", "SeparateCritic", "SharedCritic"]
