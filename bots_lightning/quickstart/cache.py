"""Where the quickstart keeps what it has made: weights and measured pass rates."""

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


def cache_root() -> Path:
    """`$BOTS_LIGHTNING_CACHE`, else `bots_lightning` in the user's cache folder."""
    users = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return Path(os.environ.get("BOTS_LIGHTNING_CACHE") or users / "bots_lightning").expanduser()


def digest(description: Any) -> str:
    """A short name for anything that JSON can hold."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:16]


def cached_folder(folder: Path, build: Callable[[Path], None]) -> Path:
    """The folder, built on first use by one process while others wait; an interrupted build leaves nothing behind.

    Args:
        folder: where the result lives.
        build: fills an empty folder, which then takes that name.
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
