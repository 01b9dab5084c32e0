"""The parser of `fit`, without a command line."""

from __future__ import annotations

from typing import Any

import pytest

from bots_lightning.commands.lightning_cli import BotsCLI, run_lightning_command


class StoppedError(Exception):
    """Raised where the command line would be parsed."""


@pytest.fixture(scope="session")
def fit_parser() -> Any:
    """With all options of `fit`."""
    seen: list[BotsCLI] = []

    def stop(cli: BotsCLI, *_: object) -> None:
        seen.append(cli)
        raise StoppedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BotsCLI, "parse_arguments", stop)
        with pytest.raises(StoppedError):
            run_lightning_command(["fit"])
    return seen[0]._parser("fit")
