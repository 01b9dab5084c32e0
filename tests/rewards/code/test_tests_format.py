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


@pytest.mark.parametrize(
    "answer",
    [
        {"inputs": ["1\n", "2\n"], "outputs": ["1", "2"], "fn_name": ""},
        {"inputs": ["1\n", "2\n"], "outputs": ["1", "2"], "fn_name": None},
        {"input_output": json.dumps({"inputs": ["1\n", "2\n"], "outputs": ["1", "2"], "fn_name": None})},
        {"input_output": {"inputs": ["1\n", "2\n"], "outputs": ["1", "2"]}},
        [{"input": "1\n", "output": "1", "type": "stdin_stdout"}, {"input": "2\n", "output": "2"}],
        {"language": "python", "test_cases": [{"input": "1\n", "output": "1"}, {"input": "2\n", "output": "2"}]},
        json.dumps([{"input": "1\n", "output": "1", "metadata": {"func_name": None}}, {"input": "2\n", "output": "2"}]),
    ],
)
def test_layouts_of_standard_input(answer: Any) -> None:
    assert parse_tests("t", json.dumps(answer), {}) == StdinTests(["1\n", "2\n"], ["1", "2"])


@pytest.mark.parametrize(
    ("answer", "columns"),
    [
        ({"inputs": [[1, [2]]], "outputs": [{"a": 3}], "fn_name": "f"}, {}),
        ({"inputs": ["1\n[2]"], "outputs": ['{"a": 3}'], "fn_name": "f"}, {}),
        ({"input_output": json.dumps({"inputs": ["1\n[2]"], "outputs": ['{"a": 3}'], "fn_name": "f"})}, {}),
        ([{"input": "1\n[2]", "output": '{"a": 3}', "testtype": "functional", "metadata": {"func_name": "f"}}], {}),
        ([{"input": "1\n[2]", "output": '{"a": 3}', "testtype": "functional"}], {"metadata": '{"func_name": "f"}'}),
        ({"test_cases": [{"type": "function_call", "fn_name": "f", "input": [1, [2]], "output": {"a": 3}}]}, {}),
    ],
)
def test_layouts_of_calls(answer: Any, columns: dict[str, Any]) -> None:
    tests = parse_tests("t", json.dumps(answer), columns)
    assert isinstance(tests, UnitTests)
    assert (tests.cases, tests.programs) == ([([1, [2]], {"a": 3})], ["f", "Solution"])
    assert [is_test for is_test, _ in tests.steps] == [False, True]


def test_code_under_the_key_of_pytest() -> None:
    code = "from solution import f\ndef test_f():\n    assert f(1) == 1"
    assert steps(json.dumps({"pytest": code}))[-1] == (True, "assert f(1) == 1")


def test_a_prefix_that_is_absent_or_elsewhere_does_no_harm() -> None:
    for extra in (None, {}, {"prefix": None}, "split: train", '{"prefix": "import os"}', ["a"]):
        tests = parse_tests("t", "assert f(1) == 1", {"extra_info": extra})
        assert isinstance(tests, UnitTests)
        assert tests.prelude == ("import os" if "import" in str(extra) else "")


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
        ('[{"input": "1"}]', {}, 'without "output"'),
        (
            '[{"input": [], "output": 1, "fn_name": "f"}, {"input": [], "output": 1, "fn_name": "g"}]',
            {},
            "['f', 'g']",
        ),
        ('{"tests": []}', {}, "a dict with the keys ['tests']"),
        ('{"input_output": "{"}', {}, "SyntaxError"),
        ("[]", {}, "at least one case"),
        ('{"inputs": ["1"], "outputs": ["\\ud800"]}', {}, "UnicodeEncodeError"),
    ],
)
def test_what_is_malformed_says_why(answer: str, columns: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=r"the tests of task 't' are malformed.*expected JSON") as caught:
        parse_tests("t", answer, columns)
    assert reason in str(caught.value)
