"""How several ranks train one policy: data parallel, or with DeepSpeed's ZeRO."""

from bots_lightning.strategies.base import (
    OnlineStrategy,
    divides_weights,
    repeatable,
    take_step,
    trained_pass,
    whole_model,
)
from bots_lightning.strategies.data_parallel import DataParallel
from bots_lightning.strategies.deepspeed import DeepSpeed
from bots_lightning.strategies.rank_watch import LostRankError, RankWatch

__all__ = [
    "DataParallel",
    "DeepSpeed",
    "LostRankError",
    "OnlineStrategy",
    "RankWatch",
    "divides_weights",
    "repeatable",
    "take_step",
    "trained_pass",
    "whole_model",
]
