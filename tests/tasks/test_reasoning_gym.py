"""Pools of reasoning-gym: repeatable, split for good, and complete enough for the verifiers."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from reasoning_gym.factory import create_dataset

from bots_lightning.tasks import Example, TaskPool
from bots_lightning.tasks.reasoning_gym import ReasoningGymTasks, entry_text, new_dataset
from bots_lightning.tasks.reasoning_gym.generators import HASH_ORDERED

SMALL: dict[str, Any] = {"gcd": {"max_value": 99}, "spell_backward": None, "knights_knaves": None}


def load(datasets: dict[str, Any] | None = None, num_tasks: int = 60, **options: Any) -> list[dict[str, str]]:
    return ReasoningGymTasks(datasets or SMALL, num_tasks, **options).load().table.to_pylist()


def test_the_seed_alone_decides_and_a_smaller_pool_begins_a_larger_one() -> None:
    assert load(num_tasks=30) == load()[:30] == load(num_tasks=30)
    assert not {row["id"] for row in load()} & {row["id"] for row in load(seed=1)} & {row["id"] for row in load(seed=2)}


def test_another_process_draws_the_same_pool() -> None:
    program = (
        "from bots_lightning.tasks.reasoning_gym import ReasoningGymTasks\n"
        f"print(ReasoningGymTasks({SMALL}, 60).load().fingerprint)"
    )
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == ReasoningGymTasks(SMALL, 60).load().fingerprint


@pytest.mark.parametrize("seed", [0, 1])
def test_train_and_heldout_share_no_question_whatever_their_seeds(seed: int) -> None:
    train, heldout = load(num_tasks=150), load(num_tasks=30, seed=seed, split="heldout")
    assert not {row["prompt"] for row in train} & {row["prompt"] for row in heldout}
    assert len({row["prompt"] for row in train}) == 150


def test_settings_are_obeyed_and_generators_take_turns() -> None:
    rows = load(SMALL | {"gcd": {"min_numbers": 3, "max_numbers": 3, "min_value": 10, "max_value": 99}})
    assert Counter(row["generator"] for row in rows) == {"gcd": 20, "spell_backward": 20, "knights_knaves": 20}
    numbers = [ast.literal_eval(row["entry"])["metadata"]["numbers"] for row in rows if row["generator"] == "gcd"]
    assert all(len(drawn) == 3 and all(10 <= number <= 99 for number in drawn) for drawn in numbers)


def test_one_generator_can_have_several_settings() -> None:
    easy, hard = {"max_digits": 1, "max_terms": 2}, {"min_digits": 4, "max_digits": 4}
    rows = load({"chain_sum": [easy, hard]}, num_tasks=20)
    digits = [max(map(len, ast.literal_eval(row["entry"])["metadata"]["expression"].split())) for row in rows]
    settings = [json.loads(row["settings"]) for row in rows]
    assert settings == [easy, hard] * 10
    assert all(n <= 2 if chosen == easy else n == 4 for n, chosen in zip(digits, settings, strict=True))


def test_groups_are_generators_categories_or_what_was_said() -> None:
    def groups(**options: Any) -> set[tuple[str, str]]:
        return {(row["generator"], row["group"]) for row in load(num_tasks=6, **options)}

    names = [("gcd", "gcd"), ("knights_knaves", "knights_knaves"), ("spell_backward", "spell_backward")]
    assert groups() == set(names)
    categories = [("gcd", "arithmetic"), ("knights_knaves", "logic"), ("spell_backward", "algorithmic")]
    assert groups(by_category=True) == set(categories)
    assert groups(groups={"knights_knaves": "people"}) == {names[0], ("knights_knaves", "people"), names[2]}
    assert groups(groups={"knights_knaves": "people"}, by_category=True) == {
        categories[0],
        ("knights_knaves", "people"),
        categories[2],
    }


def test_the_template_surrounds_the_question_and_leaves_the_split_alone() -> None:
    template = "Solve {it}. {question}\nGive <answer>…</answer>."
    plain, wrapped = load(num_tasks=12), load(num_tasks=12, prompt_template=template)
    assert [row["prompt"] for row in wrapped] == [
        f"Solve {{it}}. {row['prompt']}\nGive <answer>…</answer>." for row in plain
    ]


def test_questions_can_be_chats_with_a_system_prompt_and_examples() -> None:
    plain = load(num_tasks=6)
    shown = load(num_tasks=6, system_prompt="Compute.", examples=[Example("Calculate 1 + 1.", "2")])
    for one, other in zip(plain, shown, strict=True):
        assert [(message["role"], message["content"]) for message in other["prompt"]] == [
            ("system", "Compute."),
            ("user", "Calculate 1 + 1."),
            ("assistant", "2"),
            ("user", one["prompt"]),
        ]
        assert other["id"] == one["id"]
    assert [row["prompt"] for row in load(num_tasks=6, chat=True)] == [
        [{"role": "user", "content": row["prompt"]}] for row in plain
    ]


def test_an_exhausted_generator_is_skipped() -> None:
    few = {"min_terms": 2, "max_terms": 2, "max_digits": 1, "operators": ["+"], "allow_parentheses": False}
    rows = load({"basic_arithmetic": few, "gcd": None}, num_tasks=400)
    counts = Counter(row["generator"] for row in rows)
    assert counts["basic_arithmetic"] < 121 < counts["gcd"]
    with pytest.raises(
        ValueError, match=r"have only \d+ distinct train questions; expected num_tasks=400\. Lower num_tasks"
    ):
        load({"basic_arithmetic": few}, num_tasks=400)


@pytest.mark.parametrize(
    "name", ["arc_1d", "game_of_life", "knights_knaves", "gsm_symbolic", "sudoku", "time_intervals"]
)
def test_entries_come_back_as_they_were(name: str) -> None:
    dataset = create_dataset(name, size=4, seed=3)
    for entry in (dataset[i] for i in range(4)):
        assert ast.literal_eval(entry_text(entry)) == entry


def test_what_is_not_pythons_own_becomes_so_or_is_refused() -> None:
    entry = {"a": (np.int64(1), np.str_("x")), 2: {3, 4}, "half": Fraction(1, 2), "none": None, "empty": set()}
    assert ast.literal_eval(entry_text(entry)) == {
        "a": (1, "x"),
        2: {3, 4},
        "half": "1/2",
        "none": None,
        "empty": set(),
    }
    for odd in (object(), float("nan"), range(3)):
        with pytest.raises(ValueError, match="cannot be written as text"):
            entry_text({"question": "?", "answer": "1", "metadata": odd})


def test_a_task_without_one_right_answer_has_an_empty_one() -> None:
    pool = ReasoningGymTasks({"graph_color": {"max_num_vertices": 10}}, num_tasks=3).load()
    assert isinstance(pool, TaskPool)
    assert [pool[i].answer for i in range(3)] == ["", "", ""]
    assert ast.literal_eval(pool[0].columns["entry"])["answer"] is None


def test_unknown_names_and_settings_are_errors_that_tell_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"no generator 'chain_sums'; similar names: \['chain_sum', 'decimal_chain_s"):
        load({"chain_sums": None})
    with pytest.raises(ValueError, match=r"gcd has no settings \['max_val', 'seed'\].*'min_numbers'.*'max_value'\]"):
        load({"gcd": {"max_val": 3, "seed": 1}})
    with pytest.raises(ValueError, match=r"gcd rejects the settings \{'min_value': 0\}: min_value must be positive"):
        new_dataset("gcd", {"min_value": 0})


def test_a_generator_that_fails_is_named_with_its_settings() -> None:
    with pytest.raises(
        ValueError, match=r"maze could not make a task with the settings \{'max_grid_size': 5\}: Could.*Widen them"
    ):
        load({"maze": {"max_grid_size": 5}}, num_tasks=300)


def test_generators_that_repeat_themselves_under_conditions_only_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"\['codeio'\] would give other tasks at every load"):
        load({"codeio": None, "gcd": None})
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    assert "word_ladder" in HASH_ORDERED
    with pytest.raises(
        ValueError, match=r"\['word_ladder'\] would give other tasks in every process.*PYTHONHASHSEED=0"
    ):
        load({"word_ladder": None, "gcd": None})
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    assert len(load({"word_ladder": {"max_word_length": 4, "max_chain_length": 4}}, num_tasks=2)) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"datasets": {}}, "datasets is empty"),
        ({"num_tasks": 0}, "num_tasks=0; expected at least 1"),
        ({"seed": -1}, "seed=-1; expected at least 0"),
        ({"split": "test"}, "split='test'; expected one of 'train', 'heldout'"),
        ({"prompt_template": "?"}, r"prompt_template='\?'; expected a text with \{question\} in it"),
        ({"groups": {"mazes": "x"}}, r"groups names \['mazes'\], which are not among the datasets"),
    ],
)
def test_options_out_of_range_are_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReasoningGymTasks(**{"datasets": SMALL} | options)


def test_without_the_library_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym.factory", None)
    with pytest.raises(ImportError, match=r"pip install 'bots-lightning\[reasoning-gym\]'"):
        load()
