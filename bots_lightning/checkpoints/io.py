"""The plugin that writes and reads checkpoints of a single file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_warn

from bots_lightning.checkpoints.files import put_in_place, remove, tidy, unfinished, writing
from bots_lightning.checkpoints.seal import seal
from bots_lightning.checkpoints.sharded import consolidated, read_manifest


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint under a hidden name and renames it when it has reached the disk; reads folders too."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Writes a file; at any moment, the file of that name is the old one or the new one.

        Raises:
            CheckpointError: the disk is full, or fails.
        """
        if _is_remote(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with writing(path):
            tidy(path.parent)
            torch.save(checkpoint, unfinished(path))
            seal(unfinished(path))
            put_in_place(path)

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        """Reads a file, or the folder of a run with DeepSpeed.

        Raises:
            ValueError: it is damaged, or no checkpoint.
        """
        if _is_remote(path):
            return super().load_checkpoint(path, map_location, weights_only)
        if Path(path).is_dir():
            announce_fresh_optimizer(Path(path))
            return consolidated(Path(path))
        return read_file(Path(path), map_location, weights_only)

    def remove_checkpoint(self, path: Any) -> None:
        """Deletes a file or a folder."""
        if _is_remote(path):
            super().remove_checkpoint(path)
        elif Path(path).exists():
            remove(Path(path))


def read_file(path: Path, map_location: Any = "cpu", weights_only: bool | None = None, **options: Any) -> Any:
    """Loads a checkpoint file.

    Args:
        path: of the file.
        map_location: as of `torch.load`.
        weights_only: as of `torch.load`.
        **options: further ones of `torch.load`.

    Raises:
        ValueError: it is damaged, or no checkpoint.
    """
    try:
        return torch.load(path, map_location=map_location, weights_only=weights_only, **options)
    except Exception as error:  # anything, for a file of another program
        raise ValueError(
            f"{path} is not a checkpoint that bots-lightning fit has written, or an incomplete one. Name another."
        ) from error


def announce_fresh_optimizer(path: Path) -> None:
    """Warns that the optimizer's state is not restored from a checkpoint of another strategy."""
    origin = "a run without DeepSpeed"
    if path.is_dir():
        manifest = read_manifest(path)
        origin = f"ZeRO-{manifest.stage} on {manifest.world_size} rank(s)"
    rank_zero_warn(
        f"{path} is of {origin}. Weights, belief, schedule and counters are restored; the optimizer's moments are not "
        "and start afresh, so that further training differs from that of an uninterrupted run."
    )


def _is_remote(path: Any) -> bool:
    return "://" in str(path)
