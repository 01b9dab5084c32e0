"""The folder of a training run: RUNS_DIR/NAME, or NAME-2, NAME-3, … after earlier runs of the name."""

from __future__ import annotations

from pathlib import Path

import yaml
from lightning import LightningModule, Trainer
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info

from bots_lightning.checkpoints import (
    CONFIG,
    FOLDER,
    CheckpointError,
    claim_folder,
    free_folder,
    write_text,
)
from bots_lightning.evaluation import MetricsCSV, TensorBoardCurves


class RunFolder(Callback):
    """Claims the run's folder and writes its config when training begins, once model, data and checkpoint are accepted.

    A start that fails earlier leaves no files. The first rank claims the folder and broadcasts its path; two runs that
    start at once get different folders. It comes first among the callbacks, since the others write to the folder.

    Args:
        named: RUNS_DIR/NAME.
        continued: the folder of the run that is continued; None for a new run.
        config: the resolved config, as YAML.

    Attributes:
        folder: of the run; before training begins, the expected one.
    """

    def __init__(self, named: Path, continued: Path | None, config: str) -> None:
        self.named = named
        self.continued = continued
        self.config = config
        self.folder = continued or free_folder(named)
        self._begun = False
        self._keepers: list[ModelCheckpoint] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Collects the checkpoint callbacks that have no `dirpath` of their own."""
        keepers = [keeper for keeper in trainer.checkpoint_callbacks if isinstance(keeper, ModelCheckpoint)]
        self._keepers = [keeper for keeper in keepers if keeper.dirpath is None]
        self._settle(trainer)

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Claims the folder of a new run before the evaluation that precedes training."""
        self._begin(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Claims the folder of a run without that evaluation, as a resumed one."""
        self._begin(trainer)

    def _begin(self, trainer: Trainer) -> None:
        if self._begun:
            return
        taken = trainer.strategy.broadcast(self._take() if trainer.is_global_zero else None)
        if isinstance(taken, CheckpointError):
            raise taken
        self._begun, self.folder = True, Path(str(taken))
        self._settle(trainer)
        self._add_loggers(trainer)
        if self.folder not in (self.named, self.continued):
            rank_zero_info(f"{self.named} is another run; this one's files go to {self.folder}.")
        if trainer.ckpt_path and not self.continued:
            rank_zero_info(
                f"{self.folder} is a new run, from {trainer.ckpt_path}. To continue the checkpoint's own run, give "
                "that run's --runs_dir and --name."
            )

    def _take(self) -> str | CheckpointError:
        """The folder, with the config in it, or the error that all ranks have to raise."""
        try:
            folder = self.continued or claim_folder(self.named)
            write_text(folder / CONFIG, self.config)
        except CheckpointError as error:
            return error
        return str(folder)

    def _settle(self, trainer: Trainer) -> None:
        trainer._default_root_dir = str(self.folder)  # type: ignore[attr-defined]  # there is no setter
        for keeper in self._keepers:
            keeper.dirpath = str(self.folder / FOLDER)

    def _add_loggers(self, trainer: Trainer) -> None:
        """Adds ours before the user's and logs the config to all of them, unless the user wants none."""
        others = [logger for logger in trainer.loggers if not isinstance(logger, MetricsCSV)]
        if len(others) < len(trainer.loggers):
            trainer.loggers = [MetricsCSV(self.folder), TensorBoardCurves(self.folder), *others]
        config = yaml.safe_load(self.config)
        for logger in trainer.loggers:
            logger.log_hyperparams(config)
