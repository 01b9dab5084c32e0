"""CodeReward: 1 for a program that passes its tests."""

# Shapes: R completions.

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bots_lightning.options import check_numbers
from bots_lightning.rewards.code.faults import fault_of
from bots_lightning.rewards.code.grading import Rules, Tests, Verdict, count, grade, program_of
from bots_lightning.rewards.code.process import Limits, SandboxError
from bots_lightning.rewards.code.sandbox import Sandbox
from bots_lightning.rewards.code.tests_format import parse_tests
from bots_lightning.rewards.graded import GradedReward, Outcomes, RewardPoolError
from bots_lightning.rewards.worker import usable_cores
from bots_lightning.tasks import Task

log = logging.getLogger(__name__)

FAILED_STARTS = 8  # in a row, over all workers, after which the machine is at fault


class CodeReward(GradedReward):
    """Runs the program of each completion against the tests of its task, in a sandbox.

    The program is the last ```python block of the completion that defines what the tests ask for, see `extract`. One
    that fails a test, or is no Python, is worth 0. Output is compared word by word and line by line, see `compare`;
    what functions return is compared as Python does, in a process that the program cannot reach. There a built-in name
    means what is built in, whatever the program defines, except that of the function under test. For the layouts of
    tests see `tests_format`, for what a program can and cannot do `sandbox`.

    Args:
        timeout_seconds: wall time of one run: of one case of standard input, or of all unit tests together.
        total_seconds: wall time of all cases of one completion, after which no further one starts.
        cpu_seconds: processor time of one run.
        memory_mb: address space of one process, MiB.
        max_output_kb: standard output beyond the length of what is expected, KiB.
        max_file_mb: size of files that a program writes, MiB, of each and together.
        num_workers: programs that run at the same time; one for each processor by default.
        partial_credit: rewards are the share of the tests that pass, instead of all or nothing.
        float_tolerance: relative and absolute, of numbers with a decimal point in outputs and of floats that calls
            return; 0 for equality. Assertions mean what they say.
        max_tests: how many tests of a task to run, from its first; all by default.
        allow_unisolated: go without bubblewrap where it cannot be used; read `sandbox` first.
        python: the interpreter for programs and tests; the running one by default.
        lenient_output: words of outputs agree in upper and lower case (`YES`, `Yes`), and numbers by their value
            (`3.0`, `3`), as in GURU's own grader.
        packages: that programs and tests may import beside the standard library, such as numpy; each with what it
            needs. They must be installed for `python`.

    Raises:
        ValueError: an option is out of bounds.
        SandboxError: this machine cannot run programs safely, or a package cannot be imported; the message says what to
            do.
    """

    def __init__(
        self,
        timeout_seconds: float = 10.0,
        total_seconds: float = 120.0,
        cpu_seconds: int = 10,
        memory_mb: int = 1024,
        max_output_kb: int = 1024,
        max_file_mb: int = 16,
        num_workers: int | None = None,
        partial_credit: bool = False,
        float_tolerance: float = 1e-6,
        max_tests: int | None = None,
        allow_unisolated: bool = False,
        python: str | None = None,
        lenient_output: bool = False,
        packages: Sequence[str] = (),
    ) -> None:
        super().__init__()
        workers = usable_cores() if num_workers is None else num_workers
        check_numbers(1, num_workers=workers, max_tests=max_tests)
        if not (math.isfinite(total_seconds) and total_seconds > 0):
            raise ValueError(f"total_seconds={total_seconds}; expected a finite number above 0.")
        if not (math.isfinite(float_tolerance) and float_tolerance >= 0):
            raise ValueError(f"float_tolerance={float_tolerance}; expected a finite number, 0 or above.")
        limits = Limits(timeout_seconds, cpu_seconds, memory_mb, max_output_kb, max_file_mb)
        self.rules = Rules(total_seconds, partial_credit, float_tolerance, lenient_output)
        self.num_workers, self.max_tests = workers, max_tests
        self.sandbox = Sandbox(limits, python, allow_unisolated, packages)
        self._failed_starts = 0
        self._reported: set[str] = set()  # tasks whose fault is in the log
        self._turn = threading.Lock()  # held for a call: its end stops all programs of the sandbox
        self._lock = threading.Lock()  # of what the threads of a call count

    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[str], answer: Sequence[str], **columns: Any
    ) -> list[float | None]:
        """1 for each completion whose program passes, 0 for others, or shares of tests; and their `outcomes`.

        Calls on several threads wait for each other.

        Args:
            prompts: R of them; one that is Python code and has an `entry_point` is a stub that completions may go on
                from.
            completions: R texts.
            answer: R tests, as JSON or Python code; empty where they are in a column.
            **columns: `task_id` for messages; `test`, `test_list`, `test_setup_code`, `test_imports`, `entry_point` and
                `extra_info` where the tests need them.

        Raises:
            ValueError: the tests of a task are malformed; it is named.
            RewardPoolError: sandboxes do not start any more.
        """
        tests, faults = self._parse(prompts, answer, columns)
        with self._turn:
            verdicts = self._grade_all(completions, tests, faults)
            timeouts = sum(verdict.timed_out for verdict in verdicts)
            self.outcomes = Outcomes(len(verdicts), timeouts, errors=sum(verdict.failed for verdict in verdicts))
        return [self._reward(verdict.passed, count(test)) for verdict, test in zip(verdicts, tests, strict=True)]

    def _grade_all(
        self, completions: Sequence[str], tests: Sequence[Tests], faults: Sequence[str | None]
    ) -> list[Verdict]:
        self.sandbox.stopped.clear()
        pool = ThreadPoolExecutor(self.num_workers, thread_name_prefix="code-reward")
        try:
            return list(pool.map(self._grade, completions, tests, faults))
        finally:
            self.sandbox.stopped.set()
            pool.shutdown(cancel_futures=True)

    def _reward(self, passed: int, count: int) -> float:
        return passed / count if self.rules.partial_credit else float(passed == count)

    def _parse(
        self, prompts: Sequence[Any], answer: Sequence[str], columns: dict[str, Any]
    ) -> tuple[list[Tests], list[str | None]]:
        """The tests of each row, and what is wrong with them; rows of the same task share theirs."""
        known: dict[Any, tuple[Tests, str | None]] = {}
        ids = columns.get("task_id", range(len(answer)))
        for i, task_id in enumerate(ids):
            if task_id not in known:
                row = {name: column[i] for name, column in columns.items()}
                tests = parse_tests(str(task_id), answer[i], row, prompts[i], self.max_tests)
                known[task_id] = tests, fault_of(tests, self.sandbox.modules)
                self._report(str(task_id), known[task_id][1])
        return [known[task_id][0] for task_id in ids], [known[task_id][1] for task_id in ids]

    def fault(self, task: Task) -> str | None:
        """What is wrong with a task's tests, so that no program could pass; None if nothing is.

        Args:
            task: of the pool to be rolled out.
        """
        try:
            tests = parse_tests(task.id, task.answer, task.columns, task.prompt, self.max_tests)
        except ValueError as error:
            return str(error)
        return fault_of(tests, self.sandbox.modules)

    def _report(self, task_id: str, fault: str | None) -> None:
        """Logs once that a task's tests cannot pass."""
        if fault and task_id not in self._reported:
            self._reported.add(task_id)
            log.warning("task %r: %s Its programs are scored 0 and counted as errors.", task_id, fault)

    def _grade(self, completion: str, tests: Tests, fault: str | None) -> Verdict:
        if fault:
            return Verdict(0, failed=True)
        program = program_of(completion, tests)
        if program is None:
            return Verdict(0)
        try:
            verdict = grade(self.sandbox, program, tests, self.rules)
        except SandboxError as error:
            self._count_failed_start(error)
            return Verdict(0, failed=True)
        with self._lock:
            self._failed_starts = 0
        return verdict

    def _count_failed_start(self, error: SandboxError) -> None:
        with self._lock:
            self._failed_starts += 1
            if self._failed_starts >= FAILED_STARTS:
                raise RewardPoolError(
                    f"{self._failed_starts} sandboxes in a row did not start, the last with: {error}. "
                    "Look for a lack of memory or processes on this machine."
                ) from error
