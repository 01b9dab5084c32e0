"""What the commands share: parsers that say a mistake in one line, and how help is laid out."""

from bots_lightning.commands.parsing.explanations import explain
from bots_lightning.commands.parsing.foreign_names import FOREIGN_CLASSES, FOREIGN_OPTIONS, FOREIGN_VALUES
from bots_lightning.commands.parsing.nearest import did_you_mean, nearest
from bots_lightning.commands.parsing.outputs import check_outputs, check_run_folder
from bots_lightning.commands.parsing.parsers import DEBUG, CommandParser, HelpFormatter, OneLineErrors, debugging

__all__ = [
    "DEBUG",
    "FOREIGN_CLASSES",
    "FOREIGN_OPTIONS",
    "FOREIGN_VALUES",
    "CommandParser",
    "HelpFormatter",
    "OneLineErrors",
    "check_outputs",
    "check_run_folder",
    "debugging",
    "did_you_mean",
    "explain",
    "nearest",
]
