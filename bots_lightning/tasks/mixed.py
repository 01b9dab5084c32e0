"""One pool from several sources."""

# Shapes: N tasks of all sources together.

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from bots_lightning.tasks.arrays import stacked
from bots_lightning.tasks.places import joined_places
from bots_lightning.tasks.pool import TaskPool
from bots_lightning.tasks.prompts import is_text
from bots_lightning.tasks.source import TaskSource


class MixedTasks(TaskSource):
    """Concatenates the tasks of several sources.

    A column that a source lacks is null for its tasks; a reference pass rate is then unknown. Tasks without a group
    get the name of their source as group.

    Args:
        sources: by name.

    Raises:
        ValueError: there are no sources.
    """

    def __init__(self, sources: dict[str, TaskSource]) -> None:
        if not sources:
            raise ValueError("sources is empty; expected at least one source by its name.")
        self.sources = sources

    def load(self) -> TaskPool:
        """Loads all sources.

        Raises:
            ValueError: an id is in two sources, or their columns do not fit together.
        """
        pools = {name: source.load() for name, source in self.sources.items()}
        _check_ids(pools)
        _check_prompts(pools)
        table = stacked({f"the source {name!r}": _grouped(pool.table, name) for name, pool in pools.items()})
        references = dict.fromkeys(reference for pool in pools.values() for reference in pool.references)
        place = joined_places([len(pool) for pool in pools.values()], [pool.place for pool in pools.values()])
        return TaskPool(table, list(references), "+".join(pools), place)


def _check_ids(pools: dict[str, TaskPool]) -> None:
    source_of: dict[str, str] = {}
    for name, pool in pools.items():
        shared = [task for task in pool.ids if task in source_of]
        if shared:
            raise ValueError(
                f"{len(shared)} tasks of the source {name!r} are also in another source: {shared[0]!r} in "
                f"{source_of[shared[0]]!r}. Remove them from one, or give them different ids."
            )
        source_of |= dict.fromkeys(pool.ids, name)


def _check_prompts(pools: dict[str, TaskPool]) -> None:
    strings = [name for name, pool in pools.items() if is_text(pool.table["prompt"].type)]
    if 0 < len(strings) < len(pools):
        raise ValueError(
            f"the prompts of {strings} are strings, those of {[name for name in pools if name not in strings]} are "
            "chat messages; expected one kind. Set `chat: true` for the sources of strings."
        )


def _grouped(table: pa.Table, name: str) -> pa.Table:
    """The table with a group for every task: the name of the source where there was none."""
    if "group" not in table.column_names:
        return table.append_column("group", pa.repeat(pa.scalar(name), len(table)))
    groups = pc.cast(table["group"], pa.string())
    empty = pc.equal(pc.fill_null(groups, ""), "")
    return table.set_column(table.column_names.index("group"), "group", pc.if_else(empty, name, groups))
