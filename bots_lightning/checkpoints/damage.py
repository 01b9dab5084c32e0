"""Finds damage in checkpoints."""

from __future__ import annotations

import zipfile
from pathlib import Path

from bots_lightning.checkpoints.seal import digest_of, is_archive, is_intact
from bots_lightning.checkpoints.sharded import read_manifest


def damage(path: Path) -> str | None:
    """Reads a checkpoint once and compares its checksums.

    Args:
        path: a file, or a folder of shards.

    Returns:
        what is wrong with it, to be put into a sentence; None if nothing is.
    """
    try:
        return _damage_of_folder(path) if path.is_dir() else _damage_of_file(path)
    except OSError as error:
        return f"it cannot be read ({error})"


def _damage_of_folder(path: Path) -> str | None:
    try:
        manifest = read_manifest(path)
    except ValueError as error:
        return str(error)
    for name, size in manifest.files.items():
        file = path / name
        if not file.is_file():
            return f"its file {name} is missing"
        if file.stat().st_size != size:
            return f"its file {name} has {file.stat().st_size} bytes instead of {size}"
        if name in manifest.digests:
            if digest_of(file) != manifest.digests[name]:
                return f"its file {name} does not match its checksum"
        elif file.suffix == ".pt" and (fault := _damage_of_file(file)):
            return f"of its file {name}, {fault}"
    return None


def _damage_of_file(path: Path) -> str | None:
    if not is_archive(path):
        return "it is no file of torch.save, or its beginning is lost"
    intact = is_intact(path)
    if intact is None:
        return _damage_of_archive(path)
    return None if intact else "it does not match its checksum"


def _damage_of_archive(path: Path) -> str | None:
    """Checks a file without a seal: a zip archive holds a checksum of every tensor, which torch does not look at."""
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.comment:  # a fragment of a seal
                return "it cannot be read to its end"
            fault = archive.testzip()
    except Exception as error:  # zipfile trusts damaged fields and raises anything
        return f"it cannot be read ({type(error).__name__}: {error})"
    return f"the part {fault} does not match its checksum" if fault else None
