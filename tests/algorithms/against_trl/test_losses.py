"""Log-probabilities, losses and gradients against TRL's, with all options."""

# Shapes: R rows, L prompt tokens, T completion tokens.

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from trl_helpers import (
    END_TO_END,
    EXACT,
    assert_agree,
    case_of,
    loss_of_trl,
    mean_metric,
    options_of,
    our_loss,
    set_options,
    share_our_logprobs,
)

from bots_lightning.algorithms.losses import BatchSize, aggregate
from bots_lightning.policy.logprobs import completion_logprobs

pytestmark = pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")

PENALTIES = [{}, {"kl_coef": 0.3}, {"kl_coef": 0.3, "use_bias_correction_kl": False}]

VARIATIONS = [
    {"epsilon_high": 0.28},
    {"delta": 1.4},
    {"epsilon": 0.05, "epsilon_high": 0.4, "delta": 1.5, "kl_coef": 0.1},
]

ALL_OPTIONS = [
    options_of(loss_type=loss_type, importance_sampling_level=level, **others)
    for loss_type, level, others in product(
        ("grpo", "dr_grpo", "dapo", "bnpo"), ("token", "sequence"), [*PENALTIES, *VARIATIONS]
    )
]


def name_of(options: dict[str, Any]) -> str:
    return "-".join(str(value) for value in options.values())


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_and_entropies_agree(trainer_of: Callable[..., Any], temperature: float) -> None:
    trainer = trainer_of("GRPO", temperature=temperature)
    case = case_of(trainer)
    inputs, mask = case.for_trl(), case.mask
    theirs = trainer._get_per_token_logps_and_entropies(
        trainer.model,
        torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1),
        torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1),
        mask.shape[1],
        compute_entropy=True,
    )
    for expected, actual in zip(theirs, completion_logprobs(trainer.model, case.rollouts, temperature), strict=False):
        torch.testing.assert_close(actual[mask], expected[mask].double(), rtol=0, atol=END_TO_END)


@pytest.mark.parametrize("options", ALL_OPTIONS, ids=name_of)
def test_losses_gradients_and_metrics_agree_on_the_same_logprobs(
    trainer_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    trainer = trainer_of("GRPO")
    case = case_of(trainer)
    set_options(monkeypatch, trainer, **options)
    share_our_logprobs(monkeypatch, trainer, case)
    expected, metrics = loss_of_trl(trainer, case.for_trl())
    outputs, entropy = our_loss(trainer, case, **options)
    assert_agree(outputs.loss, expected, trainer.model, EXACT)

    ours = outputs.metrics
    low, high = (mean_metric(ours[name], case.mask) for name in ("clipped_low", "clipped_high"))
    assert low > 0
    assert high > 0
    assert metrics["clip_ratio/low_mean"] == pytest.approx(low, abs=1e-6)
    assert metrics["clip_ratio/high_mean"] == pytest.approx(high, abs=1e-6)
    assert metrics["clip_ratio/region_mean"] == pytest.approx(low + high, abs=1e-6)
    assert metrics["entropy"] == pytest.approx(entropy[case.mask].mean().item(), abs=1e-6)
    if options["kl_coef"]:  # TRL records the estimate with its weight, we without
        weight = ours["ratio"] if options["use_bias_correction_kl"] else torch.ones(1)
        assert metrics["kl"] == pytest.approx(float((ours["kl"] * weight)[case.mask].mean()), abs=1e-6)


@pytest.mark.parametrize("options", ALL_OPTIONS, ids=name_of)
def test_losses_and_gradients_agree_end_to_end(
    trainer_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    trainer = trainer_of("GRPO", temperature=0.7)
    case = case_of(trainer)
    set_options(monkeypatch, trainer, **options)
    expected, _ = loss_of_trl(trainer, case.for_trl())
    actual = our_loss(trainer, case, **options)[0].loss
    assert_agree(actual, expected, trainer.model, END_TO_END)


@pytest.mark.parametrize("loss_type", ["grpo", "dapo"])
def test_prompts_padded_on_the_left_agree(
    trainer_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, loss_type: str
) -> None:
    trainer = trainer_of("GRPO")
    case = case_of(trainer, prompt_lengths=[5, 2, 3, 1, 5, 4, 4, 2])
    options = options_of(loss_type=loss_type, kl_coef=0.3)
    set_options(monkeypatch, trainer, **options)
    expected, _ = loss_of_trl(trainer, case.for_trl())
    actual = our_loss(trainer, case, **options)[0].loss
    assert_agree(actual, expected, trainer.model, END_TO_END)


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "dapo", "bnpo"])
def test_on_policy_losses_agree(
    trainer_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, loss_type: str, level: str
) -> None:
    trainer = trainer_of("GRPO")
    case = case_of(trainer)
    options = options_of(loss_type=loss_type, importance_sampling_level=level)
    set_options(monkeypatch, trainer, **options)
    inputs = case.for_trl()
    del inputs["old_per_token_logps"]
    expected, metrics = loss_of_trl(trainer, inputs)
    with torch.no_grad():
        present, _ = completion_logprobs(trainer.model, case.rollouts)
    actual = our_loss(trainer, case._replace(old_logprobs=present), **options)[0].loss
    assert_agree(actual, expected, trainer.model, END_TO_END)
    assert metrics["clip_ratio/region_mean"] == 0


@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "dapo", "bnpo"])
def test_masked_truncated_completions_agree(
    trainer_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, loss_type: str
) -> None:
    # TRL hides such completions from attention too, which changes nothing in the other rows.
    trainer = trainer_of("GRPO")
    case = case_of(trainer)
    case = case._replace(mask=case.mask & case.rollouts.finished[:, None])
    assert not case.mask[[0, 3]].any()
    options = options_of(loss_type=loss_type, kl_coef=0.3)
    set_options(monkeypatch, trainer, **options)
    expected, _ = loss_of_trl(trainer, case.for_trl())
    actual = our_loss(trainer, case, **options)[0].loss
    assert_agree(actual, expected, trainer.model, END_TO_END)


@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "dapo", "bnpo"])
@pytest.mark.parametrize("own_head", [True, False])
def test_entropy_bonuses_agree(
    trainer_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, own_head: bool, loss_type: str
) -> None:
    trainer = trainer_of("GRPO", entropy_coef=0.5)
    case = case_of(trainer)
    options = options_of(loss_type=loss_type)
    set_options(monkeypatch, trainer, **options)
    if not own_head:
        share_our_logprobs(monkeypatch, trainer, case)
    expected, _ = loss_of_trl(trainer, case.for_trl())
    outputs, entropy = our_loss(trainer, case, **options)
    actual = outputs.loss - 0.5 * aggregate(entropy, case.mask, BatchSize.of(case.mask), "bnpo")
    assert_agree(actual, expected, trainer.model, END_TO_END if own_head else EXACT)


@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "dapo", "bnpo"])
def test_advantages_per_token_agree(
    trainer_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, loss_type: str
) -> None:
    trainer = trainer_of("GRPO")
    case = case_of(trainer)
    per_token = torch.randn(case.mask.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    case = case._replace(advantages=per_token)
    options = options_of(loss_type=loss_type)
    set_options(monkeypatch, trainer, **options)
    share_our_logprobs(monkeypatch, trainer, case)
    expected, _ = loss_of_trl(trainer, case.for_trl())
    actual = our_loss(trainer, case, **options)[0].loss
    assert_agree(actual, expected, trainer.model, EXACT)


@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "dapo"])
def test_micro_batches_agree(trainer_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, loss_type: str) -> None:
    # Two of one optimizer step. With "bnpo" TRL takes the mean of each one's tokens, we that of all tokens of the step.
    trainer = trainer_of("GRPO", per_device_train_batch_size=4, gradient_accumulation_steps=2)
    monkeypatch.setattr(trainer, "current_gradient_accumulation_steps", 2)
    case = case_of(trainer)
    options = options_of(loss_type=loss_type)
    set_options(monkeypatch, trainer, **options)
    inputs = case.for_trl()
    micros = [{n: x[rows] if x.ndim else x for n, x in inputs.items()} for rows in (slice(0, 4), slice(4, 8))]
    expected = torch.stack([loss_of_trl(trainer, micro)[0] for micro in micros]).sum()
    actual = our_loss(trainer, case, **options)[0].loss
    assert_agree(actual, expected, trainer.model, END_TO_END)
