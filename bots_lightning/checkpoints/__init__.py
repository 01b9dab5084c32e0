"""Checkpoints that survive a kill: written beside the good ones, checked when read, found again by a restart."""

from bots_lightning.checkpoints.damage import damage
from bots_lightning.checkpoints.files import (
    CheckpointError,
    begin_folder,
    put_in_place,
    remove,
    sync,
    unfinished,
    writing,
)
from bots_lightning.checkpoints.io import AtomicCheckpointIO, announce_fresh_optimizer, read_file
from bots_lightning.checkpoints.last import find_checkpoint, run_folders
from bots_lightning.checkpoints.sharded import (
    TAG,
    Manifest,
    consolidated,
    read_manifest,
    read_state,
    write_manifest,
    write_state,
)

__all__ = [
    "TAG",
    "AtomicCheckpointIO",
    "CheckpointError",
    "Manifest",
    "announce_fresh_optimizer",
    "begin_folder",
    "consolidated",
    "damage",
    "find_checkpoint",
    "put_in_place",
    "read_file",
    "read_manifest",
    "read_state",
    "remove",
    "run_folders",
    "sync",
    "unfinished",
    "write_manifest",
    "write_state",
    "writing",
]
