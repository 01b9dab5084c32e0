"""Starts programs in forks of this process, which has imported what takes seconds; for the fixture `forks`.

A line of stdin asks for processes that run at the same time, as JSON: a list of {program, words, environment, folder,
output, seconds}; a line of stdout has their exit codes, negative if a signal ended them.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import runpy
import signal
import sys


def load() -> None:
    """Imports, and starts no thread: a fork has none but its own."""
    import torch

    import bots_lightning.cli  # noqa: F401
    import callbacks  # noqa: F401

    torch.set_num_threads(1)
    with contextlib.suppress(ImportError):
        import deepspeed  # noqa: F401


def become(program: str, words: list[str], environment: dict[str, str], folder: str, output: str, seconds: int) -> None:
    """As `python PROGRAM WORDS`, with stdout in OUTPUT.out and stderr in OUTPUT.err; ends after SECONDS at most."""
    signal.alarm(seconds)
    for number, name in ((1, "out"), (2, "err")):
        file = os.open(f"{output}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(file, number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = [program, *words]
    runpy.run_path(program, run_name="__main__")


def main() -> None:
    """Returns in a fork whose program has ended, and where stdin has."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # imports may print
    load()
    gc.freeze()  # so that forks need not copy it
    for line in sys.stdin:
        children = []
        for process in json.loads(line):
            child = os.fork()
            if not child:
                become(**process)
                return
            children.append(child)
        print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]), file=replies)
        replies.flush()


if __name__ == "__main__":
    main()
