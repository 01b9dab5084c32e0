"""The command `bots-lightning convert-config OLD.yaml NEW.yaml`: a config of the flat layout, in the present one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from bots_lightning.commands.flat_layout import converted, is_flat
from bots_lightning.commands.parsing import CommandParser, check_output, command_parser
from bots_lightning.commands.parsing.places import config_fault

DESCRIPTION = """\
Rewrites a config of the flat layout, model.init_args.OPTION and data.init_args.OPTION, in the present one.

  bots-lightning convert-config my_experiment.yaml my_experiment_new.yaml
  bots-lightning convert-config runs/quickstart/config.yaml quickstart.yaml

Whole configs, overlays and the config.yaml of a run can be converted. The comment at the head is kept always. Comments
inside and anchors are kept where options stand one below the other; where they stand in one line, as {a: 1, b: 2} under
`model`, `data` or `init_args`, the file is written anew without them. An option that has no place now is given to the
algorithm, and `fit` refuses it by its name.
"""


def convert_config_command(args: Sequence[str] | None = None) -> None:
    """Runs the command.

    Args:
        args: the words after `convert-config`; by default those of the command line.
    """
    parser = _parser()
    options = parser.parse_args(args)
    old, new = Path(options.old), Path(options.new)
    try:
        text = converted(read_config(old))
        write(new, text)
    except (OSError, ValueError) as error:
        parser.refuse(str(error))
    print(f"{new}: {old} in the present layout. To see what it sets: bots-lightning fit --config {new} --print_config")


def read_config(path: Path) -> str:
    """The text of a config of the flat layout.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no config, or has the present layout already.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file (looked in {Path.cwd()}). Name a config.")
    if fault := config_fault(str(path)):
        raise ValueError(fault)
    text = path.read_text(encoding="utf-8")
    config = yaml.safe_load(text)
    if not any(is_flat(config.get(section)) for section in ("model", "data")):
        raise ValueError(f"{path} has no model.init_args and no data.init_args: it needs no conversion.")
    return text


def write(path: Path, text: str) -> None:
    """Writes a new file, and the folders for it.

    Raises:
        ValueError: the file exists, or cannot be made.
    """
    if path.exists():
        raise ValueError(f"{path} exists already, and was left as it is. Name another file.")
    check_output(str(path), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("x", encoding="utf-8") as file:
        file.write(text)


def _parser() -> CommandParser:
    parser = command_parser("bots-lightning convert-config", DESCRIPTION)
    parser.add_argument("old", type=str, metavar="OLD.yaml", help="A config of the flat layout.")
    parser.add_argument("new", type=str, metavar="NEW.yaml", help="A new file.")
    return parser
