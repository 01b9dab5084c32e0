"""The losses by hand, against a loop over tokens, and by what must hold of them."""

# Shapes: R rows, T completion tokens.

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bots_lightning.algorithms.losses import (
    BatchSize,
    LossOutputs,
    grpo_loss,
    importance_ratio,
    kl_divergence,
)

LOSS_TYPES = ["grpo", "dr_grpo", "dapo", "bnpo"]

LEVELS = ["token", "sequence"]

ESTIMATORS = ["k1", "k2", "k3"]

LENGTHS = [7, 1, 3, 0, 5, 2]  # one row without any token

OPTIONS: dict[str, Any] = {"epsilon": 0.2, "epsilon_high": 0.28, "delta": 1.6, "kl_coef": 0.1}


def tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def random_case(seed: int = 0) -> dict[str, Tensor]:
    """Six ragged rows whose ratios lie on both sides of both clips."""
    generator = torch.Generator().manual_seed(seed)
    logprobs = -torch.rand(6, 7, generator=generator, dtype=torch.float64) * 3
    noise = torch.randn(3, 6, 7, generator=generator, dtype=torch.float64)
    return {
        "logprobs": logprobs.requires_grad_(),
        "old_logprobs": logprobs.detach() + 0.5 * noise[0] + 0.2 * noise[2, :, :1],
        "advantages": torch.randn(6, generator=generator, dtype=torch.float64),
        "mask": torch.arange(7) < torch.tensor(LENGTHS)[:, None],
        "ref_logprobs": logprobs.detach() + 0.5 * noise[1],
    }


def kl_of_one_token(d: float, estimator: str) -> float:
    return {"k1": d, "k2": d * d / 2, "k3": math.exp(-d) + d - 1}[estimator]


def definition(case: dict[str, Tensor], loss_type: str, level: str, estimator: str, bias_correction: bool) -> float:
    """The loss of the papers with `OPTIONS`, row by row and token by token."""
    row_sums, lengths = [], []
    for logprobs, old, advantage, mask, ref in zip(*(x.tolist() for x in case.values()), strict=True):
        kept = [t for t, learned in enumerate(mask) if learned]
        mean_log_ratio = sum(logprobs[t] - old[t] for t in kept) / max(len(kept), 1)
        row_sums.append(0.0)
        lengths.append(len(kept))
        for t in kept:
            ratio = math.exp(mean_log_ratio if level == "sequence" else logprobs[t] - old[t])
            surrogate = min(min(ratio, 1.6) * advantage, min(max(ratio, 0.8), 1.28) * advantage)
            kl = kl_of_one_token(logprobs[t] - ref[t], estimator)
            row_sums[-1] += -surrogate + 0.1 * kl * (ratio if bias_correction else 1)
    if loss_type == "grpo":
        return sum(s / max(n, 1) for s, n in zip(row_sums, lengths, strict=True)) / len(row_sums)
    return sum(row_sums) / (len(row_sums) * 7 if loss_type == "dr_grpo" else sum(lengths))


def slopes_of_the_definition(case: dict[str, Tensor], *how: Any, step: float = 1e-6) -> Tensor:
    """Central differences of `definition` in every log-probability."""
    gradient = torch.zeros(6, 7, dtype=torch.float64)
    for i, t in product(range(6), range(7)):
        nudge = torch.zeros(6, 7, dtype=torch.float64)
        nudge[i, t] = step
        up, down = (definition({**case, "logprobs": case["logprobs"].detach() + s * nudge}, *how) for s in (1, -1))
        gradient[i, t] = (up - down) / (2 * step)
    return gradient


@pytest.mark.parametrize("bias_correction", [True, False])
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_loss_and_gradient_agree_with_the_definition(
    loss_type: Any, level: Any, estimator: Any, bias_correction: bool
) -> None:
    case = random_case()
    loss = grpo_loss(
        **case,
        **OPTIONS,
        loss_type=loss_type,
        importance_sampling_level=level,
        kl_estimator=estimator,
        use_bias_correction_kl=bias_correction,
    ).loss
    loss.backward()
    how = loss_type, level, estimator, bias_correction
    assert loss.item() == pytest.approx(definition(case, *how), abs=1e-12)
    if estimator != "k2" or not bias_correction:  # there the weight is a constant; see the exact gradients below
        torch.testing.assert_close(case["logprobs"].grad, slopes_of_the_definition(case, *how), rtol=0, atol=1e-8)


# Two rows with the ratios 1.5, 0.5, 1; the second is one token shorter.
RATIOS = tensor([[1.5, 0.5, 1.0], [1.5, 0.5, 9.0]])

MASK = torch.tensor([[True, True, True], [True, True, False]])


def loss_by_ratio(**options: Any) -> LossOutputs:
    return grpo_loss(RATIOS.log(), torch.zeros_like(RATIOS), tensor([1.0, -2.0]), MASK, **options)


@pytest.mark.parametrize(
    ("loss_type", "expected"),
    [
        ("grpo", -((1.2 + 0.5 + 1.0) / 3 + (-2 * 1.5 - 2 * 0.8) / 2) / 2),
        ("dr_grpo", -((1.2 + 0.5 + 1.0) + (-2 * 1.5 - 2 * 0.8)) / (2 * 3)),
        ("dapo", -((1.2 + 0.5 + 1.0) + (-2 * 1.5 - 2 * 0.8)) / 5),
        ("bnpo", -((1.2 + 0.5 + 1.0) + (-2 * 1.5 - 2 * 0.8)) / 5),
    ],
)
def test_clip_by_hand(loss_type: Any, expected: float) -> None:
    # A > 0 is clipped from above only, A < 0 from below only.
    assert loss_by_ratio(loss_type=loss_type).loss.item() == pytest.approx(expected)


def test_metrics_by_hand() -> None:
    metrics = loss_by_ratio().metrics
    assert not any(value.requires_grad for value in metrics.values())
    assert set(metrics) == {"ratio", "clipped_low", "clipped_high", "approxkl"}
    torch.testing.assert_close(metrics["ratio"], torch.tensor([[1.5, 0.5, 1.0], [1.5, 0.5, 1.0]]))
    assert metrics["clipped_high"].tolist() == [[1, 0, 0], [0, 0, 0]]
    assert metrics["clipped_low"].tolist() == [[0, 0, 0], [0, 1, 0]]
    squared = [[math.log(1.5) ** 2 / 2, math.log(0.5) ** 2 / 2, 0], [math.log(1.5) ** 2 / 2, math.log(0.5) ** 2 / 2, 0]]
    torch.testing.assert_close(metrics["approxkl"], torch.tensor(squared))


def test_clip_higher_by_hand() -> None:
    outputs = loss_by_ratio(epsilon_high=0.6)
    assert outputs.loss.item() == pytest.approx(-((1.5 + 0.5 + 1.0) + (-2 * 1.5 - 2 * 0.8)) / 5)
    assert outputs.metrics["clipped_high"].sum() == 0


def test_two_sided_clip_by_hand() -> None:
    # δ bounds the ratio 1.5 where A < 0; where A > 0 the clip at 1.2 is the tighter.
    loss = loss_by_ratio(delta=1.3).loss
    assert loss.item() == pytest.approx(-((1.2 + 0.5 + 1.0) + (-2 * 1.3 - 2 * 0.8)) / 5)


def test_sequence_level_by_hand() -> None:
    # One ratio per row, the geometric mean: (1.5 · 0.5 · 1)^⅓ = 0.909 and (1.5 · 0.5)^½ = 0.866.
    first, second = (1.5 * 0.5) ** (1 / 3), (1.5 * 0.5) ** (1 / 2)
    by_row = loss_by_ratio(loss_type="grpo", importance_sampling_level="sequence")
    assert by_row.loss.item() == pytest.approx(-(first - 2 * second) / 2)
    torch.testing.assert_close(by_row.metrics["ratio"], torch.tensor([[first], [second]]))
    tight = loss_by_ratio(loss_type="grpo", importance_sampling_level="sequence", epsilon=0.1)
    assert tight.loss.item() == pytest.approx(-(first - 2 * 0.9) / 2)
    assert tight.metrics["clipped_low"].tolist() == [[0], [1]]
    by_token = loss_by_ratio(loss_type="dapo", importance_sampling_level="sequence")
    assert by_token.loss.item() == pytest.approx(-(3 * first - 2 * 2 * second) / 5)


def test_advantages_per_token_by_hand() -> None:
    advantages = tensor([[1.0, -1.0, 2.0], [-2.0, 4.0, 5.0]])
    loss = grpo_loss(RATIOS.log(), torch.zeros_like(RATIOS), advantages, MASK).loss
    assert loss.item() == pytest.approx(-((1.2 * 1 + 0.8 * -1 + 1 * 2) + (1.5 * -2 + 0.5 * 4)) / 5)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_an_advantage_per_row_is_that_of_each_of_its_tokens(loss_type: Any, level: Any) -> None:
    case = random_case(3)
    per_token = {**case, "advantages": case["advantages"][:, None].expand(6, 7)}
    options = {**OPTIONS, "loss_type": loss_type, "importance_sampling_level": level}
    assert grpo_loss(**per_token, **options).loss.item() == pytest.approx(grpo_loss(**case, **options).loss.item())


@pytest.mark.parametrize("level", LEVELS)
def test_on_policy_the_gradient_is_that_of_the_policy_gradient(level: Any) -> None:
    case = random_case()
    case["old_logprobs"] = case["logprobs"].detach()
    outputs = grpo_loss(**case, loss_type="grpo", importance_sampling_level=level)
    outputs.loss.backward()
    mask, advantages = case["mask"], case["advantages"]
    expected = -advantages[:, None] * mask / mask.sum(dim=1, keepdim=True).clamp(min=1) / 6
    torch.testing.assert_close(case["logprobs"].grad, expected, rtol=0, atol=1e-15)
    assert outputs.metrics["clipped_low"].sum() == outputs.metrics["clipped_high"].sum() == 0


def test_clipped_tokens_have_no_gradient() -> None:
    case = random_case()
    outputs = grpo_loss(**case)
    outputs.loss.backward()
    clipped = (outputs.metrics["clipped_low"] + outputs.metrics["clipped_high"]).bool() & case["mask"]
    assert outputs.metrics["clipped_low"][case["mask"]].any()
    assert outputs.metrics["clipped_high"][case["mask"]].any()
    assert torch.equal(case["logprobs"].grad == 0, clipped | ~case["mask"])


def micro_batches_of(case: dict[str, Tensor], micro_of_row: list[int]) -> Iterator[dict[str, Tensor]]:
    """Each micro-batch's rows, trimmed to the longest of them."""
    for micro in sorted(set(micro_of_row)):
        rows = torch.tensor([i for i, m in enumerate(micro_of_row) if m == micro])
        width = max(1, int(case["mask"][rows].sum(dim=1).max()))
        yield {name: x[rows, :width] if x.ndim == 2 else x[rows] for name, x in case.items()}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@given(seed=st.integers(0, 2**31), micro_of_row=st.lists(st.integers(0, 3), min_size=6, max_size=6))
def test_micro_batches_add_up_to_the_whole(loss_type: Any, level: Any, seed: int, micro_of_row: list[int]) -> None:
    case = random_case(seed)
    options = {**OPTIONS, "loss_type": loss_type, "importance_sampling_level": level}
    whole = grpo_loss(**case, **options).loss
    (gradient,) = torch.autograd.grad(whole, case["logprobs"])
    size = BatchSize(rows=6, tokens=sum(LENGTHS), max_completion_length=7)
    losses = torch.stack(
        [grpo_loss(**micro, size=size, **options).loss for micro in micro_batches_of(case, micro_of_row)]
    )
    losses.sum().backward()
    torch.testing.assert_close(losses.sum(), whole, rtol=0, atol=1e-12)
    torch.testing.assert_close(case["logprobs"].grad, gradient, rtol=0, atol=1e-12)


@pytest.mark.parametrize("junk", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("advantages_per_token", [False, True])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_values_outside_the_mask_do_no_harm(
    loss_type: Any, level: Any, advantages_per_token: bool, junk: float
) -> None:
    case = random_case(2)
    if advantages_per_token:
        case["advantages"] = case["advantages"][:, None] * torch.ones(6, 7)
    spoiled = {n: x.detach().masked_fill(~case["mask"], junk) if x.ndim == 2 else x for n, x in case.items()}
    spoiled |= {"mask": case["mask"], "logprobs": spoiled["logprobs"].requires_grad_()}
    for estimator in ESTIMATORS:
        options = {"loss_type": loss_type, "importance_sampling_level": level, "kl_estimator": estimator}
        clean, dirty = (grpo_loss(**x, **OPTIONS, **options) for x in (case, spoiled))  # type: ignore[arg-type]
        assert dirty.loss.item() == clean.loss.item()
        expected, actual = (torch.autograd.grad(o.loss, x["logprobs"])[0] for o, x in ((clean, case), (dirty, spoiled)))
        torch.testing.assert_close(actual, expected, rtol=0, atol=0)
        for name, metric in dirty.metrics.items():
            torch.testing.assert_close(metric, clean.metrics[name], rtol=0, atol=0)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_nothing_to_learn_from_is_a_loss_of_zero(loss_type: Any, level: Any) -> None:
    case = random_case()
    case["mask"] = torch.zeros_like(case["mask"])
    loss = grpo_loss(**case, **OPTIONS, loss_type=loss_type, importance_sampling_level=level).loss
    loss.backward()
    assert loss.item() == 0
    assert not case["logprobs"].grad.any()


def test_a_ratio_outside_the_mask_is_one() -> None:
    ratio = importance_ratio(RATIOS.log(), torch.zeros_like(RATIOS), MASK)
    torch.testing.assert_close(ratio, tensor([[1.5, 0.5, 1.0], [1.5, 0.5, 1.0]]))


def test_the_size_of_a_single_micro_batch() -> None:
    assert BatchSize.of(MASK) == BatchSize(rows=2, tokens=5.0, max_completion_length=3)
    assert BatchSize.of(MASK, 9) == BatchSize(rows=2, tokens=5.0, max_completion_length=9)


def test_wrong_shapes_are_refused() -> None:
    case = random_case()
    with pytest.raises(ValueError, match=r"expected three times \(R, T\)"):
        grpo_loss(**{**case, "old_logprobs": case["old_logprobs"][:, :3]})
    with pytest.raises(ValueError, match=r"expected three times \(R, T\)"):
        grpo_loss(**{**case, "mask": case["mask"][:2]})
    with pytest.raises(ValueError, match=r"shape \(3,\); expected \(6,\) or \(6, 7\)"):
        grpo_loss(**{**case, "advantages": case["advantages"][:3]})


def test_a_penalty_needs_a_reference() -> None:
    with pytest.raises(ValueError, match=r"kl_coef=0.1 needs ref_logprobs"):
        grpo_loss(**{**random_case(), "ref_logprobs": None}, kl_coef=0.1)  # type: ignore[arg-type]


def test_a_misspelt_option_is_refused() -> None:
    ones, mask = torch.ones(2, 3), torch.ones(2, 3, dtype=torch.bool)
    for option in ({"loss_type": "drgrpo"}, {"importance_sampling_level": "seq"}):
        with pytest.raises(ValueError, match=f"{next(iter(option))}=.*expected one of"):
            grpo_loss(ones, ones, ones[:, 0], mask, **option)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="kl_estimator='k4'"):
        kl_divergence(ones, ones, mask, "k4")  # type: ignore[arg-type]
