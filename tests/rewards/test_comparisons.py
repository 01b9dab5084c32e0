"""Which answers are the same, by examples of logic puzzles and by properties."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bots_lightning.rewards.comparisons import normalised, same_data, same_normalised, same_text, share_of_cells

Scalars = st.none() | st.booleans() | st.integers(-9, 9) | st.text("abc 1", max_size=3)
Data = st.recursive(
    Scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("xyz", min_size=1, max_size=2), inner, max_size=3)
    ),
    max_leaves=8,
)
ZEBRA = {"header": ["House", "Name", "Pet"], "rows": [["1", "Eric", "cat"], ["2", "Peter", "dog"]]}


@pytest.mark.parametrize(
    ("given_text", "expected", "same"),
    [
        ("Zoey is a knave, and Oliver is a knight.", "zoey is a knave, and Oliver is a KNIGHT", True),
        ("  two\n words ", "two words", True),
        ("**Yes**", "yes", True),
        ('"yes".', "Yes", True),
        ("`f(x)`", "f(x)", True),
        ("４２", "42", True),  # full-width digits
        ("yes", "no", False),
        ("a b", "ab", False),
        ("1.5", "15", False),
        ("", "a", False),
    ],
)
def test_normalised_texts(given_text: str, expected: str, same: bool) -> None:
    assert same_normalised(given_text, expected) is same
    assert same_normalised(expected, given_text) is same


@given(st.text("aB1.'\"*_ \n", max_size=12))
def test_normalising_twice_or_wrapping_changes_nothing(text: str) -> None:
    once = normalised(text)
    assert normalised(once) == normalised(f" **{text}**.\n") == once
    assert same_normalised(text, once)


def test_the_same_text_ignores_white_space_around_only() -> None:
    assert same_text(" a b\n", "a b")
    assert not same_text("a  b", "a b")
    assert not same_text("A b", "a b")


GRID = "[[1, 2, 3], [4, 5, 6]]"


@pytest.mark.parametrize(
    "written",
    [
        "[[1,2,3],[4,5,6]]",
        "((1, 2, 3), (4, 5, 6))",
        '[["1", "2", "3"], ["4", "5", "6"]]',
        "[[1.0, 2, 3], [4, 5, 6.00]]",
        "1 2 3\n4 5 6",
        "1,2,3\n4, 5, 6\n",
        "| 1 | 2 | 3 |\n|---|---|---|\n| 4 | 5 | 6 |",
        "1|2|3\n\n4|5|6",
        "```json\n[[1, 2, 3],\n [4, 5, 6]]\n```",
        "```\n1 2 3\n4 5 6\n```",
    ],
)
def test_one_grid_written_in_many_ways(written: str) -> None:
    assert same_data(written, GRID)
    assert same_data(GRID, written)
    assert share_of_cells(written, GRID) == 1.0


@pytest.mark.parametrize(
    "written",
    [
        "[[1, 2, 3], [4, 5, 7]]",
        "[[1, 2], [3, 4], [5, 6]]",
        "[1, 2, 3, 4, 5, 6]",
        "1 2 3 4 5 6",
        "[[1, 2, 3], [4, 5, 6], []]",
        "123\n456",
        "[[1, 2, 3], [4, 5, 6]",  # not closed
        "",
    ],
)
def test_other_grids(written: str) -> None:
    assert not same_data(written, GRID)
    assert share_of_cells(written, GRID) < 1.0


@pytest.mark.parametrize(
    ("given_text", "expected", "same"),
    [
        ("Ada, Ben, Cy", '["ada", "ben", "cy"]', True),  # an order
        ("Ada\nBen\nCy", "['Ada', 'Ben', 'Cy']", True),
        ("Ben, Ada, Cy", '["Ada", "Ben", "Cy"]', False),
        ("17", "17", True),  # a node of a graph
        ("17", "[17]", False),
        ("017.0", "17", True),
        ("18", "17", False),
        ("9007199254740993", "9007199254740992", False),  # 2⁵³ + 1 is no float
        ('{"b": 2, "a": [1]}', "{'a': (1,), 'b': 2}", True),
        ('{"1": "x"}', "{1: 'X'}", True),
        ("{'a', 'b'}", "{'b', 'a'}", True),
        ("[true, false]", "[True, False]", True),
        ("[true, false]", "[1, 0]", False),
        ("[null]", "[None]", True),
        ("[null]", "[0]", False),
        ("[[1]]", "[1]", False),
        ("nan", "NaN", True),  # a name like any other
        ("Yes, it is", "yes, it is.", True),
        (r"\d", r"\d", True),
        ("[" * 100_000, "[1]", False),
    ],
)
def test_lists_dictionaries_and_cells(given_text: str, expected: str, same: bool) -> None:
    assert same_data(given_text, expected) is same
    assert same_data(expected, given_text) is same


@given(Data, Data)
def test_data_are_the_same_as_themselves_in_json_and_python(data: object, other: object) -> None:
    assert same_data(json.dumps(data), repr(data))
    assert share_of_cells(repr(data), json.dumps(data)) == 1.0
    assert same_data(json.dumps(data), json.dumps(other)) == same_data(json.dumps(other), json.dumps(data))


def test_the_share_of_cells_of_a_zebra_puzzle_by_hand() -> None:
    expected = json.dumps(ZEBRA)  # 3 + 2·3 cells
    swapped = ZEBRA | {"rows": [["1", "Peter", "cat"], ["2", "Eric", "dog"]]}
    assert share_of_cells(repr(swapped), expected) == 7 / 9
    assert share_of_cells(json.dumps({"rows": ZEBRA["rows"]}), expected) == 6 / 9
    assert share_of_cells("I do not know", expected) == 0.0
    surplus = ZEBRA | {"rows": [*ZEBRA["rows"], ["3", "Ada", "fish"]]}
    assert share_of_cells(json.dumps(surplus), expected) == 9 / 12


@given(Data, Data)
def test_the_share_of_cells_is_symmetric_and_in_range(data: object, other: object) -> None:
    one, two = json.dumps(data), json.dumps(other)
    assert 0 <= share_of_cells(one, two) == share_of_cells(two, one) <= 1
