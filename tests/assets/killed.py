"""Runs that are killed while they write checkpoints, or at any moment.

    python killed.py '[["whole"], ["killed", "write", 5], ["killed", "seconds", 0.3], ["killed"]]' fit --config …

"write" kills before the n-th step of writing, moving or deleting a checkpoint, "torn" in the middle of the n-th file,
"seconds" so long after the first draw. All ranks die at once. Prints how each process ended: -9 was killed.
"""

from __future__ import annotations

import io
import sys
import threading
from typing import Any

import torch
from attempts import die, main

from bots_lightning.data import TaskDataModule

CHANGES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir")


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


if __name__ == "__main__":
    main(KINDS)
