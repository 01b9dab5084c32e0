"""Finds the extra that installs a missing package."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, requires

DISTRIBUTION = "bots-lightning"
REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(?:\[.*?\])?[^;]*(?:;.*extra\s*==\s*[\"'](?P<extra>[\w-]+)[\"'])?")
NOT_USERS = ("all", "test", "trl")  # extras that repeat others, or are for this package's own tests


def how_to_install(module: str) -> str | None:
    """The command that installs a module.

    Args:
        module: dotted name.

    Returns:
        a command of pip; None if this package does not require the module.
    """
    wanted = _plain(module.partition(".")[0])
    try:
        listed = requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        return None
    found = [match for text in listed if (match := REQUIREMENT.match(text)) and _plain(match["name"]) == wanted]
    extras = [match["extra"] for match in found if match["extra"] and match["extra"] not in NOT_USERS]
    if extras:
        return f"Run: pip install '{DISTRIBUTION}[{extras[0]}]'"
    if any(match["extra"] is None for match in found):
        return f"Run: pip install {found[0]['name']}"
    return None


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "_", name).lower()
