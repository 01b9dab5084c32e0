"""Exact Thompson sampling in pools of millions of tasks, without a draw for every task."""

# Shapes: N tasks in the pool, n tasks of a chunk.

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from bots_lightning.beliefs import Belief
from bots_lightning.beliefs.belief import FloatArray
from bots_lightning.beliefs.densities import largest_density, log_density
from bots_lightning.selection.chunks import Eligible, Indices, chunks

# Uniform numbers in single precision are multiples of this.
_STEP = 2.0**-24
# A cell's bound covers this many cells on either side, since posteriors are rounded to cells.
_REACH = 2
# Distance of neighbouring cells in log α − log β: a sharp posterior peaks between their centres.
_SPACING = 1 / 16


def first_radius(num_tasks: int, size: int) -> float:
    """A first guess of the radius that holds enough draws, a power of 2; assumes a density of 1/2 at the target.

    Args:
        num_tasks: tasks of the slot.
        size: number of tasks to select.
    """
    return float(2.0 ** np.clip(np.ceil(np.log2((3 * size + 20) / num_tasks)), -40, 0))


def next_radius(radius: float, found: int, size: int) -> float:
    """The radius of the next selection: half if there were many more draws than needed, twice if hardly enough.

    Args:
        radius: of this selection.
        found: draws within it.
        size: number of tasks to select.
    """
    if found > 8 * size + 80:
        return radius / 2
    return min(radius * 2, 1.0) if found < 2 * size + 16 else radius


def draws_within(
    belief: Belief,
    target: float,
    radius: FloatArray,
    num_tasks: int,
    eligible: Eligible,
    rng: np.random.Generator,
) -> tuple[Indices, FloatArray]:
    """The tasks whose draw p̂_k ~ Beta(α_k, β_k) lies within their slot's radius of the target, and those draws.

    By thinning: a task is a candidate with a probability, looked up by its cell, that bounds the probability of a draw
    in the interval; a candidate's draw is uniform in the interval and accepted with probability f_k(p̂)/bound. Every
    task thus yields p̂ in dp with probability f_k(p) dp, exactly as if all had been drawn; draws of the other tasks
    lie outside of the interval. The density is evaluated for the candidates only, a few hundred.

    Args:
        belief: must have cells.
        target: p*.
        radius: (S,) r of each slot; 0 for slots without tasks to select.
        num_tasks: N.
        eligible: which tasks may be chosen, and for which slot.
        rng: gives one uniform number per task and two per candidate.

    Returns:
        Tasks and their draws, in the order of the pool.
    """
    low, high = np.maximum(target - radius, 0.0), np.minimum(target + radius, 1.0)
    bound, start = _bounds_of_slots(belief, low, high)
    candidates, probabilities = [], []
    for where in chunks(num_tasks):
        cells = belief.cells(where)
        likely = bound.take(cells if eligible.slots is None else cells + eligible.of_slots(start, where))
        hits = np.flatnonzero(rng.random(len(likely), dtype=np.float32) < likely)
        candidates.append(hits + where.start)
        probabilities.append(likely[hits])
    tasks, probability = np.concatenate(candidates), np.concatenate(probabilities).astype(np.float64)
    allowed = eligible.of(tasks)
    tasks, probability = tasks[allowed], probability[allowed]
    low, high = (np.broadcast_to(eligible.of_slots(end, tasks), tasks.shape) for end in (low, high))
    return _kept(belief, tasks, probability, low, high, rng)


def _kept(
    belief: Belief,
    tasks: Indices,
    probability: FloatArray,
    low: FloatArray,
    high: FloatArray,
    rng: np.random.Generator,
) -> tuple[Indices, FloatArray]:
    """Candidates whose draw is accepted, and these draws."""
    concentrations = belief.concentrations(tasks)
    assert concentrations is not None
    alpha, beta = concentrations
    draws = rng.uniform(low, high)
    density = np.exp(log_density(draws, alpha, beta))
    kept = rng.random(len(tasks)) * probability < density * (high - low)
    sure = probability >= 1  # the bound is no restriction: an ordinary draw
    draws[sure] = rng.beta(alpha[sure], beta[sure])
    kept[sure] = (draws[sure] >= low[sure]) & (draws[sure] <= high[sure])
    return tasks[kept], draws[kept]


def _bounds_of_slots(
    belief: Belief, low: FloatArray, high: FloatArray
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """Bounds for the intervals of all slots, concatenated, and the offset of each slot, (S,)."""
    intervals = list(zip(low.tolist(), high.tolist(), strict=True))
    if len(intervals) == 1:
        return _bounds(belief, *intervals[0]), np.zeros(1, dtype=np.int32)
    places = {interval: place for place, interval in enumerate(dict.fromkeys(intervals))}
    bounds = [_bounds(belief, low, high) for low, high in places]
    start = len(bounds[0]) * np.array([places[interval] for interval in intervals])
    return np.concatenate(bounds), start.astype(np.int32)


def _bounds(belief: Belief, low: float, high: float) -> npt.NDArray[np.float32]:
    """For each cell, a bound on the probability of a draw in [low, high]: a multiple of 2^-24, at most 1.

    It is 1 at the edge of the grid, which also stands for all posteriors beyond it.
    """
    grid = belief.grid()
    assert grid is not None
    return _bounds_on(_Grid(*grid), low, high) if low < high else np.zeros(grid[0].size, dtype=np.float32)


class _Grid:
    """A belief's grid as a cache key, compared by identity: grids are made once."""

    def __init__(self, alpha: FloatArray, beta: FloatArray) -> None:
        self.alpha, self.beta = alpha, beta

    def __hash__(self) -> int:
        return hash((id(self.alpha), id(self.beta)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Grid) and other.alpha is self.alpha and other.beta is self.beta


@lru_cache(maxsize=32)
def _bounds_on(grid: _Grid, low: float, high: float) -> npt.NDArray[np.float32]:
    lower, higher = low - _SPACING * low * (1 - low), high + _SPACING * high * (1 - high)
    density = largest_density(lower, higher, grid.alpha, grid.beta)
    for axis in (0, 1):
        density = _largest_nearby(density, axis)
    probability = np.minimum(1.05 * density * (high - low), 1.0)
    probability[[0, -1]] = probability[:, [0, -1]] = 1.0
    return (np.ceil(probability / _STEP) * _STEP).astype(np.float32).ravel()


def _largest_nearby(values: FloatArray, axis: int) -> FloatArray:
    """The maximum over `_REACH` neighbours on either side along an axis."""
    values = np.moveaxis(values, axis, 0)
    padded = np.pad(values, [(_REACH, _REACH), (0, 0)], mode="edge")
    shifted = [padded[i : i + len(values)] for i in range(2 * _REACH + 1)]
    return np.moveaxis(np.max(shifted, axis=0), 0, axis)
