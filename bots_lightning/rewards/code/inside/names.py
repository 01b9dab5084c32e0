"""Names in test code: which are the program's, and which are not although nobody defines them."""

from __future__ import annotations

import ast
import builtins
import math
import sys
from collections.abc import Iterable

# Test code made from JSON or from the text of results has these.
CONSTANTS: dict[str, float | None] = {"true": True, "false": False, "null": None}
CONSTANTS |= {"Infinity": math.inf, "inf": math.inf, "NaN": math.nan, "nan": math.nan}
# Classes that test code uses as if they were built in, and their modules.
LIBRARY = dict.fromkeys(("Counter", "OrderedDict", "defaultdict", "deque"), "collections")
LIBRARY |= {"Decimal": "decimal", "Fraction": "fractions"}
# What test code makes arguments with, and what it compares with: not what is tested, if there is another candidate.
MAKERS = frozenset({"bytes", "complex", "dict", "float", "frozenset", "int", "list", "range", "set", "str", "tuple"})
CHECKERS = frozenset({"abs", "all", "any", "isinstance", "len", "round", "type"})
KNOWN = frozenset({*vars(builtins), *LIBRARY})
MODULE_NAMES = frozenset({"__name__", "__file__", "__builtins__", "__doc__"})


def loaded(tree: ast.AST) -> set[str]:
    """Names that the code reads."""
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}


def bound(tree: ast.AST) -> set[str]:
    """Names that the code gives a value, in whatever scope."""
    return set().union(*(_bound_by(node) for node in ast.walk(tree)))


def _bound_by(node: ast.AST) -> tuple[str, ...]:
    if isinstance(node, ast.Name):
        return () if isinstance(node.ctx, ast.Load) else (node.id,)
    if isinstance(node, ast.arg):
        return (node.arg,)
    if isinstance(node, ast.alias):
        return (node.asname or node.name.partition(".")[0],)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.ExceptHandler):
        return (node.name,) if node.name else ()
    return ()


def caught(tree: ast.AST) -> set[str]:
    """Names of exceptions that the code expects: in `except NAME` and in `assertRaises(NAME)` and its like."""
    found = set()
    for node in ast.walk(tree):
        match node:
            case ast.ExceptHandler(type=ast.expr() as kinds):
                found |= loaded(kinds)
            case ast.Call(func=ast.Attribute(attr=name) | ast.Name(id=name), args=[kinds, *_]) if "aises" in name:
                found |= loaded(kinds)
    return found


def modules(trees: Iterable[ast.AST], unknown: Iterable[str]) -> set[str]:
    """Modules of the standard library of which the test code uses attributes only, as in `math.isclose`.

    They come from the grader and not from the program, which could forge them.
    """
    standard = sys.stdlib_module_names & set(unknown)
    nodes = [node for tree in trees for node in ast.walk(tree)] if standard else []
    uses = [node.id for node in nodes if isinstance(node, ast.Name)]
    owners = [node.value for node in nodes if isinstance(node, ast.Attribute)]
    attributes = [owner.id for owner in owners if isinstance(owner, ast.Name)]
    return {name for name in standard if uses.count(name) == attributes.count(name)}


def imported(tree: ast.AST) -> set[str]:
    """Top-level modules that the code cannot do without: imports inside of `try` are left out."""
    nodes = list(ast.walk(tree))
    attempts = [node for node in nodes if isinstance(node, ast.Try)]
    optional = {id(node) for attempt in attempts for node in ast.walk(attempt)}
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import) and id(node) not in optional:
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level and id(node) not in optional:
            found.add(node.module.partition(".")[0])
    return found


def wanted(tree: ast.AST, prelude: ast.AST) -> set[str]:
    """Names that neither the test code nor its prelude defines, and that are not built in: those of the program.

    Where there are none, what is tested has the name of a known class, or of a built-in function: of those that every
    assertion calls, it is the first that has no call in its arguments, so never the `abs` of `abs(sum(1, 2) - 3) < 1`.
    Calls that make data, such as `list(…)`, do not count.
    """
    free = loaded(tree) - bound(tree) - bound(prelude) - CONSTANTS.keys() - MODULE_NAMES
    free -= modules([tree], free)
    return free - KNOWN or free & LIBRARY.keys() or set(_shadowed(tree, free)[:1])


def _shadowed(tree: ast.AST, free: set[str]) -> list[str]:
    """Names of built-in functions that every assertion calls with no other call in the arguments, in order."""
    asserts = [node for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    called = [[name for call in ast.walk(node) if (name := _innermost(call)) in free] for node in asserts]
    common = [name for name in called[0] if all(name in names for names in called)] if called else []
    return sorted(common, key=lambda name: (name in CHECKERS, name in MAKERS))


def _innermost(node: ast.AST) -> str | None:
    """The name of the function that a node calls, if no argument is a call, except one that makes data."""
    match node:
        case ast.Call(func=ast.Name(id=name)):
            calls = [child.func for child in ast.walk(node) if isinstance(child, ast.Call) and child is not node]
            made = [isinstance(function, ast.Name) and function.id in MAKERS for function in calls]
            return name if all(made) else None
    return None
