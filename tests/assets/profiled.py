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
import sys
import threading
from typing import Any

from attempts import die, main

from bots_lightning.evaluation.pass_rates import files
from bots_lightning.evaluation.pass_rates.journal import Journal
from bots_lightning.training import OnlineModule


def letters(prompts: list[str], completions: list[str], answer: list[str], **_: Any) -> list[float | None]:
    """The share of different characters, at most 1; None for tasks whose answer ends with 3."""
    shares = [min(len(set(completion)) / 8, 1.0) for completion in completions]
    return [None if text.endswith("3") else share for share, text in zip(shares, answer, strict=True)]


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
    files.put_in_place = die


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
    step = OnlineModule.predict_step

    def noted(module: OnlineModule, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        with open(os.environ["ROLLED_OUT"], "a") as file:
            file.write(f"{batch.positions[0]}\n")
        return step(module, batch, batch_idx, dataloader_idx)

    OnlineModule.predict_step = noted


if __name__ == "__main__":
    note_batches()
    main(KINDS)
