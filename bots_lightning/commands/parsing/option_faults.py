"""Explains options that do not exist."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bots_lightning.commands.parsing.classes import known_classes, option_names, options_of
from bots_lightning.commands.parsing.foreign_names import FOREIGN_OPTIONS, PPO_OPTIONS
from bots_lightning.commands.parsing.nearest import did_you_mean, nearest
from bots_lightning.commands.parsing.places import Place, find_place, plain_key

FEW = 16  # so many names are listed


def explain_word(parser: Any, words: Sequence[str], unknown: Sequence[str]) -> str:
    """Explains words that no option takes, by the first of them.

    Args:
        parser: of the command.
        words: of the command line.
        unknown: the words that were not understood.
    """
    first = unknown[0]
    if first.endswith((".yaml", ".yml")):
        return f"{first!r} is not expected here. Configs are named by an option: --config {first}"
    if not first.startswith("--"):
        return f"{first!r} is not expected here; options begin with --. See {_program(parser)} --help."
    return explain_option(parser, words, plain_key(first[2:].partition("=")[0].removesuffix("+")), None)


def explain_option(parser: Any, words: Sequence[str], key: str, owner: str | None) -> str:
    """Explains an option that its class, or without a class the parser, does not have.

    Args:
        parser: of the command.
        words: of the command line.
        key: the option, without `init_args`.
        owner: class path; None for an option of the parser.
    """
    place = find_place(key, words)
    return _of_class(parser, place, key, owner) if owner else _of_parser(parser, place, key)


def _of_class(parser: Any, place: Place, key: str, owner: str) -> str:
    name, options = _last(key), options_of(owner)
    seen = f"{place} is not an option of {owner}"
    if here := _counterpart(name, key, owner, options):
        return f"{seen}; here it is {here}."
    hint = did_you_mean(name, options)
    if hint != ".":
        return seen + hint
    if _above(key) == "model.algorithm":
        return f"{seen}. To see them: {_program(parser)} --model.algorithm.help {owner}"
    if len(options) <= FEW:
        return f"{seen}, which has {', '.join(options) or 'none'}."
    return f"{seen}. See its documentation."


def _counterpart(name: str, key: str, owner: str, options: Sequence[str]) -> str | None:
    """The present name of another trainer's option, if this class has it or it belongs elsewhere."""
    names = FOREIGN_OPTIONS | PPO_OPTIONS if _last(owner) == "PPO" else FOREIGN_OPTIONS
    here, above = names.get(name), key.removesuffix(name)
    if here is None:
        return None
    if here.startswith(above):  # an option of this class
        inner = here.removeprefix(above)
        return inner if _option_in(inner) in options else None
    return here if above == "model.algorithm." else None  # deeper ones are no trainer's


def _option_in(text: str) -> str:
    """The option that a text begins with."""
    return text.split()[0].rstrip(",").split(".")[0]


def _of_parser(parser: Any, place: Place, key: str) -> str:
    own, seen = [plain_key(option) for option in option_names(parser)], f"{place} is not an option"
    if not any(option.startswith("model.") for option in own):
        hint = did_you_mean(key, own, "--")
        return seen + (hint if hint != "." else f". See {_program(parser)} --help.")
    everything = [*own, *_of_algorithms()]
    meant = _nearest_section(key, everything)
    if meant is None and (here := _foreign(key)):
        return f"{seen}; here it is {_spelled(here, place)}."
    if meant := meant or _alike(key, everything if "." in key else own) or _of_same_name(key, everything):
        return f"{seen}; did you mean {_spelled(meant, place)}?"
    if beside := [_last(option) for option in own if _above(option) == _above(key) != ""]:
        return f"{seen}; {_above(key)} has {', '.join(beside[:FEW])}{', …' * (len(beside) > FEW)}."
    return f"{seen}. See {_program(parser)} --help."


def _nearest_section(key: str, everything: Sequence[str]) -> str | None:
    """The option of this name in a section of nearly this name."""
    found = nearest(key, [option for option in everything if _last(option) == _last(key)])
    return found if found and nearest(_above(key), [_above(found)]) else None


def _alike(key: str, known: Sequence[str]) -> str | None:
    """The option with nearly this name, the last part included; in the same section if there is one."""
    section = key.partition(".")[0] + "."
    found = nearest(key, [option for option in known if option.startswith(section)] or known)
    return found if found and nearest(_last(key), [_last(found)]) else None


def _foreign(key: str) -> str | None:
    """By the last two names of a key, the last, and those before it, as in verl's `filter_groups.enable`."""
    parts = key.split(".")
    names = [".".join(parts[-2:]), *reversed(parts)]
    return next((FOREIGN_OPTIONS[name] for name in names if name in FOREIGN_OPTIONS), None)


def _of_same_name(key: str, everything: Sequence[str]) -> str | None:
    """The option of a section with the same last name, or nearly the same."""
    by_name = {_last(option): option for option in reversed(everything) if "." in option}
    found = _last(key) if _last(key) in by_name else nearest(_last(key), by_name)
    return None if found is None else by_name[found]


def _spelled(option: str, place: Place) -> str:
    """An option as a word of the command line has it, or a file."""
    if place.file is None:
        return f"--{option}"
    return option.replace("model.algorithm.", "model.algorithm.init_args.")


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _above(key: str) -> str:
    return key.rpartition(".")[0]


def _of_algorithms() -> list[str]:
    """Options of the algorithms, by their full names."""
    paths = [path for path in known_classes() if path.startswith("bots_lightning.algorithms.")]
    algorithms = [path for path in paths if _last(path) in ("GRPO", "PPO")]
    return [f"model.algorithm.{option}" for path in algorithms for option in options_of(path)]


def _program(parser: Any) -> str:
    return str(parser.prog).replace(" [options]", "")
