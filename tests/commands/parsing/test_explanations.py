"""What a parser says, in one line; mistakes of each command are in test_errors.py beside this folder."""

from __future__ import annotations

from typing import Literal

import pytest
from jsonargparse.typing import PositiveInt

from bots_lightning.commands.parsing import CommandParser, command_parser, explain
from bots_lightning.commands.parsing.parse_messages import read_message
from bots_lightning.selection import TaskSelector


@pytest.fixture
def parser() -> CommandParser:
    parser = command_parser("bots-lightning sort", "Sorts.")
    parser.add_argument("--speed", type=Literal["slow", "fast"] | None)
    parser.add_argument("--seeds", type=PositiveInt)
    parser.add_argument("--ratio", type=float | str | None)
    parser.add_argument("--names", type=list[str])
    parser.add_argument("--exact", type=bool)
    parser.add_argument("--selector", type=TaskSelector)
    return parser


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--speed", "fsat"], "--speed fsat: expected one of slow, fast; did you mean fast?"),
        (["--seeds=0"], "--seeds 0: expected a whole number above 0."),
        (["--seeds", "many"], "--seeds many: expected a whole number above 0."),
        (["--names", "one"], "--names one: expected a list: [a, b]."),
        (["--exact", "maybe"], "--exact maybe: expected true or false."),
        (["--sped", "slow"], "--sped is not an option; did you mean --speed?"),
        (["--colour", "red"], "--colour is not an option. See bots-lightning sort --help."),
        (["sort.yaml"], "'sort.yaml' is not expected here. Configs are named by an option: --config sort.yaml"),
        (
            ["--selector", "Uniform"],
            "--selector Uniform: there is no such class; did you mean bots_lightning.selection.UniformSelector?",
        ),
        (
            ["--selector", "UniformSelector", "--selector.pace", "2"],
            "--selector.pace is not an option of bots_lightning.selection.UniformSelector, which has none.",
        ),
    ],
)
def test_a_parser_ends_with_one_line(
    words: list[str], line: str, parser: CommandParser, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(words)
    assert (ended.value.code, capsys.readouterr().err) == (2, f"error: {line}\n")


def test_what_is_not_known_is_said_in_the_parsers_own_words(parser: CommandParser) -> None:
    assert explain(parser, "Something new:\n  - went\n    wrong", []) == "Something new: - went wrong"


def test_the_innermost_fault_is_read_from_the_attempts() -> None:
    fault = read_message(
        'Parser key "data":\n'
        "  Does not validate against any of the Union subtypes\n"
        "  Subtypes: [<class 'A'>, <class 'NoneType'>]\n"
        "  Errors:\n"
        "    - Problem with given class_path 'a.A':\n"
        '        Parser key "speed":\n'
        "          Does not validate against any of the Union subtypes\n"
        "          Subtypes: [<class 'int'>, <class 'NoneType'>]\n"
        "          Errors:\n"
        "            - Expected a <class 'int'>\n"
        "            - Expected a <class 'NoneType'>\n"
        "          Given value type: <class 'str'>\n"
        "          Given value: fast\n"
        "    - Expected a <class 'NoneType'>\n"
        "  Given value type: <class 'dict'>\n"
        "  Given value: {'speed': 'fast'}\n"
    )
    assert (fault.key, fault.owner, fault.value) == ("data.speed", "a.A", "fast")
    assert fault.expected == ("<class 'int'>", "<class 'NoneType'>")
