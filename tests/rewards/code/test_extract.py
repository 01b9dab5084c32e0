"""Which part of a completion is the program."""

from __future__ import annotations

import time

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
        ("```python\na = 1```", "a = 1\n"),
        ("```python\na = 1```\nor\n```python\na = 2```\ndone", "a = 2\n"),
        ("~~~python\na = 1\n~~~", "a = 1\n"),
        ("````python\na = 1\n````", "a = 1\n"),
        ("````markdown\n```python\na = 1\n```\n````", "a = 1\n"),
        ("Here it is: ```python\na = 1\n```", "a = 1\n"),
        ("```python\na = (\nNo, again:\n```python\na = 2\n```", "a = 2\n"),
        ('```python\na = """\n```\nb\n```\n"""\n```', 'a = """\n```\nb\n```\n"""\n'),
        (
            "```python\ndef f():\n    '''\n    ```\n    f()\n    ```\n    '''\n```",
            "def f():\n    '''\n    ```\n    f()\n    ```\n    '''\n",
        ),
        ("```python\na = '```'\nb = '~~~' # ```\n```", "a = '```'\nb = '~~~' # ```\n"),
        ("```python\na = '''broken\n```\nor\n```python\ndef f():\n    '''f'''\n```", "def f():\n    '''f'''\n"),
        ("\ufeffa = 1", "a = 1"),
        ("```python\n\ufeffa = 1\n```", "a = 1\n"),
        ("```python\r\na = 1\r\n```\r\n", "a = 1\r\n"),
        ("<answer>\na = 1\n</answer>", "\na = 1\n"),
        ("<answer>a = 1", "a = 1"),
        ("<answer>\n```python\na = 1\n```\n</answer>", "a = 1\n"),
        ("```python\na = 1\n```\n<answer>The code above.</answer>", "a = 1\n"),
        ("```python\na = 1\n```\nRun it:\n```python\n# python main.py\n# 3 4\n```", "a = 1\n"),
        ("```python\na = 1\n```\nSo:\n```python\n>>> a\n1\n```", "a = 1\n"),
        ("```code\na = 1\n```", "a = 1\n"),
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


@pytest.mark.parametrize(
    "info",
    [
        "Python",
        " python3",
        "python:main.py",
        "{python}",
        "{.python .lines}",
        "python title='x'",
        "main.py",
        "py3",
        "PY",
    ],
)
def test_every_mark_of_python_counts(info: str) -> None:
    assert extract_program(f"```{info}\na = 1\n```\nIt prints\n```\n1\n```\n```cpp\nint a;\n```") == "a = 1\n"


DEFINITION = "def double(x):\n    return x + x\n"
READING = "import sys\nprint(2 * int(sys.stdin.readline()))\n"


@pytest.mark.parametrize(
    "use", ["print(double(3))", "assert double(3) == 6", "result = double(3)", "from solution import double\ndouble(1)"]
)
def test_a_block_that_uses_the_program_is_not_the_program(use: str) -> None:
    completion = f"```python\n{DEFINITION}```\nFor example:\n```python\n{use}\n```"
    assert extract_program(completion, names={"double"}) == DEFINITION
    assert extract_program(completion, STUB, "double") == DEFINITION
    assert extract_program(completion.replace(DEFINITION, READING), reads_input=True) == READING


def test_of_two_programs_the_last_counts() -> None:
    other = DEFINITION.replace("x + x", "2 * x")
    assert extract_program(f"```python\n{DEFINITION}```\n```python\n{other}```", names={"double"}) == other
    assert extract_program(f"```python\n{DEFINITION}```\n<answer>{other}</answer>", names={"double"}) == other
    assert extract_program(f"```python\n{READING}```\n```python\na = input()\n```", reads_input=True) == "a = input()\n"


@pytest.mark.parametrize(
    "hostile",
    [
        "```\n'''\n",
        "```\n\"\"\"\n'''\n",
        '"\\',
        "```python\n",
        "a```",
        "```py",
        "`",
        "<answer>",
        "`~",
        "~~~ x ",
        "'",
        "  ",
    ],
    ids=repr,
)
def test_the_search_takes_linear_time(hostile: str) -> None:
    text = hostile * (200_000 // len(hostile))
    started = time.process_time()
    for start in ("```python\n", "x"):
        extract_program(start + text, names={"f"})
        extract_program(start + text + "z", reads_input=True)
    assert time.process_time() - started < 5  # a quadratic search takes minutes
