"""The command line: `bots-lightning fit --config configs/quickstart.yaml`."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Sequence

import torch.distributed as dist
from lightning.pytorch.cli import ArgsType

from bots_lightning.commands.errors import line_for
from bots_lightning.commands.lightning_cli import OTHER_COMMANDS, run_lightning_command
from bots_lightning.commands.parsing import DEBUG, debugging

# Warnings of libraries about what is intended here.
NOISE = (
    r".*args parameter is intended to run from within Python.*",  # `serve` is `fit` in part
    r".*does not have many workers.*",  # a draw must not run ahead of the evidence
    r".*module\(s\) in eval mode at the start of training.*",  # dropout is off by design
    r".*is_gradient_checkpointing.*deprecated.*",
    r".*isinstance\(treespec, LeafSpec\).*deprecated.*",
    r".*Checkpoint directory .* exists and is not empty.*",  # a resumed run
    r".*resuming from a checkpoint that ended before the epoch ended.*",  # the selector's state is in the checkpoint
    r".*custom batch sampler `FixedBatches`.*",
    r".*Total length of `list` across ranks is zero.*",  # no held-out tasks
    r".*`?torch\.distributed\..* is deprecated.*",
    r".*all_gather\S* is deprecated.*",
    r".*Using ModelCheckpoint with manual optimization.*",  # a checkpoint after the step is meant
)


def run() -> None:
    """The program: `main`, with one line instead of a traceback for errors that a user can fix.

    Exit codes: 2 if the command line or a config cannot be understood, 1 for any other failure.
    """
    if "--debug" in sys.argv:
        sys.argv.remove("--debug")
        os.environ[DEBUG] = "1"
    try:
        main()
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()  # otherwise gloo's threads may abort a program at its end
    except Exception as error:  # shown in a line, or raised again
        line = None if debugging() else line_for(error)
        if line is None:
            raise
        sys.exit(f"error: {line}")


def main(args: ArgsType | Sequence[str] = None) -> None:
    """Runs a command.

    Args:
        args: replaces the words of the command line.
    """
    _silence_noise()
    if args is None:
        _understand_deepspeed()
    words = sys.argv[1:] if args is None else args
    if isinstance(words, list) and words and words[0] in OTHER_COMMANDS:
        _run_other_command(words[0], words[1:])
    else:
        run_lightning_command(args)


def _silence_noise() -> None:
    for message in NOISE:
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_no_tip)


def _no_tip(record: logging.LogRecord) -> bool:
    return "Tip:" not in str(record.msg)


def _understand_deepspeed() -> None:
    """Drops `--local_rank`, which its launcher adds, and adopts the launcher's variable for the node."""
    sys.argv[1:] = [word for word in sys.argv[1:] if not word.startswith("--local_rank=")]
    if "CROSS_RANK" in os.environ:
        os.environ.setdefault("NODE_RANK", os.environ["CROSS_RANK"])


def _run_other_command(name: str, options: list[str]) -> None:
    """Runs a command that is not LightningCLI's, importing it here: some load matplotlib, which no run needs."""
    if name == "export":
        from bots_lightning.commands.export import export_command

        export_command(options)
    elif name == "compare":
        from bots_lightning.commands.compare import compare_command

        compare_command(options)
    elif name == "replay":
        from bots_lightning.commands.replay import replay_command

        replay_command(options)
    elif name == "serve":
        from bots_lightning.commands.serve import serve_command

        serve_command(options)
    else:
        from bots_lightning.commands.convert_config import convert_config_command

        convert_config_command(options)
