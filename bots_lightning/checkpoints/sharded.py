"""A checkpoint folder: DeepSpeed's shards, the run's state, and a manifest that is written last.

NAME.ckpt/checkpoint/*.pt   weights and optimizer, sharded over the ranks, in DeepSpeed's own format
NAME.ckpt/state.pt          belief, counters, schedule, loops: what is the same on all ranks
NAME.ckpt/shards.json       the files with their sizes; a folder without it is not a checkpoint
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

TAG = "checkpoint"  # DeepSpeed's term for a folder within the folder
MANIFEST, STATE = "shards.json", "state.pt"
OWN_DIGEST = "sha256"  # of the manifest's other entries


@dataclass(frozen=True)
class Manifest:
    """What is in a checkpoint folder.

    Attributes:
        stage: of ZeRO.
        world_size: number of ranks.
        weights: shapes of the trained weights, by name.
        files: sizes in bytes, by path in the folder.
        digests: checksums of those files, none in folders of earlier versions.
    """

    stage: int
    world_size: int
    weights: dict[str, list[int]]
    files: dict[str, int]
    digests: dict[str, str] = field(default_factory=dict)


def write_state(folder: Path, checkpoint: Mapping[str, Any]) -> None:
    """Writes the run's state.

    Args:
        folder: of the checkpoint.
        checkpoint: as of Lightning; weights and optimizer states are left out.
    """
    kept = {key: value for key, value in checkpoint.items() if key not in ("state_dict", "optimizer_states")}
    torch.save(kept, folder / STATE)


def write_manifest(
    folder: Path, stage: int, world_size: int, weights: Mapping[str, Sequence[int]], digests: Mapping[str, str]
) -> None:
    """Writes the manifest of a folder, whose other files are complete.

    Args:
        folder: of the checkpoint.
        stage: of ZeRO.
        world_size: number of ranks.
        weights: shapes of the trained weights, by name.
        digests: checksums of the files, by path in the folder.
    """
    files = {str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}
    shapes = {name: list(shape) for name, shape in weights.items()}
    content = vars(Manifest(stage, world_size, shapes, files, dict(digests)))
    text = json.dumps(content | {OWN_DIGEST: _digest(content)}, indent=1)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """Reads the manifest of a folder.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    if not (folder / MANIFEST).is_file():
        raise ValueError(f"{folder} has no {MANIFEST}: it is no checkpoint, or an incomplete one. Name another.")
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if content.pop(OWN_DIGEST, "") not in ("", _digest(content)):
            raise ValueError("it does not match its checksum")
        return Manifest(**content)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / MANIFEST} cannot be read ({error}). Name another checkpoint.") from error


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_state(folder: Path) -> dict[str, Any]:
    """Reads the run's state of a folder; `state_dict` holds tensors without data, for their names and shapes."""
    state = torch.load(folder / STATE, map_location="cpu", weights_only=True)
    weights = read_manifest(folder).weights
    return state | {"state_dict": {name: torch.empty(shape, device="meta") for name, shape in weights.items()}}


def consolidated(folder: Path) -> dict[str, Any]:
    """Reads a folder as the checkpoint of one device: gathered weights in float32, and no optimizer state.

    DeepSpeed pickles its shards, so read only folders from a trusted source.

    Raises:
        ModuleNotFoundError: DeepSpeed is not installed.
    """
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    with contextlib.redirect_stdout(io.StringIO()):  # it prints a line for every file
        gathered = get_fp32_state_dict_from_zero_checkpoint(str(folder), tag=TAG, exclude_frozen_parameters=True)
    weights = {name: gathered[name].detach() for name in read_manifest(folder).weights}
    return read_state(folder) | {"state_dict": weights, "optimizer_states": []}
