"""Rewards of programs: what share of their tests, or whether all of them, a completion's program passes."""

from bots_lightning.rewards.code.reward import CodeReward
from bots_lightning.rewards.code.sandbox import SandboxError

__all__ = ["CodeReward", "SandboxError"]
