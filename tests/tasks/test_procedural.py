"""Every family is checked against a computation of its own, written for this test."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from itertools import permutations
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bots_lightning.tasks import ProceduralTasks
from bots_lightning.tasks.procedural import ALPHABET, FAMILIES, sample_examples

LEVELS = range(1, 9)
Split = Literal["train", "heldout"]


def left_to_right(expression: str) -> list[int]:
    """The value after each operation of an expression without precedence; operands are bit strings."""
    values: list[int] = []
    for end in range(len(expression) + 1):
        if end == len(expression) or expression[end] in "&|^":
            text = re.sub(r"(\d+)", r"0b\1", expression[:end])
            for _ in range(text.count("0b") - 2):
                text = re.sub(r"^(\([^()]*\)|0b\d+[&|^]0b\d+)", lambda match: str(bin(eval(match[1]))), text)
            values.append(eval(text))
    return values


def next_term(text: str) -> str:
    first, second, third = map(int, text.split(","))
    assert third - second == second - first
    return str(2 * third - second)


def running_digits(text: str) -> str:
    return "".join(str(sum(map(int, text[: i + 1])))[-1] for i in range(len(text)))


def bitwise(text: str) -> str:
    width = re.split(r"[&|^]", text)[0]
    return bin(left_to_right(text)[-1])[2:].rjust(len(width), "0")


def looked_up(text: str) -> str:
    table, pairs = text.split(":")
    where = {"00": 0, "01": 1, "10": 2, "11": 3}
    return "".join(table[where[pair]] for pair in re.findall("..", pairs))


def only_order(text: str) -> str:
    """By trying every order; exactly one must satisfy the relations."""
    relations = [r if r[1] == "<" else r[::-1] for r in text.split(",")]
    letters = sorted(set(text) & set("abcdefghij"))
    fits = [o for o in map("".join, permutations(letters)) if all(o.index(r[0]) < o.index(r[2]) for r in relations)]
    assert len(fits) == 1
    return fits[0]


def consequences(text: str) -> str:
    """Breadth first; every wave must be a single letter, so that the order is plain."""
    rules, start = text.split(":")
    known = wave = start
    while wave:
        wave = "".join(rule[2] for rule in rules.split(",") if rule[0] in wave and rule[2] not in known)
        assert len(wave) <= 1
        known += wave
    return known


def rotated(text: str) -> str:
    places, letters = text.split(":")
    return "".join(letters[(i + int(places)) % len(letters)] for i in range(len(letters)))


def interleaved(text: str) -> str:
    first, second = text.split(",")
    merged = [""] * (len(first) + len(second))
    merged[::2], merged[1::2] = first, second
    return "".join(merged)


def executed(text: str) -> str:
    program, letters = text.split(":")
    for operation in program:
        positions = list(range(len(letters)))
        if operation == "r":
            positions.reverse()
        elif operation == "l":
            positions.append(positions.pop(0))
        else:
            positions = [p for i in range(0, len(letters), 2) for p in (i + 1, i) if p < len(letters)]
        letters = "".join(letters[p] for p in positions)
    return letters


SOLUTIONS: dict[str, Callable[[str], str]] = {
    "add": lambda text: str(eval(text)),
    "sub": lambda text: str(eval(text)),
    "mul": lambda text: str(eval(text)),
    "seq": next_term,
    "cum": running_digits,
    "bit": bitwise,
    "run": lambda text: "".join(map(str, left_to_right(text)[1:])),
    "tab": looked_up,
    "ord": only_order,
    "imp": consequences,
    "rev": lambda text: "".join(reversed(text)),
    "rot": rotated,
    "srt": lambda text: "".join(letter * text.count(letter) for letter in "abcdefghij"),
    "mix": interleaved,
    "pro": executed,
}


@pytest.fixture(scope="module")
def examples() -> list[tuple[str, str]]:
    return sample_examples(np.random.default_rng(0), 20_000)


def load(num_tasks: int, seed: int = 0, split: Split = "train") -> list[dict[str, str | int]]:
    return ProceduralTasks(num_tasks, seed, split).load().table.to_pylist()


def test_left_to_right_ignores_the_usual_precedence() -> None:
    assert left_to_right("1|1&0") == [1, 1, 0]
    assert left_to_right("0&1|1^1") == [0, 0, 1, 0]
    assert left_to_right("110^011&100|001") == [6, 5, 4, 5]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_answer_is_right(family: str) -> None:
    rng = np.random.default_rng(1)
    for level in LEVELS:
        for _ in range(200):
            prompt, answer = FAMILIES[family](rng, level)
            code, text = prompt.removesuffix("=").split(" ")
            assert code == family
            assert SOLUTIONS[family](text) == answer, prompt


def test_prompts_and_answers_are_short_and_of_the_alphabet(examples: list[tuple[str, str]]) -> None:
    assert set("".join(prompt + answer for prompt, answer in examples)) == set(ALPHABET)
    assert len(set(ALPHABET)) == len(ALPHABET)
    assert all(re.fullmatch(r"[a-z]{3} [^ =]+=", prompt) and len(prompt) <= 28 for prompt, _ in examples)
    assert all(1 <= len(answer) <= 10 for _, answer in examples)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_answer_can_be_guessed(family: str) -> None:
    """The commonest answer is rare: at most one in five from level 4 on, one in ten from level 7 on."""
    rng = np.random.default_rng(2)
    for level in LEVELS[3:]:
        answers = Counter(FAMILIES[family](rng, level)[1] for _ in range(1000))
        assert answers.most_common(1)[0][1] < (100 if level >= 7 else 200)


def test_examples_are_balanced_and_of_the_train_split(examples: list[tuple[str, str]]) -> None:
    counts = Counter(prompt[:3] for prompt, _ in examples)
    expected = len(examples) / len(FAMILIES)
    assert set(counts) == set(FAMILIES)
    assert max(abs(count - expected) for count in counts.values()) < 5 * expected**0.5
    heldout = {row["prompt"] for row in load(600, split="heldout")}
    assert not heldout & {prompt for prompt, _ in examples}


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**40), st.integers(0, 2**40), st.integers(1, 1500), st.integers(1, 600))
def test_train_and_heldout_are_disjoint_whatever_seeds_and_sizes(a: int, b: int, train: int, heldout: int) -> None:
    prompts = [[row["prompt"] for row in load(train, a)], [row["prompt"] for row in load(heldout, b, "heldout")]]
    assert [len(set(part)) for part in prompts] == [train, heldout]
    assert not set(prompts[0]) & set(prompts[1])


def test_each_split_has_its_eighth_of_every_family() -> None:
    rng = np.random.default_rng(3)
    heldout = {row["prompt"] for row in load(3000, split="heldout")}
    for family in FAMILIES:
        small = {FAMILIES[family](rng, 1)[0] for _ in range(2000)}
        assert 0.02 < len(small & heldout) / len(small) < 0.25


@pytest.mark.parametrize(("num_tasks", "split"), [(4000, "train"), (600, "heldout")])
def test_domains_families_and_levels_are_balanced(num_tasks: int, split: Split) -> None:
    rows = load(num_tasks, split=split)
    cells = Counter((row["family"], row["level"]) for row in rows)
    assert len(cells) == 120
    assert max(cells.values()) - min(cells.values()) <= 1
    domains = Counter(row["group"] for row in rows)
    assert set(domains) == {"maths", "logic", "strings"}
    assert max(domains.values()) - min(domains.values()) <= 5
    assert all(str(row["prompt"]).startswith(f"{row['family']} ") for row in rows)


def test_exhausted_cells_are_skipped() -> None:
    rows = ProceduralTasks(2000, families=["add"]).load().table.to_pylist()
    counts = Counter(row["level"] for row in rows)
    assert counts[1] < 200  # no more exist: 90 numbers, plus 0 or 1
    assert counts[1] <= counts[8]
    assert sum(counts.values()) == len({row["prompt"] for row in rows}) == 2000


def test_a_pool_that_cannot_be_filled_is_an_error() -> None:
    message = (
        r"families=\['bit'\], levels=\[1\] have only \d+ distinct train prompts; expected num_tasks=100\. "
        "Lower num_tasks"
    )
    with pytest.raises(ValueError, match=message):
        ProceduralTasks(100, families=["bit"], levels=[1]).load()


def test_the_seed_alone_decides_and_a_smaller_pool_begins_a_larger_one() -> None:
    assert load(300) == load(600)[:300] == load(300)
    assert load(300) != load(300, seed=1)
    assert ProceduralTasks(500).load().fingerprint == "2eeec5df13ede06c"  # the same on every machine


def test_families_and_levels_can_be_chosen() -> None:
    rows = ProceduralTasks(40, families=["rev", "add"], levels=[2, 5]).load().table.to_pylist()
    assert Counter((row["family"], row["level"]) for row in rows) == dict.fromkeys(
        [("rev", 2), ("rev", 5), ("add", 2), ("add", 5)], 10
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_tasks": 0}, "num_tasks=0; expected at least 1"),
        ({"seed": -1}, "seed=-1; expected at least 0"),
        ({"split": "test"}, "split='test'; expected one of 'train', 'heldout'"),
        ({"families": ["add", "div"]}, r"families=\['add', 'div'\]; expected one or more of \['add', 'sub'"),
        ({"families": []}, r"families=\[\]"),
        ({"levels": [1, 9]}, r"levels=\[1, 9\]; expected one or more of \[1, 2, 3, 4, 5, 6, 7, 8\]"),
        ({"levels": [2, 2]}, "each once"),
    ],
)
def test_options_out_of_range_are_errors(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ProceduralTasks(**options)  # type: ignore[arg-type]
