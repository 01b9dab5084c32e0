"""Where a restarted run goes on: `--ckpt_path last`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count, takewhile
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from bots_lightning.checkpoints.damage import damage
from bots_lightning.checkpoints.files import standing

FOLDER = "checkpoints"  # in a run folder
LEFT_TO_LIGHTNING = ("best", "hpc")


def run_folders(folder: Path) -> list[Path]:
    """The runs of a name, NAME, NAME-2, NAME-3, …, the newest first."""
    names = (folder if number == 1 else folder.with_name(f"{folder.name}-{number}") for number in count(1))
    return list(takewhile(Path.is_dir, names))[::-1]


def find_checkpoint(given: str, folders: Sequence[Path], required: bool) -> str | None:
    """The checkpoint that `--ckpt_path` names; None if it is "last" and there is none to go on from.

    Args:
        given: a path, or "last": the newest that is whole, of the first run folder that has checkpoints.
        folders: the run folders of the run's name, the newest first.
        required: whether none is an error.

    Raises:
        ValueError: there is no such checkpoint, or it is damaged; all checkpoints of the run are damaged.
    """
    if given in LEFT_TO_LIGHTNING or "://" in given or ":" in given.partition("/")[0]:
        return given
    if given != "last":
        return str(_whole(Path(given)))
    for folder in folders:
        if candidates := _newest_first(folder / FOLDER):
            return str(_first_whole(folder, candidates))
    seen = f"there is no checkpoint in {', '.join(str(folder / FOLDER) for folder in folders)}" if folders else ""
    message = f"--ckpt_path last: {seen or 'there is no run of that name'}"
    if required:
        raise ValueError(f"{message}. Correct --runs_dir and --name, or name a checkpoint.")
    rank_zero_info(f"{message}; the run starts from scratch.")
    return None


def _whole(path: Path) -> Path:
    path = standing(path)
    if not path.exists():
        beside = ", ".join(str(other) for other in _newest_first(path.parent))
        hint = f"There are: {beside}." if beside else "Correct it."
        raise ValueError(f"--ckpt_path {path}: there is no such checkpoint (looked in {Path.cwd()}). {hint}")
    if fault := damage(path):
        raise ValueError(f"the checkpoint {path} is damaged: {fault}. Name another one, or --ckpt_path last.")
    return path


def _first_whole(folder: Path, candidates: Sequence[Path]) -> Path:
    for path in candidates:
        fault = damage(path)
        if not fault:
            rank_zero_info(f"--ckpt_path last: the run goes on from {path}.")
            return path
        rank_zero_warn(f"--ckpt_path last: {path} is damaged and left out: {fault}.")
    raise ValueError(
        f"all {len(candidates)} checkpoints of {folder} are damaged. Remove {folder / FOLDER} to start from scratch."
    )


def _newest_first(folder: Path) -> list[Path]:
    """All checkpoints of a folder; of two from the same moment, the one called last."""
    found = [standing(path) for path in _names(folder)]
    return sorted(found, key=lambda path: (path.stat().st_mtime_ns, "last" in path.name), reverse=True)


def _names(folder: Path) -> set[Path]:
    """Of those that stand, and of those that wait for a successor which a kill has prevented."""
    waiting = (path.with_name(path.stem.removeprefix(".")) for path in folder.glob(".*.ckpt.replaced"))
    return {path for path in folder.glob("*.ckpt") if path.exists()} | set(waiting)
