"""Metrics that add up over micro-batches and steps, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from bots_lightning.algorithms.meter import Meter

MASK = torch.tensor([[1, 1, 0], [1, 0, 0]], dtype=torch.bool)
VALUES = torch.tensor([[1.0, 2.0, math.nan], [6.0, math.inf, -math.inf]])


def test_a_mean_is_over_tokens_and_what_is_masked_does_not_matter() -> None:
    meter = Meter()
    meter.add("x", VALUES, MASK)
    assert meter.mean("x") == pytest.approx((1 + 2 + 6) / 3)
    meter.add("x", torch.tensor([[5.0]]), torch.tensor([[True]]))  # a smaller micro-batch weighs less
    assert meter.mean("x") == pytest.approx((1 + 2 + 6 + 5) / 4)


def test_one_value_per_row_counts_the_rows_that_have_a_token() -> None:
    meter = Meter()
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 0, 0]], dtype=torch.bool)
    meter.add("x", torch.tensor([[1.0], [4.0], [100.0]]), mask, rows=True)
    assert meter.mean("x") == pytest.approx((1 + 4) / 2)
    assert (meter.lowest("x"), meter.highest("x")) == (1, 4)


def test_extremes_are_those_of_the_means_of_rows() -> None:
    meter = Meter()
    meter.add("x", VALUES, MASK, rows=True)
    assert (meter.lowest("x"), meter.highest("x")) == ((1 + 2) / 2, 6)
    meter.add("x", torch.tensor([[0.0, 1.0], [9.0, 9.0]]), torch.tensor([[True, True], [False, False]]), rows=True)
    assert (meter.lowest("x"), meter.highest("x")) == ((0 + 1) / 2, 6)
    assert meter.mean("x") == pytest.approx((1 + 2 + 6 + 0 + 1) / 5)


def test_the_meters_of_steps_add_up_in_one() -> None:
    steps = Meter(), Meter()
    for step, values, losses in zip(steps, ([[1.0, 2.0]], [[7.0, 0.0]]), ([0.5, 0.25], [3.0]), strict=True):
        step.add("x", torch.tensor(values), torch.tensor([[True, values[0][1] > 0]]), rows=True)
        for loss in losses:
            step.add_loss("y", torch.tensor(loss))
    whole = Meter()
    for step in steps:
        whole.merge(step)
    assert whole.mean("x") == pytest.approx((1 + 2 + 7) / 3)
    assert (whole.lowest("x"), whole.highest("x")) == (1.5, 7)
    assert whole.loss("y") == pytest.approx((0.5 + 0.25 + 3) / 2)  # of micro-batches the sum, of steps the mean


def test_what_was_never_added_is_nan() -> None:
    meter = Meter()
    assert "x" not in meter
    assert all(math.isnan(statistic("x")) for statistic in (meter.mean, meter.lowest, meter.highest, meter.loss))
    meter.add("x", VALUES, torch.zeros_like(MASK), rows=True)
    assert "x" in meter
    assert all(math.isnan(statistic("x")) for statistic in (meter.mean, meter.lowest, meter.highest, meter.loss))


def test_a_metric_keeps_no_graph() -> None:
    meter, values = Meter(), torch.ones(1, 2, requires_grad=True)
    meter.add("x", values * 2, torch.tensor([[True, True]]), rows=True)
    meter.add_loss("y", values.sum())
    kept = [*meter._sums.values(), *meter._rows["x"], *meter._totals.values()]
    assert not any(value.requires_grad for value in kept)


def test_extremes_of_values_are_those_that_count() -> None:
    meter = Meter()
    meter.add("x", VALUES, MASK, extremes=True)
    assert (meter.lowest("x"), meter.highest("x")) == (1, 6)
    meter.add("x", torch.full((2, 3), 9.0), torch.zeros(2, 3, dtype=torch.bool), extremes=True)
    meter.add("x", torch.tensor([[0.5], [7.0]]), torch.tensor([[True], [False]]), extremes=True)
    assert (meter.lowest("x"), meter.highest("x")) == (0.5, 6)
    assert meter.mean("x") == pytest.approx((1 + 2 + 6 + 0.5) / 4)
