"""The command line: `bots-lightning fit --config configs/quickstart.yaml`."""

from __future__ import annotations

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from bots_lightning.algorithms import PolicyModule
from bots_lightning.data import TaskDataModule
from bots_lightning.evaluation import MetricsCSV
from bots_lightning.evaluation.command_line import HelpFormatter

DESCRIPTION = """\
RL finetuning of language models on the tasks that teach most.

  bots-lightning fit --config configs/quickstart.yaml
  bots-lightning fit --config configs/quickstart.yaml --config configs/selectors/uniform.yaml --name uniform
  bots-lightning fit --config configs/quickstart.yaml --ckpt_path runs/quickstart/checkpoints/last.ckpt
  bots-lightning validate --config runs/quickstart/config.yaml --ckpt_path runs/quickstart/checkpoints/last.ckpt
  bots-lightning fit --config configs/quickstart.yaml --print_config
  bots-lightning export --ckpt_path runs/quickstart/checkpoints/last.ckpt --output exported/adapter
  bots-lightning replay --data trajectories.jsonl --selectors uniform bots
  bots-lightning compare runs/bots-0 runs/bots-1 runs/uniform-0 runs/uniform-1

Every field of a config can be set on the command line: --model.init_args.learning_rate 5e-4
"""
COMMANDS = {
    "fit": "Train a policy; the run's files go to RUNS_DIR/NAME.",
    "validate": "Evaluate a policy on the held-out tasks.",
    "test": "The same, under the names of a final test.",
    "predict": "Roll out every training task and write predictions.jsonl.",
    "export": "Write a checkpoint's policy for transformers and peft; its options: bots-lightning export --help.",
    "replay": "Compare selectors on a recorded run; its options: bots-lightning replay --help.",
    "compare": "Compare methods by their runs; its options: bots-lightning compare --help.",
}
OWN_COMMANDS = ("export", "replay", "compare")  # not LightningCLI's
# What libraries say of things that are as they are meant to be.
NOISE = (
    r".*does not have many workers.*",  # a draw must not run ahead of the evidence
    r".*module\(s\) in eval mode at the start of training.*",  # dropout is off by design
    r".*is_gradient_checkpointing.*deprecated.*",
    r".*isinstance\(treespec, LeafSpec\).*deprecated.*",
    r".*Checkpoint directory .* exists and is not empty.*",  # a resumed run
    r".*resuming from a checkpoint that ended before the epoch ended.*",  # the selector's state is in the checkpoint
    r".*custom batch sampler `_FixedBatches`.*",
    r".*Total length of `list` across ranks is zero.*",  # no held-out tasks
    r".*Using ModelCheckpoint with manual optimization.*",  # a checkpoint after the step is meant
)


class SaveConfig(SaveConfigCallback):
    """Writes the config of what is trained; the other commands leave a run's config alone."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Once, when fitting starts."""
        if stage == "fit":
            super().setup(trainer, pl_module, stage)


class BotsCLI(LightningCLI):
    """LightningCLI with a run folder, its loggers, and one seed for everything."""

    def setup_parser(self, *args: Any, **kwargs: Any) -> None:
        """Says in a line what each command is for."""
        super().setup_parser(*args, **kwargs)
        for action in self.parser._actions:
            if commands := getattr(action, "_choices_actions", None):
                commands += [type(commands[0])(name, [], "") for name in OWN_COMMANDS]  # listed here, run by `main`
                for command in commands:
                    command.help = COMMANDS[command.dest]

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the run folder's options; hands the seed on."""
        parser.add_argument("--name", type=str, default="run", help="Name of the run; its folder is RUNS_DIR/NAME.")
        parser.add_argument("--runs_dir", type=str, default="runs", help="Where run folders are made.")
        parser.link_arguments("seed_everything", "model.init_args.seed", compute_fn=int)
        parser.link_arguments("seed_everything", "data.init_args.seed", compute_fn=int)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """A trainer that writes below the run folder."""
        config = self._get(self.config_init, "trainer")
        folder = Path(config.default_root_dir or self._run_folder())
        kwargs["default_root_dir"] = str(folder)
        if config.logger in (None, True):
            kwargs["logger"] = self._loggers(folder)
        return super().instantiate_trainer(**kwargs)

    def _loggers(self, folder: Path) -> list[Logger] | bool:
        """CSV and TensorBoard while fitting; the other commands leave the run's curves alone."""
        if self.subcommand != "fit":
            return False
        return [MetricsCSV(folder), TensorBoardLogger(folder, name="tensorboard", version="")]

    def _run_folder(self) -> Path:
        """The folder of the checkpoint's run, or a new one that no earlier run has used."""
        checkpoint = self._get(self.config_init, "ckpt_path")
        if checkpoint and Path(checkpoint).parent.name == "checkpoints":
            return Path(checkpoint).parent.parent
        folder = Path(self._get(self.config_init, "runs_dir")) / self._get(self.config_init, "name")
        launched_together = int(os.environ.get("WORLD_SIZE", 1)) > 1
        return folder if self.subcommand != "fit" or launched_together else _unused(folder)


def _unused(folder: Path) -> Path:
    """The folder, or NAME-2, NAME-3, … if earlier runs have left files there; the same in this run's subprocesses."""
    variable = "BOTS_LIGHTNING_RUN_FOLDER"
    if "LOCAL_RANK" in os.environ and variable in os.environ:
        return Path(os.environ[variable])
    candidates = [folder, *(folder.with_name(f"{folder.name}-{i}") for i in range(2, 10_000))]
    chosen = next(path for path in candidates if not path.exists() or not any(path.iterdir()))
    os.environ[variable] = str(chosen)
    return chosen


def _run_own_command(name: str, options: list[str]) -> None:
    """Runs a command that is not LightningCLI's; some load matplotlib, which no run needs."""
    if name == "export":
        from bots_lightning.algorithms.export_command import export_command

        export_command(options)
    elif name == "compare":
        from bots_lightning.evaluation.compare_command import compare_command

        compare_command(options)
    else:
        from bots_lightning.evaluation.replay_command import replay_command

        replay_command(options)


def run() -> None:
    """The program: `main`, with one line instead of a traceback for what a user can put right."""
    try:
        main()
    except (ValueError, FloatingPointError) as error:
        message = _own_message(error)
        if message is None:
            raise
        sys.exit(f"error: {message}")


def _own_message(error: BaseException | None) -> str | None:
    """That of the innermost error in the chain which this package has raised, if there is one."""
    found = None
    while error is not None:
        frames = traceback.extract_tb(error.__traceback__)
        if frames and Path(__file__).parent in Path(frames[-1].filename).parents:
            found = str(error)
        error = error.__cause__ or error.__context__
    return found


def main(args: ArgsType | Sequence[str] = None) -> None:
    """Runs a command; `args` replaces the command line."""
    for message in NOISE:
        warnings.filterwarnings("ignore", message=message)
    words = sys.argv[1:] if args is None else args
    if isinstance(words, list) and words and words[0] in OWN_COMMANDS:
        _run_own_command(words[0], words[1:])
        return
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(lambda record: "Tip:" not in record.msg)
    BotsCLI(
        model_class=PolicyModule,
        datamodule_class=TaskDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        seed_everything_default=0,
        auto_configure_optimizers=False,
        save_config_callback=SaveConfig,
        save_config_kwargs={"overwrite": True},
        trainer_defaults={"use_distributed_sampler": False},
        parser_kwargs={"prog": "bots-lightning", "description": DESCRIPTION, "formatter_class": HelpFormatter},
        args=args,  # type: ignore[arg-type]
    )
