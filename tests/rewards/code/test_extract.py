"""Which part of a completion is the program."""

from __future__ import annotations

import pytest

from bots_lightning.rewards.code.extract import extract_program

STUB = 'def double(x):\n    """Twice x."""\n'


@pytest.mark.parametrize(
    ("completion", "program"),
    [
        ("```python\na = 1\n```", "a = 1\n"),
        ("First\n```python\na = 1\n```\nor better\n```python\na = 2\n```\ndone", "a = 2\n"),
        ("```python\na = 1\n```\nIt prints\n```\n1 + 1\n```", "a = 1\n"),
        ("```text\nnot this\n```\n```\na = 3\n```", "a = 3\n"),
        ("```py\na = 1\n```", "a = 1\n"),
        ("a = 1", "a = 1"),
        ("<think>```python\na = 1\n```</think>```python\na = 2\n```", "a = 2\n"),
        ("<think>```python\na = 1\n```</think>I do not know.", "I do not know."),
        ("The answer is 4.", "The answer is 4."),
        ("```python\na = (\n```", "a = (\n"),
        ("```python\n\n```", None),
        ("", None),
        ("```python\na = 1", "a = 1\n"),
        ("```python\na = 1\n```\nAn example:\n```python\na = (", "a = 1\n"),
        ("1. Do:\n   ```Python3\n   if a:\n       a = 1\n   ```", "if a:\n    a = 1\n"),
    ],
)
def test_the_last_block_of_python_is_the_program(completion: str, program: str | None) -> None:
    assert extract_program(completion) == program


@pytest.mark.parametrize(
    ("completion", "program"),
    [
        ("    return 2 * x\n", STUB + "    return 2 * x\n"),
        ("```python\n    return 2 * x\n```", STUB + "    return 2 * x\n"),
        ("```python\ndef double(x):\n    return x + x\n```", "def double(x):\n    return x + x\n"),
        ("double = lambda x: x + x", "double = lambda x: x + x"),
        ("    y = x\n\n    return x + y\n\n\nprint(double(", STUB + "    y = x\n\n    return x + y\n\n\n"),
        ("    return (\n        x + x\n)", STUB + "    return (\n        x + x\n)"),
        ("    return doubled(x)  # not def double", STUB + "    return doubled(x)  # not def double"),
    ],
)
def test_a_body_goes_on_from_the_stub_and_a_whole_function_stands_alone(completion: str, program: str | None) -> None:
    assert extract_program(completion, STUB, "double") == program
