"""Losses, gradients, advantages and log-probabilities against those of TRL, which implements the same papers.

TRL's own trainers run, on a tiny random policy in float64. Two things keep them from agreeing to the last bit:

- TRL's language-model head computes in float32 whatever the model is. So each loss is compared twice: end to end, and,
  to the precision of float64, on log-probabilities that both are given.
- TRL passes no position ids, so padding on the left shifts positions. Rotary embeddings depend on their differences
  only, though transformers computes the angles in float32: it makes no difference above the rounding of the head.
"""

# Shapes: R rows, L prompt tokens, T completion tokens.

import math
import os
import random
from collections.abc import Callable, Iterator
from functools import cache
from itertools import product
from typing import Any, NamedTuple, get_args

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from bots_lightning.algorithms.advantages import group_advantages, soft_overlong_penalty
from bots_lightning.algorithms.losses import BatchSize, LossOutputs, aggregate, grpo_loss
from bots_lightning.algorithms.meter import Meter, policy_metrics
from bots_lightning.algorithms.off_policy import ImportanceSampling, Mode
from bots_lightning.policy.logprobs import completion_logprobs
from bots_lightning.rollouts import Rollouts, completion_mask
from bots_lightning.rollouts.segments import groups_of_rows

pytestmark = pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")

END_TO_END, EXACT = 1e-6, 1e-12
MAX_COMPLETION_LENGTH = 9  # longer than any completion here
LENGTHS = [7, 1, 3, 7, 5, 2, 6, 4]  # those of 7 tokens were cut and have no stop token
NAN = math.nan


@pytest.fixture(scope="module")
def trl() -> Iterator[Any]:
    """The library; random generators, and the environment that it and what it imports write to, are put back."""
    environment = dict(os.environ)
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        yield pytest.importorskip("trl", reason="TRL is not installed; pip install trl to compare with it")
    random.setstate(states[0])
    np.random.set_state(states[1])
    os.environ.clear()
    os.environ.update(environment)


@pytest.fixture(scope="module")
def trainer_of(trl: Any, checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """One of TRL's trainers, of "GRPO" or "RLOO", with a policy in float64; options are those of its config."""
    datasets = pytest.importorskip("datasets", reason="TRL needs datasets")

    @cache
    def build(algorithm: str, **options: Any) -> Any:
        defaults = {"per_device_train_batch_size": len(LENGTHS), "num_generations": 4, "beta": 0.0}
        config = getattr(trl, f"{algorithm}Config")(
            output_dir=str(tmp_path_factory.mktemp("trl")),
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            disable_dropout=True,
            report_to="none",
            max_completion_length=MAX_COMPLETION_LENGTH,
            **defaults | options,
        )
        trainer = getattr(trl, f"{algorithm}Trainer")(
            model=AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float64),
            reward_funcs=preset_rewards,
            args=config,
            train_dataset=datasets.Dataset.from_dict({"prompt": ["1+2="], "reward": [0.0]}),
            processing_class=AutoTokenizer.from_pretrained(checkpoint),
        )
        trainer.model.train()
        trainer.current_gradient_accumulation_steps = 1  # set by the training loop
        return trainer

    return build


def preset_rewards(reward: list[float | None], **_: Any) -> list[float | None]:
    """A reward function: that of the dataset's column."""
    return reward


class Case(NamedTuple):
    """What both are given."""

    rollouts: Rollouts
    advantages: Tensor
    old_logprobs: Tensor
    ref_logprobs: Tensor
    mask: Tensor  # of the tokens to learn from

    def for_trl(self) -> dict[str, Tensor]:
        return {
            "prompt_ids": self.rollouts.prompt_ids,
            "prompt_mask": self.rollouts.prompt_mask.long(),
            "completion_ids": self.rollouts.completion_ids,
            "completion_mask": self.mask.long(),
            "advantages": self.advantages,
            "old_per_token_logps": self.old_logprobs,
            "ref_per_token_logps": self.ref_logprobs,
            "num_items_in_batch": self.mask.sum(),
        }


def case_of(trainer: Any, prompt_lengths: list[int] | None = None) -> Case:
    """Ragged completions, with ratios on both sides of both clips, by token and by row."""
    generator = torch.Generator().manual_seed(0)
    rows, width, prompt = len(LENGTHS), max(LENGTHS), 5
    lengths = torch.tensor(LENGTHS)
    vocabulary = trainer.model.config.vocab_size
    prompt_mask = torch.arange(prompt) >= prompt - torch.tensor(prompt_lengths or [prompt] * rows)[:, None]
    prompt_ids = torch.randint(3, vocabulary, (rows, prompt), generator=generator) * prompt_mask
    mask = torch.arange(width) < lengths[:, None]
    completion_ids = torch.randint(3, vocabulary, (rows, width), generator=generator) * mask
    finished = lengths < width
    completion_ids[finished, lengths[finished] - 1] = 1
    rollouts = Rollouts(prompt_ids, prompt_mask, completion_ids, mask, finished, policy_version=0)
    with torch.no_grad():
        present, _ = completion_logprobs(trainer.model, rollouts, trainer.temperature)
    noise = torch.randn(2, rows, width, generator=generator, dtype=torch.float64)
    by_row = torch.randn(rows, 1, generator=generator, dtype=torch.float64)
    old, ref = present + (0.3 * noise[0] + 0.4 * by_row) * mask, present + 0.5 * noise[1] * mask
    advantages = tensor([1.2, -0.7, -0.7, 0.2, -1.0, 1.5, 0.0, -0.5])
    return Case(rollouts, advantages, old, ref, mask)


def tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def loss_of_trl(trainer: Any, inputs: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
    """Its loss and the metrics that it records."""
    trainer._metrics["train"].clear()
    loss = trainer._compute_loss(trainer.model, inputs)
    return loss, {name: values[-1] for name, values in trainer._metrics["train"].items()}


def our_loss(trainer: Any, case: Case, **options: Any) -> tuple[LossOutputs, Tensor]:
    """Our loss and entropies."""
    logprobs, entropy = completion_logprobs(trainer.model, case.rollouts, trainer.temperature)
    size = BatchSize.of(case.mask, MAX_COMPLETION_LENGTH)
    outputs = grpo_loss(
        logprobs, case.old_logprobs, case.advantages, case.mask, size, ref_logprobs=case.ref_logprobs, **options
    )
    return outputs, entropy


def set_options(monkeypatch: pytest.MonkeyPatch, trainer: Any, **options: Any) -> None:
    """The trainer's options by our names, until the test ends."""
    ours = {"epsilon": "epsilon_low", "kl_coef": "beta"}
    for name, value in options.items():
        holder = trainer.args if name in ("delta", "use_bias_correction_kl") else trainer
        monkeypatch.setattr(holder, ours.get(name, name), value)


def share_our_logprobs(monkeypatch: pytest.MonkeyPatch, trainer: Any, case: Case) -> None:
    """Gives the trainer our log-probabilities and entropies, in float64, in place of its own in float32."""

    def ours(*_: Any, **__: Any) -> tuple[Tensor, Tensor, None]:
        return *completion_logprobs(trainer.model, case.rollouts, trainer.temperature), None

    monkeypatch.setattr(trainer, "_get_per_token_logps_and_entropies", ours)


def assert_agree(actual: Tensor, expected: Tensor, model: torch.nn.Module, atol: float) -> None:
    """Two losses, and their gradients at all weights of the model."""
    torch.testing.assert_close(actual, expected.double(), rtol=0, atol=atol)
    names, weights = zip(*model.named_parameters(), strict=True)
    ours, theirs = (torch.autograd.grad(loss, weights) for loss in (actual, expected))
    assert max(float(gradient.abs().max()) for gradient in theirs) > 0.01
    torch.testing.assert_close(
        dict(zip(names, ours, strict=True)), dict(zip(names, theirs, strict=True)), rtol=0, atol=atol
    )


def mean_metric(metric: Tensor, mask: Tensor) -> float:
    """Over tokens, or over rows of a metric that has one value per row."""
    return float(metric.mean() if metric.shape[1] == 1 else metric[mask].mean())


def options_of(**options: Any) -> dict[str, Any]:
    """Those of one loss, spelled out."""
    defaults = {
        "loss_type": "dapo",
        "importance_sampling_level": "token",
        "epsilon": 0.2,
        "epsilon_high": 0.2,
        "delta": None,
        "kl_coef": 0.0,
        "use_bias_correction_kl": True,
    }
    return defaults | options


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
    parts = [{n: x[rows] if x.ndim else x for n, x in inputs.items()} for rows in (slice(0, 4), slice(4, 8))]
    expected = torch.stack([loss_of_trl(trainer, part)[0] for part in parts]).sum()
    actual = our_loss(trainer, case, **options)[0].loss
    assert_agree(actual, expected, trainer.model, END_TO_END)


PAIR = groups_of_rows([4, 4])
# Rewards of two groups of four; None where no reward function applied.
REWARDS: dict[str, list[float | None]] = {
    "binary": [1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
    "graded": [0.3, -2.0, 0.7, 0.1, 5.0, 4.5, 4.9, 4.0],
    "equal and mixed": [0.1, 0.1, 0.1, 0.1, 0.0, 0.5, 1.0, 0.0],
    "all equal": [0.5] * 8,
    "some missing": [1.0, None, 0.0, None, 0.25, 0.5, None, 0.75],
    "a group missing": [None, None, None, None, 0.0, 1.0, 1.0, 0.0],
    "one left": [None, 3.0, None, None, 0.0, 1.0, None, 0.0],
    "only one": [None, 3.0, None, None, None, None, None, None],
}


def advantages_of_trl(trainer: Any, rewards: list[float | None]) -> Tensor:
    """Those that its rollout and reward code gives, (R,) float32."""
    inputs = [{"prompt": "1+2=", "reward": reward} for reward in rewards]
    return trainer._generate_and_score_completions(inputs)["advantages"]


def as_tensor(rewards: list[float | None]) -> Tensor:
    return torch.tensor([NAN if reward is None else reward for reward in rewards])


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("rewards", REWARDS.values(), ids=REWARDS)
def test_group_advantages_agree(
    trainer_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, rewards: list[float | None], scale: Any
) -> None:
    trainer = trainer_of("GRPO")
    monkeypatch.setattr(trainer, "scale_rewards", scale)
    expected = advantages_of_trl(trainer, rewards)
    torch.testing.assert_close(group_advantages(as_tensor(rewards), PAIR, scale), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("rewards", REWARDS.values(), ids=REWARDS)
def test_leave_one_out_advantages_agree(trainer_of: Callable[..., Any], rewards: list[float | None]) -> None:
    expected = advantages_of_trl(trainer_of("RLOO", normalize_advantages=False), rewards)
    actual = group_advantages(as_tensor(rewards), PAIR, "none", adv_estimator="rloo")
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)


def test_a_step_from_completions_to_gradients_agrees(
    trainer_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of("GRPO")
    monkeypatch.setattr(trainer, "mask_truncated_completions", True)
    set_options(monkeypatch, trainer, **options_of())
    torch.manual_seed(3)
    prompts = ["1+2="] * 4 + ["7="] * 4
    rewards = REWARDS["graded"]
    inputs = [{"prompt": prompt, "reward": reward} for prompt, reward in zip(prompts, rewards, strict=True)]
    theirs = trainer._generate_and_score_completions(inputs)
    expected, _ = loss_of_trl(trainer, theirs)

    mask, finished = completion_mask(theirs["completion_ids"], [trainer.model.config.eos_token_id])
    assert finished.any()
    assert not finished.all()
    learned = mask & finished[:, None]
    assert torch.equal(learned, theirs["completion_mask"].bool())
    prompt_ids, prompt_mask = theirs["prompt_ids"], theirs["prompt_mask"].bool()
    rollouts = Rollouts(prompt_ids, prompt_mask, theirs["completion_ids"], mask, finished, policy_version=0)
    with torch.no_grad():
        present, _ = completion_logprobs(trainer.model, rollouts)
    case = Case(rollouts, group_advantages(as_tensor(rewards), PAIR), present, present, learned)
    assert_agree(our_loss(trainer, case, **options_of())[0].loss, expected, trainer.model, END_TO_END)


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


@pytest.mark.parametrize(("limit", "cache"), [(100, 20), (30, 30), (7, 1), (50, 0)])
def test_soft_overlong_penalties_agree(trl: Any, limit: int, cache: int) -> None:
    from trl.rewards import get_soft_overlong_punishment

    lengths = torch.arange(0, limit + 10)
    expected = get_soft_overlong_punishment(limit, cache)([[1] * length for length in lengths.tolist()])
    torch.testing.assert_close(soft_overlong_penalty(lengths, limit, cache), torch.tensor(expected), rtol=0, atol=1e-7)
