"""Digests of weights: what changes them, and which ranks are named where they differ."""

from __future__ import annotations

import torch

from bots_lightning.strategies.digests import CHUNK, _odd_ranks, digest


def test_a_change_of_one_bit_anywhere_changes_the_digest() -> None:
    weight = torch.zeros(CHUNK + 3)
    before = digest(weight)
    for place in (0, CHUNK - 1, CHUNK, CHUNK + 2):
        changed = weight.clone()
        changed.view(torch.int32)[place] ^= 1
        assert digest(changed) != before
    half = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.bfloat16)
    assert digest(half) == half.view(torch.int16).sum() == digest(half.T)
    assert digest(torch.zeros(0)) == 0


def test_the_rank_that_holds_what_no_other_does_is_the_odd_one() -> None:
    assert _odd_ranks([7, 7, 7]) == []
    assert _odd_ranks([5, 7, 7]) == [0]
    assert _odd_ranks([7, 5, 7, 6]) == [1, 3]
    assert _odd_ranks([5, 7]) == [1]
