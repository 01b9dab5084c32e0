"""The benchmarks' lean run selects, samples and learns as `fit` does."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Trainer

from bots_lightning.data import TaskBatch, TaskDataModule
from bots_lightning.policy.logprobs import completion_logprobs
from bots_lightning.rollouts import CompactEngine, GenerationRequest, SamplingParams
from bots_lightning.training import OnlineModule

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests/benchmarks"))
from lean_fit import LeanFit, parser  # noqa: E402
from lean_policy import LeanEngine, LeanPolicy  # noqa: E402

QUICK = [
    "--config",
    str(ROOT / "configs/quickstart.yaml"),
    "--config",
    str(ROOT / "tests/assets/short_quickstart.yaml"),
]
UNIFORM = ["--config", str(ROOT / "configs/selectors/uniform.yaml")]
DYNAMIC = ["--config", str(ROOT / "configs/algorithms/dynamic_sampling.yaml"), "--data.batch_size", "8"]

pytestmark = pytest.mark.usefixtures("cache")


def fitted(options: list[str], folder: Path) -> tuple[OnlineModule, TaskDataModule]:
    """The run of a Trainer."""
    parts = parser().instantiate_classes(parser().parse_args(options))
    module, tasks = parts.model, parts.data
    flags: dict[str, Any] = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False)
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_epochs=1,
        num_sanity_val_steps=0,
        val_check_interval=2,
        enable_model_summary=False,
        **flags,
    )
    trainer.fit(module, datamodule=tasks)
    return module, tasks


@pytest.mark.parametrize("rule", [[], UNIFORM, DYNAMIC], ids=["bots", "uniform", "dynamic sampling"])
def test_a_lean_run_is_that_of_fit(rule: list[str], tmp_path: Path) -> None:
    options = [*QUICK, *rule, "--trainer.val_check_interval", "2"]
    lean = LeanFit(options)
    record = lean.run()
    module, tasks = fitted(options, tmp_path)
    assert record.selection_counts == tasks.selection_counts.tolist()
    assert module.progress.rollouts == lean.module.progress.rollouts == sum(step["rollouts"] for step in record.steps)
    assert sum(step["mixed"] for step in record.steps) > 0
    theirs, ours = tasks.selector.forecast(np.arange(100)), lean.tasks.selector.forecast(np.arange(100))
    if theirs is not None and ours is not None:
        np.testing.assert_allclose(ours, theirs, rtol=1e-9)
    for name, weight in lean.trained.items():
        expected = dict(module.named_parameters())[name]
        torch.testing.assert_close(weight, expected, rtol=1e-3, atol=1e-5, msg=name)
    assert [evaluation["iteration"] for evaluation in record.evaluations] == [2, 4, 5]
    scores = [np.mean(evaluation["solved"]) / evaluation["completions"] for evaluation in record.evaluations]
    assert scores == pytest.approx([entry["overall"] for entry in module.history])


def test_with_a_budget_of_rollouts_rates_and_evaluations_follow_it() -> None:
    plain, budgeted = LeanFit([*QUICK, *UNIFORM]), LeanFit([*QUICK, *UNIFORM], rollouts=5 * 16 * 4, evaluations=2)
    assert plain.run().selection_counts == budgeted.run().selection_counts
    for name, weight in budgeted.trained.items():
        torch.testing.assert_close(weight, plain.trained[name], rtol=0, atol=1e-7, msg=name)
    assert [at["rollouts"] for at in budgeted.record.evaluations] == [3 * 64, 5 * 64]
    dynamic = LeanFit([*QUICK, *DYNAMIC], rollouts=320)
    dynamic.run()
    assert 320 <= dynamic.module.progress.rollouts < 320 + 4 * 8 * 4


def test_the_engine_samples_what_compact_engine_samples() -> None:
    """Also where counts differ, prompts differ in length, and rows end at different times."""
    lean = LeanFit(QUICK)
    model, encoder = lean.module.policy.model, lean.module.sampler.encoder
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.02, generator=torch.Generator().manual_seed(len(name)))
    pool = lean.tasks.require_pool()
    prompts = encoder.encode([pool[i].prompt for i in range(60)], pool.ids[:60])
    counts = [1 + i % 7 for i in range(60)]
    request = GenerationRequest(
        model.base_model.model,  # type: ignore[union-attr, arg-type]
        prompts,
        counts,
        SamplingParams(12, lean.module.sampler.sampling.stop_token_ids, lean.module.sampler.sampling.pad_token_id),
        list(range(60)),
    )
    engine = LeanEngine(LeanPolicy(model))
    engine.sync(model, 0)
    ours, theirs = engine.generate(request), CompactEngine().generate(request)
    assert len(set(theirs.lengths.tolist())) > 3
    torch.testing.assert_close(ours.completion_ids, theirs.completion_ids[:, : ours.completion_ids.shape[1]])
    for name in ("prompt_ids", "prompt_mask", "finished"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name))


def test_log_probabilities_and_gradients_are_those_of_the_policy() -> None:
    lean = LeanFit([*QUICK, *UNIFORM])
    lean.step()
    model, sampler, tasks = lean.module.policy.model, lean.module.sampler, lean.tasks
    batch = TaskBatch.of(tasks.share(tasks.select()), tasks.require_pool())
    sampler.sync(lean.context.strategy, 1)
    rollouts = sampler.generate(model, 1, batch, list(range(len(batch))))
    mask, found = rollouts.completion_mask, []
    for compute in (LeanPolicy(model).logprobs, lambda rows: completion_logprobs(model, rows)):
        logprobs, entropy = compute(rollouts)
        lean.optimizer.zero_grad()
        (logprobs[mask].sum() + 0.3 * entropy[mask].sum()).backward()
        gradients = {name: weight.grad.clone() for name, weight in lean.trained.items() if weight.grad is not None}
        found.append((logprobs[mask].detach(), entropy[mask].detach(), gradients))
    (ours, our_entropy, our_gradients), (theirs, their_entropy, their_gradients) = found
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(our_entropy, their_entropy, rtol=1e-5, atol=1e-5)
    assert our_gradients.keys() == their_gradients.keys()
    for name, gradient in our_gradients.items():
        torch.testing.assert_close(gradient, their_gradients[name], rtol=1e-4, atol=1e-4, msg=name)
