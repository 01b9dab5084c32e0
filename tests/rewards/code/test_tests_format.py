"""The layouts of tests, and what is malformed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bots_lightning.rewards.code.tests_format import StdinTests, UnitTests, parse_tests


def steps(answer: str, **columns: Any) -> list[tuple[bool, str]]:
    tests = parse_tests("t", answer, columns, columns.pop("prompt", ""))
    assert isinstance(tests, UnitTests)
    return tests.steps


def test_cases_of_standard_input() -> None:
    answer = json.dumps({"inputs": ["1\n", ["2", "3"]], "outputs": ["1", ["5"]]})
    assert parse_tests("t", answer, {}) == StdinTests(["1\n", "2\n3"], ["1", "5"])
    assert parse_tests("t", answer, {}, max_tests=1) == StdinTests(["1\n"], ["1"])


def test_a_check_function_is_split_into_its_assertions() -> None:
    body = "    x = f(1)\n    assert x == 1\n    for i in range(limit):\n        assert f(i) == i"
    code = f"limit = 3\ndef check(f):\n{body}\n"
    expected = [
        (False, "limit = 3"),
        (False, f"def check(f):\n{body}"),
        (False, "f = Solution().same"),
        (False, "x = f(1)"),
        (True, "assert x == 1"),
        (True, "for i in range(limit):\n    assert f(i) == i"),
    ]
    assert steps("", test=code, entry_point="Solution().same") == expected
    assert steps(json.dumps({"functional": code + "check(Solution().same)"})) == expected
    tests = parse_tests("t", code, {"entry_point": "Solution().same"}, max_tests=1)
    assert isinstance(tests, UnitTests)
    assert tests.steps == expected[:5]
    assert tests.programs == ["Solution"]


def test_a_check_function_that_returns_stays_whole() -> None:
    code = "def check(f):\n    if f is None:\n        return\n    assert f(1) == 1\ncheck(same)"
    assert [flag for flag, _ in steps(code)] == [False, True]


def test_lists_of_assertions_and_their_setup() -> None:
    columns = {"test_setup_code": "import math", "test_imports": ["import os"]}
    tests = parse_tests("t", "", {"test_list": ["assert f(1) == 1", "assert f(2) == 2"], **columns})
    assert isinstance(tests, UnitTests)
    assert tests.steps == [(True, "assert f(1) == 1"), (True, "assert f(2) == 2")]
    assert "import os" in tests.prelude
    assert "import math" in tests.prelude
    assert steps(json.dumps(["assert f(1) == 1", "assert f(2) == 2"])) == tests.steps


def test_only_a_prompt_that_is_python_is_a_stub() -> None:
    columns = {"test": "def check(f):\n    assert f(1) == 1", "entry_point": "f"}
    for prompt, stub in (("def f(x):\n    '''x'''\n", True), ("Write f.", False), ([{"content": "x = 1"}], False)):
        tests = parse_tests("t", "", columns, prompt)
        assert isinstance(tests, UnitTests)
        assert (tests.stub, tests.prelude) == ((prompt, prompt) if stub else ("", ""))


@pytest.mark.parametrize(
    ("answer", "columns", "reason"),
    [
        ("", {}, "there are none"),
        ("", {"test": None}, "there are none"),
        ("{}", {}, "functional"),
        ('{"inputs": ["1"], "outputs": []}', {}, "same length"),
        ('{"inputs": [], "outputs": []}', {}, "at least one case"),
        ('{"inputs": "1", "outputs": "1"}', {}, "two lists"),
        ('{"inputs": [1], "outputs": ["1"]}', {}, "input or output is a int"),
        ('{"inputs": [1], "outputs": ["1"], "fn_name": "f"}', {}, "arguments of a call are a int"),
        ('{"inputs": ["{"], "outputs": ["1"], "fn_name": "f"}', {}, "JSONDecodeError"),
        ('{"inputs": [[1]], "outputs": [1], "fn_name": "f("}', {}, "fn_name 'f(' is not a name"),
        ("42", {}, "a int"),
        ("assert f(", {}, "SyntaxError"),
        ("print(f(1))", {}, "every program would pass"),
        ("def help_f():\n    assert f(1)", {}, "call the functions"),
        ("[1]", {}, "TypeError"),
        ("assert f()", {"extra_info": {"prefix": "("}}, "SyntaxError"),
        ("assert True", {}, "call the functions"),
    ],
)
def test_what_is_malformed_says_why(answer: str, columns: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=r"the tests of task 't' are malformed.*expected JSON") as caught:
        parse_tests("t", answer, columns)
    assert reason in str(caught.value)
