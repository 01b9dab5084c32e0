"""How a checkpoint, file or folder, or another file of a run takes its place: complete, or not at all."""

# Hidden names beside NAME.ckpt: .NAME.ckpt.unfinished is being written, .NAME.ckpt.removed is being deleted, and
# .NAME.ckpt.replaced is a good one that waits for its successor, since no folder can be renamed onto another.

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class CheckpointError(RuntimeError):
    """A checkpoint, or another file of a run, could not be written. An earlier one of its name is as it was."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Clears away what was written where the disk is full, or fails.

    Raises:
        CheckpointError: naming the file, the fault and the space that is left.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:  # RuntimeError: of torch.save
        free = shutil.disk_usage(next(parent for parent in path.absolute().parents if parent.is_dir())).free >> 20
        if path.parent.is_dir():
            _delete(unfinished(path))
        raise CheckpointError(
            f"{path} could not be written ({error}); {free:,} MiB are free there. Earlier checkpoints are as they "
            "were. Make room, or name another disk by runs_dir; to continue: --ckpt_path last"
        ) from error


def write_text(path: Path, text: str) -> None:
    """Puts a text file in place of an earlier one, at once.

    Raises:
        CheckpointError: there is no room for it; the earlier one is as it was.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished(path).write_text(text, encoding="utf-8", newline="")
        put_in_place(path)


def append_text(path: Path, text: str) -> None:
    """Appends to a text file: all of it, or nothing.

    Raises:
        CheckpointError: there is no room for it; the file is as it was.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab", buffering=0) as file:  # a buffer would be written again when the file is closed
            end, rest = file.tell(), memoryview(text.encode("utf-8"))
            try:
                while rest:
                    rest = rest[file.write(rest) :]
            except BaseException:  # Ctrl-C too: the file is put back as it was, and the error goes on
                file.truncate(end)
                raise


def unfinished(path: Path) -> Path:
    """Where a checkpoint is written."""
    return _beside(path, "unfinished")


def replaced(path: Path) -> Path:
    """Where a folder is while another takes its place."""
    return _beside(path, "replaced")


def _beside(path: Path, what: str) -> Path:
    return path.with_name(f".{path.name}.{what}")


def sync(path: Path) -> None:
    """Sees that a file, or a folder with all that is in it, has reached the disk."""
    for inside in sorted(path.rglob("*")):
        _sync(inside)
    _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def begin_folder(path: Path) -> Path:
    """An empty folder at `unfinished(path)`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tidy(path.parent)
    _delete(unfinished(path))
    unfinished(path).mkdir()
    return unfinished(path)


def put_in_place(path: Path) -> None:
    """Gives what was written at `unfinished(path)` its name, in place of an earlier one.

    Files are exchanged at once. Between two folders there is a moment without one; `tidy` and `standing` know of it.
    """
    sync(unfinished(path))
    if path.is_dir() or (unfinished(path).is_dir() and path.exists()):
        path.rename(replaced(path))
    unfinished(path).replace(path)
    _sync(path.parent)
    _delete(replaced(path))


def remove(path: Path) -> None:
    """Deletes a checkpoint; a folder takes a hidden name first, so that half of one never looks like one."""
    if path.is_dir() and not path.is_symlink():
        doomed = _beside(path, "removed")
        _delete(doomed)
        path = path.rename(doomed)
    _delete(path)


def tidy(folder: Path) -> None:
    """Deletes what killed writes have left in a folder, and gives a checkpoint back its name if a kill came between."""
    for path in sorted(folder.glob(".*.ckpt.*")):
        original = path.with_name(path.stem.removeprefix("."))
        if path == replaced(original) and not original.exists():
            path.rename(original)
        elif path.suffix in (".unfinished", ".removed", ".replaced"):
            _delete(path)


def standing(path: Path) -> Path:
    """The checkpoint of that name; the hidden one, if a kill came between its removal and its successor."""
    return replaced(path) if not path.exists() and replaced(path).exists() else path


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
