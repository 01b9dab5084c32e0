"""Base class of beliefs that keep a Beta posterior per task."""

# Shapes: N tasks in the pool, B tasks in the step.

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from bots_lightning.beliefs.belief import ALL, Belief, FloatArray, State, TaskFeatures, Where
from bots_lightning.beliefs.dispersion import RewardDispersion
from bots_lightning.beliefs.evidence import Evidence

# Cells of α and β: 16 per octave, from 2^-8 to 2^16; values beyond take the outermost.
_PER_OCTAVE, _LEAST, _MOST = 16, -8, 16
_SIZE = (_MOST - _LEAST) * _PER_OCTAVE
# Metrics are means over at most this many tasks of the pool.
_SAMPLE = 4096


@cache
def _octave_grid() -> tuple[FloatArray, FloatArray]:
    """(α, β) at the centres of the cells."""
    # A float's exponent and the first four bits of its mantissa are its cell: 16 equal steps within an octave.
    steps = np.arange(_SIZE)
    centres = 2.0 ** (_LEAST + steps // _PER_OCTAVE) * (1 + (steps % _PER_OCTAVE + 0.5) / _PER_OCTAVE)
    alpha, beta = np.meshgrid(centres, centres, indexing="ij")
    return alpha, beta


def _octave_cell(concentration: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
    """The cell of α (or β) along its axis: the leading bits of the float, without a logarithm."""
    bits = concentration.view(np.int32) >> (23 - 4)
    bits -= (127 + _LEAST) * _PER_OCTAVE
    np.minimum(bits, _SIZE - 1, out=bits)
    np.maximum(bits, 0, out=bits)
    return bits


def octave_cells(alpha: npt.NDArray[np.float32], beta: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
    """The cells of Beta(α, β), as (n,) positions in the flattened grid.

    Args:
        alpha: (n,) α.
        beta: (n,) β.
    """
    cells = _octave_cell(alpha)
    cells *= _SIZE
    cells += _octave_cell(beta)
    return cells


class BetaPosterior(Belief):
    """Holds α and β of every task; subclasses implement `observe`, which updates them.

    Args:
        prior: (α0, β0).

    Raises:
        ValueError: the prior is not two finite positive numbers.
    """

    def __init__(self, prior: tuple[float, float]) -> None:
        if len(prior) != 2 or not all(0 < concentration < np.inf for concentration in prior):
            raise ValueError(f"prior={tuple(prior)}; expected two finite positive numbers (alpha0, beta0).")
        self.prior = float(prior[0]), float(prior[1])

    def setup(self, features: TaskFeatures) -> None:
        """Starts every task from the prior."""
        self.successes = np.zeros(features.num_tasks)  # added to α0 by the task's own rollouts …
        self.failures = np.zeros(features.num_tasks)  # … and to β0
        self.group_codes = features.group_codes
        self._dispersion = RewardDispersion(len(features.group_names))

    def concentrations(self, where: Where = ALL) -> tuple[FloatArray, FloatArray]:
        """(α, β) of all tasks, each (N,), or of the tasks in `where`."""
        return self.prior[0] + self.successes[where], self.prior[1] + self.failures[where]

    @property
    def alpha(self) -> FloatArray:
        """α of every task, shape (N,)."""
        return self.concentrations()[0]

    @property
    def beta(self) -> FloatArray:
        """β of every task, shape (N,)."""
        return self.concentrations()[1]

    def sample(self, rng: np.random.Generator) -> FloatArray:
        """p̂ ~ Beta(α, β) for every task, shape (N,)."""
        return rng.beta(*self.concentrations())

    def mean(self) -> FloatArray:
        """α / (α + β) of every task, shape (N,)."""
        alpha, beta = self.concentrations()
        return alpha / (alpha + beta)

    def grid(self) -> tuple[FloatArray, FloatArray]:
        """(α, β) of the cells, 16 per octave of α and of β."""
        return _octave_grid()

    def cells(self, where: slice) -> npt.NDArray[np.int32]:
        """The cell of each task's posterior."""
        alpha = self.successes[where].astype(np.float32)
        beta = self.failures[where].astype(np.float32)
        alpha += np.float32(self.prior[0])
        beta += np.float32(self.prior[1])
        return octave_cells(alpha, beta)

    @property
    def reward_dispersion(self) -> RewardDispersion:
        """Dispersion of each group's rewards; 1 for rewards of 0 and 1."""
        return self._dispersion

    def _as_bernoulli_trials(self, evidence: Evidence) -> Evidence:
        """Updates the dispersion by a step's merged evidence, and converts that to counts of Bernoulli trials."""
        groups = self.group_codes[evidence.indices].astype(np.int64)
        self._dispersion.observe(evidence, groups)
        return self._dispersion.as_bernoulli_trials(evidence, groups)

    def add_tasks(self, features: TaskFeatures) -> None:
        """Adds tasks, which start with the prior's weight at the mean pass rate of their group."""
        old, new = len(self.successes), features.num_tasks
        mean, groups = self.mean(), features.group_codes.astype(np.int64)
        self.group_codes = features.group_codes
        self._dispersion = self._dispersion.grown(len(features.group_names))
        tasks = np.bincount(groups[:old], minlength=len(features.group_names))
        rate = np.bincount(groups[:old], mean, len(features.group_names)) / np.maximum(tasks, 1)
        known = tasks > 0
        weight = sum(self.prior)
        level = np.where(known, weight * rate - self.prior[0], 0.0)[groups[old:new]]
        self.successes = np.concatenate([self.successes, level])
        self.failures = np.concatenate([self.failures, -level])

    def metrics(self) -> dict[str, float]:
        """Mean predicted pass rate and evidence per task, over at most 4,096 tasks spread over the pool."""
        size = len(self.successes)
        alpha, beta = self.concentrations(np.arange(0, size, -(-size // _SAMPLE)))
        evidence = (alpha + beta).mean() - sum(self.prior)
        return {"belief/mean_pass_rate": float((alpha / (alpha + beta)).mean()), "belief/evidence": float(evidence)}

    def state_dict(self) -> State:
        """The evidence of every task and the dispersion of the rewards."""
        arrays = {"successes": self.successes.copy(), "failures": self.failures.copy()}
        return arrays | {"reward_dispersion": self._dispersion.state_dict()}

    def load_state_dict(self, state: State) -> None:
        """Restores evidence and dispersion."""
        self.successes = np.array(state["successes"], dtype=np.float64)
        self.failures = np.array(state["failures"], dtype=np.float64)
        self._dispersion.load_state_dict(state["reward_dispersion"])
