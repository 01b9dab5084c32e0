"""The house stands on its ground floor: imports point down only.

A floor is `bots_lightning/<name>.py` or `bots_lightning/<name>/`. A module may import its own floor and lower ones.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HOUSE = "bots_lightning"
FLOORS = (
    "options",
    "beliefs",
    "selection",
    "allocation",
    "tasks",
    "rewards",
    "checkpoints",
    "strategies",
    "rollouts",
    "policy",
    "algorithms",
    "evaluation",
    "data",
    "training",
    "quickstart",
    "commands",
    "cli",
)
# What the lowest floors may import from outside, beside the standard library.
OUTSIDE = {"beliefs": {"numpy", "scipy"}, "selection": {"numpy"}, "allocation": {"numpy"}}


def module_name(path: Path, root: Path) -> str:
    """The dotted name of a file; a package's `__init__` keeps that last part."""
    return ".".join(path.relative_to(root).with_suffix("").parts)


def imported_names(path: Path, root: Path) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted name) of every import statement of a file, also inside functions and `TYPE_CHECKING`.

    `from a.b import c` counts as `a.b.c`, which may name a module or something inside one.
    """
    package = module_name(path, root).split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else []
            source = [*parents, *([node.module] if node.module else [])]
            yield from ((node.lineno, ".".join([*source, alias.name])) for alias in node.names)


def fault_of_import(floor: str | None, name: str) -> str | None:
    """Why a module of a floor (None for the root's `__init__` and `__main__`) may not import a name, if so."""
    top, _, rest = name.partition(".")
    if top == "callbacks":
        return "nothing here may import callbacks; name the class by its path in a string"
    if floor is None:
        return None
    if top == HOUSE:
        target = rest.partition(".")[0]
        if target == "__main__" or (target in FLOORS and FLOORS.index(target) > FLOORS.index(floor)):
            return f"{floor} lies below {target}"
    elif floor in OUTSIDE and top not in OUTSIDE[floor] | sys.stdlib_module_names:
        return f"{floor} may import only the standard library and {sorted(OUTSIDE[floor])}"
    return None


def violations(root: Path) -> list[str]:
    """Every import below `root` that the house forbids, and every module that belongs to no floor."""
    found = []
    for path in sorted((root / HOUSE).rglob("*.py")):
        where = path.relative_to(root)
        floor = path.relative_to(root / HOUSE).with_suffix("").parts[0]
        if floor not in FLOORS and floor not in ("__init__", "__main__"):
            found.append(f"{where}: {floor} is not among the floors {FLOORS}; decide where it belongs")
            continue
        for line, name in imported_names(path, root):
            if fault := fault_of_import(floor if floor in FLOORS else None, name):
                found.append(f"{where}:{line}: imports {name}: {fault}")
    return found


def build(root: Path, files: dict[str, str]) -> Path:
    for name, source in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return root


def test_imports_point_down_only() -> None:
    assert violations(ROOT) == []


def test_the_checker_reads_this_tree() -> None:
    """The test above must not pass because it looked at nothing."""
    seen = {name for path in (ROOT / HOUSE / "selection").rglob("*.py") for _, name in imported_names(path, ROOT)}
    assert {"numpy", "bots_lightning.beliefs.Evidence", "bots_lightning.selection.selector.TaskSelector"} <= seen


def test_a_sound_house_has_no_violations(tmp_path: Path) -> None:
    house = build(
        tmp_path,
        {
            "bots_lightning/__init__.py": '__version__ = "1"\n',
            "bots_lightning/__main__.py": "from bots_lightning.cli import main\n",
            "bots_lightning/beliefs/__init__.py": "from bots_lightning.beliefs.beta import Beta\n",
            "bots_lightning/beliefs/beta.py": "import math, numpy as np\nfrom scipy.special import psi\n",
            "bots_lightning/selection/uniform.py": "import json, numpy\nfrom ..beliefs import beta\nfrom . import a\n",
            "bots_lightning/rollouts/engine.py": "import torch\nfrom bots_lightning import __version__\n",
            "bots_lightning/data/module.py": "import bots_lightning.selection.uniform\nimport lightning\n",
            "bots_lightning/cli.py": 'from bots_lightning import data\nclass_path = "callbacks.Completions"\n',
            "callbacks/completions.py": "import bots_lightning.cli\nfrom callbacks import base\n",
        },
    )
    assert violations(house) == []


@pytest.mark.parametrize(
    ("path", "source", "fault"),
    [
        ("beliefs/beta.py", "import bots_lightning.selection", "beliefs lies below selection"),
        ("beliefs/beta.py", "from bots_lightning.selection import uniform", "beliefs lies below selection"),
        ("rewards/maths.py", "from bots_lightning import rollouts", "rewards lies below rollouts"),
        ("rewards/__init__.py", "from ..rollouts.engine import Engine", "rewards lies below rollouts"),
        ("rewards/deep/maths.py", "from ... import data", "rewards lies below data"),
        ("data/module.py", "from .. import quickstart", "data lies below quickstart"),
        ("algorithms/grpo.py", "def late():\n    import bots_lightning.cli", "algorithms lies below cli"),
        ("tasks/pool.py", "if TYPE_CHECKING:\n    from bots_lightning.data import D", "tasks lies below data"),
        ("cli.py", "import bots_lightning.__main__", "cli lies below __main__"),
        ("beliefs/beta.py", "import torch", "beliefs may import only the standard library and ['numpy', 'scipy']"),
        ("selection/a.py", "from scipy.stats import beta", "selection may import only"),
        ("allocation/a.py", "from bots_lightning.data import D", "allocation lies below data"),
        ("cli.py", "from callbacks import Completions", "nothing here may import callbacks"),
        ("cli.py", "def late():\n    import callbacks.completions", "nothing here may import callbacks"),
        ("__init__.py", "import callbacks", "nothing here may import callbacks"),
        ("attic/old.py", "", "attic is not among the floors"),
        ("utils.py", "", "utils is not among the floors"),
    ],
)
def test_a_violation_is_found(path: str, source: str, fault: str, tmp_path: Path) -> None:
    found = violations(build(tmp_path, {f"bots_lightning/{path}": source}))
    assert len(found) == 1
    assert path in found[0]
    assert fault in found[0]


def test_callbacks_is_ours() -> None:
    """Not another distribution's module of that name, nor the folder of their tests."""
    import callbacks

    assert callbacks.__file__ is not None
    assert Path(callbacks.__file__).resolve() == ROOT / "callbacks" / "__init__.py"


def test_the_lowest_floors_load_no_deep_learning() -> None:
    program = (
        "import json, sys, bots_lightning.beliefs, bots_lightning.selection, bots_lightning.allocation\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    output = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(json.loads(output.stdout))
    assert {"bots_lightning", "numpy"} <= loaded
    assert not loaded & {"torch", "lightning", "pytorch_lightning", "transformers", "peft", "pyarrow"}
