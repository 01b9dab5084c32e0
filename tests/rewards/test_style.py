"""Format, length and repetitions, by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bots_lightning.rewards.functions import exact_match
from bots_lightning.rewards.style import CosineLength, FormatMatch, LengthPenalty, RepetitionPenalty


def of(function: Any, *completions: str, **columns: Any) -> list[float | None]:
    return function(prompts=["?"] * len(completions), completions=list(completions), **columns)


@pytest.mark.parametrize(
    ("completion", "reward"),
    [
        ("<think>a\nb</think>\n<answer>c</answer>", 1.0),
        ("  <think></think><answer></answer>\n", 1.0),
        ("<think>a < b</think><answer>c</answer>", 1.0),
        ("<answer>c</answer>", 0.0),
        ("<think>a</think>c", 0.0),
        ("<think>a</think><answer>c</answer>!", 0.0),
        ("<think>a</think> so <answer>c</answer>", 0.0),
        ("<answer>c</answer><think>a</think>", 0.0),
        ("<think>a</think><answer>b</answer><answer>c</answer>", 0.0),
        ("<think>a<think>b</think></think><answer>c</answer>", 0.0),
        ("<think>a</think><answer>c", 0.0),
    ],
)
def test_the_usual_format(completion: str, reward: float) -> None:
    assert of(FormatMatch(), completion) == [reward]


def test_another_format_must_match_the_whole_completion() -> None:
    assert of(FormatMatch(r"\d+\..*"), "12.\nx", "a 12.", "12") == [1.0, 0.0, 0.0]


def test_a_format_that_is_no_expression_is_an_error() -> None:
    with pytest.raises(Exception, match="unterminated"):
        FormatMatch("(")


def test_the_penalty_falls_from_the_free_length_to_the_longest() -> None:
    penalty = LengthPenalty(free_characters=4, max_characters=8)
    assert of(penalty, "", "aaaa", "aaaaa", "a" * 7, "a" * 8, "a" * 20) == [0, 0, -1 / 4, -3 / 4, -1, -1]


@pytest.mark.parametrize(("free", "longest"), [(-1, 4), (4, 4), (5, 4)])
def test_the_free_length_comes_first(free: int, longest: int) -> None:
    with pytest.raises(ValueError, match=f"free_characters={free}, max_characters={longest}; expected 0 <= free < max"):
        LengthPenalty(free, longest)


def cosine(**options: Any) -> CosineLength:
    return CosineLength(exact_match, max_characters=12, right=(1.0, 0.4), wrong=(-1.0, -0.2), exceeded=-3.0, **options)


def test_the_cosine_by_hand() -> None:
    right = [of(cosine(), "a" * n, answer=["a" * n])[0] for n in (0, 4, 6, 8)]
    # cos 0 = 1, cos π/3 = 1/2, cos π/2 = 0, cos 2π/3 = −1/2
    assert right == pytest.approx([1.0, 0.4 + 0.6 * 3 / 4, 0.4 + 0.6 / 2, 0.4 + 0.6 / 4])
    wrong = [of(cosine(), "a" * n, answer=["b"])[0] for n in (0, 4, 6, 8)]
    assert wrong == pytest.approx([-1.0, -0.2 - 0.8 * 3 / 4, -0.2 - 0.8 / 2, -0.2 - 0.8 / 4])
    assert of(cosine(), "a" * 12, "a" * 99, answer=["a" * 12, "b"]) == [-3.0, -3.0]


@given(st.integers(0, 10), st.integers(0, 10))
def test_short_is_better_if_right_and_worse_if_wrong(n: int, more: int) -> None:
    short, long = min(n, more), max(n, more)
    right = of(cosine(), "a" * short, "a" * long, answer=["a" * short, "a" * long])
    wrong = of(cosine(), "a" * short, "a" * long, answer=["b", "b"])
    assert right[0] >= right[1] > 0 > wrong[1] >= wrong[0]  # type: ignore[operator]
    assert math.isclose(right[0], right[1]) == (n == more)  # type: ignore[arg-type]


def test_what_the_grader_leaves_open_stays_open() -> None:
    def grader(prompts: Any, completions: Any, **columns: Any) -> list[float | None]:
        return [None, 0.5, columns["level"][2]]

    rewards = of(CosineLength(grader, max_characters=10), "", "", "", level=[0, 0, 1.0])
    assert rewards == [None, -1.0, 1.0]  # half right is wrong


def test_the_cosine_needs_a_length() -> None:
    with pytest.raises(ValueError, match="max_characters=0; expected at least 1"):
        CosineLength(exact_match, 0)


def test_repeated_ngrams_by_hand() -> None:
    texts = ("a b c d", "a b a b", "a a a a a", "a", "")
    assert of(RepetitionPenalty(2), *texts) == pytest.approx([0, -1 / 3, -3 / 4, 0, 0])
    assert of(RepetitionPenalty(1), "a b  a\nb") == [-1 / 2]


@given(st.lists(st.sampled_from("abc"), max_size=12), st.integers(1, 4))
def test_the_share_counts_those_that_came_before(words: list[str], n: int) -> None:
    ngrams = [words[i : i + n] for i in range(len(words)) if len(words[i : i + n]) == n]
    repeated = sum(ngram in ngrams[:i] for i, ngram in enumerate(ngrams))
    assert of(RepetitionPenalty(n), " ".join(words)) == pytest.approx([-repeated / max(len(ngrams), 1)])


def test_ngrams_have_words() -> None:
    with pytest.raises(ValueError, match="ngram=0; expected at least 1"):
        RepetitionPenalty(0)
