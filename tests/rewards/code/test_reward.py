"""Solutions of small problems: right ones are worth 1, wrong, empty and absent ones 0, halves a half."""

from __future__ import annotations

import json
import subprocess
import threading
from dataclasses import dataclass, field
from typing import Any

import pytest

from bots_lightning.rewards.code import CodeReward, SandboxError
from bots_lightning.rewards.code.reward import FAILED_STARTS
from bots_lightning.rewards.graded import Outcomes, RewardPoolError


@dataclass(frozen=True)
class Problem:
    name: str
    solution: str
    right: str  # a part of the solution
    wrong: str  # what makes the solution wrong in its place
    tests: Any
    columns: dict[str, Any] = field(default_factory=dict)


LINKED_LIST = """
class ListNode:
    def __init__(self, val=0, next=None):
        self.val, self.next = val, next

def list_node(values):
    head = None
    for value in reversed(values):
        head = ListNode(value, head)
    return head

def is_same_list(a, b):
    while a and b and a.val == b.val:
        a, b = a.next, b.next
    return a is None and b is None
"""

CALLS = [
    Problem(
        "floats",
        "def mean(values):\n    return sum(values) / len(values)\n",
        "/",
        "//",
        "def check(candidate):\n    assert abs(candidate([1, 2]) - 1.5) < 1e-9\n    assert candidate([1]) > 0.9\n",
        {"entry_point": "mean"},
    ),
    Problem(
        "lists",
        "def evens(values):\n    return [v for v in values if v % 2 == 0]\n",
        "== 0",
        "== 1",
        "def check(candidate):\n    assert candidate([1, 2, 4]) == [2, 4]\n    assert candidate([]) == []\n",
        {"entry_point": "evens"},
    ),
    Problem(
        "dicts",
        "from collections import Counter\ndef count(text):\n    return Counter(text)\n",
        "Counter(text)",
        "Counter(text[1:])",
        [
            "assert count('aab') == {'a': 2, 'b': 1}",
            "assert isinstance(count(''), dict)",
            "assert count('a')['z'] == 0",
        ],
    ),
    Problem(
        "classes",
        "class Stack:\n    def __init__(self):\n        self.items = []\n    def push(self, item):\n"
        "        self.items.append(item)\n        return self\n    def __len__(self):\n        return len(self.items)\n"
        "    def pop(self):\n        return self.items.pop()\n",
        "pop()\n",
        "pop(0)\n",
        "s = Stack()\ns.push(1).push('two')\nassert len(s) == 2\nassert s.items == [1, 'two'] and s.pop() == 'two'\n"
        "assert isinstance(s, Stack) and not isinstance(3, Stack)\n",
    ),
    Problem(
        "in-place mutation",
        "class Solution:\n    def rotate(self, nums, k):\n        nums[:] = nums[-k:] + nums[:-k]\n",
        "nums[:] =",
        "nums =",
        {
            "functional": "def check(candidate):\n    nums = [1, 2, 3]\n    assert candidate(nums=nums, k=1) is None\n"
            "    assert nums == [3, 1, 2]\n\ncheck(Solution().rotate)"
        },
    ),
    Problem(
        "exceptions",
        "class TooSmall(ValueError):\n    pass\ndef root(x):\n    if x < 0:\n        raise TooSmall(f'{x} < 0')\n"
        "    return x ** 0.5\n",
        "x < 0:",
        "x < -1:",
        "try:\n    root(-1)\n    assert False\nexcept ValueError as error:\n    assert str(error) == '-1 < 0'\n"
        "try:\n    root(-1)\n    assert False\nexcept TooSmall:\n    pass\nassert root(4) == 2\n",
    ),
    Problem(
        "stub to continue",
        "    return shift(text, 1)\n",
        "1",
        "2",
        "def check(candidate):\n    assert candidate('abc') == 'bcd'\n    assert shift(candidate('x'), -1) == 'x'\n",
        {
            "entry_point": "encode",
            "prompt": "def shift(text, by):\n    return ''.join(chr(ord(c) + by) for c in text)\n\n"
            "def encode(text):\n    '''Each letter becomes the next.'''\n",
        },
    ),
    Problem(
        "linked lists of a prefix",
        "class Solution:\n    def reverse(self, head):\n        last = None\n        while head:\n"
        "            head.next, last, head = last, head, head.next\n        return last\n",
        "return last",
        "return head",
        {
            "functional": "def check(candidate):\n    assert is_same_list(candidate(list_node([1, 2, 3])), "
            "list_node([3, 2, 1]))\n    assert candidate(list_node([])) is None\n\ncheck(Solution().reverse)"
        },
        {"extra_info": {"prefix": LINKED_LIST}},
    ),
    Problem(
        "generators and callbacks",
        "def apply(function, values):\n    for value in values:\n        yield function(value)\n",
        "function(value)",
        "value",
        "assert list(apply(lambda x: x + 1, [1, 2])) == [2, 3]\nassert next(apply(str, (5,))) == '5'\n"
        "assert 4 in apply(abs, [-4])\n",
    ),
    Problem(
        "calls of a function",
        "def add(a, b):\n    return a + b\n",
        "+",
        "-",
        {"fn_name": "add", "inputs": [[1, 2], [[1], [2]]], "outputs": [3, [[1, 2]]]},
    ),
    Problem(
        "calls of a method, lines of JSON",
        "class Solution:\n    def half(self, x, names):\n        return tuple([x / 2, names['a']])\n",
        "/ 2",
        "/ 3",
        {"fn_name": "half", "inputs": ['3\n{"a": null}'], "outputs": ["[1.5000000001, null]"]},
    ),
    Problem(
        "a name that is built in",
        "def sum(values):\n    total = 1\n    for value in values:\n        total *= value\n    return total\n",
        "*=",
        "+=",
        {"fn_name": "sum", "inputs": [[[2, 3, 4]]], "outputs": [24]},
    ),
]

CALLS += [
    Problem(
        "annotations of the future after a prefix",
        "from __future__ import annotations\nclass Solution:\n    def total(self, values: List[int]) -> int:\n"
        "        return sum(values)\n",
        "sum(",
        "max(",
        {"functional": "assert Solution().total([1, 2]) == 3"},
        {"extra_info": {"prefix": "from typing import *"}},
    ),
]

STDIN = [
    Problem("integers", "print(int(input()) * 2)", "* 2", "* 3", {"inputs": ["4\n", "5"], "outputs": ["8\n", "10"]}),
    Problem(
        "lines",
        "import sys\nfor line in sys.stdin:\n    print(line.strip()[::-1])",
        "[::-1]",
        "[::1]",
        {"inputs": ["ab\ncd\n"], "outputs": ["ba\ndc"]},
    ),
    Problem(
        "decimals",
        "a, b = map(float, open(0).read().split())\nprint(f'{a / b:.9f}')",
        "/",
        "*",
        {"inputs": ["1 3"], "outputs": ["0.3333333333"]},
    ),
    Problem(
        "main block",
        "def main():\n    n = int(open('/dev/stdin').readline())\n    print(*range(n))\n\nif __name__ == '__main__':\n"
        "    main()",
        "range(n)",
        "range(n + 1)",
        {"inputs": [["3"]], "outputs": [["0 1 2"]]},
    ),
    Problem(
        "recursion in a thread",
        "import sys, threading\nsys.setrecursionlimit(10**6)\nthreading.stack_size(2**26)\ndef depth(n):\n"
        "    return 0 if n == 0 else 1 + depth(n - 1)\ndef main():\n    print(depth(int(input())))\n"
        "thread = threading.Thread(target=main)\nthread.start()\nthread.join()",
        "1 + depth",
        "2 + depth",
        {"inputs": ["20000"], "outputs": ["20000"]},
    ),
    Problem(
        "an end by exit",
        "print(input())\nif True:\n    exit()\nprint(2)",
        "True",
        "False",
        {"inputs": ["1"], "outputs": ["1"]},
    ),
    Problem(
        "a file of one's own",
        "with open('notes', 'w') as file:\n    file.write(input())\nprint(open('notes').read().upper())",
        "upper",
        "lower",
        {"inputs": ["Ab"], "outputs": ["AB"]},
    ),
]


@pytest.mark.parametrize("problem", CALLS + STDIN, ids=lambda problem: problem.name)
def test_the_solution_is_worth_one_and_a_mutation_nothing(grade: Any, problem: Problem) -> None:
    assert problem.solution.count(problem.right) == 1
    mutation = problem.solution.replace(problem.right, problem.wrong)
    assert grade(problem.solution, problem.tests, **problem.columns) == 1
    assert grade(mutation, problem.tests, **problem.columns) == 0
    assert grade("    pass" if "prompt" in problem.columns else "pass", problem.tests, **problem.columns) == 0


def test_partial_credit_is_the_share_of_tests_that_pass(make_reward: Any) -> None:
    reward = make_reward(partial_credit=True)
    tests = [
        json.dumps({"inputs": ["1", "2", "3", "4"], "outputs": ["1", "2", "3", "0"]}),
        json.dumps(
            {"functional": "def check(f):\n    assert f(1) == 1\n    assert f(0) == 5\n\ncheck(same)\nassert same(3)"}
        ),
        "x = same(1)\nassert x == 1\ny = missing\nassert x == 1",
    ]
    program = "def same(x):\n    return x\nif __name__ == '__main__':\n    print(input())"
    assert reward(["?"] * 3, [program] * 3, tests) == [3 / 4, 2 / 3, 1 / 2]


def test_an_exit_status_other_than_zero_fails_whatever_was_printed(grade: Any) -> None:
    assert grade("print(input())\nraise SystemExit(0)", {"inputs": ["1"], "outputs": ["1"]}) == 1
    assert grade("print(input())\nraise SystemExit(3)", {"inputs": ["1"], "outputs": ["1"]}) == 0


def test_prose_and_nothing_are_worth_nothing_and_are_no_errors(reward: CodeReward) -> None:
    tests = [json.dumps({"inputs": ["1"], "outputs": [""]})] * 3
    assert reward(["?"] * 3, ["I do not know.", "", "```python\n```"], tests) == [0, 0, 0]
    assert reward.outcomes == Outcomes(items=3)


def test_expected_output_may_be_longer_than_the_limit(make_reward: Any) -> None:
    reward = make_reward(max_output_kb=1)
    tests = [json.dumps({"inputs": ["1"], "outputs": ["x" * 5000]})] * 3
    assert reward(["?"] * 3, ["print('x' * 5000)", "print('x' * 5001)", "print('x' * 9000)"], tests) == [1, 0, 0]


def test_a_lenient_reward_takes_no_notice_of_case_and_of_notation(make_reward: Any) -> None:
    tests = [json.dumps({"inputs": ["1"], "outputs": ["Yes 3"]})]
    assert make_reward()(["?"], ["print('YES 3.0')"], tests) == [0]
    assert make_reward(lenient_output=True)(["?"] * 2, ["print('YES 3.0')", "print('YES 4')"], tests * 2) == [1, 0]


INFINITE = '{"fn_name": "f", "inputs": [[1e400], [Infinity], [0]], "outputs": [Infinity, 1e400, NaN]}'


@pytest.mark.parametrize(
    ("program", "answer"),
    [
        ("def f(x): return x if x else float('nan')", INFINITE),
        ("def f(n): return {n: {True: 1, None: 2, 1.5: 3}}", '{"fn_name": "f", "inputs": [[2]], "outputs": '
         '[{"2": {"true": 1, "null": 2, "1.5": 3}}]}'),
        ("class Solution:\n    def __init__(self): self.seen = 0\n    def f(self, x):\n        self.seen += x\n"
         "        return self.seen", '{"fn_name": "f", "inputs": [[1], [2]], "outputs": [1, 2]}'),
        ("def f(): return 0\nclass Solution:\n    @staticmethod\n    def f(x): return x",
         '{"fn_name": "f", "inputs": [[1]], "outputs": [1]}'),
        ("class Solution:\n    def f(self, x: List[int]) -> Optional[int]: return x[0]",
         '{"fn_name": "f", "inputs": [[[1]]], "outputs": [1]}'),
        ("f = lambda s: s[::-1]", '{"fn_name": "f", "inputs": [["a日"]], "outputs": ["日a"]}'),
        ("assert __file__\nprint(input())", '{"inputs": ["1"], "outputs": ["1"]}'),
    ],
)  # fmt: skip
def test_right_programs_in_every_layout_are_worth_one(grade: Any, program: str, answer: str) -> None:
    assert grade(program, answer) == 1


def test_keys_that_json_does_not_tell_apart_do_not_agree(grade: Any) -> None:
    tests = {"fn_name": "f", "inputs": [[1]], "outputs": [{"1": 2}]}
    assert grade("def f(n): return {1: 2}", tests) == 1
    for result in ("{1: 2, '1': 2}", "{True: 2}", "{'1': 3}", "{1.0: 2}", "{}"):
        assert grade(f"def f(n): return {result}", tests) == 0


def test_max_tests_keeps_the_first_ones(make_reward: Any) -> None:
    reward = make_reward(max_tests=1)
    tests = [json.dumps({"inputs": ["1", "2"], "outputs": ["1", "x"]}), "assert f() == 1\nassert f() == 2"]
    assert reward(["?"] * 2, ["print(input())", "def f(): return 1"], tests) == [1, 1]


def test_time_limits_are_counted_and_do_not_touch_others(make_reward: Any) -> None:
    reward = make_reward(timeout_seconds=1.5, num_workers=2)
    tests = [json.dumps({"inputs": ["1"], "outputs": ["1"]})] * 2 + ["assert f(1) == 1"] * 2
    programs = ["import time; time.sleep(9)", "print(1)", "import time\ndef f(x): time.sleep(9)", "def f(x): return 1"]
    assert reward(["?"] * 4, programs, tests) == [0, 1, 0, 1]
    assert reward.outcomes == Outcomes(items=4, timeouts=2)


def test_calls_on_two_threads_wait_for_each_other_and_both_score_right(
    make_reward: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    reward = make_reward()
    tests, started, scores = [json.dumps({"inputs": ["1"], "outputs": ["1"]})], threading.Event(), {}
    start = reward.sandbox.start

    def watched_start(*args: Any, **kwargs: Any) -> Any:
        started.set()
        return start(*args, **kwargs)

    def call(name: str, program: str) -> None:
        scores[name] = reward(["?"], [program], tests)

    monkeypatch.setattr(reward.sandbox, "start", watched_start)
    slow = threading.Thread(target=call, args=("slow", "import time\ntime.sleep(1)\nprint(input())"))
    slow.start()
    assert started.wait(10)
    call("quick", "print(input())")
    slow.join()
    assert scores == {"slow": [1], "quick": [1]}
    assert reward.outcomes == Outcomes(items=1)


def test_many_cases_each_below_the_limit_have_a_limit_together(make_reward: Any) -> None:
    reward = make_reward(total_seconds=1.0, partial_credit=True)
    tests = json.dumps({"inputs": ["1"] * 50, "outputs": ["1"] * 50})
    (share,) = reward(["?"], ["import time\ntime.sleep(0.3)\nprint(input())"], [tests])
    assert 1 <= 50 * share <= 4
    assert reward.outcomes == Outcomes(items=1, timeouts=1)


def test_processor_time_is_limited_in_served_programs_too(make_reward: Any) -> None:
    reward = make_reward(cpu_seconds=1)
    assert reward(["?"], ["def f(x):\n    while True: pass"], ["assert f(1) == 1"]) == [0]
    assert reward.outcomes == Outcomes(items=1, timeouts=1)


def test_a_sandbox_that_does_not_start_is_an_error_and_many_in_a_row_are_the_end(make_reward: Any) -> None:
    reward = make_reward()
    good, tests = "print(input())", json.dumps({"inputs": ["1"], "outputs": ["1"]})
    python, reward.sandbox.python = reward.sandbox.python, "/usr/bin/false"
    assert reward(["?"], [good], [tests]) == [0]
    assert reward.outcomes == Outcomes(items=1, errors=1)
    reward.sandbox.python = python
    assert reward(["?"], [good], [tests]) == [1]
    reward.sandbox.python = "/usr/bin/false"
    few = FAILED_STARTS - 1
    assert reward(["?"] * few, [good] * few, [tests] * few) == [0] * few
    with pytest.raises(RewardPoolError, match=f"{FAILED_STARTS} sandboxes in a row did not start"):
        reward(["?"], [good], [tests])


def test_malformed_tests_name_their_task(reward: CodeReward) -> None:
    with pytest.raises(ValueError, match=r"tests of task 'b-2' are malformed.*expected JSON"):
        reward(["?"] * 2, ["1"] * 2, ["assert f()", "{}"], task_id=["b-1", "b-2"])


def test_without_bubblewrap_the_user_must_opt_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(
        SandboxError, match=r"no bwrap on the PATH.*install bubblewrap.*allow_unisolated=true.*read all"
    ):
        CodeReward()
    assert CodeReward(allow_unisolated=True).sandbox.bubblewrap is None


def test_a_bubblewrap_that_may_not_make_namespaces_counts_as_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    program = tmp_path / "bwrap"
    program.write_text("#!/bin/sh\necho 'No permissions to create new namespace' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(SandboxError, match="No permissions to create new namespace"):
        CodeReward()
    assert CodeReward(allow_unisolated=True).sandbox.bubblewrap is None


@pytest.mark.parametrize(
    "options",
    [{"timeout_seconds": 0}, {"timeout_seconds": float("inf")}, {"total_seconds": 0}, {"cpu_seconds": 0},
     {"memory_mb": 0}, {"max_tests": 0}, {"num_workers": 0}, {"float_tolerance": -1.0}],
    ids=str,
)  # fmt: skip
def test_options_out_of_bounds_are_refused_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        CodeReward(**options)


def test_a_python_that_is_none_is_refused() -> None:
    assert subprocess.run(["/usr/bin/false"], check=False).returncode == 1
    with pytest.raises(SandboxError, match="expected a Python interpreter"):
        CodeReward(python="/usr/bin/false", allow_unisolated=True)
