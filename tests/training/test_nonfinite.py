"""Steps that are not finite: found, kept, skipped, counted, and in the end an error."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from bots_lightning.algorithms import GRPO, PPO, Experience
from bots_lightning.evaluation import TensorBoardCurves
from bots_lightning.policy import LoRA
from bots_lightning.policy.critic import token_values
from bots_lightning.training.nonfinite import check_skipped, dump_batch, nonfinite_gradients

NAN, INF = math.nan, math.inf


def test_a_gradient_with_one_nan_or_infinity_is_named() -> None:
    gradients = {"fine": [1.0, -2.0], "nan": [0.0, NAN], "infinite": [-INF, 1.0], "none": None, "large": [3e38, 0.0]}
    weights = {name: nn.Parameter(torch.zeros(2)) for name in gradients}
    for name, gradient in gradients.items():
        weights[name].grad = None if gradient is None else torch.tensor(gradient)
    assert nonfinite_gradients(weights.items()) == ["nan", "infinite"]


def test_what_is_kept_loads_without_code(make_rollouts: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rollouts = make_rollouts([2, 3], [1, 4])
    advantages = torch.tensor([0.5, NAN])
    experience = Experience(rollouts, rollouts.completion_mask, advantages, old_logprobs=torch.ones(2, 3))
    path = tmp_path / "some" / "where" / "batch.pt"
    with caplog.at_level(logging.WARNING):
        dump_batch(path, experience, NAN, INF, ["head.weight"], 12)
    kept = torch.load(path, weights_only=True)
    assert (kept["grad_norm"], kept["gradients"], kept["iteration"]) == (INF, ["head.weight"], 12)
    assert math.isnan(kept["loss"])
    assert torch.equal(kept["completion_ids"], rollouts.completion_ids)
    assert torch.equal(kept["prompt_mask"], rollouts.prompt_mask)
    torch.testing.assert_close(kept["advantages"], advantages, equal_nan=True)
    assert "ref_logprobs" not in kept
    assert "iteration 12: loss nan, gradient norm inf (1 weights not finite)" in caplog.text
    assert str(path) in caplog.text


def test_the_limit_is_the_first_number_that_is_too_many(tmp_path: Path) -> None:
    check_skipped(2, 3, tmp_path)
    with pytest.raises(FloatingPointError, match=rf"3 optimizer steps in a row .*{tmp_path}.*max_skipped_steps"):
        check_skipped(3, 3, tmp_path)


def nothing(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
    """What no completion is rewarded with."""
    return [0.0] * len(completions)


# --- in the loop ----------------------------------------------------------------------------------------------------


def poison(module: Any, iterations: set[int]) -> Any:
    """The module, whose loss is NaN in the given iterations."""
    losses = module.algorithm.losses

    def poisoned(*args: Any) -> Any:
        for loss in losses(*args):
            yield loss * (NAN if module.progress.iterations in iterations else 1.0)

    module.algorithm.losses = poisoned
    return module


class Moments(Callback):
    """Keeps AdamW's state after every iteration."""

    def __init__(self) -> None:
        self.states: list[list[Tensor]] = []

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        state = trainer.optimizers[0].state_dict()["state"]
        self.states.append([value.clone() for entry in state.values() for value in entry.values()])


def same(one: Any, other: Any) -> bool:
    values = (one.values(), other.values()) if isinstance(one, dict) else (one, other)
    return all(torch.equal(a, b) for a, b in zip(*values, strict=True))


@pytest.mark.parametrize(("algorithm", "lora"), [(GRPO, None), (GRPO, LoRA(r=4, alpha=8)), (PPO, LoRA(r=4, alpha=8))])
def test_a_step_that_is_not_finite_is_skipped(
    build: Any, fit: Any, tmp_path: Path, algorithm: Any, lora: LoRA | None
) -> None:
    steps = {"num_ppo_epochs": 1} if algorithm is PPO else {}
    module, moments = poison(build(algorithm, lora=lora, weight_decay=0.1, **steps), {1, 2}), Moments()
    history = fit(module, 4, callbacks=[moments]).history
    assert history["skipped_steps"] == [0, 1, 2, 2]
    assert history["optimizer_steps"] == [1, 0, 0, 1]
    for name in ("loss", "grad_norm"):
        assert [math.isnan(value) for value in history[name]] == [False, True, True, False]
    assert same(history.weights[0], history.weights[1])
    assert same(history.weights[0], history.weights[2])
    assert same(moments.states[0], moments.states[2])
    assert not same(history.weights[2], history.weights[3])
    assert not same(moments.states[2], moments.states[3])
    assert (module.progress.skipped_steps, module.progress.skipped_in_a_row) == (2, 0)
    files = sorted(path.name for path in (tmp_path / "nonfinite").iterdir())
    assert files == ["iteration-1-step-1-rank-0.pt", "iteration-2-step-2-rank-0.pt"]
    kept = torch.load(tmp_path / "nonfinite" / files[0], weights_only=True)
    assert {"prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "mask", "advantages"} <= kept.keys()
    assert math.isnan(kept["loss"])
    assert kept["completion_ids"].shape == kept["mask"].shape
    trained = {name for name, weight in module.named_parameters() if weight.requires_grad}
    assert kept["gradients"]
    assert set(kept["gradients"]) <= trained


@pytest.mark.parametrize("num_iterations", [1, 2])
def test_skipped_steps_do_not_lengthen_a_run(num_iterations: int, build: Any, fit: Any) -> None:
    options = {"lr_scheduler_type": "linear", "num_iterations": num_iterations}
    module = poison(build(GRPO, **options), {1, 2})
    run = fit(module, 100, max_epochs=-1, max_steps=4 * num_iterations)
    assert module.progress.iterations == 4
    assert run.trainer.global_step == 4 * num_iterations
    assert min(run.history["learning_rate"][:-1]) > 0


def test_values_that_are_no_numbers_teach_no_minibatch(
    build: Any, fit: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where they are those of one row, and the others' minibatches would come out finite."""

    def with_a_nan(*args: Any) -> Tensor:
        values = token_values(*args)
        values[0, 0] = NAN
        return values

    monkeypatch.setattr("bots_lightning.algorithms.ppo.token_values", with_a_nan)
    module = build(PPO, num_ppo_epochs=1, num_mini_batches=4, max_skipped_steps=8)
    with pytest.raises(FloatingPointError, match="8 optimizer steps in a row had a loss or a gradient that is not fin"):
        fit(module, 3)
    assert "iteration 0: loss nan" in caplog.text


def test_tensorboard_has_gaps_where_a_metric_is_no_number(
    build: Any, fit: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Equal rewards have no variance to be explained, and a step that is skipped has no loss."""
    module = poison(build(PPO, reward_funcs=[nothing], num_ppo_epochs=1, kl_coef=0.1), {1})
    history = fit(module, 2, logger=TensorBoardCurves(tmp_path), log_every_n_steps=1).history
    assert math.isnan(history["loss"][1])
    assert "NaN or Inf" not in caplog.text


def test_the_very_first_step_may_be_skipped(build: Any, fit: Any) -> None:
    module = poison(build(GRPO, lr_scheduler_type="linear"), {0})
    history = fit(module, 4).history
    assert history["optimizer_steps"] == [0, 1, 1, 1]
    assert history["learning_rate"] == pytest.approx([0.01 * (1 - step / 4) for step in (1, 2, 3, 4)])


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_the_weights_whose_gradients_are_bad_are_named_and_no_others(
    build: Any, fit: Any, tmp_path: Path, value: float
) -> None:
    module = build(GRPO)
    module.configure_model()
    bad = next(name for name, weight in module.named_parameters() if "layers.1" in name and "lora_B" in name)
    module.get_parameter(bad).register_hook(lambda gradient: gradient.index_fill(0, torch.tensor([0]), value))
    history = fit(module, 1).history
    assert history["skipped_steps"] == [1]
    (path,) = (tmp_path / "nonfinite").iterdir()
    kept = torch.load(path, weights_only=True)
    assert kept["gradients"] == [bad]
    assert math.isfinite(kept["loss"])
    assert not math.isfinite(kept["grad_norm"])


def test_a_run_that_only_skips_stops_and_names_the_folder(build: Any, fit: Any, tmp_path: Path) -> None:
    module = poison(build(GRPO, max_skipped_steps=3), set(range(99)))
    module.configure_model()
    before = {name: weight.detach().clone() for name, weight in module.named_parameters()}
    with pytest.raises(FloatingPointError, match=rf"3 optimizer steps in a row .*{tmp_path / 'nonfinite'}"):
        fit(module, 10)
    assert len(list((tmp_path / "nonfinite").iterdir())) == 3
    assert same(dict(module.named_parameters()), before)


def test_skips_are_counted_over_a_resume(build: Any, fit: Any, tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    run = fit(poison(build(GRPO), {0, 2, 3}), 4)
    run.trainer.save_checkpoint(path)
    resumed = poison(build(GRPO, max_skipped_steps=3), {4})
    with pytest.raises(FloatingPointError, match="3 optimizer steps in a row"):
        fit(resumed, 8, ckpt_path=str(path), max_epochs=2)
    assert resumed.progress.skipped_steps == 4
    files = {path.name for path in (tmp_path / "nonfinite").iterdir()}
    assert {"iteration-4-step-4-rank-0.pt", "iteration-3-step-3-rank-0.pt"} <= files


def test_a_checkpoint_from_before_the_counters_loads(build: Any, fit: Any, tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    fit(build(GRPO), 1).trainer.save_checkpoint(path)
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["progress"]["skipped_steps"], checkpoint["progress"]["skipped_in_a_row"]
    torch.save(checkpoint, path)
    module = build(GRPO)
    fit(module, 2, ckpt_path=str(path), max_epochs=2)
    assert module.progress.iterations >= 2
    assert (module.progress.skipped_steps, module.progress.skipped_in_a_row) == (0, 0)
