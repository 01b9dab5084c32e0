"""Test code taken apart: what is called, what counts as a test, and whose the names are."""

from __future__ import annotations

import pytest

from bots_lightning.rewards.code.assertions import unit_tests


def sources(code: str) -> list[tuple[bool, str]]:
    return unit_tests(code).steps


def test_functions_of_pytest_are_called_and_the_program_is_what_they_import() -> None:
    code = "from solution import add as plus\nimport solution\nimport random\nrandom.seed(1)\n"
    code += "def test_a():\n    assert plus(3, 4) == 7\ndef test_b():\n    assert solution.sub(1, 1) == 0\n"
    tests = unit_tests(code)
    assert [source for is_test, source in tests.steps if is_test] == [
        "assert plus(3, 4) == 7",
        "assert __solution_sub__(1, 1) == 0",
    ]
    assert tests.aliases == {"plus": "add", "__solution_sub__": "sub"}
    assert tests.wanted == {"add", "sub"}


def test_functions_that_something_calls_are_not_called_again() -> None:
    assert sources("def test_a():\n    assert f(1) == 1\ntest_a()")[1:] == [(True, "assert f(1) == 1")]
    whole = "import unittest\nclass T(unittest.TestCase):\n    def test_a(self):\n        self.assertEqual(f(1), 1)\n"
    runner = "unittest.TextTestRunner().run(unittest.TestLoader().loadTestsFromTestCase(T))"
    assert [source for is_test, source in sources(f"{whole}assert {runner}.wasSuccessful()") if is_test] == [
        f"assert {runner}.wasSuccessful()"
    ]


def test_methods_of_test_classes_are_called_one_by_one() -> None:
    code = "import unittest\nclass A(unittest.TestCase):\n    def test_x(self):\n        self.assertEqual(f(1), 1)\n"
    code += (
        "class TestB:\n    def test_y(self):\n        assert f(2) == 2\nif __name__ == '__main__':\n    unittest.main()"
    )
    assert sources(code)[-3:] == [(False, "A.setUpClass()"), (True, "A('test_x').debug()"), (True, "TestB().test_y()")]


def test_what_stands_under_the_guard_of_the_main_module_is_run() -> None:
    assert sources("if __name__ == '__main__':\n    assert f(1) == 1") == [(True, "assert f(1) == 1")]


def test_calls_that_cannot_test_the_program_are_no_tests() -> None:
    steps = sources("import random\nrandom.seed(1)\nprint(f(1))\nfloat('inf')\nassert f(1) == 1\ns = f(2)\ns.push(1)")
    assert [source for is_test, source in steps if is_test] == ["assert f(1) == 1", "s.push(1)"]


def test_modules_are_those_that_the_code_needs() -> None:
    code = "import numpy as np\nimport pandas\ntry:\n    import scipy\nexcept ImportError:\n    scipy = None\n"
    code += "assert np.allclose(f(1), 1) and scipy"
    assert unit_tests(code, prelude="from sympy.core import S").modules == {"numpy", "sympy"}  # pandas is not used


@pytest.mark.parametrize(
    ("code", "programs"),
    [
        ("assert sum(5, 3) == 2", ["sum"]),
        ("assert abs(sum(5, 3) - 2) < 1e-6\nassert sum(1, 1) == 0", ["sum"]),
        ("assert set(filter([0, 3])) == {3}\nassert list(filter([0])) == []", ["filter"]),
        ("assert math.isclose(sum(5, 3), 2)", ["sum"]),
        ("assert sorted(list((1, 2))) == [1, 2]", ["sorted"]),
        ("assert list(3) == [3]", ["list"]),
        ("assert abs(int(5) - 4) < 1", ["int"]),
        ("assert abs(5, 3) == 2", ["abs"]),
        ("c = Counter()\nc.add('a')\nassert len(c.items) == 1", ["Counter"]),
        ("assert abs(f(5, 3) - 2) < 1e-6", []),
        ("assert sum(f(5)) == 2", []),
        ("assert sum(Node(5).values) == 2", []),
        ("assert Counter(f(5)) == Counter([1])", []),
    ],
)
def test_a_built_in_name_is_the_programs_only_where_nothing_else_is(code: str, programs: list[str]) -> None:
    assert unit_tests(code).programs == programs


def test_an_entry_point_with_a_built_in_name_leaves_that_name_to_the_test_code() -> None:
    tests = unit_tests("def check(candidate):\n    assert abs(candidate(5, 3) - 2) < 1", entry_point="abs")
    assert (tests.programs, tests.aliases, tests.wanted) == ([], {"__candidate_abs__": "abs"}, {"abs"})
    assert tests.steps[1:] == [
        (False, "candidate = __candidate_abs__"),
        (True, "assert abs(candidate(5, 3) - 2) < 1"),
    ]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("assert 1 + 1 == 2 and true", "name nothing that a program could define"),
        ("def test_a(tmp_path):\n    assert f(tmp_path)", "test_a takes arguments"),
        ("print(f(1))", "every program would pass"),
        ("def help_f():\n    assert f(1)\nprint(1)", "call the functions that do"),
    ],
)
def test_code_that_tests_nothing_says_why(code: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        unit_tests(code)
