"""The text of a config of the flat layout, rewritten with its comments and anchors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from bots_lightning.commands.flat_layout.contents import CORRECTION_NAMES, RENAMED, converted_config, path_of
from bots_lightning.commands.flat_layout.names import CORRECTION, present_name

INDENT = 2
MOVED_CLASSES = re.compile(r"\bbots_lightning\.algorithms\.(?=(?:LoRA|SharedCritic|SeparateCritic)\b)")
RENAMED_KEYS = [(re.compile(rf"\b{old}(?=:\s)"), new) for old, new in RENAMED.values()]
CORRECTIONS = [CORRECTION + name for name in CORRECTION_NAMES]


def converted(text: str) -> str:
    """Rewrites a config in the present layout: moves its lines, or dumps it anew if the moved lines differ in content.

    Args:
        text: of a YAML file.

    Returns:
        the text of the new file.
    """
    text = MOVED_CLASSES.sub("bots_lightning.policy.", text)
    config = converted_config(yaml.safe_load(text))
    lines = [_with_present_names(line) for line in text.splitlines()]
    moved = "".join(f"{line}\n" for line in _moved(yaml.compose(text, Loader=yaml.SafeLoader), lines, config))
    return moved if _loads_as(moved, config) else _head(lines) + yaml.safe_dump(config, sort_keys=False)


def _loads_as(text: str, config: dict[str, Any]) -> bool:
    try:
        return bool(yaml.safe_load(text) == config)
    except yaml.YAMLError:
        return False


def _with_present_names(line: str) -> str:
    """A line with keys that were renamed, and options in its comment, as they are called now."""
    before, sign, comment = line.partition("#")
    for old, new in RENAMED_KEYS:
        before = old.sub(new, before)
    return before + sign + present_name(comment)


def _head(lines: Sequence[str]) -> str:
    """The comment that a file opens with."""
    end = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return "".join(f"{line}\n" for line in lines[:end])


# --- lines ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """A key of a mapping, with the lines that it takes.

    Attributes:
        key: its name.
        value: what it has.
        column: where the key begins.
        comments: the lines above that are comments of it.
        lines: from the key's own line on.
        gap: the blank lines behind.
        end: number of the line behind `lines`.
    """

    key: str
    value: yaml.Node
    column: int
    comments: list[str]
    lines: list[str]
    gap: list[str]
    end: int

    def at(self, column: int, name: str | None = None) -> list[str]:
        """Comments and lines with the key at another column, and under another name."""
        own = [line.replace(self.key, name or self.key, 1) for line in self.lines[:1]]
        return [_shifted(line, column - self.column) for line in (*self.comments, *own, *self.lines[1:])]


def _entries(node: yaml.Node, lines: list[str], end: int) -> list[Entry]:
    """Those of a mapping that ends before that line; none of what is no mapping."""
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    begins = [_with_comments(lines, key.start_mark) for key, _ in pairs]
    return [
        _entry(key, value, lines, begin, behind)
        for (key, value), begin, behind in zip(pairs, begins, [*begins[1:], end], strict=False)
    ]


def _with_comments(lines: list[str], mark: yaml.Mark) -> int:
    """The first of the comment lines right above a key, at its column; else the key's own line."""
    line: int = mark.line
    while line > 0 and lines[line - 1].startswith(" " * mark.column + "#"):
        line -= 1
    return line


def _entry(key: yaml.ScalarNode, value: yaml.Node, lines: list[str], begin: int, behind: int) -> Entry:
    first, end = key.start_mark.line, behind
    while end > first + 1 and not lines[end - 1].strip():
        end -= 1
    column = key.start_mark.column
    return Entry(key.value, value, column, lines[begin:first], lines[first:end], lines[end:behind], end)


def _shifted(line: str, columns: int) -> str:
    """A line with so many more blanks in front, or fewer."""
    return " " * columns + line if columns > 0 and line else line[min(-columns, len(line) - len(line.lstrip(" "))) :]


def _moved(root: yaml.Node, lines: list[str], config: dict[str, Any]) -> Iterator[str]:
    """The lines of a config; those of a flat `model` or `data` at their places."""
    for entry in _entries(root, lines, len(lines)):
        inner = {each.key: each for each in _entries(entry.value, lines, entry.end)}
        if entry.key not in ("model", "data") or not {"class_path", "init_args"} & inner.keys():
            yield from (*entry.comments, *entry.lines, *entry.gap)
            continue
        options = _entries(inner["init_args"].value, lines, inner["init_args"].end) if "init_args" in inner else []
        yield from (*entry.comments, *entry.lines[:1])
        if entry.key == "data":
            yield from (line for option in options for line in option.at(INDENT))
        else:
            yield from _model(inner.get("class_path"), options, config["model"])
        yield from entry.gap


def _model(class_path: Entry | None, options: list[Entry], model: dict[str, Any]) -> Iterator[str]:
    """The lines of `model`, part by part."""
    for part in model:
        if part == "algorithm":
            yield from _algorithm(class_path, model[part])
        elif isinstance(model[part], dict):
            yield f"{' ' * INDENT}{part}:"
        for option in options:
            path = path_of(option.key).split(".")
            if path[0] == part and option.key not in CORRECTIONS:
                yield from option.at(INDENT * len(path), path[-1])
        if part == "algorithm" and "importance_sampling" in model[part].get("init_args", {}):
            correction = {"importance_sampling": model[part]["init_args"]["importance_sampling"]}
            yield from (" " * 3 * INDENT + line for line in yaml.safe_dump(correction, sort_keys=False).splitlines())


def _algorithm(class_path: Entry | None, algorithm: dict[str, Any]) -> Iterator[str]:
    """The lines before its options."""
    yield f"{' ' * INDENT}algorithm:"
    yield from class_path.at(2 * INDENT) if class_path else []
    yield from [f"{' ' * 2 * INDENT}init_args:"] if "init_args" in algorithm else []
