"""The interface of allocations, and what they share.

The number of rollouts decides how precisely the gradient of a task is estimated, not how much the task counts: a row's
advantage is divided by the number of rollouts that its task had when the row's round ended, see
`algorithms.advantages.task_weights`.

**More than one round.** Whether a task gets another round depends on its rewards, so that their mean is biased. What
that does, and what is done about it:

- Advantages compare a row with what its task had when the row's round ended, and not with later rounds
  (`algorithms.advantages.group_advantages`): the policy gradient stays unbiased, whatever the rule is. One baseline for
  all rounds would be wrong by as much as a quarter of the gradient, and by another share for each pass rate.
- Evidence needs no correction in a Bayesian belief: the likelihood of a sequence of rewards is the same whatever has
  ended the sequence, so that a Beta posterior and the score of a log predictive are right. It is reported once, after
  the last round. A mean of s/n over tasks is biased, as `ReferenceInterpolation` takes it.
- Metrics count what was rolled out. The effective task ratio rises, since groups were sampled until they were mixed;
  the mean reward falls, since hard tasks have more rows. Compare mixed groups per rollout, and held-out scores.
"""

# Shapes: K tasks.

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

LEAST = 2  # rollouts of a task: fewer have nothing to be compared with


@dataclass(frozen=True)
class TriedTasks:
    """Tasks that have been rolled out in the present step, and what is believed of them by now.

    Attributes:
        alpha: (K,) α of the Beta distribution of each success probability, this step's rewards included.
        beta: (K,) β.
        counts: (K,) int, rollouts so far.
        pass_rates: (K,) mean of their rewards in [0, 1]; NaN where none has a reward.
        mixed: (K,) bool, whether their rewards differ.
    """

    alpha: Floats
    beta: Floats
    counts: Counts
    pass_rates: Floats
    mixed: npt.NDArray[np.bool_]


class Allocation(ABC):
    """Divides the rollouts of a step, `num_generations` for each task on average, among its tasks.

    An allocation has no state: the same tasks get the same numbers on every rank and after every resume. Each task gets
    2 rollouts at least: one alone has nothing to be compared with, and a task that is not worth any is the selector's
    to leave out.

    Attributes:
        sequential: whether `more` may ask for further rounds. They follow within a step when the rewards of the one
            before are known, for each rank by itself: its share of the rollouts is as its share of the tasks.
        uses_belief: whether `allocate` looks at α and β; if not, they are 1, since predicting takes time.
    """

    sequential = False
    uses_belief = True

    def check(self, num_generations: int) -> None:
        """Refuses options that do not fit the run.

        Args:
            num_generations: rollouts per task, on average.

        Raises:
            ValueError: names the option and what to use instead.
        """
        if num_generations < LEAST:
            raise ValueError(
                f"{type(self).__name__} with num_generations={num_generations}; expected at least {LEAST}, the fewest "
                "rollouts of a task. Raise num_generations or leave data.allocation out."
            )

    @abstractmethod
    def allocate(self, alpha: Floats, beta: Floats, num_generations: int) -> Counts:
        """The number of rollouts of each task, or of its first ones if the allocation is sequential.

        Args:
            alpha: (K,) α of the Beta distribution of each success probability; 1 if the selector has no belief.
            beta: (K,) β, likewise.
            num_generations: rollouts per task, on average.

        Returns:
            (K,) int, at least 2 each. Their sum is K · num_generations; less, if the allocation is sequential.
        """

    def more(self, tried: TriedTasks, budget: int) -> Counts:
        """The number of further rollouts of each task.

        Args:
            tried: K tasks, all of this rank.
            budget: the rollouts that are left, at least 1.

        Returns:
            (K,) int, at least 0 each, whose sum is at most `budget`; all 0 ends the step's rounds.
        """
        return np.zeros(len(tried.counts), dtype=np.int64)
