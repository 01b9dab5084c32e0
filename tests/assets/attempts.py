"""Runs the command line again and again, in processes that are killed at chosen moments or left to their end."""

from __future__ import annotations

import json
import os
import signal
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch

import bots_lightning.cli

Kinds = Mapping[str, Callable[[Any], None]]


def die(*_: Any) -> None:
    """All ranks, which are in the group of the first."""
    os.killpg(0, signal.SIGKILL)


def attempt(kinds: Kinds, name: str, kind: str | None = None, moment: Any = None, options: tuple[str, ...] = ()) -> int:
    """Exit code of a process that runs the command; negative if a signal ended it."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.setsid()
    sys.argv += ["--name", name, *options]  # further ranks are started with these words
    if kind:
        kinds[kind](moment)
    run()
    os._exit(0)


def run() -> None:
    sys.stdout = sys.stderr
    bots_lightning.cli.main(sys.argv[2:])
    sys.stderr.flush()


def main(kinds: Kinds) -> None:
    """Makes the attempts of the first word, a JSON list of [name, kind, moment, options]; prints their exit codes."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    if "LOCAL_RANK" in os.environ:  # a further rank, started by the first
        run()
    else:
        print(json.dumps([attempt(kinds, *one) for one in json.loads(sys.argv[1])]))
