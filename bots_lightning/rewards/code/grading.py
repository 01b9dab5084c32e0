"""One program and its tests: what runs in which sandbox, and how many tests pass."""

from __future__ import annotations

import json
import socket
import time
from dataclasses import dataclass

from bots_lightning.rewards.code.compare import same_output
from bots_lightning.rewards.code.extract import extract_program
from bots_lightning.rewards.code.sandbox import Sandbox
from bots_lightning.rewards.code.task_tests import StdinTests, UnitTests

Tests = StdinTests | UnitTests


@dataclass(frozen=True)
class Rules:
    """Options of `CodeReward` that define when a program passes."""

    total_seconds: float
    partial_credit: bool
    float_tolerance: float
    lenient_output: bool


@dataclass(frozen=True)
class Verdict:
    """The result of one program.

    Attributes:
        passed: tests.
        timed_out: it took too long.
        failed: it could not be graded.
    """

    passed: int
    timed_out: bool = False
    failed: bool = False


def grade(sandbox: Sandbox, program: str, tests: Tests, rules: Rules) -> Verdict:
    """Runs a program against its tests.

    Args:
        sandbox: starts the processes.
        program: Python code.
        tests: of its task.
        rules: when it passes.

    Returns:
        How many tests it passes, or why it could not be graded.

    Raises:
        SandboxError: a sandbox does not start.
    """
    if isinstance(tests, StdinTests):
        return _grade_output(sandbox, program, tests, rules)
    return _grade_calls(sandbox, program, tests, rules)


def _grade_output(sandbox: Sandbox, program: str, tests: StdinTests, rules: Rules) -> Verdict:
    """Runs the program once for each case, until it fails one, or with partial credit until it takes too long."""
    passed, started = 0, time.monotonic()
    for text, expected in zip(tests.inputs, tests.outputs, strict=True):
        if time.monotonic() - started > rules.total_seconds:
            return Verdict(passed, timed_out=True)
        size = len(expected.encode())
        with sandbox.start("script", {"program": program}, text.encode(), expected=size) as process:
            finished = process.finish()
        right = not (finished.timed_out or finished.overflowed or finished.code)
        right = right and same_output(finished.output, expected, rules.float_tolerance, rules.lenient_output)
        passed += right
        if finished.timed_out:
            return Verdict(passed, timed_out=True)
        if not (right or rules.partial_credit):
            break
    return Verdict(passed)


def _grade_calls(sandbox: Sandbox, program: str, tests: UnitTests, rules: Rules) -> Verdict:
    """Runs the program in one sandbox and the test code in another, with a socket between them."""
    near, far = socket.socketpair()
    served = {"sources": [tests.prelude, program], "channel": far.fileno()}
    graded = {
        "prelude": tests.prelude,
        "steps": tests.steps,
        "cases": tests.cases,
        "programs": dict(zip(tests.programs, tests.programs, strict=True)) | tests.aliases,
        "all_or_nothing": not rules.partial_credit,
        "tolerance": rules.float_tolerance,
        "channel": near.fileno(),
    }
    with (
        near,
        far,
        sandbox.start("serve", served, channel=far.fileno()) as server,
        sandbox.start("grader", graded, channel=near.fileno()) as grader,
    ):
        near.close()
        far.close()
        finished = grader.finish(server)
        out_of_cpu_time = server.stop()
    passed = _read_verdict(finished.output)
    timed_out = finished.timed_out or out_of_cpu_time
    return Verdict(passed or 0, timed_out, failed=passed is None and not timed_out)


def program_of(completion: str, tests: Tests) -> str | None:
    """The program in a completion, as the tests need it; None where there is none."""
    if isinstance(tests, StdinTests):
        return extract_program(completion, reads_input=any(text.strip() for text in tests.inputs))
    return extract_program(completion, tests.stub, tests.entry_point, tests.wanted)


def _read_verdict(output: bytes) -> int | None:
    """Tests passed; None if the grader ended without a verdict."""
    try:
        return int(json.loads(output)["passed"])
    except ValueError:
        return None


def count(tests: Tests) -> int:
    """How many tests there are."""
    return len(tests.inputs) if isinstance(tests, StdinTests) else sum(is_test for is_test, _ in tests.steps)
