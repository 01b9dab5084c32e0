"""Task pools from data sets of the `datasets` package: Hub names, folders that it wrote, folders of data files."""

# Shapes: N tasks.

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from bots_lightning.tasks.tables import Rows, TableTasks

# The files by which `save_to_disk` is recognised, of several splits and of one.
SAVED_SPLITS, SAVED_SPLIT = "dataset_dict.json", "state.json"


class DatasetTasks(TableTasks):
    """Tasks of one split of a data set.

    Rows count from 0. The data stay in the files that `datasets` maps into memory.

    Args:
        path: a name on the Hub, a folder written by `save_to_disk`, or a folder of Parquet, JSONL or CSV files.
        name: which configuration of the data set, if it has several.
        split: which split; that of a folder with only one must have this name, or none.
        **options: `prompt_column` and all else of `TableTasks`.
    """

    def __init__(self, path: str, name: str | None = None, split: str = "train", **options: Any) -> None:
        super().__init__(path, **options)
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
                f"{self.path} cannot be read as a data set ({error}). Correct the source's `path` (a folder, looked in "
                f"{Path.cwd()}, or a name on the Hub), its `name` or its `split`."
            ) from error

    def _chosen(self, saved: Any) -> Any:
        """The split among those of a folder that `save_to_disk` wrote."""
        splits = saved if isinstance(saved, dict) else {str(saved.split or self.split): saved}
        if self.split not in splits:
            raise ValueError(f"{self.path} has no split {self.split!r}; it has {list(splits)}. Set `split` to one.")
        return splits[self.split]
