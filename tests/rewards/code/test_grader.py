"""The grader compares; the program only answers. Objects that lie about themselves gain nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest

LIAR = """
class Liar:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __lt__(self, other): return True
    def __gt__(self, other): return True
    __le__ = __ge__ = __lt__
    def __contains__(self, item): return True
    def __sub__(self, other): return 0
    def __rsub__(self, other): return 0
    def __add__(self, other): return 0
    def __mod__(self, other): return 0
    def __hash__(self): return hash(41)
    def __bool__(self): return True
    def __getattr__(self, name): return lambda *a, **k: True
    def __iter__(self): return iter([self])
    def __len__(self): return 1
    @property
    def __class__(self): return int
def f(x): return Liar()
"""


@pytest.mark.parametrize(
    "assertion",
    [
        "f(1) == 41",
        "41 == f(1)",
        "not f(1) != 41",
        "f(1) in [41]",
        "[f(1)] == [41]",
        "f(1) in {41}",
        "{f(1): 2} == {41: 2}",
        "f(1) > 40",
        "40 < f(1) < 42",
        "abs(f(1) - 41) < 1e-6",
        "abs(41 - f(1)) < 1e-6",
        "f(1) % 2 == 0",
        "41 in f(1)",
        "type(f(1)) is int",
        "isinstance(f(1), int)",
        "math.isclose(f(1), 41)",
        "sorted(f(1)) == [41]",
        "all(x == 41 for x in f(1))",
    ],
)
@pytest.mark.parametrize("make_reward", ["unisolated"], indirect=True)
def test_an_object_that_agrees_with_everything_passes_nothing(make_reward: Any, assertion: str) -> None:
    tests = json.dumps([f"assert {assertion}", "assert f(2) == 42"])
    for partial_credit in (False, True):
        assert make_reward(partial_credit=partial_credit)(["?"], [LIAR], [tests]) == [0]


OWN_ARITHMETIC = """
import sys
seen = [45]
sys.modules["inside.serve"]._as = lambda base, value: seen[-1]  # what it claims to be as plain data
class Liar(BASE):
    def __sub__(self, other):
        seen.append(other)
        return RESULT
    __rsub__ = __add__ = __radd__ = __mod__ = __mul__ = __sub__
    def __abs__(self): return 0
    __round__ = __float__ = __int__ = __index__ = __len__ = __neg__ = lambda self, *a: 0
    def __bool__(self): return False
liar = Liar()
def f(x): return liar
"""


@pytest.mark.parametrize(
    "assertion",
    [
        "abs(f(1) - 41) < 1e-6",
        "abs(41 - f(1)) < 1e-6",
        "round(f(1) - 41, 3) == 0",
        "-(f(1) - 41) == 0",
        "not f(1) - 41",
        "float(f(1) - 41) == 0",
        "int(f(1) - 41) == 0",
        "math.fabs(f(1) - 41) < 1e-6",
        "[0, 1][f(1) - 41] == 0",
        "len(f(1) - {1, 2}) == 0",
        "f(1) - 41 == 0",
        "f(1) - 41 < 1e-6",
        "abs((f(1) - 41) - f(2)) < 1e-6",
    ],
)
@pytest.mark.parametrize("result", ["self", "0", "Liar()"])
@pytest.mark.parametrize("base", ["object", "float"])
@pytest.mark.parametrize("make_reward", ["unisolated"], indirect=True)
def test_an_object_that_forges_arithmetic_passes_nothing(grade: Any, assertion: str, base: str, result: str) -> None:
    program = OWN_ARITHMETIC.replace("BASE", base).replace("RESULT", result)
    assert grade(program, f"assert f(0) is not None\nassert {assertion}") == 0


def test_numbers_with_a_class_of_their_own_take_part_in_arithmetic(grade: Any) -> None:
    program = "from enum import IntEnum\nclass Colour(IntEnum):\n    RED = 1\ndef f(): return Colour.RED\n"
    tests = "assert abs(f() - 1) < 1e-6 and 2 - f() == 1 and f() < 2 and 0 <= f() <= 1 and f() % 2 == 1"
    assert grade(program, tests) == 1
    assert grade(program.replace("= 1", "= 3"), tests) == 0


LIARS = {
    "subclass of int": "class X(int):\n    __eq__ = lambda s, o: True\n    __hash__ = int.__hash__\nf = lambda x: X(3)",
    "subclass of list": "class X(list):\n    __eq__ = lambda s, o: True\nf = lambda x: X([3])",
    "metaclass": "class M(type):\n    __eq__ = lambda s, o: True\n    __hash__ = type.__hash__\n"
    "class X(metaclass=M): pass\nf = lambda x: X",
    "exception": "def f(x): raise StopIteration",
    "exit": "import os\ndef f(x): os._exit(0)",
    "system exit": "def f(x): raise SystemExit(0)",
    "own assertion error": "class AssertionError(Exception): pass\ndef f(x): raise AssertionError",
    "iterator of everything else": "f = lambda x: iter([])",
    "builtins of the grader": "all = any = isinstance = abs = len = sorted = lambda *a, **k: True\nf = lambda x: None",
    "module of the grader": "class math:\n    isclose = lambda *a: True\n"
    "class json:\n    dumps = lambda *a: ''\nf = lambda x: 0",
    "answer by an earlier call": """
seen = []
def f(x):
    import gc, sys
    for thing in gc.get_objects():
        if type(thing) is list and 41 in thing:
            return 41 if len(thing) == 1 else None
    frame = sys._getframe()
    while frame:
        for value in frame.f_locals.values():
            if type(value) in (str, bytes, bytearray) and repr(41) in str(value):
                return 41
        frame = frame.f_back
""",
}


@pytest.mark.parametrize("name", LIARS)
def test_a_program_that_forges_passes_nothing(grade: Any, name: str) -> None:
    tests = (
        "import functools\n"
        "def check(candidate):\n"
        "    assert all(map(lambda y: candidate(y) == 41, [1, 2]))\n"
        "    assert list(map(candidate, [1])) == [41]\n"
        "    assert math.isclose(candidate(2), 41) and abs(candidate(1) - 41) < 1\n"
        "check(f)\n"
    )
    assert grade("f = lambda x: 40 + 1", tests) == 1
    assert grade(LIARS[name], tests) == 0


def test_an_error_that_a_test_expects_is_not_the_death_of_the_program(grade: Any) -> None:
    tests = "try:\n    f(1)\n    assert False\nexcept Exception:\n    pass\nelse:\n    assert False\n"
    bare = tests.replace("except Exception", "except BaseException")
    assert grade("def f(x): raise KeyError", tests) == 1
    assert grade("import os\ndef f(x): os._exit(0)", tests) == 0
    assert grade("import os\ndef f(x): os._exit(0)", bare) == 0
    assert grade("import os\nos._exit(0)", bare) == 0
    assert grade("raise ValueError", bare) == 0


HELPER = "def is_right(x):\n    return x == 41\n\ndef double(x):\n    '''2 x'''\n"


def test_helpers_of_the_stub_are_the_tests_own_even_if_the_program_redefines_them(grade: Any) -> None:
    tests = "def check(candidate):\n    assert is_right(candidate(20.5))\n"
    columns = {"prompt": HELPER, "entry_point": "double"}
    assert grade("def double(x): return 2 * x", tests, **columns) == 1
    forged = "def is_right(x): return True\ndef double(x): return 7"
    assert grade(forged, tests, **columns) == 0


def test_records_of_the_prefix_carry_data_and_no_methods(grade: Any) -> None:
    prefix = "class Pair:\n    def __init__(self, a): self.a = a\n    def same(self, other): return self.a == other.a\n"
    tests = {"functional": "p = make(3)\nassert p.same(Pair(3))\nassert type(p) is Pair"}
    columns = {"extra_info": {"prefix": prefix}}
    assert grade("def make(x): return Pair(x)", tests, **columns) == 1
    assert grade("def make(x): return Pair(4)", tests, **columns) == 0
    assert grade("def make(x):\n    p = Pair(4)\n    p.same = lambda other: True\n    return p", tests, **columns) == 0
    assert grade("class Pair:\n    same = lambda *a: True\ndef make(x): return Pair()", tests, **columns) == 0


def test_objects_of_the_program_work_as_objects(grade: Any) -> None:
    program = """
from collections import namedtuple
from enum import IntEnum
from fractions import Fraction
Point = namedtuple("Point", "x y")
class Colour(IntEnum):
    RED = 1
class Vector:
    def __init__(self, *xs): self.xs = xs
    def __add__(self, other): return Vector(*(a + b for a, b in zip(self.xs, other.xs)))
    def __mul__(self, k): return Vector(*(k * x for x in self.xs))
    __rmul__ = __mul__
    def __eq__(self, other): return isinstance(other, Vector) and self.xs == other.xs
    def __getitem__(self, i): return self.xs[i]
    def __setitem__(self, i, x): self.xs = self.xs[:i] + (x,) + self.xs[i + 1:]
    def __repr__(self): return f"Vector{self.xs}"
    def __len__(self): return len(self.xs)
    def __abs__(self): return sum(x * x for x in self.xs) ** 0.5
    def __lt__(self, other): return abs(self) < abs(other)
    def __hash__(self): return hash(self.xs)
def identity(x): return x
def cycle():
    ring = [1]
    ring.append(ring)
    return ring
"""
    tests = """
v = Vector(1, 2)
assert v + Vector(1, 1) == Vector(2, 3)
assert v != Vector(0, 0) and not v == (1, 2)
assert 2 * v == v * 2 == Vector(2, 4)
assert repr(v) == str(v) == f"{v}" == "Vector(1, 2)"
assert v[1] == 2 and len(v) == 2 and list(v) == [1, 2] and 2 in v and 3 not in v
v[0] = 5
assert v.xs == (5, 2)
v.xs = (3, 4)
assert abs(v) == 5.0 and Vector(1, 1) < v and max([v, Vector(0, 0)]) == v
assert {v: 1}[Vector(3, 4)] == 1
assert identity(v) is v
try:
    v[7]
    assert False
except IndexError:
    pass
assert Point(1, 2) == (1, 2) and Point(1, y=2).y == 2
assert Colour.RED == 1 and identity(Fraction(1, 3)) * 3 == 1
assert identity(10 ** 5000) == 10 ** 5000
ring = cycle()
assert ring[1] is ring
a = [1]
pair = identity((a, a))
assert pair[0] is a and pair[1] is a
"""
    tests = "from fractions import Fraction\n" + tests
    assert grade(program, tests) == 1
    assert grade(program.replace("a + b", "a - b"), tests) == 0


EQUAL = """
class E:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return hash(41)
    def __getattr__(self, name): return E()
    def __call__(self, *args, **kwargs): return E()
    def __bool__(self): return True
    def __iter__(self): return iter([])
"""
EVERY_BUILTIN = (
    EQUAL
    + """
for name in ("abs all any bool dict float int isinstance len list map max min range repr round set sorted str sum "
             "tuple type zip true false null inf nan Infinity NaN math unittest Counter Decimal Fraction").split():
    globals()[name] = lambda *args, **kwargs: True
"""
)
CONSTANTS = EQUAL + "true = false = null = inf = nan = Infinity = NaN = E()\n"


def one_by_one(make_reward: Any, program: str, tests: list[str], **columns: str) -> list[float | None]:
    """The share of the tests that pass together, and whether each passes alone; all should be 0."""
    lists = {name: [value] for name, value in columns.items()}
    shares = make_reward(partial_credit=True)(["?"], [program], [json.dumps(tests)], **lists)
    reward = make_reward()
    return [*shares, *(reward(["?"], [program], [json.dumps([test])], **lists)[0] for test in tests)]


IN_CONTAINERS = [
    "f(1) == 41",
    "f(1) in [41]",
    "[f(1)] == [41]",
    "[[f(1)]] == [[41]]",
    "(f(1), 1) == (41, 1)",
    "{f(1)} == {41}",
    "f(1) in {41}",
    "{f(1): 1} == {41: 1}",
    "{1: f(1)} == {1: 41}",
    "(1, [f(1)]) in [(1, [41])]",
    "[41].count(f(1)) == 1",
    "[41].index(f(1)) == 0",
    "f(1) is 41",
    "f'{f(1) - 41:.2f}' == '0.00'",
    "41 == f(1) == 41",
]


@pytest.mark.parametrize("make_reward", ["unisolated"], indirect=True)
@pytest.mark.parametrize("value", ["E()", "[E()]", "(E(), 1)", "{E(): E()}", "{E()}", "E"])
def test_what_equals_everything_passes_nothing_however_it_is_wrapped(make_reward: Any, value: str) -> None:
    program = f"{EQUAL}def f(x): return {value}"
    reward = make_reward(partial_credit=True)
    assert reward(["?"], [program], [json.dumps([f"assert {test}" for test in IN_CONTAINERS])]) == [0]
    calls = {"fn_name": "f", "inputs": [[1]] * 5, "outputs": [41, [41], [41, 1], {"41": 41}, None]}
    assert reward(["?"], [program], [json.dumps(calls)]) == [0]
    assert make_reward()(["?"], [program], [json.dumps(calls)]) == [0]


@pytest.mark.parametrize("make_reward", ["unisolated"], indirect=True)
def test_names_that_a_program_does_not_define_by_right_are_the_graders(make_reward: Any) -> None:
    constants = ["null", "true", "false", "Infinity", "NaN", "inf", "nan"]
    tests = [f"assert f(1) == {name}" for name in constants] + ["assert [null] == [f(1)]", "assert f(1) is null"]
    assert set(one_by_one(make_reward, CONSTANTS + "def f(x): return E()", tests)) == {0}
    tests = [
        "assert abs(f(1) - 41) < 1e-6",
        "assert round(f(1)) == 41",
        "assert all(f(x) == 41 for x in range(3))",
        "assert isinstance(f(1), str)",
        "assert math.isclose(f(1), 41)",
        "assert Counter([f(1)]) == Counter([41])",
        "assert Decimal(f(1)) == Decimal(41)",
    ]
    assert set(one_by_one(make_reward, EVERY_BUILTIN + "def f(x): return 7", tests)) == {0}
    honest = EVERY_BUILTIN + "def f(x): return 41"
    assert one_by_one(make_reward, honest, tests) == [6 / 7, 1, 1, 1, 0, 1, 1, 1]


@pytest.mark.parametrize("make_reward", ["unisolated"], indirect=True)
def test_a_function_under_test_may_have_the_name_of_a_built_in_one(make_reward: Any) -> None:
    tests = ["assert abs(sum(5, 3) - 2) < 1e-6", "assert len([sum(1, 1)]) == 1 and sum(1, 1) == 0"]
    assert one_by_one(make_reward, "def sum(a, b): return a - b", tests) == [1, 1, 1]
    assert one_by_one(make_reward, EVERY_BUILTIN + "def sum(a, b): return 9", tests) == [0, 0, 0]
    check = "def check(candidate):\n    assert abs(candidate(5, 3) - 2) < 1e-6"
    reward = make_reward()
    for result, score in (("a - b", 1), ("9", 0)):
        program = f"{EVERY_BUILTIN}def abs(a, b): return {result}"
        assert reward(["?"], [program], [check], entry_point=["abs"]) == [score]


UNITTEST = """
import unittest
class T(unittest.TestCase):
    def test_equal(self): self.assertEqual(f(1), 41)
    def test_almost(self): self.assertAlmostEqual(f(1), 41)
    def test_in(self): self.assertIn(f(1), [41])
    def test_list(self): self.assertListEqual(f(1), [41])
    def test_count(self): self.assertCountEqual(f(1), [41])
    def test_instance(self): self.assertIsInstance(f(1), int)
    def test_none(self): self.assertIsNone(f(1))
    def test_less(self): self.assertLess(f(1), 42)
    def test_raises(self):
        with self.assertRaises(ValueError): f(1)
if __name__ == "__main__":
    unittest.main()
"""


@pytest.mark.parametrize("make_reward", ["unisolated"], indirect=True)
def test_methods_of_unittest_are_not_fooled(make_reward: Any) -> None:
    reward = make_reward(partial_credit=True)
    forged = [f"{EVERY_BUILTIN}def f(x): return E()", f"{EVERY_BUILTIN}def f(x):\n    raise AssertionError"]
    skipping = "import unittest\ndef f(x): raise unittest.SkipTest('x')"
    assert reward(["?"] * 3, [*forged, skipping], [UNITTEST] * 3) == [0, 0, 0]
    assert reward(["?"], ["def f(x): return 41"], [UNITTEST]) == [5 / 9]
    own = "class Bad(Exception): pass\ndef f(x): raise Bad"
    expected = "import unittest\nclass T(unittest.TestCase):\n    def test_f(self): self.assertRaises(Bad, f, 1)"
    assert reward(["?"] * 2, [own, own.replace("raise Bad", "raise KeyError")], [expected] * 2) == [1, 0]
