"""Parsers that report a mistake in one line, without a usage dump."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentError, RawDescriptionHelpFormatter
from collections.abc import Sequence
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace

from bots_lightning.commands.parsing.explanations import explain

DEBUG = "BOTS_LIGHTNING_DEBUG"  # a variable, so that this run's subprocesses know too


def debugging() -> bool:
    """Whether `--debug` asks for tracebacks."""
    return os.environ.get(DEBUG, "") not in ("", "0")


class HelpFormatter(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Shows defaults, and descriptions with their line breaks."""


class OneLineErrors:
    """Mixed into a parser of jsonargparse: a mistake is one line on stderr, with exit code 2."""

    def parse_args(
        self,
        args: Sequence[str] | None = None,
        namespace: Namespace | None = None,
        env: bool | None = None,
        defaults: bool = True,
        **kwargs: Any,
    ) -> Namespace:
        """Parses the words; reports a config that is not text as a mistake."""
        self.words = list(sys.argv[1:] if args is None else args)
        try:
            return super().parse_args(args, namespace, env, defaults, **kwargs)  # type: ignore[misc]
        except UnicodeDecodeError as error:
            self.error(f"Problems parsing config: {error}", error)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Ends the program with a line; raises where jsonargparse tries one of several types, or under `--debug`."""
        parser: Any = self
        if not parser.exit_on_error or debugging():
            parser.exit_on_error = False
            super().error(message, ex)  # type: ignore[misc]
        self.refuse(explain(parser, message, getattr(self, "words", [])))

    def refuse(self, text: str) -> NoReturn:
        """Ends the program with one line and exit code 2; raises under `--debug`.

        Args:
            text: of the line.
        """
        if debugging():
            raise ArgumentError(None, text)
        print(f"error: {' '.join(text.split())}", file=sys.stderr)
        sys.exit(2)


class CommandParser(OneLineErrors, ArgumentParser):  # type: ignore[misc]  # jsonargparse's are decorated
    """The parser of a command that is not LightningCLI's; see `command_parser`."""


def command_parser(prog: str, description: str) -> CommandParser:
    """A parser whose options are not abbreviated.

    Args:
        prog: the command's words.
        description: what it does.
    """
    return CommandParser(prog=prog, description=description, formatter_class=HelpFormatter, allow_abbrev=False)
