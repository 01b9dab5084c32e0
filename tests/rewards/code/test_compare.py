"""Expected and actual output, word by word."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bots_lightning.rewards.code.compare import same_output


@pytest.mark.parametrize(
    ("actual", "expected", "same"),
    [
        (b"1 2\n3\n", "1 2\n3", True),
        (b"  1\t2  \r\n\n3", "1 2\n3\n\n", True),
        (b"1 2 3", "1 2\n3", False),
        (b"12", "1 2", False),
        (b"", "1", False),
        (b"", "", True),
        (b"0.30000000000000004", "0.3", True),
        (b"0.3001", "0.3", False),
        (b"1", "1.0", True),
        (b"1.0", "1", False),  # a whole number is expected as a whole number
        (b"1000000.5", "1000000.0", True),  # relative: 0.5 is 5e-7 of it
        (b"1000002.0", "1000000.0", False),
        (b"nan", "0.5", False),
        (b"1e3", "1000.0", True),
        (b"YES", "Yes", False),
        (b"\xff", "\ufffd", False),
        (b"1\0", "1", False),
        ("ä".encode(), "ä", True),
        (b"-0.0", "0.0", True),
        (b"1_0.0", "10.0", False),  # Python reads it, an output has no such number
        ("１.0".encode(), "1.0", False),
        (b"inf", "1e400", False),
        (b"+7", "7", False),
        (b"007", "7", False),
    ],
)
def test_words_must_agree_and_decimals_within_the_tolerance(actual: bytes, expected: str, same: bool) -> None:
    assert same_output(actual, expected, 1e-6) is same


@pytest.mark.parametrize(
    ("actual", "expected", "same"),
    [
        (b"YES\nno", "Yes\nNO", True),
        (b"3.0", "3", True),
        (b"3", "3.00", True),
        (b"1000000008", "1000000007", False),
        (b"3.0000001", "3", False),
        (b"yes no", "yes\nno", False),
        (b"three", "3", False),
        (b"1e9999", "1", False),
    ],
)
def test_a_lenient_comparison_takes_no_notice_of_case_and_of_notation(actual: bytes, expected: str, same: bool) -> None:
    assert same_output(actual, expected, 1e-6, lenient=True) is same


def test_without_a_tolerance_decimals_are_text() -> None:
    assert not same_output(b"0.50", "0.5", 0.0)
    assert same_output(b"0.5", "0.5", 0.0)


words = st.lists(st.lists(st.text("ab1.", min_size=1, max_size=3), min_size=1, max_size=3), max_size=3)


@given(words, words, st.sampled_from([" ", "  ", "\t"]), st.sampled_from(["\n", "\r\n", "\n\n"]))
def test_white_space_never_matters_and_words_always_do(
    one: list[list[str]], other: list[list[str]], space: str, newline: str
) -> None:
    actual = newline.join(space.join(line) for line in one).encode()
    expected = "\n".join(" ".join(line) for line in other)
    assert same_output(actual, expected, 0.0) is (one == other)
