"""The policy as it is loaded: what trains, what it computes, and where completions end."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers import AutoModelForCausalLM, PhiConfig, PreTrainedTokenizerBase

from bots_lightning.algorithms import LoRA
from bots_lightning.algorithms.policy import language_model, load_policy, stop_token_ids
from bots_lightning.quickstart.tokenizer import character_tokenizer

IDS = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
SMALL = LoRA(r=4, alpha=8)


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def adapters(policy: nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight for name, weight in policy.named_parameters() if "lora_" in name}


def test_without_lora_every_weight_trains(checkpoint: str) -> None:
    policy = load_policy(checkpoint)
    assert all(weight.requires_grad for weight in policy.parameters())
    torch.testing.assert_close(logits(policy), logits(AutoModelForCausalLM.from_pretrained(checkpoint)))


def test_lora_trains_its_adapters_only(checkpoint: str) -> None:
    policy = load_policy(checkpoint, SMALL)
    before = {name: weight.detach().clone() for name, weight in policy.named_parameters()}
    assert {name for name, weight in policy.named_parameters() if weight.requires_grad} == set(adapters(policy))
    optimizer = torch.optim.AdamW([weight for weight in policy.parameters() if weight.requires_grad], lr=0.1)
    for _ in range(2):  # the first step moves B only: A has no gradient while B is 0
        policy(input_ids=IDS).logits.logsumexp(-1).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    changed = {name for name, weight in policy.named_parameters() if not torch.equal(weight, before[name])}
    assert changed == set(adapters(policy))


def test_all_linear_adapts_every_linear_layer_but_the_head(checkpoint: str) -> None:
    linear = {
        name
        for name, layer in AutoModelForCausalLM.from_pretrained(checkpoint).named_modules()
        if isinstance(layer, nn.Linear) and name != "lm_head"
    }
    policy = load_policy(checkpoint, SMALL)
    adapted = {name.split(".lora_A")[0].removeprefix("base_model.model.") for name in adapters(policy) if "_A" in name}
    assert adapted == linear
    some = load_policy(checkpoint, LoRA(r=4, target_modules=["q_proj", "v_proj"]))
    assert {name.split(".")[-4] for name in adapters(some)} == {"q_proj", "v_proj"}


def test_rank_and_alpha_are_those_of_the_adapters(checkpoint: str) -> None:
    policy = load_policy(checkpoint, LoRA(r=3, alpha=12))
    assert {weight.shape[0] for name, weight in adapters(policy).items() if "lora_A" in name} == {3}
    layer = language_model(policy).model.layers[0].self_attn.q_proj
    nn.init.ones_(layer.lora_B["default"].weight)
    x = torch.randn(2, layer.in_features, generator=torch.Generator().manual_seed(0))
    added = x @ layer.lora_A["default"].weight.T @ layer.lora_B["default"].weight.T * (12 / 3)
    torch.testing.assert_close(layer(x), layer.base_layer(x) + added)


def test_fresh_adapters_leave_the_logits_unchanged_to_the_bit(checkpoint: str) -> None:
    assert torch.equal(logits(load_policy(checkpoint, SMALL)), logits(load_policy(checkpoint)))


def test_the_same_seed_gives_the_same_adapters_and_the_global_generator_is_left_alone(checkpoint: str) -> None:
    before = torch.random.get_rng_state()
    one = adapters(load_policy(checkpoint, SMALL, seed=3))
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(77)
    same, other = (adapters(load_policy(checkpoint, SMALL, seed=seed)) for seed in (3, 4))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in one if "lora_A" in name)


def test_adapters_are_float32_whatever_the_weights_are(checkpoint: str) -> None:
    policy = load_policy(checkpoint, SMALL, dtype="bfloat16")
    assert {weight.dtype for weight in adapters(policy).values()} == {torch.float32}
    frozen = {weight.dtype for weight in policy.parameters() if not weight.requires_grad}
    assert frozen == {torch.bfloat16}


@pytest.mark.parametrize("lora", [None, SMALL])
def test_dropout_layers_are_off_even_in_train_mode(tmp_path: Path, lora: LoRA | None) -> None:
    config = PhiConfig(
        vocab_size=16,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        resid_pdrop=0.5,
        embd_pdrop=0.5,
    )
    with torch.random.fork_rng():
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    assert not torch.equal(*(logits(AutoModelForCausalLM.from_pretrained(tmp_path).train()) for _ in range(2)))
    policy = load_policy(str(tmp_path), lora).train()
    assert torch.equal(logits(policy), logits(policy))


def test_the_language_model_is_the_one_inside_with_its_adapters(checkpoint: str) -> None:
    plain, adapted = load_policy(checkpoint), load_policy(checkpoint, SMALL)
    assert language_model(plain) is plain
    assert isinstance(adapted, PeftModel)
    inner = language_model(adapted)
    assert not isinstance(inner, PeftModel)
    before = logits(inner)
    for name, weight in adapters(adapted).items():
        if "lora_B" in name:
            nn.init.normal_(weight, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(logits(inner), before)
    assert torch.equal(logits(inner), logits(adapted))


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerBase:
    return character_tokenizer("ab")


@pytest.mark.parametrize(
    ("configured", "expected"),
    [(None, (1,)), (1, (1,)), (4, (1, 4)), ([7, 4, 7], (1, 4, 7)), ([0], (0, 1)), ([], (1,))],
)
@pytest.mark.parametrize("lora", [None, SMALL])
def test_completions_end_with_any_token_that_tokenizer_or_generation_config_name(
    checkpoint: str, tokenizer: PreTrainedTokenizerBase, lora: LoRA | None, configured: Any, expected: tuple[int, ...]
) -> None:
    policy = load_policy(checkpoint, lora)
    language_model(policy).generation_config.eos_token_id = configured
    assert stop_token_ids(policy, tokenizer) == expected


def test_a_model_without_any_stop_token_is_refused(checkpoint: str) -> None:
    policy = load_policy(checkpoint)
    language_model(policy).generation_config.eos_token_id = None
    with pytest.raises(ValueError, match="names a stop token; set eos_token in the tokenizer"):
        stop_token_ids(policy, SimpleNamespace(eos_token_id=None))  # type: ignore[arg-type]
