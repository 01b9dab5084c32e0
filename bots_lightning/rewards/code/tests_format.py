"""The tests of a task, in the layouts that data sets use.

    {"inputs": [text, …], "outputs": [text, …]}                   standard input and output (APPS, TACO, verl, GURU)
    {"inputs": [[argument, …], …], "outputs": […], "fn_name": f}  calls of a function, or of a method of Solution
    {"functional": code}                                          GURU; `extra_info["prefix"]` runs before the program
    ["assert f(1) == 2", …], or `test_list` with `test_setup_code`  MBPP
    code that defines check(candidate), and `entry_point`         HumanEval; the prompt is the stub of the program
    any other Python code with assertions

They come from the `answer`, or where that is empty from the columns `test` or `test_list`; `entry_point` and
`extra_info` are columns. Arguments of a call in one string (LiveCodeBench) are lines of JSON.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

EXPECTED = (
    'expected JSON with "inputs" and "outputs" or with "functional", a list of assert statements, or Python code with '
    "assertions, in the answer or in a column `test` or `test_list`"
)


@dataclass(frozen=True)
class StdinTests:
    """Cases of standard input and the output that it should give."""

    inputs: list[str]
    outputs: list[str]


@dataclass(frozen=True)
class UnitTests:
    """Test code in steps.

    Attributes:
        steps: (whether it is a test, source), in order; the others define what the tests need.
        prelude: code that runs before the program, and before the tests.
        stub: the start of the program if the completion goes on from it, or "".
        entry_point: what is tested, or "".
        programs: names that are the program's, even where the prelude has them too.
    """

    steps: list[tuple[bool, str]]
    prelude: str = ""
    stub: str = ""
    entry_point: str = ""
    programs: list[str] = field(default_factory=list)


def parse_tests(
    task_id: str, answer: str, columns: Mapping[str, Any], prompt: Any = "", max_tests: int | None = None
) -> StdinTests | UnitTests:
    """The tests of one task.

    Args:
        task_id: named in errors.
        answer: JSON or Python code.
        columns: of the task.
        prompt: the task's; counts where it is a stub in Python.
        max_tests: how many to keep from the start; all by default.

    Raises:
        ValueError: the tests are malformed.
    """
    try:
        tests = _parse(_specification(answer, columns), columns, prompt)
        return _first(tests, max_tests)
    except (ValueError, TypeError, KeyError, SyntaxError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"the tests of task {task_id!r} are malformed ({reason}); {EXPECTED}.") from error


def _specification(answer: str, columns: Mapping[str, Any]) -> Any:
    """Decoded JSON, a list of assert statements, or code."""
    if not answer or not answer.strip():
        given = [columns[name] for name in ("test", "test_list") if columns.get(name)]
        if not given:
            raise ValueError("there are none")
        return given[0]
    try:
        return json.loads(answer)
    except ValueError:
        return answer


def _parse(given: Any, columns: Mapping[str, Any], prompt: Any) -> StdinTests | UnitTests:
    extra = columns.get("extra_info") or {}
    prelude = extra.get("prefix") or ""
    entry_point = columns.get("entry_point") or ""
    if isinstance(given, dict):
        entry_point = given.get("fn_name") or given.get("entry_point") or entry_point
        if "inputs" in given and "outputs" in given:
            return _cases(given["inputs"], given["outputs"], given.get("fn_name") or "", prelude)
        given = given["functional"]
    if isinstance(given, list):
        setup = [*(columns.get("test_imports") or []), columns.get("test_setup_code") or ""]
        prelude = "\n".join([prelude, *setup])
        given = "\n".join(given)
    if not isinstance(given, str):
        raise TypeError(f"a {type(given).__name__}")
    stub = prompt if entry_point and isinstance(prompt, str) and _parses(prompt) else ""
    return _code(given, "\n".join(filter(None, [prelude, stub])), stub, entry_point)


def _cases(inputs: Any, outputs: Any, function: str, prelude: str) -> StdinTests | UnitTests:
    if not (isinstance(inputs, list) and isinstance(outputs, list) and len(inputs) == len(outputs) and inputs):
        raise ValueError("inputs and outputs are not two lists of the same length with at least one case")
    if not function:
        return StdinTests([_text(case) for case in inputs], [_text(case) for case in outputs])
    if not function.isidentifier():
        raise ValueError(f"fn_name {function!r} is not a name")
    ast.parse(prelude)
    target = "__function__"
    setup = f"try:\n    {target} = {function}\nexcept NameError:\n    {target} = Solution().{function}"
    steps = [(False, setup)]
    for arguments, output in zip(inputs, outputs, strict=True):
        args, expected = _call(arguments, output)
        wrapped = isinstance(expected, list) and len(expected) == 1  # APPS puts some results into a list
        others = f" or __same__(__result__, {expected[0]!r})" if wrapped else ""
        source = f"__result__ = {target}(*{args!r})\nassert __same__(__result__, {expected!r}){others}"
        steps.append((True, source))
    return UnitTests(steps, prelude, entry_point=function, programs=[function, "Solution"])


def _call(arguments: Any, output: Any) -> tuple[list[Any], Any]:
    """Arguments and result; given as text, each line of the arguments and the result are JSON."""
    if isinstance(arguments, str):
        arguments = [json.loads(line) for line in arguments.splitlines() if line.strip()]
        output = json.loads(output) if isinstance(output, str) else output
    if not isinstance(arguments, list):
        raise TypeError(f"the arguments of a call are a {type(arguments).__name__}; expected a list")
    return arguments, output


def _text(case: Any) -> str:
    if isinstance(case, list):  # of lines
        return "\n".join(_text(line) for line in case)
    if not isinstance(case, str):
        raise TypeError(f"input or output is a {type(case).__name__}; expected a string, or a list of lines")
    return case


def _code(source: str, prelude: str, stub: str, entry_point: str) -> UnitTests:
    tree = ast.parse(source)
    ast.parse(prelude)
    if not any(isinstance(node, ast.Assert | ast.Raise) for node in ast.walk(tree)):
        raise ValueError("no assert and no raise, so that every program would pass")
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    body = list(tree.body)
    if "check" in functions and entry_point and not any(_called(node, functions) for node in body):
        body += ast.parse(f"check({entry_point})").body
    steps = [(_is_test(node), ast.unparse(node)) for statement in body for node in _inlined(statement, functions)]
    if not any(is_test for is_test, _ in steps):
        raise ValueError("no statement at the top level tests anything; call the functions that do")
    programs = [node.id for node in ast.walk(ast.parse(entry_point)) if isinstance(node, ast.Name)]
    return UnitTests(steps, prelude, stub, entry_point, programs)


def _parses(source: str) -> bool:
    try:
        ast.parse(source)
    except SyntaxError:
        return False
    return True


def _is_test(statement: ast.stmt) -> bool:
    """Definitions, assignments and `assert True` are none; calls may well assert something."""
    if isinstance(statement, ast.Assert) and isinstance(statement.test, ast.Constant):
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


def _first(tests: StdinTests | UnitTests, count: int | None) -> StdinTests | UnitTests:
    if count is None:
        return tests
    if isinstance(tests, StdinTests):
        return StdinTests(tests.inputs[:count], tests.outputs[:count])
    kept: list[tuple[bool, str]] = []
    for is_test, source in tests.steps:
        if is_test and sum(flag for flag, _ in kept) == count:
            break
        kept.append((is_test, source))
    return UnitTests(kept, tests.prelude, tests.stub, tests.entry_point, tests.programs)
