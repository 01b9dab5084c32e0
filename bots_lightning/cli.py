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

import torch.distributed as dist
from lightning import LightningModule, Trainer
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from bots_lightning.algorithms import PolicyModule, StepFailedError
from bots_lightning.checkpoints import AtomicCheckpointIO, CheckpointError, find_checkpoint, run_folders
from bots_lightning.data import TaskDataModule
from bots_lightning.evaluation import MetricsCSV
from bots_lightning.evaluation.command_line import HelpFormatter
from bots_lightning.rewards import RewardFunctionError
from bots_lightning.strategies import LostRankError, RankWatch

DESCRIPTION = """\
RL finetuning of language models on the tasks that teach most.

  bots-lightning fit --config configs/quickstart.yaml
  bots-lightning fit --config configs/quickstart.yaml --config configs/selectors/uniform.yaml --name uniform
  bots-lightning fit --config configs/quickstart.yaml --ckpt_path runs/quickstart/checkpoints/last.ckpt
  bots-lightning fit --config configs/quickstart.yaml --ckpt_path last
  bots-lightning validate --config runs/quickstart/config.yaml --ckpt_path runs/quickstart/checkpoints/last.ckpt
  bots-lightning predict --config configs/profile.yaml
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
    "predict": "Roll out every training task; callbacks write pass rates or completions.",
    "export": "Write a checkpoint's policy for transformers and peft; its options: bots-lightning export --help.",
    "replay": "Compare selectors on a recorded run; its options: bots-lightning replay --help.",
    "compare": "Compare methods by their runs; its options: bots-lightning compare --help.",
}
OWN_COMMANDS = ("export", "replay", "compare")  # not LightningCLI's
RUN_FOLDER = "BOTS_LIGHTNING_RUN_FOLDER"  # the environment variable that tells subprocesses
# What libraries say of things that are as they are meant to be.
NOISE = (
    r".*does not have many workers.*",  # a draw must not run ahead of the evidence
    r".*module\(s\) in eval mode at the start of training.*",  # dropout is off by design
    r".*is_gradient_checkpointing.*deprecated.*",
    r".*isinstance\(treespec, LeafSpec\).*deprecated.*",
    r".*Checkpoint directory .* exists and is not empty.*",  # a resumed run
    r".*resuming from a checkpoint that ended before the epoch ended.*",  # the selector's state is in the checkpoint
    r".*custom batch sampler `FixedBatches`.*",
    r".*Total length of `list` across ranks is zero.*",  # no held-out tasks
    r".*`?torch\.distributed\..* is deprecated.*",
    r".*all_gather\S* is deprecated.*",
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

    def _parse_ckpt_path(self) -> None:
        """Leaves the checkpoint closed: Lightning would read all of it here, in search of hyperparameters."""

    def before_instantiate_classes(self) -> None:
        """Looks the checkpoint up, before anything large is loaded."""
        config = self.config[self.subcommand]
        if config.get("ckpt_path"):
            config["ckpt_path"] = self._checkpoint(str(config["ckpt_path"]))
        if self.subcommand == "predict":
            config["return_predictions"] = False  # callbacks write them; kept, they would fill the memory

    def _checkpoint(self, given: str) -> str | None:
        """The one that `--ckpt_path` names, checked; the same in this run's subprocesses."""
        variable = "BOTS_LIGHTNING_CHECKPOINT"
        if "LOCAL_RANK" in os.environ and variable in os.environ:
            return os.environ[variable] or None
        own = self._get(self.config, "trainer").default_root_dir
        folders = [Path(own)] if own else run_folders(self._named_folder())
        found = find_checkpoint(given, folders, required=self.subcommand != "fit")
        os.environ[variable] = found or ""
        return found

    def _named_folder(self) -> Path:
        return Path(self._get(self.config, "runs_dir")) / self._get(self.config, "name")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """A trainer that writes below the run folder."""
        config = self._get(self.config_init, "trainer")
        folder = Path(config.default_root_dir or self._run_folder())
        kwargs["default_root_dir"] = str(folder)
        if config.logger in (None, True):
            kwargs["logger"] = self._loggers(folder)
        trainer = super().instantiate_trainer(**kwargs)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # no plugin of the user's
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        return trainer

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
        folder = self._named_folder()
        num_nodes = self._get(self.config_init, "trainer").num_nodes
        return folder if self.subcommand != "fit" or _launched_together(num_nodes) else _unused(folder)


def _launched_together(num_nodes: int) -> bool:
    """Whether other processes choose the same folder, which must not depend on what they find there."""
    started_here = RUN_FOLDER in os.environ  # by this run's first process, which has chosen for them
    counts = (int(os.environ.get(variable, 1)) for variable in ("WORLD_SIZE", "SLURM_NTASKS"))
    return not started_here and (num_nodes > 1 or max(counts) > 1 or "LOCAL_RANK" in os.environ)


def _unused(folder: Path) -> Path:
    """The folder, or NAME-2, NAME-3, … if earlier runs have left files there; the same in this run's subprocesses."""
    if "LOCAL_RANK" in os.environ and RUN_FOLDER in os.environ:
        return Path(os.environ[RUN_FOLDER])
    candidates = [folder, *(folder.with_name(f"{folder.name}-{i}") for i in range(2, 10_000))]
    chosen = next(path for path in candidates if not path.exists() or not any(path.iterdir()))
    os.environ[RUN_FOLDER] = str(chosen)
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
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()  # gloo's threads, left alone, may abort a program that has ended well
    except LostRankError as lost:
        sys.exit(f"error: {lost}")
    except StepFailedError as failed:
        if failed.__cause__ is not None and _own_message(failed.__cause__) is None:
            raise  # a reward function of the user's: its traceback tells where
        sys.exit(f"error: {failed}")
    except (ValueError, FloatingPointError, CheckpointError) as error:
        message = _own_message(error)
        if message is None:
            raise
        sys.exit(f"error: {message}")


def _own_message(error: BaseException | None) -> str | None:
    """That of the innermost error in the chain which this package has raised, if there is one.

    What a reward function of the user's has raised is no such message: its traceback tells where.
    """
    found = None
    while error is not None:
        frames = traceback.extract_tb(error.__traceback__)
        of_users = isinstance(error, RewardFunctionError) and error.__cause__ is not None
        if frames and Path(__file__).parent in Path(frames[-1].filename).parents and not of_users:
            found = str(error)
        error = error.__cause__ or error.__context__
    return found


def _understand_deepspeed() -> None:
    """Its launcher puts `--local_rank` first, as the environment says too, and numbers nodes by a name of its own."""
    sys.argv[1:] = [word for word in sys.argv[1:] if not word.startswith("--local_rank=")]
    if "CROSS_RANK" in os.environ:
        os.environ.setdefault("NODE_RANK", os.environ["CROSS_RANK"])


def main(args: ArgsType | Sequence[str] = None) -> None:
    """Runs a command; `args` replaces the command line."""
    for message in NOISE:
        warnings.filterwarnings("ignore", message=message)
    if args is None:
        _understand_deepspeed()
    words = sys.argv[1:] if args is None else args
    if isinstance(words, list) and words and words[0] in OWN_COMMANDS:
        _run_own_command(words[0], words[1:])
        return
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(lambda record: "Tip:" not in record.msg)
    watch = RankWatch()
    try:
        BotsCLI(
            model_class=PolicyModule,
            datamodule_class=TaskDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            save_config_callback=SaveConfig,
            save_config_kwargs={"overwrite": True},
            trainer_defaults={"use_distributed_sampler": False, "callbacks": watch},
            parser_kwargs={"prog": "bots-lightning", "description": DESCRIPTION, "formatter_class": HelpFormatter},
            args=args,  # type: ignore[arg-type]
        )
    except Exception as error:
        if lost := watch.lost:
            raise LostRankError(
                f"{lost} is gone. Look for its own last words; to continue: --ckpt_path last"
            ) from error
        raise
