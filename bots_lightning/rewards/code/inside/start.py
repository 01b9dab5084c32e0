"""The first code in a sandbox: reads its job, confines itself, and becomes what the job asks for."""

from __future__ import annotations

import builtins
import json
import os
import sys
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from typing import Any

from .confine import confine


class Packages:
    """Finds packages beside the standard library, those that are allowed only.

    Args:
        origins: the file of each package by its name.
    """

    def __init__(self, origins: dict[str, str]) -> None:
        self.origins = origins

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Finds an allowed package, for `sys.meta_path`; Python's own finder finds what is inside of it."""
        origin = self.origins.get(name)
        return None if origin is None else spec_from_file_location(name, origin)


def main() -> None:
    """Runs the job that the arguments name: `role`, and the file descriptors of the job and of the sign of readiness.

    The sign is given, and its pipe closed, before any code runs that is not trusted: a sandbox without it has failed.
    """
    role, job_fd, ready_fd = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    with open(job_fd, encoding="utf-8") as file:
        job = json.load(file)
    if role == "grader":
        from .grader import run
    elif role == "serve":
        from .serve import run
    else:
        from .script import run
    sys.meta_path.append(Packages(job["terms"]["packages"]))
    confine(job["terms"])
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    os.write(ready_fd, b"1")
    os.close(ready_fd)
    del sys.argv[1:], sys.path[0]
    vars(builtins).update(exit=sys.exit, quit=sys.exit)  # of the module `site`, which -S leaves out
    run(job)
