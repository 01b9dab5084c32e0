"""The regressors of the ability belief: features that predict the success of tasks before their first visit."""

# Shapes: N tasks in the pool, P profiles, F regressors, E regressors of the variance.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bots_lightning.beliefs.belief import FloatArray, TaskFeatures
from bots_lightning.beliefs.profiles import Profiles, coarse_profiles

MOST_PROFILES = 65_536
MOST_LABELS = 512


@dataclass(frozen=True)
class Block:
    """Columns of x from one feature, and the prior of their weights.

    Attributes:
        columns: (P, f) values.
        mean: (f,) prior mean of the weights.
        precision: prior precision of each, in units of one observation.
        is_reference: whether their magnitudes are regressors of the variance too.
    """

    columns: FloatArray
    mean: FloatArray
    precision: float
    is_reference: bool = False


@dataclass(frozen=True)
class Design:
    """Regressors x and z of every profile, the constant 1 first, and the priors of their weights.

    Attributes:
        profiles: the P profiles of the pool.
        x: (P, F) regressors of the logit.
        z: (P, E) regressors of the log variance: 1 and the centred magnitudes of the reference columns.
        weights: (F,) prior means for x.
        weight_precision: (F,) prior precisions.
        spread: (E,) prior means for z.
        spread_precision: (E,) prior precisions.
    """

    profiles: Profiles
    x: FloatArray
    z: FloatArray
    weights: FloatArray
    weight_precision: FloatArray
    spread: FloatArray
    spread_precision: FloatArray


def reference_columns(rates: FloatArray, rollouts: float, sizes: npt.NDArray[np.int64] | None = None) -> FloatArray:
    """A reference's columns of x: its logits log((np+½)/(n(1−p)+½)) and an indicator of unknown p.

    An unknown logit is replaced by the mean of the known ones; the weight of the indicator is learned.

    Args:
        rates: (P,) pass rates in [0, 1], NaN where unknown.
        rollouts: n, number of rollouts from which each rate was measured.
        sizes: (P,) tasks that have each rate; one by default.

    Returns:
        (P, 2), or (P, 1) if all rates are known, or (P, 0) if none is.
    """
    known = np.isfinite(rates)
    if not known.any():
        return np.empty((len(rates), 0))
    p = np.where(known, rates, 0.5)
    logit = np.log((p * rollouts + 0.5) / ((1 - p) * rollouts + 0.5))
    return _filled(logit, known, np.ones(len(rates)) if sizes is None else sizes)


def number_columns(values: FloatArray, sizes: npt.NDArray[np.int64]) -> FloatArray:
    """Columns of x for numbers such as a prompt's length: standardized values and an indicator of unknown ones.

    Args:
        values: (P,) numbers, NaN where unknown.
        sizes: (P,) tasks that have each number; 0 excludes it from mean and deviation.

    Returns:
        (P, 2), or (P, 1) if all are known, or (P, 0) if they do not differ.
    """
    known = np.isfinite(values)
    if not known.any():
        return np.empty((len(values), 0))
    centred = np.where(known, values, 0.0) - _mean(values[known], sizes[known])
    deviation = np.sqrt(_mean(centred[known] ** 2, sizes[known]))
    measured = values[known & (sizes > 0)]
    if len(measured) == 0 or measured.min() == measured.max():
        if known.all():
            return np.empty((len(values), 0))
        centred, deviation = np.zeros(len(values)), 1.0
    return _filled(centred / deviation, known, sizes)


def _mean(values: FloatArray, sizes: npt.NDArray[Any]) -> float:
    return float(np.average(values, weights=sizes if sizes.any() else None))


def _filled(values: FloatArray, known: npt.NDArray[np.bool_], sizes: npt.NDArray[Any]) -> FloatArray:
    values = np.where(known, values, _mean(values[known], sizes[known]))
    return np.stack([values] if known.all() else [values, (~known).astype(np.float64)], axis=1)


def category_columns(labels: npt.NDArray[Any]) -> FloatArray:
    """One-hot columns of x for labels.

    Args:
        labels: (P,) labels.

    Returns:
        (P, number of distinct labels) of 0 and 1.

    Raises:
        ValueError: there are more labels than a regression can learn.
    """
    values, codes = np.unique(labels, return_inverse=True)
    if len(values) > MOST_LABELS:
        raise ValueError(
            f"a column of `categories` has {len(values)} labels ({values[0]!r}, {values[1]!r}, …); expected at most "
            f"{MOST_LABELS}. Name columns such as a level or a family; numbers belong in `features`."
        )
    return np.eye(len(values))[codes]


def design_of(
    features: TaskFeatures,
    references: Sequence[str],
    reference_rollouts: float,
    numbers: Sequence[str] = (),
    categories: Sequence[str] = (),
    scaled_on: int | None = None,
) -> Design:
    """Builds the regressors from the columns of a pool.

    Args:
        features: of the pool's tasks.
        references: names of reference columns.
        reference_rollouts: number of rollouts from which each rate was measured.
        numbers: names of columns of numbers (N,) or embeddings (N, f).
        categories: names of columns of labels; values are compared as strings.
        scaled_on: means and deviations are those of this many first tasks, so that they do not change when a pool
            grows; None uses all tasks.

    Raises:
        ValueError: the pool lacks a column, one of `numbers` holds none, or one of `categories` has too many labels.
    """
    rates = [features.reference(name) for name in references]
    given = [_numbers(features, name) for name in numbers]
    labels = [features.column(name).astype(str) for name in categories]
    flat = [*rates, *(column for column in given if column.ndim == 1), *labels]
    embeddings = [column for column in given if column.ndim == 2]
    if embeddings:  # every task has its own profile
        profiles = Profiles(np.arange(features.num_tasks, dtype=np.uint32), np.arange(features.num_tasks))
    else:
        profiles = coarse_profiles(features.num_tasks, [features.group_codes, *flat], MOST_PROFILES)
    at, sizes = profiles.members, np.bincount(profiles.labels[:scaled_on], minlength=len(profiles))
    known = [reference_columns(rate[at], reference_rollouts, sizes) for rate in rates]
    known = [columns for columns in known if columns.shape[1]]
    blocks = [_reference_block(columns, len(known)) for columns in known]
    blocks += [_plain_block(number_columns(column[at], sizes)) for column in given if column.ndim == 1]
    blocks += [_plain_block(category_columns(column[at])) for column in labels]
    blocks += [_embedding_block(matrix, matrix[:scaled_on]) for matrix in embeddings]
    return _assembled(profiles, blocks, sizes)


def _numbers(features: TaskFeatures, name: str) -> npt.NDArray[Any]:
    column = features.column(name)
    if column.dtype.kind not in "fiub" or column.ndim > 2:
        raise ValueError(
            f"column {name!r} holds {column.dtype} of shape {column.shape}; expected numbers (N,) or embeddings "
            "(N, F). List columns of labels in `categories`."
        )
    return column.astype(np.float64)


def _reference_block(columns: FloatArray, number: int) -> Block:
    """A priori, the logit is 0.8 times the mean of the references' logits."""
    return Block(columns, np.r_[0.8 / number, np.zeros(columns.shape[1] - 1)], 4.0, is_reference=True)


def _plain_block(columns: FloatArray) -> Block:
    return Block(columns, np.zeros(columns.shape[1]), 4.0)


def _embedding_block(matrix: FloatArray, measured: FloatArray) -> Block:
    """Embeddings scaled to unit total variance, so that their prior does not depend on the number of dimensions."""
    centred = np.nan_to_num(matrix - np.nanmean(measured, axis=0))
    scale = np.sqrt((centred[: len(measured)] ** 2).sum(axis=1).mean())
    return Block(centred / max(scale, 1e-300), np.zeros(matrix.shape[1]), 1.0)


def _assembled(profiles: Profiles, blocks: list[Block], sizes: npt.NDArray[Any]) -> Design:
    """The design of these blocks, with the constant first and the regressors of the variance."""
    one = np.ones((len(profiles), 1))
    sized = [block for block in blocks if block.is_reference]
    size = np.hstack([np.empty((len(profiles), 0)), *(np.abs(block.columns) for block in sized)])
    centre = np.average(size, axis=0, weights=sizes)
    slope = np.full(size.shape[1], 0.5 / max(len(sized), 1))
    return Design(
        profiles,
        x=np.hstack([one, *(block.columns for block in blocks)]),
        z=np.hstack([one, size - centre]),
        weights=np.concatenate([[0.0], *(block.mean for block in blocks)]),
        weight_precision=np.concatenate([[0.25], *(np.full(len(b.mean), b.precision) for b in blocks)]),
        spread=np.concatenate([[np.log(2.0 if sized else 6.0)], slope]),
        spread_precision=np.concatenate([[1.0], np.full(size.shape[1], 10.0)]),
    )
