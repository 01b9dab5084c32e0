"""The Python that runs programs and tests."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bots_lightning.rewards.code.process import SandboxError

LAYOUT = """
import json, os, sys
prefixes = [sys.base_prefix, sys.base_exec_prefix]
print(json.dumps([os.path.realpath(sys.executable), prefixes, sorted(sys.stdlib_module_names)]))
"""
ORIGINS = """
import importlib.util, json, sys
specs = {name: importlib.util.find_spec(name) for name in sys.argv[1:]}
print(json.dumps({name: spec.origin for name, spec in specs.items() if spec and spec.has_location}))
"""


@dataclass(frozen=True)
class Interpreter:
    """A Python outside of any virtual environment.

    Attributes:
        executable: its path.
        prefixes: folders of its standard library, and the executable.
        modules: names of the standard library.
        packages: files of the packages asked for, `__init__.py` or the module itself, by their name.
    """

    executable: str
    prefixes: list[str]
    modules: list[str]
    packages: dict[str, str]

    def package_files(self) -> list[str]:
        """Folders and files of the packages, and of the libraries that came with them (`numpy.libs`)."""
        found = []
        for name, origin in self.packages.items():
            path = Path(origin).parent if Path(origin).name == "__init__.py" else Path(origin)
            found += [str(path), *map(str, sorted(path.parent.glob(f"{name}.*")))]
        return found


def describe(python: str, packages: Sequence[str]) -> Interpreter:
    """Asks an interpreter for its paths, its standard library and its packages.

    Args:
        python: its path or name; of a virtual environment, it is the one behind it, with the environment's packages.
        packages: names of packages to find.

    Raises:
        SandboxError: it does not run, or a package is not installed.
    """
    executable, prefixes, modules = json.loads(_output(python, "-S", "-c", LAYOUT))
    origins = json.loads(_output(python, "-c", ORIGINS, *packages)) if packages else {}
    if absent := [name for name in packages if name not in origins]:
        raise SandboxError(f"packages={list(packages)}: {absent} are not installed for {python}. Install them there.")
    return Interpreter(executable, sorted({*prefixes, executable}), modules, origins)


def _output(python: str, *arguments: str) -> str:
    try:
        answer = subprocess.run([python, "-I", *arguments], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SandboxError(f"python={python!r} does not run ({error}); expected a Python interpreter.") from error
    if answer.returncode:
        raise SandboxError(f"python={python!r} does not run ({answer.stderr.strip()}); expected a Python interpreter.")
    return answer.stdout


def compile_harness(python: str, folder: Path) -> None:
    """Stores the harness as bytecode of this interpreter, if its folder is writable; else each start compiles it."""
    command = "import compileall, sys; compileall.compile_dir(sys.argv[1], quiet=2)"
    subprocess.run([python, "-I", "-S", "-c", command, str(folder)], check=False, capture_output=True, timeout=60)
