"""What makes the tests of a task impossible to pass, whatever the program."""

from __future__ import annotations

import json
from collections.abc import Collection

from bots_lightning.rewards.code.inside.wire import MAX_MESSAGE
from bots_lightning.rewards.code.task_tests import StdinTests, UnitTests


def fault_of(tests: StdinTests | UnitTests, modules: Collection[str]) -> str | None:
    """Finds what makes well-formed tests impossible to pass; None if nothing does.

    Args:
        tests: of one task.
        modules: those that can be imported in the sandbox.

    Returns:
        The fault in words, with what to do about it.
    """
    if isinstance(tests, StdinTests):
        return None
    if absent := sorted(tests.modules.difference(modules)):
        return (
            f"the tests import {', '.join(absent)}, which the sandbox does not have; expected modules of the standard "
            "library or of the option `packages`. Add it there, or drop the task."
        )
    largest = max((len(json.dumps(case)) for case in tests.cases), default=0)
    if largest > MAX_MESSAGE:
        return (
            f"the arguments and the result of a call take {largest} bytes; expected at most {MAX_MESSAGE}. "
            "Drop that call, or the task."
        )
    return None
