"""The reward functions that come with the package."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bots_lightning.rewards import exact_match


@pytest.mark.parametrize(
    ("completion", "answer", "reward"),
    [
        ("42", "42", 1.0),
        (" 42\n", "42", 1.0),
        ("42", "\t42 ", 1.0),
        ("4 2", "42", 0.0),
        ("042", "42", 0.0),
        ("Abc", "abc", 0.0),
        ("", "42", 0.0),
        ("the answer is 42", "42", 0.0),
    ],
)
def test_exact_match_ignores_white_space_around_and_nothing_else(completion: str, answer: str, reward: float) -> None:
    assert exact_match(prompts=["?"], completions=[completion], answer=[answer], level=[3]) == [reward]


@given(st.lists(st.tuples(st.text("ab ", max_size=3), st.text("ab ", max_size=3))))
def test_exact_match_scores_each_pair_by_itself(pairs: list[tuple[str, str]]) -> None:
    completions, answers = [c for c, _ in pairs], [a for _, a in pairs]
    together = exact_match([""] * len(pairs), completions, answers)
    assert together == [exact_match([""], [c], [a])[0] for c, a in pairs]


def test_exact_match_refuses_answers_that_do_not_pair_up() -> None:
    with pytest.raises(ValueError, match="shorter"):
        exact_match(prompts=["?", "?"], completions=["1", "2"], answer=["1"])
