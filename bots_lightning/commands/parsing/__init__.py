"""What the commands share: parsers that report a mistake in one line, and the layout of their help."""

from bots_lightning.commands.parsing.explanations import explain
from bots_lightning.commands.parsing.flat_faults import flat_config
from bots_lightning.commands.parsing.foreign_names import FOREIGN_CLASSES, FOREIGN_OPTIONS, FOREIGN_VALUES
from bots_lightning.commands.parsing.nearest import did_you_mean, nearest
from bots_lightning.commands.parsing.outputs import check_output, check_outputs, check_run_folder
from bots_lightning.commands.parsing.parsers import (
    DEBUG,
    CommandParser,
    HelpFormatter,
    OneLineErrors,
    command_parser,
    debugging,
)

__all__ = [
    "DEBUG",
    "FOREIGN_CLASSES",
    "FOREIGN_OPTIONS",
    "FOREIGN_VALUES",
    "CommandParser",
    "HelpFormatter",
    "OneLineErrors",
    "check_output",
    "check_outputs",
    "check_run_folder",
    "command_parser",
    "debugging",
    "did_you_mean",
    "explain",
    "flat_config",
    "nearest",
]
