"""Task pools from datasets of the `datasets` package: Hub names, saved datasets, folders of data files."""

# Shapes: N tasks.

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from bots_lightning.tasks.prompts import Example
from bots_lightning.tasks.rows import Rows
from bots_lightning.tasks.tables import TableTasks

# Files by which a folder written by `save_to_disk` is recognised: of several splits, of one.
SAVED_SPLITS, SAVED_SPLIT = "dataset_dict.json", "state.json"


class DatasetTasks(TableTasks):
    """Tasks of one split of a dataset.

    Rows are counted from 0. The data stay in the files that `datasets` maps into memory.

    Args:
        path: a name on the Hub, a folder written by `save_to_disk`, or a folder of Parquet, JSONL or CSV files.
        name: configuration of the dataset, if it has several.
        split: name of the split; a folder saved with a single, unnamed split accepts any name.
        prompt_column: as for all `TableTasks`, as are the following.
        answer_column: column of answers.
        id_column: column of ids.
        group_column: column of groups.
        references: columns of reference pass rates.
        columns: further columns to keep.
        limit: reads only this many rows.
        drop_duplicates: keeps the first row of each id.
        chat: converts strings to chats.
        system_prompt: system message of every prompt.
        prompt_template: text around prompts that are strings.
        examples: questions with answers that every prompt shows first.

    Raises:
        ValueError: an option is out of range.
    """

    def __init__(
        self,
        path: str,
        name: str | None = None,
        split: str = "train",
        prompt_column: str | None = None,
        answer_column: str | None = None,
        id_column: str | None = None,
        group_column: str | None = None,
        references: list[str] | None = None,
        columns: list[str] | None = None,
        limit: int | None = None,
        drop_duplicates: bool = False,
        chat: bool = False,
        system_prompt: str | None = None,
        prompt_template: str | None = None,
        examples: list[Example] | None = None,
    ) -> None:
        super().__init__(
            path,
            prompt_column=prompt_column,
            answer_column=answer_column,
            id_column=id_column,
            group_column=group_column,
            references=references,
            columns=columns,
            limit=limit,
            drop_duplicates=drop_duplicates,
            chat=chat,
            system_prompt=system_prompt,
            prompt_template=prompt_template,
            examples=examples,
        )
        self.name = name
        self.split = split

    def _read(self) -> Rows:
        try:
            import datasets
        except ImportError as error:
            raise ImportError(
                "DatasetTasks needs the package datasets. Install it: pip install 'bots-lightning[datasets]'."
            ) from error
        table = self._dataset(datasets).with_format("arrow")[: self.limit]
        columns = dict(zip(table.column_names, table.columns, strict=True))
        where = f"{self.path}, split {self.split!r}"
        return Rows(columns, len(table), lambda row: f"{where}, row {row}", Path(self.path).name)

    def _dataset(self, datasets: ModuleType) -> Any:
        folder = Path(self.path).expanduser()
        if (folder / SAVED_SPLITS).is_file() or (folder / SAVED_SPLIT).is_file():
            return self._chosen(datasets.load_from_disk(str(folder)))
        try:
            return datasets.load_dataset(str(folder) if folder.is_dir() else self.path, self.name, split=self.split)
        except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
            raise ValueError(
                f"{self.path} cannot be read as a dataset ({error}). Correct the source's `path` (a folder, looked in "
                f"{Path.cwd()}, or a name on the Hub), its `name` or its `split`."
            ) from error

    def _chosen(self, saved: Any) -> Any:
        """The split among those of a folder that `save_to_disk` wrote."""
        splits = saved if isinstance(saved, dict) else {str(saved.split or self.split): saved}
        if self.split not in splits:
            raise ValueError(f"{self.path} has no split {self.split!r}; it has {list(splits)}. Set `split` to one.")
        return splits[self.split]
