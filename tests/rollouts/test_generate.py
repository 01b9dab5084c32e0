"""The engine samples from the policy's own softmax, whatever the checkpoint's generation config says."""

# P prompts, n completions each, R = P·n rows.

import contextlib

import pytest
import torch
from rollout_helpers import request_for, rows_of
from scipy.stats import chisquare
from transformers import GenerationConfig, PreTrainedModel

from bots_lightning.rollouts import (
    GenerateEngine,
    SamplingParams,
    derive_seed,
    rollout_mode,
)

PROMPTS = [[5, 6, 7], [8], [9, 10]]
SEEDS = [1, 2, 3]
SAMPLING = SamplingParams(max_completion_length=6, stop_token_ids=(1,), pad_token_id=0)


def test_rows_are_ordered_by_prompt_and_prompts_padded_left(model: PreTrainedModel) -> None:
    rollouts = GenerateEngine().generate(request_for(model, PROMPTS, 2, SAMPLING, SEEDS))
    assert rollouts.prompt_ids.tolist() == [[5, 6, 7]] * 2 + [[0, 0, 8]] * 2 + [[0, 9, 10]] * 2
    assert rollouts.prompt_mask.int().tolist() == [[1, 1, 1]] * 2 + [[0, 0, 1]] * 2 + [[0, 1, 1]] * 2


def test_greedy_completions_are_those_of_each_prompt_alone(model: PreTrainedModel) -> None:
    sampling = SamplingParams(max_completion_length=6, stop_token_ids=(1,), pad_token_id=0, temperature=0)
    rollouts = GenerateEngine().generate(request_for(model, PROMPTS, 1, sampling, SEEDS))
    for i, prompt in enumerate(PROMPTS):
        tokens, expected = list(prompt), []
        while len(expected) < 6 and 1 not in expected:
            expected.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
            tokens.append(expected[-1])
        assert rollouts.completion_ids[i][rollouts.completion_mask[i]].tolist() == expected


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_frequencies_are_the_softmax_in_spite_of_the_checkpoints_config(
    model: PreTrainedModel, temperature: float
) -> None:
    model.generation_config = GenerationConfig(
        do_sample=True, top_k=2, top_p=0.3, repetition_penalty=1.8, temperature=0.1, eos_token_id=1
    )
    shipped = model.generation_config
    sampling = SamplingParams(max_completion_length=1, stop_token_ids=(1,), pad_token_id=0, temperature=temperature)
    rollouts = GenerateEngine().generate(request_for(model, [[5, 6, 7]], 4000, sampling, [0]))
    with torch.no_grad():
        probabilities = (model(torch.tensor([[5, 6, 7]])).logits[0, -1] / temperature).softmax(-1).double()
    counts = torch.bincount(rollouts.completion_ids[:, 0], minlength=12)
    assert chisquare(counts.numpy(), (probabilities / probabilities.sum()).numpy() * 4000).pvalue > 1e-3
    assert model.generation_config is shipped


def test_a_prompts_completions_are_a_function_of_its_seed(model: PreTrainedModel) -> None:
    before = torch.random.get_rng_state()
    first, second = (
        rows_of(GenerateEngine().generate(request_for(model, PROMPTS, 8, SAMPLING, [3, 4, s]))) for s in (5, 6)
    )
    assert first[:16] == second[:16]
    assert first[16:] != second[16:]
    assert torch.equal(before, torch.random.get_rng_state())


def test_neither_neighbours_nor_memory_limits_change_completions(model: PreTrainedModel) -> None:
    whole = rows_of(GenerateEngine().generate(request_for(model, PROMPTS, 4, SAMPLING, SEEDS)))
    assert rows_of(GenerateEngine(max_rows=5).generate(request_for(model, PROMPTS, 4, SAMPLING, SEEDS))) == whole
    for i, (prompt, seed) in enumerate(zip(PROMPTS, SEEDS, strict=True)):
        assert (
            rows_of(GenerateEngine().generate(request_for(model, [prompt], 4, SAMPLING, [seed])))
            == whole[4 * i : 4 * i + 4]
        )
    assert len({tuple(row) for row in whole}) > 6


def test_an_unfinished_completion_is_cut_at_the_limit(model: PreTrainedModel) -> None:
    never = SamplingParams(max_completion_length=3, stop_token_ids=(11,), pad_token_id=0)
    with torch.no_grad():
        model.get_input_embeddings().weight[11] = -100 * model.get_input_embeddings().weight[11].sign()
    rollouts = GenerateEngine().generate(request_for(model, PROMPTS, 4, never, SEEDS))
    unfinished = ~rollouts.finished
    assert unfinished.any()
    assert (rollouts.lengths[unfinished] == 3).all()


def test_rollout_mode_restores_every_flag(model: PreTrainedModel) -> None:
    model.train()
    model.gradient_checkpointing_enable()
    model.model.layers[0].eval()
    before = {name: (m.training, getattr(m, "gradient_checkpointing", None)) for name, m in model.named_modules()}
    with contextlib.suppress(RuntimeError), rollout_mode(model):
        assert not any(m.training for m in model.modules())
        assert not any(getattr(m, "gradient_checkpointing", False) for m in model.modules())
        raise RuntimeError
    after = {name: (m.training, getattr(m, "gradient_checkpointing", None)) for name, m in model.named_modules()}
    assert before == after


def test_derived_seeds_differ_by_every_key() -> None:
    seeds = {derive_seed(a, b, c) for a in range(5) for b in range(5) for c in range(5)}
    assert len(seeds) == 125
    assert derive_seed(1, 2) == derive_seed(1, 2)
