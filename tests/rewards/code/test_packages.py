"""Packages in the sandbox: numpy works on both sides, and does not make forged results pass."""

from __future__ import annotations

from typing import Any

import pytest

from bots_lightning.rewards.code import CodeReward, SandboxError

# As in HumanEval+.
CHECK = """
import numpy as np

def is_floats(x) -> bool:
    if isinstance(x, float):
        return True
    if isinstance(x, (list, tuple)):
        return all(isinstance(i, float) for i in x)
    if isinstance(x, np.ndarray):
        return x.dtype == np.float64 or x.dtype == np.float32
    return False

def assertion(out, exp, atol):
    exact_match = out == exp
    if atol == 0 and is_floats(exp):
        atol = 1e-6
    if not exact_match and atol != 0:
        assert np.allclose(out, exp, rtol=1e-07, atol=atol)
    else:
        assert exact_match

def check(candidate):
    inputs = [[1.0], [0.1]]
    results = [3.0, 0.3]
    for i, (inp, exp) in enumerate(zip(inputs, results)):
        assertion(candidate(*inp), exp, 0)
"""

ARRAYS = """
import numpy as np
a = np.array([1.0, 2.0])
assert np.allclose(triple(a), [3.0, 6.0]) and triple(a).shape == (2,) and isinstance(triple(a), np.ndarray)
assert triple(np.int64(3)) == 9 and triple(2) == 6
assert (triple(np.arange(6).reshape(2, 3)) == 3 * np.arange(6).reshape(2, 3)).all()
assert triple(np.array([True, False])).dtype == int and triple(np.array([1j]))[0] == 3j
assert triple(a[::-1]).tolist() == [6.0, 3.0]
clear(a)
assert a.tolist() == [0.0, 0.0]
"""


@pytest.fixture
def grade(make_reward: Any) -> Any:
    reward = make_reward(memory_mb=1024, packages=["numpy"])

    def score(program: str, tests: str, **columns: str) -> Any:
        lists = {name: [value] for name, value in columns.items()}
        return reward(["?"], [f"```python\n{program}\n```"], [tests], **lists)[0]

    return score


def test_tests_that_import_numpy_score_programs(grade: Any) -> None:
    assert grade("def f(x): return x + x + x", CHECK, entry_point="f") == 1
    assert grade("import numpy as np\ndef f(x): return np.float64(3 * x)", CHECK, entry_point="f") == 1
    assert grade("def f(x): return 3 * x + 1e-3", CHECK, entry_point="f") == 0


def test_arrays_travel_both_ways(grade: Any) -> None:
    program = "def triple(x): return 3 * x\ndef clear(x): x[:] = 0"
    assert grade(program, ARRAYS) == 1
    assert grade(program.replace("3 * x", "x * 2"), ARRAYS) == 0
    assert grade(program.replace("x[:] = 0", "x = 0"), ARRAYS) == 0


def test_calls_compare_arrays_as_lists(grade: Any) -> None:
    tests = '{"fn_name": "f", "inputs": [[[1, 2]]], "outputs": [[2.0, 4.0]]}'
    assert grade("import numpy as np\ndef f(x): return 2 * np.array(x)", tests) == 1
    assert grade("import numpy as np\ndef f(x): return 3 * np.array(x)", tests) == 0


LIAR = """
import numpy as np
class Liar(BASE):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    __lt__ = __le__ = __gt__ = __ge__ = __eq__
    def __hash__(self): return hash(41)
    def __sub__(self, other): return RESULT
    __rsub__ = __add__ = __radd__ = __mul__ = __rmul__ = __truediv__ = __sub__
    def __abs__(self): return 0
    def __bool__(self): return True
    def __array__(self, *args, **kwargs): return np.array(41)
    def __array_wrap__(self, *args, **kwargs): return 0
    def __array_ufunc__(self, *args, **kwargs): return True
    def __array_function__(self, *args, **kwargs): return True
    __array_interface__ = {"shape": (1,), "typestr": "<f8", "data": (4096, True), "version": 3}
    __array_priority__ = 1e9
    def __len__(self): return 1
    def __iter__(self): return iter([self])
    def __getitem__(self, index): return self
    def __getattr__(self, name): return lambda *args, **kwargs: 0
np.allclose = np.array_equal = np.isclose = lambda *args, **kwargs: True
np.testing.assert_equal = np.testing.assert_allclose = lambda *args, **kwargs: None
def f(x): return VALUE
"""

ASSERTIONS = [
    "np.allclose(f(1), 41)",
    "np.allclose(41, f(1))",
    "np.isclose(f(1), 41).all()",
    "np.array_equal(f(1), np.array([41]))",
    "np.testing.assert_equal(f(1), 41) is None",
    "np.testing.assert_equal([f(1)], [41]) is None",
    "np.testing.assert_equal({'a': f(1)}, {'a': 41}) is None",
    "np.testing.assert_equal(f(1), np.array([41])) is None",
    "np.testing.assert_allclose(f(1), 41) is None",
    "np.testing.assert_allclose(41, f(1)) is None",
    "np.testing.assert_array_equal(np.array([41]), f(1)) is None",
    "np.testing.assert_almost_equal(f(1), 41) is None",
    "np.testing.assert_array_almost_equal(f(1), [41]) is None",
    "np.testing.assert_array_less(np.abs(f(1) - np.array([41])), 1e-6) is None",
    "(f(1) == np.array([41])).all()",
    "(np.array([41]) == f(1)).all()",
    "np.all(np.array([41]) == f(1))",
    "np.abs(f(1) - 41) < 1e-6",
    "np.max(np.abs(f(1) - np.array([41]))) < 1e-6",
    "np.max(np.abs(np.array([41]) - f(1))) < 1e-6",
    "np.linalg.norm(f(1) - np.array([41.0])) < 1e-6",
    "np.sum(f(1) - np.array([41])) == 0",
    "np.round(f(1) - 41, 3) == 0",
    "np.sum(f(1) - 41) == 0",
    "np.float64(41) == f(1)",
    "abs(np.float64(41) - f(1)) < 1e-6",
    "f(1) in np.array([41])",
    "np.isin(f(1), [41]).all()",
    "np.equal(f(1), 41)",
    "np.array([f(1)]).tolist() == [41]",
    "(np.array([f(1)]) == np.array([41])).all()",
]


@pytest.mark.parametrize(
    ("base", "value"),
    [
        ("object", "Liar()"),
        ("object", "np.array([Liar()], dtype=object)"),
        ("np.float64", "Liar()"),
        ("np.ndarray", "np.zeros(1).view(Liar)"),
        ("list", "Liar()"),
    ],
)
@pytest.mark.parametrize("make_reward", ["unisolated"], indirect=True)
def test_no_forged_result_passes_an_assertion_of_numpy(make_reward: Any, base: str, value: str) -> None:
    reward = make_reward(memory_mb=1024, packages=["numpy"], partial_credit=True)
    program = LIAR.replace("BASE", base).replace("VALUE", value)
    tests = "import numpy as np\n" + "\n".join(f"assert {assertion}" for assertion in ASSERTIONS)
    forged = [f"```python\n{program.replace('RESULT', result)}\n```" for result in ("0", "self")]
    assert reward(["?"] * 2, forged, [tests] * 2) == [0, 0]
    honest = "```python\nimport numpy as np\ndef f(x): return np.array([41])\n```"
    assert reward(["?"], [honest], [tests])[0] > 0.9  # sums of one array among them


def test_only_the_packages_named_can_be_imported(make_reward: Any) -> None:
    reward = make_reward(memory_mb=1024, packages=["numpy"])
    program = "import numpy\nimport sys\nsys.path.append(numpy.__path__[0] + '/..')\nimport pyarrow\nprint(1)"
    tests = '{"inputs": [""], "outputs": ["1"]}'
    assert reward(["?"] * 2, [program, program.replace("import pyarrow", "")], [tests] * 2) == [0, 1]
    assert make_reward()(["?"], ["import numpy\nprint(1)"], [tests]) == [0]


def test_packages_that_cannot_be_imported_are_named_at_once() -> None:
    with pytest.raises(SandboxError, match=r"\['no_such_package'\] are not installed.*Install them"):
        CodeReward(packages=["no_such_package"], allow_unisolated=True)
    with pytest.raises(SandboxError, match=r"pandas|lightning cannot be imported.*Name the packages that it needs"):
        CodeReward(packages=["lightning"], allow_unisolated=True)
