"""A run may go on after answers of its pool were corrected; here it is seen which, and said."""

# Shapes: N tasks in the pool.

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import numpy.typing as npt

from bots_lightning.data import ranks
from bots_lightning.tasks import TaskPool
from bots_lightning.tasks.contents import Contents

log = logging.getLogger(__name__)

NAMED = 3  # tasks in a log line


def accept_corrections(state: dict[str, Any], pool: TaskPool, fingerprint: str) -> None:
    """Gives the state of a pool whose answers were corrected since this pool's fingerprint, and warns of the changes.

    Without an id column, a task's id is a hash of its answer too, and a pool's fingerprint one of all ids. The state
    of any other pool keeps its fingerprint, and the selector refuses it.

    Args:
        state: of the data module, with arrays; the fingerprint in its `selector` may be replaced.
        pool: N tasks, those of this run.
        fingerprint: of the pool, as the selector knows it.
    """
    if "contents" not in state:
        return  # of an earlier version: only the fingerprint tells
    selector, before = state["selector"], Contents(**state["contents"])
    if len(before.answers) != len(pool):
        return
    if pool.contents.is_correction_of(before):
        selector["fingerprint"] = fingerprint
    changed = pool.contents.changed_answers(before)
    if len(changed) and selector["fingerprint"] == fingerprint and ranks.rank() == 0:
        _warn(pool, changed)


def _warn(pool: TaskPool, changed: npt.NDArray[np.int64]) -> None:
    named = ", ".join(map(pool.named, changed[:NAMED].tolist())) + (", …" if len(changed) > NAMED else "")
    log.warning(
        "%d answers are not those of the checkpoint: %s. The run goes on with the new ones; what the selector "
        "has counted of these tasks stays until they are rolled out again.",
        len(changed),
        named,
    )
