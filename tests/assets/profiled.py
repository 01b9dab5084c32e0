"""Runs `bots-lightning` several times, each in a process that is killed at a chosen moment or left to its end.

    python profiled.py '[["killed", "torn", 2, []], ["killed", "seconds", 0.3, []], ["killed", null, 0, []]]' predict …

An attempt is the run's name, the kind and moment of the kill, and further options. "torn" kills in the middle of the
n-th line of a journal, "table" before a table takes its place, "journals" before one is deleted, "seconds" so long
after the first line. All ranks die at once. Prints how each process ended: -9 was killed. Batches that were rolled out
are noted in `$ROLLED_OUT`, one a line.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import warnings
from typing import Any

import torch

import bots_lightning.cli
from bots_lightning.algorithms import PolicyModule
from bots_lightning.evaluation import pass_rate_files
from bots_lightning.evaluation.pass_rate_journal import Journal


def letters(prompts: list[str], completions: list[str], answer: list[str], **_: Any) -> list[float | None]:
    """The share of different characters, at most 1; nothing is said of tasks whose answer ends with 3."""
    shares = [min(len(set(completion)) / 8, 1.0) for completion in completions]
    return [None if text.endswith("3") else share for share, text in zip(shares, answer, strict=True)]


def die(*_: Any) -> None:
    os.killpg(0, signal.SIGKILL)


def kill_in_line(number: int) -> None:
    write, seen = Journal._write, 0

    def torn(journal: Journal, content: dict[str, Any]) -> None:
        nonlocal seen
        seen += 1
        if seen < number:
            write(journal, content)
            return
        text = json.dumps(content).encode()
        journal.file.write(text[: len(text) // 2])
        journal.file.flush()
        die()

    Journal._write = torn


def kill_before_table(_: None) -> None:
    pass_rate_files.put_in_place = die


def kill_before_deletion(_: None) -> None:
    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "os.remove" and ".rank-" in str(arguments[0]):
            die()

    sys.addaudithook(hook)


def kill_after(seconds: float) -> None:
    write, timer = Journal._write, threading.Timer(seconds, die)
    timer.daemon = True

    def first(journal: Journal, content: dict[str, Any]) -> None:
        write(journal, content)
        if timer.ident is None:
            timer.start()

    Journal._write = first


KINDS = {"torn": kill_in_line, "table": kill_before_table, "journals": kill_before_deletion, "seconds": kill_after}


def note_batches() -> None:
    step = PolicyModule.predict_step

    def noted(module: PolicyModule, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        with open(os.environ["ROLLED_OUT"], "a") as file:
            file.write(f"{batch.positions[0]}\n")
        return step(module, batch, batch_idx, dataloader_idx)

    PolicyModule.predict_step = noted


def attempt(name: str, kind: str | None, moment: Any, options: list[str]) -> int:
    """Exit code of a process that runs the command; negative if a signal ended it."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.setsid()
    sys.argv += ["--name", name, *options]  # further ranks are started with these words
    if kind:
        KINDS[kind](moment)
    run()
    os._exit(0)


def run() -> None:
    note_batches()
    sys.stdout = sys.stderr
    bots_lightning.cli.main(sys.argv[2:])
    sys.stderr.flush()


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    if "LOCAL_RANK" in os.environ:  # a further rank, started by the first
        run()
    else:
        print(json.dumps([attempt(*one) for one in json.loads(sys.argv[1])]))
