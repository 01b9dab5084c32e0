"""Rollouts: completions of prompts, and the engines that sample them."""

from bots_lightning.rollouts.compact import CompactEngine
from bots_lightning.rollouts.engine import (
    GenerationRequest,
    OnCompleted,
    RolloutEngine,
    RolloutsCancelledError,
    SamplingParams,
    derive_seed,
    rollout_mode,
)
from bots_lightning.rollouts.generate import GenerateEngine
from bots_lightning.rollouts.prompts import PromptEncoder, load_tokenizer, prompt_room
from bots_lightning.rollouts.rollouts import Rollouts, completion_mask, concatenate
from bots_lightning.rollouts.server import ServerEngine
from bots_lightning.rollouts.server_client import RolloutServerError
from bots_lightning.rollouts.server_dialect import ServerDialect
from bots_lightning.rollouts.server_sglang import SGLangDialect
from bots_lightning.rollouts.server_transfer import WeightTransfer
from bots_lightning.rollouts.server_vllm import VLLMDialect

__all__ = [
    "CompactEngine",
    "GenerateEngine",
    "GenerationRequest",
    "OnCompleted",
    "PromptEncoder",
    "RolloutEngine",
    "RolloutServerError",
    "Rollouts",
    "RolloutsCancelledError",
    "SGLangDialect",
    "SamplingParams",
    "ServerDialect",
    "ServerEngine",
    "VLLMDialect",
    "WeightTransfer",
    "completion_mask",
    "concatenate",
    "derive_seed",
    "load_tokenizer",
    "prompt_room",
    "rollout_mode",
]
