"""Where the quickstart's weights and measured pass rates are: shipped with the package, or in the user's cache."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

SHIPPED = Path(__file__).with_name("shipped")


def cache_root() -> Path:
    """The cache folder: `$BOTS_LIGHTNING_CACHE`, else `bots_lightning` in the user's cache folder."""
    users = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return Path(os.environ.get("BOTS_LIGHTNING_CACHE") or users / "bots_lightning").expanduser()


def digest(description: Any) -> str:
    """Hash of anything that JSON can represent, 16 hex characters."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:16]


def made_folder(name: str, build: Callable[[Path], None], part: str = "") -> Path:
    """What the package ships under a name, else what is in the cache, made on first use.

    What is made on one machine differs from what is made on another, as sums are rounded in another order and training
    magnifies that; what is shipped is the same everywhere. `python -m bots_lightning.quickstart.ship` makes it.

    Args:
        name: of the folder, with the `digest` of all that its contents depend on.
        build: fills an empty folder; see `cached_folder`.
        part: a folder in it that is enough.

    Returns:
        the folder, or its `part`.
    """
    if (SHIPPED / name / part).is_dir():
        return SHIPPED / name / part
    return cached_folder(cache_root() / name, build) / part


def cached_folder(folder: Path, build: Callable[[Path], None]) -> Path:
    """Builds a folder on first use, by one process while others wait; an interrupted build leaves nothing behind.

    Args:
        folder: path of the result.
        build: fills an empty temporary folder, which is then renamed.

    Returns:
        `folder`, which exists.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(folder.name + ".lock")):
        if not folder.is_dir():
            unfinished = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
            try:
                build(unfinished)
                unfinished.rename(folder)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
    return folder
