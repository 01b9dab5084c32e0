"""Reward functions of `trl.rewards` work unchanged."""

# Shapes: B tasks, R rows, n_b of task b.

from __future__ import annotations

import math
from typing import Any

import pytest

from bots_lightning.rewards import RewardStream, Scorer, adapted
from bots_lightning.tasks import Task

trl = pytest.importorskip("trl.rewards", reason='needs the extra: pip install -e ".[trl]"')

CHAT = [{"role": "user", "content": "What is 1/3 + 1/3?"}]
TASKS = [
    Task("chat", CHAT, "2/3", columns={"solution": r"\frac{2}{3}"}),
    Task("text", "1/3 + 1/3 =", "2/3", columns={"solution": r"\frac{2}{3}"}),
]
RIGHT = r"<think>adding</think> \boxed{\frac{2}{3}}"
WRONG = r"\boxed{\frac{1}{3}}"


def scores(function: Any, *completions: str, ids: Any = None) -> list[float]:
    """Of two completions of each task."""
    return Scorer([function], reward_range=(-5, 5)).scores(TASKS, [2, 2], completions, ids).ravel().tolist()


def test_accuracy() -> None:
    assert scores(trl.accuracy_reward, RIGHT, WRONG, WRONG, "nothing") == [1.0, 0.0, 0.0, 0.0]
    assert scores(trl.reasoning_accuracy_reward, RIGHT, WRONG, WRONG, RIGHT) == [1.0, 0.0, 0.0, 1.0]


def test_a_solution_that_does_not_parse_has_no_reward() -> None:
    unreadable = [Task("t", CHAT, "", columns={"solution": ""})]
    assert math.isnan(Scorer([trl.accuracy_reward]).scores(unreadable, [1], [RIGHT])[0, 0])


def test_format() -> None:
    assert scores(trl.think_format_reward, RIGHT, WRONG, "<think>", RIGHT) == [1.0, 0.0, 0.0, 1.0]


def test_rewards_of_tokens() -> None:
    ids = [[5] * 10, [5] * 18, [5] * 20, [1, 2, 3, 4]]
    punishment = trl.get_soft_overlong_punishment(max_completion_len=20, soft_punish_cache=4)
    assert scores(punishment, *"abcd", ids=ids) == [0.0, (16 - 18) / 4, -1.0, 0.0]
    repetition = trl.get_repetition_penalty_reward(ngram_size=2)
    assert scores(repetition, *"abcd", ids=ids) == [1 / 9 - 1, 1 / 17 - 1, 1 / 19 - 1, 0.0]
    cosine = trl.get_cosine_scaled_reward(max_len=20)
    found = scores(cosine, RIGHT, WRONG, RIGHT, WRONG, ids=ids)
    assert found == pytest.approx([0.75, -0.5 - 0.25 * (1 + math.cos(0.9 * math.pi)), 0.5, found[3]])


def test_a_maker_of_reward_functions_is_refused_for_what_it_makes() -> None:
    with pytest.raises(ValueError, match="of a function that makes reward functions, name what it returns"):
        adapted(trl.get_soft_overlong_punishment)


def test_a_stream_gives_them_the_same() -> None:
    functions = [trl.think_format_reward, trl.get_soft_overlong_punishment(4, 2)]
    texts, ids = [RIGHT, WRONG, RIGHT, RIGHT], [[1], [1] * 3, [1] * 4, [1] * 5]
    stream = RewardStream(Scorer(functions), TASKS, [2, 2], lambda rows: [])
    assert stream.finish(texts, ids).tolist() == Scorer(functions).scores(TASKS, [2, 2], texts, ids).tolist()
