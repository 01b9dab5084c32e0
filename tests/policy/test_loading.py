"""The policy as it is loaded: what trains, what it computes, and where completions end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    Gemma3Config,
    GPT2Config,
    PhiConfig,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    Qwen3Config,
)

from bots_lightning.algorithms import GRPO
from bots_lightning.policy import LoRA
from bots_lightning.policy.loading import language_model, load_policy, stop_token_ids
from bots_lightning.policy.logprobs import completion_logprobs
from bots_lightning.quickstart.tokenizer import character_tokenizer
from bots_lightning.rollouts import GenerateEngine, GenerationRequest, SamplingParams

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


SIZE = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}

TEXT = SIZE | {"vocab_size": 16, "num_key_value_heads": 1, "head_dim": 8, "attention_dropout": 0.5}


@pytest.mark.parametrize(
    "config",
    [
        Qwen3Config(**TEXT),
        Gemma3Config(text_config=TEXT, vision_config=SIZE | {"image_size": 28, "patch_size": 14}, image_token_index=15),
    ],
    ids=["text", "text and images"],
)
def test_dropout_of_attention_is_off_too_where_no_layer_shows_it(tmp_path: Path, config: PreTrainedConfig) -> None:
    def train_logits(model: nn.Module) -> torch.Tensor:
        with torch.no_grad():
            return model.train()(input_ids=IDS, token_type_ids=torch.zeros_like(IDS)).logits

    with torch.random.fork_rng():
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    dropping = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert not torch.equal(train_logits(dropping), train_logits(dropping))
    policy = load_policy(str(tmp_path))
    assert torch.equal(train_logits(policy), train_logits(policy))


def test_log_probabilities_of_a_model_with_dropout_are_those_of_its_rollouts(tmp_path: Path) -> None:
    size = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
    config = GPT2Config(vocab_size=16, resid_pdrop=0.5, attn_pdrop=0.5, embd_pdrop=0.5, eos_token_id=1, **size)
    with torch.random.fork_rng():
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    policy = load_policy(str(tmp_path)).train()
    policy.transformer.h[0].eval()  # a mode of its own
    modes = {module: module.training for module in policy.modules()}
    rollouts = GenerateEngine().generate(
        GenerationRequest(policy, [[5, 6], [7]], [2, 2], SamplingParams(5, (1,), 0), [0, 1])
    )
    assert {module: module.training for module in policy.modules()} == modes
    one, same = (completion_logprobs(policy, rollouts)[0] for _ in range(2))
    assert torch.equal(one, same)
    assert torch.equal(one, completion_logprobs(policy.eval(), rollouts)[0])
    dropping = AutoModelForCausalLM.from_pretrained(tmp_path).train()
    assert not torch.equal(*(completion_logprobs(dropping, rollouts)[0] for _ in range(2)))


@pytest.mark.parametrize("lora", [None, SMALL])
def test_gradient_checkpointing_computes_layers_again_and_gives_the_same_gradient(
    checkpoint: str, lora: LoRA | None, shake: Any
) -> None:
    gradients, calls = [], []
    for checkpointing in (False, True):
        policy = load_policy(checkpoint, lora, gradient_checkpointing=checkpointing)
        shake(policy)
        count: list[int] = []
        mlp = language_model(policy).model.layers[0].mlp
        mlp.register_forward_pre_hook(lambda *_, count=count: count.append(1))
        policy(input_ids=IDS).logits.logsumexp(-1).sum().backward()
        calls.append(len(count))
        gradients.append({n: w.grad for n, w in policy.named_parameters() if w.requires_grad})
    assert calls == [1, 2]
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


def test_a_device_without_float64_is_refused_before_a_model_is_loaded(build: Callable[..., Any]) -> None:
    module = build(GRPO)
    module._trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("mps")))
    with pytest.raises(ValueError, match=r"have no float64, by which tokens are drawn\. Set trainer\.accelerator=cpu"):
        module.setup("validate")


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
