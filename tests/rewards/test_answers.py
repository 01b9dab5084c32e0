"""Where an answer stands in a completion, and what it is worth there."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bots_lightning.rewards.answers import AnswerMatch, after_thinking, last_tagged
from bots_lightning.rewards.comparisons import same_data, same_text, share_of_cells

Cells = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=4), min_size=1, max_size=4)


def reward(match: AnswerMatch, completion: str, answer: str) -> float | None:
    return match(prompts=["?"], completions=[completion], answer=[answer], level=[1])[0]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("<answer>42</answer>", "42"),
        ("so <answer>\n 42 \n</answer> it is", "42"),
        ("<answer>1</answer> no, <answer>2</answer>", "2"),
        ("write <answer> and then <answer>2</answer>", "2"),
        ("<answer>1</answer> and <answer>2", "1"),  # the last one is not closed
        ("<answer></answer>", ""),
        ("42", None),
        ("<answer>42", None),
        ("42</answer>", None),
        ("</answer>42<answer>", None),
        ("<ANSWER>42</ANSWER>", None),
    ],
)
def test_the_last_closed_tag_counts(text: str, found: str | None) -> None:
    assert last_tagged(text, "answer") == found


@given(st.text(st.sampled_from("ab<>/ "), max_size=20), st.text("ab \n", max_size=5))
def test_what_is_tagged_last_is_found_whatever_comes_before(before: str, inner: str) -> None:
    assert last_tagged(f"{before}<final>{inner}</final>", "final") == inner.strip()


def test_thoughts_are_no_answer() -> None:
    assert after_thinking("<think>41</think>\n42\n") == "42"
    assert after_thinking("<think>1</think>2<think>3</think> 4") == "4"
    assert after_thinking(" 42 ") == "42"
    assert after_thinking("of the prompt's thought</think>42") == "42"
    assert after_thinking("[THINK]41[/THINK] 42") == "42"
    assert after_thinking("<thinking>41</thinking>42") == "42"
    assert after_thinking("<think>41</think>42<think>43") == ""


def test_an_answer_within_a_thought_is_none() -> None:
    completions = [
        "<think><answer>42</answer></think>",
        "<think><answer>42</answer>",
        "<think><answer>42</answer></think><answer>41</answer>",
        "<think><answer>41</answer></think><answer>42</answer>",
    ]
    assert AnswerMatch()(["?"] * 4, completions, ["42"] * 4) == [0, 0, 0, 1]
    assert AnswerMatch(required=False)(["?"] * 4, completions, ["42"] * 4) == [0, 0, 0, 1]


@pytest.mark.parametrize(
    ("options", "completion", "worth"),
    [
        ({}, "<think>7</think><answer>42</answer>", 1.0),
        ({}, "<think>7</think>42", 0.0),
        ({"required": False}, "<think>7</think>42", 1.0),
        ({"required": False}, "42", 1.0),
        ({"required": False}, "42 <answer>7</answer>", 0.0),
        ({"tag": None}, "<think>7</think>42", 1.0),
        ({"tag": None}, "<answer>42</answer>", 0.0),
        ({"tag": "final"}, "<answer>7</answer><final>42</final>", 1.0),
    ],
)
def test_where_the_answer_is_looked_for(options: dict[str, Any], completion: str, worth: float) -> None:
    assert reward(AnswerMatch(**options), completion, "42") == worth


def test_an_answer_is_graded_by_the_comparison_that_was_chosen() -> None:
    assert reward(AnswerMatch(), "<answer>A Knight.</answer>", "a knight") == 1.0
    assert reward(AnswerMatch(same_text), "<answer>A Knight.</answer>", "a knight") == 0.0
    assert reward(AnswerMatch(share_of_cells), "<answer>1 2\n3 5</answer>", "[[1, 2], [3, 4]]") == 3 / 4


@given(Cells, Cells)
def test_a_grid_is_worth_1_if_and_only_if_it_is_the_right_one(grid: list[list[int]], other: list[list[int]]) -> None:
    match = AnswerMatch(same_data)
    completions = [f"<answer>{written}</answer>" for written in (json.dumps(grid), repr(grid), json.dumps(other))]
    assert match(["?"] * 3, completions, [json.dumps(grid)] * 3) == [1.0, 1.0, float(grid == other)]


def test_a_tag_with_brackets_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"tag='<answer>'; expected a bare name, e.g. 'answer'"):
        AnswerMatch(tag="<answer>")


def test_answers_must_pair_up_with_completions() -> None:
    with pytest.raises(ValueError, match="shorter"):
        AnswerMatch()(["?", "?"], ["1", "2"], ["1"])
