"""The tests of a task, in the layouts that data sets use.

    {"inputs": [text, …], "outputs": [text, …]}                   standard input and output (APPS, TACO, verl, GURU)
    {"inputs": [[argument, …], …], "outputs": […], "fn_name": f}  calls of a function, or of a method of Solution
    {"input_output": either of them, as text}                     LiveCodeBench
    [{"input": …, "output": …, "fn_name": f}, …]                  the same cases one by one (DeepCoder, PrimeIntellect)
    {"functional": code}                                          GURU; `extra_info["prefix"]` runs before the program
    {"pytest": code}                                              GURU; `from solution import f`, functions `test_…`
    ["assert f(1) == 2", …], or `test_list` with `test_setup_code`  MBPP
    code that defines check(candidate), and `entry_point`         HumanEval; the prompt is the stub of the program
    any other Python code with assertions, see `assertions`

They come from the `answer`, or where that is empty from the columns `test` or `test_list`; `entry_point`, `metadata`
(LiveCodeBench's `func_name`) and `extra_info` are columns. Arguments of a call in one string (LiveCodeBench) are lines
of JSON.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from typing import Any

from bots_lightning.rewards.code.assertions import unit_tests
from bots_lightning.rewards.code.inside.names import imported
from bots_lightning.rewards.code.task_tests import StdinTests, UnitTests
from bots_lightning.tasks.checks import TEST_COLUMNS

EXPECTED = (
    'expected JSON with "inputs" and "outputs", with "functional" or with "pytest", a list of cases or of assert '
    "statements, or Python code with assertions, in the answer or in a column `test` or `test_list`"
)
MALFORMED = (ValueError, TypeError, LookupError, AttributeError, SyntaxError, RecursionError)


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

    Returns:
        The first `max_tests` of them.

    Raises:
        ValueError: the tests are malformed.
    """
    try:
        return _parse(_specification(answer, columns), columns, prompt).first(max_tests)
    except MALFORMED as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"the tests of task {task_id!r} are malformed ({reason}); {EXPECTED}.") from error


def _specification(answer: str, columns: Mapping[str, Any]) -> Any:
    """Decoded JSON, a list of assert statements, or code."""
    if not answer or not answer.strip():
        given = [columns[name] for name in TEST_COLUMNS if columns.get(name)]
        if not given:
            raise ValueError("there are none")
        return given[0]
    return _decoded(answer)


def _decoded(value: Any) -> Any:
    """Decodes JSON text, also where it is wrapped twice; returns any other value unchanged."""
    while isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            break
    return value


def _mapping(value: Any) -> Mapping[str, Any]:
    """A column that holds a dict, as such or as JSON; an empty one for anything else."""
    decoded = _decoded(value)
    return decoded if isinstance(decoded, Mapping) else {}


def _parse(given: Any, columns: Mapping[str, Any], prompt: Any) -> StdinTests | UnitTests:
    prelude = _mapping(columns.get("extra_info")).get("prefix") or ""
    entry_point = columns.get("entry_point") or ""
    for wrapper in ("input_output", "test_cases"):
        if isinstance(given, dict) and given.get(wrapper):
            given = _decoded(given[wrapper])
    if isinstance(given, list) and all(isinstance(case, dict) for case in given):
        given = _columns_of(given, columns)
    if isinstance(given, dict):
        entry_point = given.get("fn_name") or given.get("entry_point") or entry_point
        if "inputs" in given and "outputs" in given:
            return _cases(given["inputs"], given["outputs"], given.get("fn_name") or "", prelude)
        codes = [given[key] for key in ("functional", "pytest") if key in given]
        if not codes:
            raise ValueError(f"a dict with the keys {sorted(given)}")
        given = codes[0]
    if isinstance(given, list):
        setup = [*(columns.get("test_imports") or []), columns.get("test_setup_code") or ""]
        prelude = "\n".join([prelude, *setup])
        given = "\n".join(given)
    if not isinstance(given, str):
        raise TypeError(f"a {type(given).__name__}")
    stub = prompt if _is_stub(prompt, entry_point) else ""
    return unit_tests(given, "\n".join(filter(None, [prelude, stub])), stub, entry_point)


def _columns_of(cases: list[dict[str, Any]], columns: Mapping[str, Any]) -> dict[str, Any]:
    """Cases that come one by one, as lists of inputs and of outputs."""
    if not all("input" in case and "output" in case for case in cases):
        raise ValueError('a case without "input" or without "output"')
    metadata = [_mapping(case.get("metadata")) for case in cases] + [_mapping(columns.get("metadata"))]
    names = {case.get("fn_name") for case in cases} | {data.get("func_name") for data in metadata}
    functions = sorted(filter(None, names))
    if len(functions) > 1:
        raise ValueError(f"cases of several functions, {functions}")
    inputs, outputs = ([case[key] for case in cases] for key in ("input", "output"))
    return {"inputs": inputs, "outputs": outputs, "fn_name": "".join(functions)}


def _cases(inputs: Any, outputs: Any, function: str, prelude: str) -> StdinTests | UnitTests:
    if not (isinstance(inputs, list) and isinstance(outputs, list) and len(inputs) == len(outputs) and inputs):
        raise ValueError("inputs and outputs are not two lists of the same length with at least one case")
    if not function:
        return StdinTests([_text(case) for case in inputs], [_text(case) for case in outputs])
    if not function.isidentifier():
        raise ValueError(f"fn_name {function!r} is not a name")
    cases = [_call(arguments, output) for arguments, output in zip(inputs, outputs, strict=True)]
    setup = f"try:\n    __method__ = Solution.{function}\nexcept (NameError, AttributeError):\n    __method__ = None"
    called = f"(Solution().{function} if __method__ else {function})"  # each case has a Solution of its own
    sources = [
        f"__result__ = {called}(*__cases__[{i}][0])\nassert __same__(__result__, __cases__[{i}][1])"
        for i in range(len(cases))
    ]
    steps = [(False, setup), *((True, source) for source in sources)]
    programs = [function, "Solution"]
    modules = frozenset(imported(ast.parse(prelude)))
    return UnitTests(steps, prelude, "", function, programs, {}, frozenset(programs), cases, modules)


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
    case.encode()  # half of a surrogate pair is no text
    return case


def _is_stub(prompt: Any, entry_point: str) -> bool:
    """Whether a prompt is Python code, as HumanEval's are."""
    if not entry_point or not isinstance(prompt, str):
        return False
    try:
        return bool(ast.parse(prompt).body)
    except SyntaxError:
        return False
