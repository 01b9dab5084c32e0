"""LightningCLI as this project uses it: the commands fit, validate, test and predict."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

from lightning import Trainer
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

from bots_lightning.checkpoints import AtomicCheckpointIO, find_checkpoint, run_folders, run_of
from bots_lightning.commands.parsing import HelpFormatter, OneLineErrors, check_run_folder
from bots_lightning.commands.run_folder import RunFolder
from bots_lightning.data import TaskDataModule
from bots_lightning.evaluation import MetricsCSV
from bots_lightning.strategies import LostRankError, RankWatch
from bots_lightning.training import OnlineModule
from bots_lightning.training.checks import check_ranks
from bots_lightning.training.trainer_options import check_trainer_options

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
  bots-lightning serve --config configs/quickstart.yaml --config configs/rollouts/vllm_server.yaml
  bots-lightning compare runs/bots-0 runs/bots-1 runs/uniform-0 runs/uniform-1
  bots-lightning convert-config my_old_config.yaml my_config.yaml

Every field of a config can be set on the command line: --model.optimizer.learning_rate 5e-4
With --debug, errors show where they come from.
"""
COMMANDS = {
    "fit": "Train a policy; the run's files go to RUNS_DIR/NAME.",
    "validate": "Evaluate a policy on the held-out tasks.",
    "test": "Evaluate as validate does, under the names of a final test.",
    "predict": "Roll out every training task; callbacks write pass rates or completions.",
    "export": "Write a checkpoint's policy for transformers and peft; its options: bots-lightning export --help.",
    "replay": "Compare selectors on a recorded run; its options: bots-lightning replay --help.",
    "serve": "Print how to start the inference servers of a config; takes fit's options.",
    "convert-config": "Rewrite a config of the flat layout, model.init_args.OPTION, in the present one.",
    "compare": "Compare methods by their runs; its options: bots-lightning compare --help.",
}
OTHER_COMMANDS = ("export", "replay", "compare", "serve", "convert-config")  # not LightningCLI's
CKPT_PATH = "A checkpoint to start from, or `last`: the newest one of the run that --name names."
CHECKPOINT = "BOTS_LIGHTNING_CHECKPOINT"  # a variable, so that this run's subprocesses load the same one


class BotsParser(OneLineErrors, LightningArgumentParser):  # type: ignore[misc]  # jsonargparse's are decorated
    """Lightning's parser, with mistakes in one line."""


class BotsCLI(LightningCLI):
    """LightningCLI with a run folder, its loggers, and one seed for everything."""

    def setup_parser(self, *args: Any, **kwargs: Any) -> None:
        """Lists all commands with a line on each, and corrects the help of `--ckpt_path`."""
        super().setup_parser(*args, **kwargs)
        commands: Any = cast(Any, self.parser._subcommands_action)._choices_actions
        commands += [type(commands[0])(name, [], "") for name in OTHER_COMMANDS]  # listed here, run by `main`
        for command in commands:
            command.help = COMMANDS[command.dest]
        for name in set(COMMANDS) - set(OTHER_COMMANDS):
            for action in self._parser(name)._actions:
                action.help = CKPT_PATH if action.dest == "ckpt_path" else action.help

    def _prepare_subcommand_parser(
        self, klass: type, subcommand: str, *, runs: bool = True, **kwargs: Any
    ) -> LightningArgumentParser:
        """Adds options if the command may be the one that runs: those of each take a fifth of a second."""
        if runs:
            return super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        self._subcommand_method_arguments[subcommand] = []
        return self.init_parser(**kwargs)

    def _dump_config(self) -> None:
        """Leaves out what Lightning passes to `save_hyperparameters`, which takes long and is not used here."""
        self.config_dump: dict[str, Any] = {}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the options of the run folder, and links the seed."""
        parser.add_argument("--name", type=str, default="run", help="Name of the run; its folder is RUNS_DIR/NAME.")
        parser.add_argument("--runs_dir", type=str, default="runs", help="Where run folders are made.")
        parser.link_arguments("seed_everything", "model.seed", compute_fn=int)
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)

    def _parse_ckpt_path(self) -> None:
        """Does nothing: Lightning would load the whole checkpoint here to look for hyperparameters."""

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parses, refuses options that cannot work, and looks up the checkpoint, before anything is built or loaded."""
        super().parse_arguments(parser, args)
        self.subcommand = self.config["subcommand"]
        config = self.config[self.subcommand]
        folder = self._named_folder()
        if self.subcommand in ("fit", "predict"):
            check_run_folder(folder)
        if self.subcommand == "fit":
            check_trainer_options(config.trainer)
        if config.get("ckpt_path"):
            config["ckpt_path"] = self._checkpoint(str(config["ckpt_path"]))
        if self.subcommand == "predict":
            config["return_predictions"] = False  # callbacks write them; kept, they would fill the memory

    def _checkpoint(self, given: str) -> str | None:
        """The path of the checkpoint that `--ckpt_path` names, checked; this run's subprocesses take it over."""
        if "LOCAL_RANK" in os.environ and CHECKPOINT in os.environ:
            return os.environ[CHECKPOINT] or None
        found = find_checkpoint(given, run_folders(self._named_folder()), required=self.subcommand != "fit")
        os.environ[CHECKPOINT] = found or ""
        return found

    def _named_folder(self) -> Path:
        """RUNS_DIR/NAME, or the trainer's `default_root_dir`.

        Raises:
            ValueError: the name leads out of RUNS_DIR.
        """
        if own := self._get(self.config, "trainer").default_root_dir:
            return Path(own).expanduser()
        name = self._get(self.config, "name")
        path = Path(name)
        if path.is_absolute() or not path.parts or ".." in path.parts:
            raise ValueError(
                f"name={name!r}; expected the name of a folder below runs_dir. Set runs_dir for its place."
            )
        return Path(self._get(self.config, "runs_dir")).expanduser() / path

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Builds a trainer that writes to the run folder."""
        config = self._get(self.config_init, "trainer")
        named = self._named_folder()
        continued = run_of(self._get(self.config, "ckpt_path"), named)
        folder, loggers = continued or named, _listed(config.logger)
        if self.subcommand == "fit":
            text = self._parser("fit").dump(self.config["fit"], skip_none=False)
            keeper = RunFolder(named, continued, text)
            kwargs["callbacks"] = [keeper, *_listed(config.callbacks)]
            folder, loggers = keeper.folder, [MetricsCSV(keeper.folder), *loggers]
        kwargs["default_root_dir"] = str(folder)
        kwargs["logger"] = config.logger is not False and loggers  # the other commands leave the run's curves alone
        trainer = super().instantiate_trainer(**kwargs)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # no plugin of the user's
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, RankWatch):
                callback.checkpoint = self._get(self.config, "ckpt_path")
        if self.subcommand == "fit":
            check_ranks(trainer, self.datamodule)  # in one process; Lightning starts the others later
        return trainer


def _listed(given: Any) -> list[Any]:
    """The items of an option that the trainer takes alone or as a list."""
    return list(given) if isinstance(given, Iterable) else [] if given in (None, True, False) else [given]


def run_lightning_command(args: ArgsType | Sequence[str] = None, cli: type[BotsCLI] = BotsCLI) -> None:
    """Runs one of LightningCLI's commands.

    Args:
        args: replaces the words of the command line.
        cli: that runs it.

    Raises:
        LostRankError: another rank has failed, and with it what this one was doing.
    """
    watch = RankWatch()
    shared = {"formatter_class": HelpFormatter, "allow_abbrev": False}
    words = sys.argv[1:] if args is None else args
    first = words[0] if isinstance(words, list) and words else ""
    own = {
        name: {"description": text, "runs": first == name or first not in COMMANDS, **shared}
        for name, text in COMMANDS.items()
        if name not in OTHER_COMMANDS
    }
    try:
        cli(
            model_class=OnlineModule,
            datamodule_class=TaskDataModule,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            save_config_callback=None,  # RunFolder writes it, when training begins
            trainer_defaults={"use_distributed_sampler": False, "callbacks": watch},
            parser_kwargs={"prog": "bots-lightning", "description": DESCRIPTION, **shared, **own},
            parser_class=BotsParser,
            args=args,  # type: ignore[arg-type]
        )
    except Exception as error:  # raised again, by its true cause
        if watch.lost:
            raise LostRankError(watch.account()) from error
        raise
