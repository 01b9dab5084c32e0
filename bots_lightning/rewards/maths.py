"""The reward of a maths task: 1 for the right final answer, 0 for any other."""

# Shapes: R completions.

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from bots_lightning.rewards.judged import JudgedReward, Outcomes
from bots_lightning.rewards.maths_answers import Extraction, stated_answer
from bots_lightning.rewards.maths_forms import balanced
from bots_lightning.rewards.maths_typography import tidy
from bots_lightning.rewards.workers import Verdict, WorkerPool

log = logging.getLogger(__name__)

GRADER = "bots_lightning.rewards.maths_grader:grade"
# Formulas that make a worker load what the first formula takes: parser, sympy, simplification.
REHEARSAL = (r"\boxed{\frac{\sqrt{2}}{2}}", r"\frac{1}{\sqrt{2}}", "boxed")
LONGEST_ANSWER = 1000


class MathReward(JudgedReward):
    r"""1.0 where the final answer of a completion equals the task's, by math-verify and typography; else 0.0.

    The task's `answer` is a final answer ("72", `\frac{3}{4}`, "Monday") or a worked solution that marks one
    (`\boxed{}`, "#### 72", "A: 72"). A completion's is its last `\boxed{}`, else what follows "####" or "answer is",
    else the last number or formula of a text that has come to an end. Units are not compared; 50% equals 50 and 0.5.

    Args:
        timeout_seconds: for one completion; over it, the reward is 0 and counts among `outcomes.timeouts`.
        num_workers: processes that judge; by default one per core, 16 at most.
        require_boxed: whether only `\boxed{}` counts.
        max_characters: only so many of a completion's last characters are read.
        memory_bytes: address space of a worker; a completion that needs more is an error.

    Raises:
        ModuleNotFoundError: math-verify is not installed.
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
        if find_spec("math_verify") is None:
            raise ModuleNotFoundError(
                'MathReward needs math-verify, which is not installed. Run: pip install "bots-lightning[maths]"'
            )
        if max_characters < 1:
            raise ValueError(f"max_characters={max_characters}; expected at least 1.")
        self.extraction = extraction
        self.max_characters = max_characters
        self._pool = WorkerPool(
            GRADER, timeout_seconds, num_workers, rehearsal=[_item(*REHEARSAL)], memory_bytes=memory_bytes
        )
        self._error_logged = False

    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[str], answer: Sequence[str], **columns: Any
    ) -> list[float | None]:
        """R rewards, 1.0 or 0.0.

        Raises:
            ValueError: an answer of a task is none; names the task if there is a column `task_id`.
            RewardPoolError: nothing can be judged any more.
        """
        task_ids: Sequence[Any] = columns.get("task_id") or range(len(answer))
        golds = {text: gold_answer(text, task_id) for text, task_id in zip(answer, task_ids, strict=True)}
        ends = [completion[-self.max_characters :] for completion in completions]
        items = [_item(end, golds[text], self.extraction) for end, text in zip(ends, answer, strict=True)]
        verdicts = self._pool.map(items)
        self._log_first_error(verdicts, task_ids)
        outcomes = [verdict.outcome for verdict in verdicts]
        self.outcomes = Outcomes(len(verdicts), outcomes.count("timeout"), outcomes.count("error"))
        return [verdict.value if verdict.outcome == "done" else 0.0 for verdict in verdicts]

    def close(self) -> None:
        """Ends the workers; the next call starts new ones."""
        self._pool.close()

    def _log_first_error(self, verdicts: Sequence[Verdict], task_ids: Sequence[Any]) -> None:
        for verdict, task_id in zip(verdicts, task_ids, strict=True):
            if verdict.outcome == "error" and not self._error_logged:
                self._error_logged = True
                log.warning(
                    "Judging a completion of task %r failed: %s. It scores 0; later failures are only counted.",
                    task_id,
                    verdict.message,
                )


def gold_answer(text: str, task_id: Any) -> str:
    """The final answer of a task.

    Raises:
        ValueError: there is none, or it could equal nothing; names the task.
    """
    answer = stated_answer(str(text))
    if answer is None or not tidy(answer):
        fault = "has no final answer"
    elif not balanced(answer):
        fault = "has braces that do not close"
    elif len(answer) > LONGEST_ANSWER:
        fault = f"is {len(answer)} characters long without a mark of the final answer"
    else:
        return answer
    raise ValueError(
        f"the answer of task {task_id!r} {fault}: {str(text)[-80:]!r}. Expected the final answer alone, or a solution "
        r"that ends with it as \boxed{…} or #### …; correct the data."
    )


def _item(completion: str, gold: str, extraction: Extraction) -> tuple[str, str, Extraction]:
    """What a worker gets, see `maths_grader.grade`, which only a worker imports."""
    return completion, gold, extraction
