"""Importance weights, their metrics and the loss with them against TRL's."""

# Shapes: R rows, L prompt tokens, T completion tokens.

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from trl_helpers import (
    END_TO_END,
    NAN,
    PAIR,
    REWARDS,
    as_tensor,
    assert_agree,
    case_of,
    loss_of_trl,
    options_of,
    our_loss,
    set_options,
    share_our_logprobs,
)

from bots_lightning.algorithms.advantages import group_advantages
from bots_lightning.algorithms.meter import Meter, policy_metrics
from bots_lightning.algorithms.off_policy import ImportanceSampling, Mode, off_policy_mask
from bots_lightning.policy.logprobs import completion_logprobs

pytestmark = pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")


@pytest.mark.parametrize("bounds", [(3.0, None), (1.5, 0.7), (None, 0.7)], ids=str)
@pytest.mark.parametrize("mode", get_args(Mode))
def test_importance_sampling_agrees(
    trainer_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, mode: Mode, bounds: tuple[float | None, float]
) -> None:
    trainer = trainer_of("GRPO")
    case = case_of(trainer)
    difference = case.old_logprobs.clone()  # that to the policy has rows and tokens on both sides of all bounds
    difference[2, 0] = NAN  # a token whose log-probability the engine has not told
    mask, ids = case.mask, case.rollouts.completion_ids
    with torch.no_grad():
        present, _ = completion_logprobs(trainer.model, case.rollouts)
    given = [case.rollouts.prompt_ids.tolist(), [row[kept].tolist() for row, kept in zip(ids, mask, strict=True)]]
    logprobs = [row[kept].tolist() for row, kept in zip(difference, mask, strict=True)]
    monkeypatch.setattr(trainer, "_generate", lambda _: (*given, None, ["1"] * 8, logprobs, {}, None, None))
    monkeypatch.setattr(trainer, "use_vllm", True)
    for name, value in zip(("mode", "clip_max", "clip_min"), (mode, *bounds), strict=True):
        monkeypatch.setattr(trainer, f"vllm_importance_sampling_{name}", value)
    set_options(monkeypatch, trainer, **options_of())
    trainer._metrics["train"].clear()
    inputs = trainer._generate_and_score_completions([{"prompt": "1+2=", "reward": r} for r in REWARDS["binary"]])
    metrics = {n: values[-1] for n, values in trainer._metrics["train"].items() if n.startswith("sampling/")}

    weights = ImportanceSampling(mode, *bounds).weights(present, difference, mask)
    known = mask if weights.shape[1] > 1 else mask.any(dim=1, keepdim=True)
    theirs = inputs["importance_sampling_ratio"].double()
    torch.testing.assert_close(weights[known], theirs[known], rtol=1e-5, atol=0)
    assert weights[known].unique().numel() > 1
    assert (weights[known] == 0).any() == mode.endswith("mask")
    expected, _ = loss_of_trl(trainer, inputs)
    advantages = group_advantages(as_tensor(REWARDS["binary"]), PAIR)
    case = case._replace(advantages=advantages, old_logprobs=present)
    assert_agree(our_loss(trainer, case, weights=theirs, **options_of())[0].loss, expected, trainer.model, END_TO_END)

    meter, told = Meter(), mask & ~difference.isnan()
    zeros = torch.zeros_like(present)
    for name in ("entropy", "clipped_low", "clipped_high", "approxkl"):
        meter.add(name, zeros, mask, rows=True)
    meter.add("logp_difference", (present - difference).abs(), told, extremes=True)
    meter.add("importance_weight", weights, mask, extremes=True)
    ours = policy_metrics(meter)
    assert len(metrics) == 5
    assert {name: ours[name] for name in metrics} == pytest.approx(metrics, rel=1e-5)


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("kl_coef", [0.0, 0.1])
def test_the_off_policy_mask_agrees(
    trainer_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, threshold: float, kl_coef: float
) -> None:
    trainer = trainer_of("GRPO")
    case = case_of(trainer)
    options = options_of(kl_coef=kl_coef)
    set_options(monkeypatch, trainer, **options)
    monkeypatch.setattr(trainer, "off_policy_mask_threshold", threshold)
    share_our_logprobs(monkeypatch, trainer, case)
    sampling = case.old_logprobs.clone()
    sampling[2, 0] = NAN
    inputs = case.for_trl() | {"sampling_per_token_logps": sampling}
    expected, _ = loss_of_trl(trainer, inputs)
    with torch.no_grad():
        present, _ = completion_logprobs(trainer.model, case.rollouts)
    kept = off_policy_mask(case.advantages, present, sampling, case.mask, threshold)
    theirs = trainer.get_off_policy_mask(case.advantages.unsqueeze(1), present, sampling, case.mask, threshold)
    assert torch.equal(kept.bool(), theirs.bool())
    assert 0 < int((kept == 0).sum()) < len(kept)
    assert_agree(our_loss(trainer, case, weights=kept, **options)[0].loss, expected, trainer.model, 1e-9)
