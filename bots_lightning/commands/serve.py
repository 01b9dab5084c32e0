"""The command `bots-lightning serve`: how to start the inference servers of a config."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bots_lightning.commands.lightning_cli import BotsCLI, run_lightning_command
from bots_lightning.policy import Policy
from bots_lightning.rollouts import ServerEngine
from bots_lightning.rollouts.server_dialect import Serving
from bots_lightning.training import OnlineModule

DTYPES = {"32-true": "float32", "bf16-mixed": "bfloat16", "bf16-true": "bfloat16"}
HTTP = 80  # the port of a URL that names none


def serve_command(args: Sequence[str] | None = None) -> None:
    """Prints the commands; takes the options of `fit`.

    Args:
        args: the words after `serve`.
    """
    run_lightning_command(["fit", *(args or ())], ServeCLI)


class ServeCLI(BotsCLI):
    """Reads a config as `fit` does, and prints how to start its servers instead of training."""

    def instantiate_classes(self) -> None:
        """Builds what the config names, but no trainer."""
        parser: Any = self._parser("fit")
        self.module: OnlineModule = parser.instantiate_classes(self.config["fit"]).model

    def _run_subcommand(self, subcommand: str) -> None:
        dtype = DTYPES.get(str(self.config["fit"].trainer.precision or "32-true"), "float32")
        for line in serving_lines(self.module, dtype):
            print(line)


def serving_lines(module: OnlineModule, dtype: str) -> list[str]:
    """A line of shell for each server of a module's engine.

    Args:
        module: built from a config; its model is not loaded, but fetched if it has to be made.
        dtype: that the policy computes in.

    Raises:
        ValueError: the rollouts come from no servers.
    """
    sampler, engine = module.sampler, module.sampler.engine
    if not isinstance(engine, ServerEngine):
        raise ValueError(
            f"model.sampler.engine is {type(engine).__name__}, which has no servers. Add an overlay: "
            "--config configs/rollouts/vllm_server.yaml, or vllm_full.yaml for full finetuning."
        )
    policy: Policy = module.policy
    folder = str(Path(policy.folder).resolve()) if Path(policy.folder).exists() else policy.folder
    context = sampler.max_prompt_length + sampler.max_completion_length
    rank = policy.lora.r if policy.lora else None
    options = dtype, context, rank, 1 + sampler.max_staleness, engine.sleep_level is not None
    ports = [urlsplit(server.url).port or HTTP for server in engine.pool.servers]
    return [shlex.join(engine.dialect.command(Serving(folder, port, *options))) for port in ports]
