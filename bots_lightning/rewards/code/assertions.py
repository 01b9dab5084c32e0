"""Python code with assertions, taken apart into steps that pass or fail each for itself.

What nothing else calls is called: functions `test_…`, methods `test…` of classes `Test…` and of unittest's test cases,
and `check(candidate)` with the entry point. A block under `if __name__ == "__main__":` runs, `unittest.main()` in it is
left out. `solution`, where the code imports it, is the program.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set

from bots_lightning.rewards.code.inside.names import KNOWN, bound, imported, loaded, wanted
from bots_lightning.rewards.code.task_tests import UnitTests

SOLUTION = "solution"  # the module that the program is


def unit_tests(source: str, prelude: str = "", stub: str = "", entry_point: str = "") -> UnitTests:
    """Tests from code.

    Args:
        source: Python code.
        prelude: code that runs before the program, and before the tests.
        stub: the start of the program, or "".
        entry_point: an expression for what is tested, or "".

    Raises:
        ValueError: nothing is tested, or nothing of the program.
        SyntaxError: the code is no Python.
    """
    imports = _SolutionImports()
    tree, before = ast.parse(source), ast.parse(prelude)
    tree = imports.visit(tree) if SOLUTION in source else tree
    if not any(_asserts(node) for node in ast.walk(tree)):
        raise ValueError("no assert and no raise, so that every program would pass")
    body = _without_unused_imports(list(_unguarded(tree.body)))
    functions = {node.name: node for node in body if isinstance(node, ast.FunctionDef)}
    check = "check" in functions and entry_point and not any(_called(node, functions) for node in body)
    candidate, aliases = _candidate(entry_point, alias=bool(check))
    aliases |= imports.programs
    body += ast.parse("\n".join([*_calls(body), *([f"check({candidate})"] if check else [])])).body
    known = KNOWN.union(*(bound(node) for node in body if isinstance(node, ast.Import | ast.ImportFrom)))
    steps = [(_is_test(node, known), ast.unparse(node)) for item in body for node in _inlined(item, functions)]
    if not any(is_test for is_test, _ in steps):
        raise ValueError("no statement at the top level tests anything; call the functions that do")
    tree.body = body
    names = wanted(tree, before)
    if not (names or aliases):
        raise ValueError("the tests name nothing that a program could define; give the `entry_point`")
    programs = sorted(name for name, other in aliases.items() if name == other) if aliases else sorted(names & KNOWN)
    aliases = {name: other for name, other in aliases.items() if name != other}
    modules = frozenset(imported(tree) | imported(before))
    own = frozenset({*names, *programs, *aliases.values()} - aliases.keys())
    return UnitTests(steps, prelude, stub, entry_point, programs, aliases, own, modules=modules)


class _SolutionImports(ast.NodeTransformer):
    """Leaves out imports of the program and notes the names that they give; `solution.f` becomes such a name."""

    def __init__(self) -> None:
        self.programs: dict[str, str] = {}
        self.aliases: set[str] = set()

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.stmt:
        if node.module != SOLUTION:
            return node
        self.programs |= {alias.asname or alias.name: alias.name for alias in node.names if alias.name != "*"}
        return ast.Pass()

    def visit_Import(self, node: ast.Import) -> ast.stmt:
        self.aliases |= {alias.asname or alias.name for alias in node.names if alias.name == SOLUTION}
        node.names = [alias for alias in node.names if alias.name != SOLUTION]
        return node if node.names else ast.Pass()

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        if isinstance(node.value, ast.Name) and node.value.id in self.aliases:
            name = f"__solution_{node.attr}__"
            self.programs[name] = node.attr
            return ast.Name(name, node.ctx)
        self.generic_visit(node)
        return node


def _asserts(node: ast.AST) -> bool:
    match node:
        case ast.Assert() | ast.Raise():
            return True
        case ast.Call(func=ast.Attribute(attr=name) | ast.Name(id=name)):
            return name.startswith("assert") or name == "fail"
    return False


def _unguarded(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements, those under `if __name__ == "__main__":` among them, without calls of a test runner's `main`."""
    for node in body:
        match node:
            case ast.If(test=ast.Compare(left=ast.Name(id="__name__"))):
                yield from _unguarded(node.body)
            case ast.Pass():
                pass
            case ast.Expr() if any(_runs_all(part) for part in ast.walk(node)):
                pass
            case _:
                yield node


def _runs_all(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name(id="unittest" | "pytest"), attr="main")):
            return True
    return False


def _without_unused_imports(body: list[ast.stmt]) -> list[ast.stmt]:
    """Without modules that are not in the standard library and that nothing uses, so that they may be absent."""
    imports = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    foreign = [node for node in imports if not imported(node) <= sys.stdlib_module_names]
    used = {"*", *(name for node in body for name in loaded(node))} if foreign else set()
    unused = [node for node in foreign if not bound(node) & used]
    return [node for node in body if node not in unused]


def _candidate(entry_point: str, alias: bool) -> tuple[str, dict[str, str]]:
    """The entry point, and the names in it that are the program's.

    Args:
        entry_point: an expression, or "".
        alias: rename what is built in too, so that the rest of the test code means what is built in.
    """
    tree, programs = ast.parse(entry_point), dict[str, str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            name = f"__candidate_{node.id}__" if alias and node.id in KNOWN else node.id
            programs[name], node.id = node.id, name
    return ast.unparse(tree), programs


def _calls(body: Sequence[ast.stmt]) -> list[str]:
    """Calls of the tests that no statement names."""
    own = {node.name: _own_calls(node) for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    if not any(own.values()):
        return []
    named = {name for node in body for name in loaded(node) if name != getattr(node, "name", None)}
    return [call for name, calls in own.items() if name not in named for call in calls]


def _own_calls(node: ast.FunctionDef | ast.ClassDef) -> list[str]:
    if isinstance(node, ast.ClassDef):
        return _method_calls(node)
    if not node.name.startswith("test"):
        return []
    if len(node.args.args) > len(node.args.defaults):
        raise ValueError(f"{node.name} takes arguments; expected tests without fixtures and parameters")
    return [f"{node.name}()"]


def _method_calls(node: ast.ClassDef) -> list[str]:
    methods = [item.name for item in node.body if isinstance(item, ast.FunctionDef)]
    tests = [name for name in methods if name.startswith("test")]
    if any(ast.unparse(base).endswith("TestCase") for base in node.bases):
        return [f"{node.name}.setUpClass()"] * bool(tests) + [f"{node.name}({name!r}).debug()" for name in tests]
    return [f"{node.name}().{name}()" for name in tests] if node.name.startswith("Test") else []


def _is_test(statement: ast.stmt, known: Set[str]) -> bool:
    """Definitions, assignments and `assert True` are none; calls may well assert something.

    Args:
        statement: of the test code.
        known: names that are built in or imported; a call of nothing else, such as `random.seed(1)`, is no test.
    """
    match statement:
        case ast.Assert(test=ast.Constant()):
            return False
        case ast.Expr(ast.Call(func=ast.Name(id="print")) | ast.Call(func=ast.Attribute(attr="setUpClass"))):
            return False
        case ast.Expr() if loaded(statement) <= known:
            return False
    kinds = ast.Assert | ast.Expr | ast.For | ast.While | ast.If | ast.With | ast.Try
    return isinstance(statement, kinds) and any(isinstance(node, ast.Assert | ast.Call) for node in ast.walk(statement))


def _called(statement: ast.stmt, functions: Mapping[str, ast.FunctionDef]) -> ast.FunctionDef | None:
    """The function of the test code that a statement such as `check(candidate)` calls."""
    match statement:
        case ast.Expr(ast.Call(func=ast.Name(id=name), keywords=[])):
            return functions.get(name)
    return None


def _inlined(statement: ast.stmt, functions: Mapping[str, ast.FunctionDef]) -> Sequence[ast.stmt]:
    """A call of a plain test function as the statements of its body, so that each assertion counts for itself."""
    function = _called(statement, functions)
    if function is None or not isinstance(statement, ast.Expr) or not isinstance(statement.value, ast.Call):
        return [statement]
    parameters = [parameter.arg for parameter in function.args.args]
    plain = len(parameters) == len(statement.value.args) and not function.decorator_list
    if not plain or any(isinstance(node, _UNMOVABLE) for node in ast.walk(function)):
        return [statement]
    assignments: list[ast.stmt] = [
        ast.Assign([ast.Name(name, ast.Store())], value, lineno=0)
        for name, value in zip(parameters, statement.value.args, strict=True)
    ]
    return [*assignments, *function.body]


_UNMOVABLE = ast.Return | ast.Yield | ast.YieldFrom | ast.Global | ast.Nonlocal
