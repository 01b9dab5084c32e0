"""Checks, before a command starts to work, that the files it will write can be written."""

from __future__ import annotations

import os
from pathlib import Path

from bots_lightning.commands.parsing.nearest import did_you_mean

PICTURES = (".png", ".pdf", ".svg", ".jpg", ".jpeg", ".webp")


def check_outputs(output: str | None, picture: str | None) -> None:
    """Checks that metrics and a picture can be written; folders for them are made later.

    Args:
        output: file of the metrics, of the option `--output`.
        picture: file of the picture, of the option `--picture`.


    Raises:
        ValueError: names the option, and what is wrong with the place or the kind of file.
    """
    for option, name in (("--output", output), ("--picture", picture)):
        if name is not None:
            check_output(name, f"{option} {name}")
    if picture is not None and (suffix := Path(picture).suffix.lower()) not in PICTURES:
        hint = did_you_mean(suffix, PICTURES)
        raise ValueError(f"--picture {picture}: expected a name that ends in one of {', '.join(PICTURES)}{hint}")


def check_output(name: str, said: str) -> None:
    """Checks that a file can be written.

    Args:
        name: its path.
        said: the beginning of the message.

    Raises:
        ValueError: what is wrong with the place.
    """
    if Path(name).is_dir():
        raise ValueError(f"{said} is a folder; expected a file in it.")
    if fault := _fault_of_folder(Path(name).parent):
        raise ValueError(f"{said}: {fault}. Name another place.")


def check_run_folder(folder: Path) -> None:
    """Checks that a run's folder can be made.

    Args:
        folder: RUNS_DIR/NAME.

    Raises:
        ValueError: a file is in the way, or there is no permission.
    """
    if fault := _fault_of_folder(folder):
        raise ValueError(f"{fault}. Set runs_dir, and name, to another place.")


def _fault_of_folder(folder: Path) -> str | None:
    """Why a folder cannot be made, or nothing be written to it."""
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    if not there.is_dir():
        return f"{there} is a file; expected a folder"
    return None if os.access(there, os.W_OK | os.X_OK) else f"{there} may not be written by this user"
