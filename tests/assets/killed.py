"""Runs `bots-lightning` undisturbed as "whole", then as "killed": killed at chosen moments, and at last to the end.

    python killed.py '[["write", 5], ["torn", 1], ["seconds", 0.3]]' fit --config …

"write" kills before the n-th step of writing, moving or deleting a checkpoint, "torn" in the middle of the n-th file,
"seconds" so long after the first draw. All ranks die at once. Prints how each process ended: -9 was killed.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import threading
import warnings
from typing import Any

import torch

import bots_lightning.cli
from bots_lightning.data import TaskDataModule

CHANGES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir")


def die() -> None:
    os.killpg(0, signal.SIGKILL)


def kill_before_write(number: int) -> None:
    seen = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event in CHANGES and ".ckpt" in str(arguments[0]):
            seen += 1
            if seen == number:
                die()

    sys.addaudithook(hook)


def kill_in_file(number: int) -> None:
    save, seen = torch.save, 0

    def torn(content: Any, path: Any, *args: Any, **kwargs: Any) -> None:
        nonlocal seen
        seen += 1
        if seen != number:
            save(content, path, *args, **kwargs)
            return
        save(content, whole := io.BytesIO())
        with open(path, "wb") as file:
            file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
        die()

    torch.save = torn


def kill_after(seconds: float) -> None:
    select, timer = TaskDataModule.select, threading.Timer(seconds, die)

    def first_select(datamodule: TaskDataModule) -> list[int]:
        if not timer.is_alive():
            timer.start()
        return select(datamodule)

    timer.daemon = True
    TaskDataModule.select = first_select


KINDS = {"write": kill_before_write, "torn": kill_in_file, "seconds": kill_after}


def attempt(name: str, kind: str | None = None, moment: Any = None) -> int:
    """Exit code of a process that runs the command; negative if a signal ended it."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.setsid()
    sys.argv += ["--name", name]  # further ranks are started with these words
    if kind:
        KINDS[kind](moment)
    run()
    os._exit(0)


def run() -> None:
    sys.stdout = sys.stderr
    bots_lightning.cli.main(sys.argv[2:])
    sys.stderr.flush()


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    if "LOCAL_RANK" in os.environ:  # a further rank, started by the first
        run()
    else:
        kills = json.loads(sys.argv[1])
        print(json.dumps([attempt("whole"), *(attempt("killed", *kill) for kill in kills), attempt("killed")]))
