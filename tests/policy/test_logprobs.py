"""Log-probabilities against a naive pass over each row alone, without padding."""

# Shapes: R rows, T completion tokens.

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GraniteConfig,
    OPTConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3ForCausalLM,
)

from bots_lightning.policy import vocabulary
from bots_lightning.policy.logprobs import (
    completion_hidden_states,
    completion_logprobs,
    logits_processing,
)
from bots_lightning.policy.vocabulary import LogitsProcessing
from bots_lightning.rollouts import Rollouts

PROMPTS = [[5, 6, 7, 8], [9], [4, 3]]

COMPLETIONS = [[6, 1], [7, 8, 9, 10, 1], [3]]


def padded_rollouts() -> Rollouts:
    prompt_ids, completion_ids = torch.zeros(3, 4, dtype=torch.long), torch.zeros(3, 5, dtype=torch.long)
    for i, (prompt, completion) in enumerate(zip(PROMPTS, COMPLETIONS, strict=True)):
        prompt_ids[i, 4 - len(prompt) :] = torch.tensor(prompt)
        completion_ids[i, : len(completion)] = torch.tensor(completion)
    return Rollouts(
        prompt_ids,
        prompt_ids != 0,
        completion_ids,
        completion_ids != 0,
        finished=torch.tensor([True, True, False]),
        policy_version=0,
    )


def naive(
    model: PreTrainedModel, prompt: list[int], completion: list[int], temperature: float
) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies of one row alone, from the model's own logits."""
    logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1] / temperature
    log_p = logits.log_softmax(-1)
    return log_p[range(len(completion)), completion], -(log_p.exp() * log_p).sum(-1)


def naive_rows(model: PreTrainedModel, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """The same of all completion tokens of all rows, one after the other."""
    rows = [naive(model, *row, temperature) for row in zip(PROMPTS, COMPLETIONS, strict=True)]
    logprobs, entropy = zip(*rows, strict=True)
    return torch.cat(logprobs), torch.cat(entropy)


def ours(model: nn.Module, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """What is tested, at the tokens of `naive_rows`."""
    rollouts = padded_rollouts()
    logprobs, entropy = completion_logprobs(model, rollouts, temperature)
    return logprobs[rollouts.completion_mask], entropy[rollouts.completion_mask]


def gradients(model: nn.Module, values: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """Of a loss of all log-probabilities and entropies, each with a weight of its own."""
    weights = torch.randn(2, len(values[0]), generator=torch.Generator().manual_seed(0))
    loss = (values[0] * weights[0]).sum() + (values[1] * weights[1]).sum()
    names, trained = zip(*((name, p) for name, p in model.named_parameters() if p.requires_grad), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, trained), strict=True))


def assert_as_naive(model: nn.Module, temperature: float = 1.0, dtype: torch.dtype = torch.float64) -> None:
    """Values and gradients. In float64 too, norms and rotary tables of transformers round to float32 in between."""
    model = model.to(dtype)
    found, expected = ours(model, temperature), naive_rows(model, temperature)
    assert found[0].dtype == found[1].dtype == dtype
    tolerance = 1e-6 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)
    torch.testing.assert_close(gradients(model, found), gradients(model, expected), rtol=1e-5, atol=10 * tolerance)


@pytest.fixture(params=[None, 3], ids=["one chunk", "chunks of 3"])
def chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the vocabulary of 12 is small."""
    if request.param is not None:
        monkeypatch.setattr(vocabulary, "CHUNK_ELEMENTS", request.param * 12)


def with_lora(model: PreTrainedModel, target_modules: str | list[str]) -> nn.Module:
    """A PEFT model whose adapters have weights that matter."""
    config = LoraConfig(r=2, lora_alpha=4, target_modules=target_modules, task_type="CAUSAL_LM")
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*tie_word_embeddings")
        torch.manual_seed(0)
        adapted = get_peft_model(model, config)
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.2)
    return adapted


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.usefixtures("chunks")
def test_padding_changes_nothing(model: PreTrainedModel, temperature: float) -> None:
    """All weights are trained; the embeddings are tied, and get gradient from both uses."""
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert_as_naive(model, temperature)


@pytest.mark.parametrize("target_modules", ["all-linear", ["q_proj", "lm_head"]], ids=["body", "head"])
@pytest.mark.usefixtures("chunks")
def test_adapters_on_the_body_and_on_the_head(model: PreTrainedModel, target_modules: str | list[str]) -> None:
    adapted = with_lora(model, target_modules)
    on_head = isinstance(model.get_output_embeddings(), LoraLayer)
    assert on_head == ("lm_head" in target_modules)
    assert_as_naive(adapted, 0.7)


def tiny(config: type[PreTrainedConfig], **options: Any) -> PreTrainedModel:
    """A random model of some architecture, with a vocabulary of 12 and logits far from zero, dropout off."""
    shape = {"vocab_size": 12, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 32}
    tokens = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config(**shape | tokens | options)).eval()
        for parameter in model.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.3)
    return model


ARCHITECTURES = {
    "softcap": (Gemma2Config, {"final_logit_softcapping": 2.0}, LogitsProcessing(softcap=2.0)),
    "no softcap": (Gemma2Config, {"final_logit_softcapping": None}, LogitsProcessing()),
    "divisor": (GraniteConfig, {"logits_scaling": 0.3}, LogitsProcessing(divisor=0.3)),
    "multiplier": (CohereConfig, {"logit_scale": 3.0}, LogitsProcessing(multiplier=3.0)),
    "projection before the head": (OPTConfig, {"ffn_dim": 16, "word_embed_proj_dim": 8}, LogitsProcessing()),
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.usefixtures("chunks")
def test_what_architectures_do_around_the_head(architecture: str) -> None:
    config, options, expected = ARCHITECTURES[architecture]
    model = tiny(config, **options)
    assert logits_processing(model) == expected
    # float32: attention of Gemma2 in transformers gives NaN in float64 wherever a row is padded.
    assert_as_naive(model, 0.7, torch.float32)


class Unknown(Qwen3ForCausalLM):
    """Does something to its logits that no config tells."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        outputs = super().forward(*args, **kwargs)
        outputs.logits = outputs.logits + torch.arange(12) / 4
        return outputs


def test_logits_that_do_not_follow_from_the_hidden_states(model: PreTrainedModel) -> None:
    unknown = Unknown(model.config).eval()
    with pytest.warns(UserWarning, match="logits of Unknown do not follow from its hidden states.*large memory"):
        completion_logprobs(unknown, padded_rollouts())
    assert_as_naive(unknown, 0.7)  # without a second warning: in tests they are errors


def test_the_processing_is_tried_once_and_leaves_no_trace(model: PreTrainedModel) -> None:
    calls: list[int] = []
    model.train()
    model.config.attention_dropout = model.model.layers[0].self_attn.attention_dropout = 0.5
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.register_forward_hook(lambda *_: calls.append(1))
    state = torch.get_rng_state()
    assert [logits_processing(model) for _ in range(3)] == [LogitsProcessing()] * 3
    assert len(calls) == 1
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not model.lm_head._forward_pre_hooks


def test_hidden_states_are_those_before_each_token(model: PreTrainedModel) -> None:
    rollouts = padded_rollouts()
    hidden = completion_hidden_states(model, rollouts)
    assert hidden.requires_grad
    for i, (prompt, completion) in enumerate(zip(PROMPTS, COMPLETIONS, strict=True)):
        outputs = model(torch.tensor([prompt + completion]), output_hidden_states=True)
        expected = outputs.hidden_states[-1][0, len(prompt) - 1 : -1]
        torch.testing.assert_close(hidden[i, : len(completion)], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.usefixtures("chunks")
def test_gradient_checkpointing_changes_nothing(model: PreTrainedModel, lora: bool) -> None:
    policy = (with_lora(model, "all-linear") if lora else model).train()
    expected = ours(policy)
    wanted = gradients(policy, expected)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    found = ours(policy)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    torch.testing.assert_close(gradients(policy, found), wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.usefixtures("chunks")
def test_values_are_the_same_to_the_bit_without_gradient(model: PreTrainedModel, lora: bool) -> None:
    policy = with_lora(model, "all-linear") if lora else model
    with torch.no_grad():
        without = ours(policy)
    assert not any(value.requires_grad for value in without)
    torch.testing.assert_close(ours(policy), without, rtol=0, atol=0)


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.usefixtures("chunks")
def test_autocast(model: PreTrainedModel, lora: bool) -> None:
    """Beside the naive pass in float32, within half precision."""
    policy = with_lora(model, "all-linear") if lora else model
    with torch.autocast("cpu", torch.bfloat16):
        found = ours(policy)
    assert found[0].dtype == found[1].dtype == torch.float32
    expected = naive_rows(policy)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.1)
    for ours_, theirs in zip(gradients(policy, found).values(), gradients(policy, expected).values(), strict=True):
        assert torch.cosine_similarity(ours_.flatten(), theirs.flatten(), dim=0) > 0.99


def test_only_the_tokens_of_completions_reach_the_vocabulary(model: PreTrainedModel) -> None:
    logits_processing(model)
    rows: list[int] = []
    model.lm_head.register_forward_hook(lambda _, args, __: rows.append(args[0].shape[:-1].numel()))
    logprobs, entropy = completion_logprobs(model, padded_rollouts())
    assert rows == [1, 2 + 5 + 1]  # one for the model's own pass
    outside = ~padded_rollouts().completion_mask
    assert logprobs[outside].tolist() == entropy[outside].tolist() == [0.0] * 7
