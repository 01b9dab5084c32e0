"""The folders of a run's name: NAME, NAME-2, NAME-3, … in the order in which the runs were started."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import yaml

from bots_lightning.checkpoints.files import writing

FOLDER, CONFIG = "checkpoints", "config.yaml"  # in a run folder


def run_folders(named: Path) -> list[Path]:
    """The folders of a name's runs, the newest first; some may have been deleted.

    A folder NAME-5 whose config says `name: NAME-5` is a run of another name.

    Args:
        named: RUNS_DIR/NAME.
    """
    return [folder for _, folder in sorted(_numbered(named), reverse=True)]


def free_folder(named: Path) -> Path:
    """The folder of a name's next run, if no other run is started first."""
    return next(folder for folder in _next_folders(named) if _is_free(folder))


def claim_folder(named: Path) -> Path:
    """Reserves the folder of a name's next run for this run alone, by an empty config file.

    Args:
        named: RUNS_DIR/NAME.

    Raises:
        CheckpointError: no folder can be made there.
    """
    with writing(named / CONFIG):
        for folder in _next_folders(named):
            if not _is_free(folder):
                continue
            folder.mkdir(parents=True, exist_ok=True)
            try:
                (folder / CONFIG).open("x").close()
            except FileExistsError:  # another run, at the same moment
                continue
            return folder
    raise AssertionError("numbers never end")


def run_of(checkpoint: str | None, named: Path) -> Path | None:
    """The folder of the run that a checkpoint belongs to; None if it is of no run of that name."""
    if not checkpoint:
        return None
    place = Path(checkpoint).parent.resolve()
    return next((folder for folder in run_folders(named) if (folder / FOLDER).resolve() == place), None)


def _numbered(named: Path) -> Iterator[tuple[int, Path]]:
    """The existing runs of a name with their numbers; the first is NAME."""
    if named.is_dir() and not _is_free(named):
        yield 1, named
    pattern = re.compile(re.escape(named.name) + r"-([1-9]\d*)")
    for folder in named.parent.iterdir() if named.parent.is_dir() else ():
        found = pattern.fullmatch(folder.name)
        if found and int(found[1]) > 1 and folder.is_dir() and not _is_free(folder) and not _has_own_name(folder):
            yield int(found[1]), named.with_name(folder.name)


def _next_folders(named: Path) -> Iterator[Path]:
    """The folders after the newest run: gaps are not filled, since the numbers say which run is newer."""
    newest = max((number for number, _ in _numbered(named)), default=0)
    for number in count(newest + 1):
        yield named if number == 1 else named.with_name(f"{named.name}-{number}")


def _is_free(folder: Path) -> bool:
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))


def _has_own_name(folder: Path) -> bool:
    """Whether its config says that NAME-5 is its name; without a config, it is the fifth run of NAME."""
    try:
        content = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return False
    return isinstance(content, dict) and Path(str(content.get("name"))).name == folder.name
