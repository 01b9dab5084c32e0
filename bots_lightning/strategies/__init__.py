"""How several ranks train one policy: data parallel, or with DeepSpeed's ZeRO."""

from bots_lightning.strategies.base import (
    OnlineStrategy,
    gathered_parameters,
    repeatable,
    shards_parameters,
    take_step,
    trained_pass,
)
from bots_lightning.strategies.data_parallel import DataParallel
from bots_lightning.strategies.deepspeed import DeepSpeed
from bots_lightning.strategies.rank_watch import LostRankError, RankWatch
from bots_lightning.strategies.zero3 import full_shape, moves_weights

__all__ = [
    "DataParallel",
    "DeepSpeed",
    "LostRankError",
    "OnlineStrategy",
    "RankWatch",
    "full_shape",
    "gathered_parameters",
    "moves_weights",
    "repeatable",
    "shards_parameters",
    "take_step",
    "trained_pass",
]
