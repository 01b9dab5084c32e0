"""Whether a checkpoint is whole."""

from __future__ import annotations

import zipfile
from pathlib import Path

from bots_lightning.checkpoints.sharded import read_manifest


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, None if nothing is; reads all of it once and compares its checksums.

    Args:
        path: a file, or a folder of shards.
    """
    if not path.is_dir():
        return _damage_of_file(path)
    try:
        files = read_manifest(path).files
    except ValueError as error:
        return str(error)
    for name, size in files.items():
        file = path / name
        if not file.is_file():
            return f"its file {name} is missing"
        if file.stat().st_size != size:
            return f"its file {name} has {file.stat().st_size} bytes instead of {size}"
        if file.suffix == ".pt" and (fault := _damage_of_file(file)):
            return f"of its file {name}, {fault}"
    return None


def _damage_of_file(path: Path) -> str | None:
    """A zip archive holds a checksum of every tensor, which torch does not look at."""
    try:
        with zipfile.ZipFile(path) as archive:
            fault = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError) as error:
        return f"it cannot be read ({error})"
    return f"the part {fault} does not match its checksum" if fault else None
