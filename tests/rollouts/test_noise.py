"""Tokens are drawn from the softmax, by noise of their own."""

# R rows, V vocabulary, T tokens.

import math

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from bots_lightning.rollouts.noise import BLOCK, draw_tokens, uniform_noise


def test_the_draw_inverts_the_distribution_function_by_hand() -> None:
    logits = torch.tensor([[math.log(1.0), math.log(2.0), math.log(5.0)]])  # probabilities 1/8, 2/8, 5/8
    noise = torch.tensor([0.0, 0.124, 0.126, 0.374, 0.376, 0.999999], dtype=torch.float64)
    assert draw_tokens(logits.repeat(6, 1), noise).tolist() == [0, 0, 1, 1, 2, 2]
    warm = torch.tensor([0.049, 0.051, 0.199, 0.201], dtype=torch.float64)  # at temperature 1/2: 1/30, 4/30, 25/30
    assert draw_tokens(logits.repeat(4, 1), warm, temperature=0.5).tolist() == [1, 1, 2, 2]


@pytest.mark.parametrize("vocabulary", [1, 7, BLOCK, BLOCK + 1, 3 * BLOCK - 5])
def test_it_agrees_with_one_long_cumulative_sum(vocabulary: int) -> None:
    rng = np.random.default_rng(vocabulary)
    logits, noise = rng.normal(0, 4, (200, vocabulary)), rng.random(200)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    below = weights.cumsum(axis=1) <= noise[:, None] * weights.sum(axis=1, keepdims=True)
    drawn = draw_tokens(torch.tensor(logits, dtype=torch.float32), torch.tensor(noise))
    assert drawn.tolist() == below.sum(axis=1).tolist()


def test_frequencies_in_a_large_vocabulary_are_the_softmax() -> None:
    vocabulary, rows = 2 * BLOCK + 76, 110_000
    logits = torch.randn(vocabulary, generator=torch.Generator().manual_seed(0))
    noise = uniform_noise([1], [rows], 1).flatten()
    counts = torch.zeros(vocabulary, dtype=torch.long)
    for part in noise.split(22_000):
        counts += draw_tokens(logits.expand(len(part), -1), part).bincount(minlength=vocabulary)
    expected = logits.double().softmax(0) * rows
    assert chisquare(counts.numpy(), expected.numpy()).pvalue > 1e-3


@pytest.mark.parametrize("position", [0, 3, BLOCK - 1, BLOCK, 2 * BLOCK + 2])
def test_what_has_no_probability_is_never_drawn(position: int) -> None:
    logits = torch.full((3, 2 * BLOCK + 3), -math.inf)
    logits[:, position] = 0.0
    extremes = torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64)
    assert draw_tokens(logits, extremes).tolist() == [position] * 3


def test_without_temperature_the_most_likely_token_is_taken() -> None:
    logits = torch.tensor([[0.0, 3.0, 2.0], [5.0, 1.0, 2.0]])
    assert draw_tokens(logits, torch.tensor([0.99, 0.99]), temperature=0).tolist() == [1, 0]


def test_noise_belongs_to_each_prompt() -> None:
    both, alone = uniform_noise([3, 4], [2, 2], 5), uniform_noise([4], [2], 5)
    assert torch.equal(both[2:], alone)
    assert len(both.unique()) == both.numel() == 20
    assert both.dtype == torch.float64


def test_the_first_rows_of_a_prompt_do_not_depend_on_how_many_there_are() -> None:
    """Neither on those of others; (R, T) with R = 1 + 4 + 2."""
    noise = uniform_noise([3, 4, 5], [1, 4, 2], 6)
    equal = uniform_noise([3, 4, 5], [4, 4, 4], 6).reshape(3, 4, 6)
    assert torch.equal(noise, torch.cat([equal[0, :1], equal[1], equal[2, :2]]))
    assert torch.equal(equal[1], torch.from_numpy(np.random.default_rng(4).random((4, 6))))


def test_the_rows_of_a_prompt_can_be_continued() -> None:
    whole = uniform_noise([3, 4], [5, 5], 6).reshape(2, 5, 6)
    rest = uniform_noise([3, 4], [2, 4], 6, starts=[3, 1])
    assert torch.equal(rest, torch.cat([whole[0, 3:], whole[1, 1:]]))
