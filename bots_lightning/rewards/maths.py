"""The reward of a maths task: 1 for the right final answer, 0 for any other."""

# Shapes: R completions.

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, get_args

from bots_lightning.options import check_numbers
from bots_lightning.rewards.graded import GradedReward, Outcomes
from bots_lightning.rewards.maths_answers import Extraction, stated_answer
from bots_lightning.rewards.maths_forms import balanced
from bots_lightning.rewards.maths_typography import tidy
from bots_lightning.rewards.workers import Verdict, WorkerPool
from bots_lightning.tasks import Task

log = logging.getLogger(__name__)

GRADER = "bots_lightning.rewards.maths_grader:grade"
# Completions and answers that make a worker load what the first formula, set and equation take.
REHEARSAL = [
    (r"\boxed{\frac{\sqrt{2}}{2}}", r"\frac{1}{\sqrt{2}}"),
    (r"\boxed{x \ge 3}", r"[3, \infty) \cup \{1\}"),
    (r"\boxed{2x + y = 1}", "4x + 2y = 2"),
]
UNFINISHED = re.compile(r"(?:\\[dtc]?frac\s*(?:\{[^{}]*\})?|\\sqrt|[\^_])\s*(?:\{\s*\}|$)")
LONGEST_ANSWER = 1000
PLAIN_NUMBER = re.compile(r"-?[0-9]{1,30}(\.[0-9]{1,30})?")


class MathReward(GradedReward):
    r"""1.0 where the final answer of a completion equals the task's, by typography and sympy; else 0.0.

    The task's `answer` is a final answer ("72", `\frac{3}{4}`, "Monday") or a worked solution that marks one
    (`\boxed{}`, "#### 72", "A: 72"). See the table in `rewards.maths_answers` for where a completion states its own.
    Units are not compared; 50% equals 50 and 0.5. An answer that is still to be computed is none: for 16, neither 9 + 7
    nor 32/2 is paid, but powers, roots and logarithms are, and elsewhere fractions, π and e.

    Args:
        timeout_seconds: processor time for one completion; over it, the reward is 0 and is counted in `outcomes`.
        num_workers: processes that grade; by default one per core, 16 at most.
        extraction: "boxed": only `\boxed{}` counts. "strict": also other marks ("####", "the answer is"). "flexible":
            where nothing marks an answer, also the last value of a text that has come to an end; that finds the answer
            in 98.7% of GSM8K's solutions without their marks, where "strict" finds none.
        max_characters: only so many of a completion's last characters are read.
        memory_bytes: address space of a worker, on Linux; a completion that needs more is an error.

    Raises:
        ModuleNotFoundError: the parser of formulas is not installed.
        ValueError: an option is out of range.
    """

    def __init__(
        self,
        timeout_seconds: float = 2.0,
        num_workers: int | None = None,
        extraction: Extraction = "flexible",
        max_characters: int = 20_000,
        memory_bytes: int | None = 4 * 2**30,
    ) -> None:
        super().__init__()
        if find_spec("latex2sympy2_extended") is None:
            raise ModuleNotFoundError(
                "MathReward needs latex2sympy2_extended, which is not installed. Run: "
                'pip install "bots-lightning[maths]"'
            )
        check_numbers(1, max_characters=max_characters)
        if extraction not in get_args(Extraction):
            raise ValueError(f"extraction={extraction!r}; expected one of {', '.join(get_args(Extraction))}.")
        self.extraction = extraction
        self.max_characters = max_characters
        rehearsal = [(*example, extraction) for example in REHEARSAL]
        self._pool = WorkerPool(GRADER, timeout_seconds, num_workers, rehearsal=rehearsal, memory_bytes=memory_bytes)
        self._error_logged = False

    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[str], answer: Sequence[str], **columns: Any
    ) -> list[float | None]:
        """Grades R completions, and sets `outcomes`.

        Args:
            prompts: not used.
            completions: R texts.
            answer: R answers of tasks.
            **columns: `task_id` is named in errors.

        Returns:
            R rewards, 1.0 or 0.0.

        Raises:
            ValueError: the answer of a task is none; names the task.
            RewardPoolError: nothing can be graded any more.
        """
        task_ids: Sequence[Any] = columns.get("task_id") or range(len(answer))
        golds = {text: gold_answer(text, task_id) for text, task_id in zip(answer, task_ids, strict=True)}
        ends = [completion[-self.max_characters :] for completion in completions]
        verdicts = self._pool.map([(end, golds[text], self.extraction) for end, text in zip(ends, answer, strict=True)])
        self._log_first_error(verdicts, task_ids)
        outcomes = [verdict.outcome for verdict in verdicts]
        self.outcomes = Outcomes(len(verdicts), outcomes.count("timeout"), outcomes.count("error"))
        return [verdict.value if verdict.outcome == "done" else 0.0 for verdict in verdicts]

    def fault(self, task: Task) -> str | None:
        """What is wrong with a task's answer, so that no completion could be right; None if nothing is."""
        try:
            gold_answer(task.answer, task.id)
        except ValueError as error:
            return str(error)
        return None

    def close(self) -> None:
        """Ends the workers; the next call starts new ones."""
        self._pool.close()

    def _log_first_error(self, verdicts: Sequence[Verdict], task_ids: Sequence[Any]) -> None:
        for verdict, task_id in zip(verdicts, task_ids, strict=True):
            if verdict.outcome == "error" and not self._error_logged:
                self._error_logged = True
                log.warning(
                    "Grading a completion of task %r failed: %s. It scores 0; later failures are only counted.",
                    task_id,
                    verdict.message,
                )


def gold_answer(text: str, task_id: Any) -> str:
    """The final answer of a task.

    Raises:
        ValueError: there is none, or it could equal nothing; names the task.
    """
    answer, fault = _final_answer(str(text))
    if not fault:
        return answer
    raise ValueError(
        f"the answer of task {task_id!r} {fault}: {str(text)[-80:]!r}. Expected the final answer alone, or a solution "
        r"that ends with it as \boxed{…} or #### …; correct the data."
    )


@lru_cache(maxsize=1 << 16)
def _final_answer(text: str) -> tuple[str, str]:
    """The answer and what is wrong with it, one of them empty; many tasks have the same."""
    if PLAIN_NUMBER.fullmatch(text):
        return text, ""  # a shortcut: the rest finds the same, a hundred times as slowly
    answer = stated_answer(text)
    if answer is None or not tidy(answer) or "####" in answer:
        return "", "has no final answer"
    if not balanced(answer):
        return "", "has braces that do not close"
    if UNFINISHED.search(answer):
        return "", "has a fraction, a root or an exponent without content"
    if len(answer) > LONGEST_ANSWER:
        return "", f"is {len(answer)} characters long without a mark of the final answer"
    return answer, ""
