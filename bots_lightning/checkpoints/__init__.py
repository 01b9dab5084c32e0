"""Checkpoints that survive a kill: written beside earlier ones, checked when read, found again by a restart."""

from bots_lightning.checkpoints.damage import damage
from bots_lightning.checkpoints.files import (
    CheckpointError,
    append_text,
    begin_folder,
    put_in_place,
    remove,
    sync,
    unfinished,
    write_text,
    writing,
)
from bots_lightning.checkpoints.io import AtomicCheckpointIO, announce_fresh_optimizer, read_file
from bots_lightning.checkpoints.last import find_checkpoint
from bots_lightning.checkpoints.run_folders import CONFIG, FOLDER, claim_folder, free_folder, run_folders, run_of
from bots_lightning.checkpoints.seal import own_digests
from bots_lightning.checkpoints.sharded import (
    TAG,
    Manifest,
    consolidated,
    read_manifest,
    read_state,
    write_manifest,
    write_state,
)
from bots_lightning.checkpoints.whole_steps import WholeSteps

__all__ = [
    "CONFIG",
    "FOLDER",
    "TAG",
    "AtomicCheckpointIO",
    "CheckpointError",
    "Manifest",
    "WholeSteps",
    "announce_fresh_optimizer",
    "append_text",
    "begin_folder",
    "claim_folder",
    "consolidated",
    "damage",
    "find_checkpoint",
    "free_folder",
    "own_digests",
    "put_in_place",
    "read_file",
    "read_manifest",
    "read_state",
    "remove",
    "run_folders",
    "run_of",
    "sync",
    "unfinished",
    "write_manifest",
    "write_state",
    "write_text",
    "writing",
]
