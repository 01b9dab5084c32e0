"""Full models are W + ΔW, rounded once, with configs as shipped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from export_helpers import SMALL, enlarge_adapters, load, loaded, logits
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GPT2Config, PhiConfig, Qwen3Config

from bots_lightning.policy import LoRA
from bots_lightning.policy.export import export_policy, full_model
from bots_lightning.policy.loading import load_policy
from bots_lightning.quickstart.tokenizer import character_tokenizer
from bots_lightning.rollouts import load_tokenizer

TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}="


def adapted(policy: nn.Module) -> dict[str, Tensor]:
    """W + ΔW of every adapted layer, in float64, from its definition: ΔW = alpha / r · B A."""
    weights = dict(policy.named_parameters())
    stems = [name.removesuffix(".base_layer.weight") for name in weights if name.endswith(".base_layer.weight")]
    return {
        stem.removeprefix("base_model.model.") + ".weight": weights[f"{stem}.base_layer.weight"].double()
        + (8 / 4)
        * weights[f"{stem}.lora_B.default.weight"].double()
        @ weights[f"{stem}.lora_A.default.weight"].double()
        for stem in stems
    }


@pytest.fixture
def half_checkpoint(checkpoint: str, tmp_path: Path) -> str:
    """The tiny policy in bfloat16."""
    folder = tmp_path / "half"
    AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("loaded_in", ["bfloat16", "float32"])
def test_merged_weights_are_rounded_once(half_checkpoint: str, tmp_path: Path, loaded_in: Any) -> None:
    policy = loaded(half_checkpoint, dtype=loaded_in)
    enlarge_adapters(policy.model)
    exported = export_policy(policy, tmp_path / "exported", merge=True)
    assert exported.dtype == torch.bfloat16
    written = load_file(exported.folder / "model.safetensors")
    assert {weight.dtype for weight in written.values()} == {torch.bfloat16}
    expected = adapted(policy.model)
    assert len(expected) == 2 * 7
    for name, exact in expected.items():
        assert ((written[name].double() - exact).abs() <= 2**-8 * exact.abs() + 1e-6).all()
    assert json.loads((exported.folder / "config.json").read_text())["dtype"] == "bfloat16"


def test_the_dtype_may_be_chosen(half_checkpoint: str, tmp_path: Path) -> None:
    policy = loaded(half_checkpoint, dtype="bfloat16")
    enlarge_adapters(policy.model)
    exported = export_policy(policy, tmp_path / "exported", merge=True, dtype=torch.float32)
    assert (exported.dtype, load(exported).dtype) == (torch.float32, torch.float32)
    written = load_file(exported.folder / "model.safetensors")
    for name, exact in adapted(policy.model).items():
        torch.testing.assert_close(written[name].double(), exact, atol=1e-5, rtol=1e-5)


SIZES = {"vocab_size": 20, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}

DROPOUTS = {"resid_pdrop": 0.5, "embd_pdrop": 0.25, "attention_dropout": 0.125}

ARCHITECTURES: dict[str, tuple[Callable[[], Any], LoRA | None]] = {
    "tied": (lambda: Qwen3Config(**SIZES, head_dim=8, num_key_value_heads=2, tie_word_embeddings=True), SMALL),
    "untied": (lambda: PhiConfig(**SIZES, **DROPOUTS, tie_word_embeddings=False), SMALL),
    "embeddings": (lambda: PhiConfig(**SIZES), LoRA(r=4, alpha=8, target_modules=["embed_tokens", "lm_head", "fc1"])),
    "transposed": (lambda: GPT2Config(vocab_size=20, n_embd=16, n_layer=1, n_head=2), SMALL),
    "full": (lambda: PhiConfig(**SIZES, **DROPOUTS), None),
}


def ship(folder: Path, config: Any) -> str:
    """A pretrained model with dropout, a generation config and a chat template of its own, and no pad token."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=0.6, top_k=20, repetition_penalty=1.3, eos_token_id=[1, 2]
    )
    model.save_pretrained(folder)
    tokenizer = character_tokenizer("0123456789+-= abc")
    tokenizer.pad_token, tokenizer.chat_template = None, TEMPLATE
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_configs_are_as_shipped_and_weights_as_trained(name: str, tmp_path: Path) -> None:
    make_config, lora = ARCHITECTURES[name]
    shipped = ship(tmp_path / "shipped", make_config())
    policy = loaded(shipped, lora)
    enlarge_adapters(policy.model)
    if lora is None:
        with torch.no_grad():
            for weight in policy.model.parameters():
                weight.mul_(1.5)
    exported = export_policy(policy, tmp_path / "exported", merge=True)
    model = load(exported)
    torch.testing.assert_close(logits(model), logits(policy.model), atol=1e-5, rtol=0)
    assert not torch.allclose(logits(model), logits(AutoModelForCausalLM.from_pretrained(shipped)), atol=1e-2)
    for file in ("config.json", "generation_config.json", "chat_template.jinja"):
        assert (exported.folder / file).read_text() == Path(shipped, file).read_text()
    tokenizer, before = AutoTokenizer.from_pretrained(exported.folder), AutoTokenizer.from_pretrained(shipped)
    assert tokenizer.pad_token is None
    assert load_tokenizer(shipped).pad_token is not None  # what a run reads prompts with
    assert tokenizer.get_vocab() == before.get_vocab()
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert tied == model.config.tie_word_embeddings


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize("layer", ["lm_head", "embed_tokens"])
def test_an_adapter_of_one_of_two_tied_weights_is_not_merged(checkpoint: str, tmp_path: Path, layer: str) -> None:
    policy = loaded(checkpoint, LoRA(r=4, alpha=8, target_modules=[layer]))
    enlarge_adapters(policy.model)
    with pytest.raises(ValueError, match=r"lm_head\.weight is tied to another weight and their adapters differ"):
        export_policy(policy, tmp_path / "exported", merge=True)
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_that_is_not_one_of_a_layer_is_not_merged(checkpoint: str) -> None:
    config = LoraConfig(r=2, target_modules=[], target_parameters=["q_proj.weight"], task_type="CAUSAL_LM")
    policy = get_peft_model(load_policy(checkpoint), config)
    with pytest.raises(ValueError, match=r"q_proj \(ParamWrapper\) cannot be merged"):
        full_model(policy)
