"""Finds where an option was given: a word of the command line, or a line of a YAML file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import yaml

CONFIG_WORDS = ("--config", "-c")


@dataclass(frozen=True)
class Place:
    """A mention of an option.

    Attributes:
        name: of the option, as it was written there.
        value: as text, None for a mapping or a list.
        file: None for the command line.
        line: in the file, from 1.
    """

    name: str
    value: str | None = None
    file: str | None = None
    line: int = 0

    def __str__(self) -> str:
        return f"--{self.name}" if self.file is None else f"{self.file}, line {self.line}: {self.name}"

    def with_value(self, value: str | None) -> str:
        """The place followed by the given value."""
        if value is None:
            return str(self)
        return f"{self}{' ' if self.file is None else '='}{value or repr(value)}"


def plain_key(name: str) -> str:
    """An option's name without the levels `init_args` and `class_path`."""
    return ".".join(part for part in name.split(".") if part not in ("init_args", "class_path"))


def find_place(key: str, words: Sequence[str], value: str | None = None) -> Place:
    """Finds where a key was given.

    Args:
        key: as of `plain_key`.
        words: of the command line.
        value: preferred among several places.

    Returns:
        the place; without one, the key as an option of the command line.
    """
    mentions = [*places_in_words(words), *(each for file in config_files(words) for each in places_in_file(file))]
    same = [place for place in mentions if plain_key(place.name) == key]
    # Names of a dictionary's entries are not in the key: heldout in data.evaluation.heldout.limit.
    same = same or [place for place in mentions if "." in key and _ends(plain_key(place.name)) == _ends(key)]
    with_value = [place for place in same if value is not None and place.value == value]
    return next(iter([*with_value, *same]), Place(key, value))


def _ends(key: str) -> tuple[str, str]:
    return key.partition(".")[0], key.rpartition(".")[2]


def config_files(words: Sequence[str]) -> list[str]:
    """The files that `--config` names."""
    files = [after for word, after in pairwise(words) if word in CONFIG_WORDS]
    return files + [word.partition("=")[2] for word in words if word.startswith("--config=")]


def config_fault(file: str) -> str | None:
    """Checks that a file is YAML with a mapping.

    Args:
        file: its path.

    Returns:
        what is wrong, with line and column; None for a sound config and for a file that cannot be opened.
    """
    try:
        node = yaml.compose(Path(file).read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except OSError:
        return None
    except UnicodeDecodeError as error:
        return f"{file} is not text in UTF-8 (byte {error.start}). Name a YAML file."
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{file}, line {mark.line + 1}, column {mark.column + 1}" if mark else file
        return f"{where}: not YAML: {error.problem or error.context}{_advice(error)}"
    except yaml.YAMLError as error:
        return f"{file} is not YAML: {' '.join(str(error).split())}"
    if not isinstance(node, yaml.MappingNode):
        return f"{file} is {'empty' if node is None else 'not a mapping'}; expected keys as `model`, `data`, `trainer`."
    return None


def _advice(error: yaml.MarkedYAMLError) -> str:
    return ". Indent with spaces, not tabs." if "cannot start any token" in str(error.problem) else "."


def places_in_words(words: Sequence[str]) -> Iterator[Place]:
    """The options among the words of a command line."""
    for word, after in pairwise([*words, None]):
        if word is not None and word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            yield Place(name.removesuffix("+"), value if equals else after)


def places_in_file(file: str) -> Iterator[Place]:
    """All keys of a config with their full names; none of a file that is no config."""
    try:
        root = yaml.compose(Path(file).read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return
    yield from _below(root, "", file)


def _below(node: yaml.Node | None, name: str, file: str) -> Iterator[Place]:
    """The node and everything below it; items of a list have the name of the list."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = f"{name}.{key.value}" if name else str(key.value)
            yield Place(inner, value.value if isinstance(value, yaml.ScalarNode) else None, file, _line(key))
            yield from _below(value, inner, file)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            if isinstance(item, yaml.ScalarNode):
                yield Place(name, item.value, file, _line(item))
            yield from _below(item, name, file)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
