"""Puts checkpoints, files or folders, and other files of a run in place: complete, or not at all."""

# Hidden names beside NAME.ckpt: .NAME.ckpt.unfinished is being written, .NAME.ckpt.removed is being deleted, and
# .NAME.ckpt.replaced is the previous one until its successor is in place, since no folder can be renamed onto another.

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class CheckpointError(RuntimeError):
    """A checkpoint, or another file of a run, could not be written. An earlier one of its name is unchanged."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Deletes the unfinished file or folder if writing it fails.

    Args:
        path: where it is put in place in the end.

    Raises:
        CheckpointError: the disk is full, or fails; names the file, the fault and the space that is left.
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
    """Writes a text file, and replaces an earlier one at once.

    Raises:
        CheckpointError: the disk is full, or fails; the earlier one is unchanged.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished(path).write_text(text, encoding="utf-8", newline="")
        put_in_place(path)


def append_text(path: Path, text: str) -> None:
    """Appends to a text file: all of it, or nothing.

    Raises:
        CheckpointError: the disk is full, or fails; the file is unchanged.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab", buffering=0) as file:  # a buffer would be written again when the file is closed
            end, rest = file.tell(), memoryview(text.encode("utf-8"))
            try:
                while rest:
                    rest = rest[file.write(rest) :]
            except BaseException:  # also Ctrl-C: the file is restored and the error raised again
                file.truncate(end)
                raise


def unfinished(path: Path) -> Path:
    """The hidden path at which a checkpoint is written."""
    return _beside(path, "unfinished")


def replaced(path: Path) -> Path:
    """The hidden path of a folder while its successor is put in place."""
    return _beside(path, "replaced")


def _beside(path: Path, what: str) -> Path:
    return path.with_name(f".{path.name}.{what}")


def sync(path: Path) -> None:
    """Waits until a file, or a folder with all that is in it, has reached the disk."""
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
    """Makes an empty folder at `unfinished(path)`, and returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tidy(path.parent)
    _delete(unfinished(path))
    unfinished(path).mkdir()
    return unfinished(path)


def put_in_place(path: Path) -> None:
    """Renames what was written at `unfinished(path)` to its own name, replacing an earlier one.

    Files are replaced at once. Between two folders there is a moment without either; `tidy` and `standing` handle it.
    """
    sync(unfinished(path))
    if path.is_dir() or (unfinished(path).is_dir() and path.exists()):
        path.rename(replaced(path))
    unfinished(path).replace(path)
    _sync(path.parent)
    _delete(replaced(path))


def remove(path: Path) -> None:
    """Deletes a checkpoint; a folder gets a hidden name first, so that half of it never looks like a checkpoint."""
    if path.is_dir() and not path.is_symlink():
        doomed = _beside(path, "removed")
        _delete(doomed)
        path = path.rename(doomed)
    _delete(path)


def tidy(folder: Path) -> None:
    """Deletes what killed writes have left in a folder, and restores a checkpoint whose successor a kill prevented."""
    for path in sorted(folder.glob(".*.ckpt.*")):
        original = path.with_name(path.stem.removeprefix("."))
        if path == replaced(original) and not original.exists():
            path.rename(original)
        elif path.suffix in (".unfinished", ".removed", ".replaced"):
            _delete(path)


def standing(path: Path) -> Path:
    """The path of a checkpoint: the hidden one if a kill came between its renaming and its successor's."""
    return replaced(path) if not path.exists() and replaced(path).exists() else path


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
