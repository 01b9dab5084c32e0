"""The tests of a task once they are parsed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class StdinTests:
    """Cases of standard input and the output that it should give."""

    inputs: list[str]
    outputs: list[str]

    def first(self, count: int | None) -> StdinTests:
        """The first cases, or all."""
        return self if count is None else StdinTests(self.inputs[:count], self.outputs[:count])


@dataclass(frozen=True)
class UnitTests:
    """Test code in steps.

    Attributes:
        steps: (whether it is a test, source), in order; the others define what the tests need.
        prelude: code that runs before the program, and before the tests.
        stub: the start of the program if the completion goes on from it, or "".
        entry_point: what is tested, or "".
        programs: names in the test code that are the program's, even where they are built in or the prelude has them.
        aliases: further such names, and what the program calls them.
        wanted: names that a program has to define.
        cases: arguments and results of calls, which the steps refer to as `__cases__`.
        modules: that the test code imports.
    """

    steps: list[tuple[bool, str]]
    prelude: str = ""
    stub: str = ""
    entry_point: str = ""
    programs: list[str] = field(default_factory=list)
    aliases: dict[str, str] = field(default_factory=dict)
    wanted: frozenset[str] = frozenset()
    cases: list[tuple[list[Any], Any]] = field(default_factory=list)
    modules: frozenset[str] = frozenset()

    def first(self, count: int | None) -> UnitTests:
        """As many steps as hold the first tests, or all."""
        tests = [i for i, (is_test, _) in enumerate(self.steps) if is_test]
        return self if count is None or len(tests) <= count else replace(self, steps=self.steps[: tests[count]])
