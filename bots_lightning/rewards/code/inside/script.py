"""A program that reads standard input and writes standard output."""

from __future__ import annotations

import sys
import types
from typing import Any


def run(job: dict[str, Any]) -> None:
    """Runs `job["program"]` as the main module."""
    module = types.ModuleType("__main__")
    module.__file__ = "program.py"
    sys.modules["__main__"] = module
    sys.argv = ["program.py"]
    # Annotations stay text, as in this file: `List` needs no import.
    exec(compile(job["program"], "program.py", "exec"), module.__dict__)
