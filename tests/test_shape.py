"""The shape of the code: few ancestors, typed constructors, short files and functions, one place for each thing."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import statistics
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("bots_lightning", "callbacks")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
# Loaded in another process, by a path: they belong to no package.
INSIDE = ROOT / "bots_lightning/rewards/code/inside"


def classes() -> Iterator[type]:
    """All classes of ours."""
    for path in FILES:
        if path.parent == INSIDE or path.name == "__main__.py":
            continue
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        module = importlib.import_module(name)
        yield from (kind for kind in vars(module).values() if inspect.isclass(kind) and kind.__module__ == name)


def functions(path: Path) -> Iterator[ast.FunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            yield node


def ancestors(kind: type) -> list[str]:
    """Those of ours."""
    return [base.__name__ for base in kind.__mro__[1:] if base.__module__.partition(".")[0] in PACKAGES]


def test_no_class_has_more_than_two_ancestors_of_ours() -> None:
    found = {kind.__qualname__: ancestors(kind) for kind in classes()}
    assert len(found) > 150
    assert {name: bases for name, bases in found.items() if len(bases) > 2} == {}


def test_constructors_take_no_options_by_two_stars() -> None:
    constructors = [(path, node) for path in FILES for node in functions(path) if node.name == "__init__"]
    assert len(constructors) > 60
    assert [str(path) for path, node in constructors if node.args.kwarg] == []


def test_files_and_functions_are_short() -> None:
    lines = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {name: count for name, count in lines.items() if count > 300} == {}
    assert statistics.median(lines.values()) <= 150
    lengths = [(node.end_lineno or 0) - node.lineno + 1 for path in FILES for node in functions(path)]
    assert len(lengths) > 1000
    assert statistics.median(lengths) <= 10


def test_names_of_modules_tell_them_apart() -> None:
    """What is called by several subjects, a report or a source, stands in the package of its subject."""
    names = Counter(path.stem for path in FILES)
    assert names["module"] == 1
    assert not names["utils"] + names["helpers"] + names["common"] + names["misc"]


def attributes_of_zero3(path: Path) -> set[str]:
    return set(re.findall(r"\bds_(?:shape|id|tensor|status|active_sub_modules)\b", path.read_text(encoding="utf-8")))


def test_attributes_of_zero3_are_known_to_strategies_only() -> None:
    found = {path: attributes_of_zero3(path) for path in FILES}
    assert {path.parent for path, names in found.items() if names} == {ROOT / "bots_lightning/strategies"}
    assert {"ds_shape", "ds_id"} <= set.union(*found.values())
