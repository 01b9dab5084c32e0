"""Options that do not exist."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bots_lightning.commands.parsing.classes import known_classes, option_names, options_of
from bots_lightning.commands.parsing.foreign_names import FOREIGN_OPTIONS, PPO_OPTIONS
from bots_lightning.commands.parsing.nearest import did_you_mean, nearest
from bots_lightning.commands.parsing.places import Place, find_place, plain_key

FEW = 16  # so many names are listed


def explain_word(parser: Any, words: Sequence[str], unknown: Sequence[str]) -> str:
    """Words that no option takes; the first is said."""
    first = unknown[0]
    if first.endswith((".yaml", ".yml")):
        return f"{first!r} is not expected here. Configs are named by an option: --config {first}"
    if not first.startswith("--"):
        return f"{first!r} is not expected here; options begin with --. See {_program(parser)} --help."
    return explain_option(parser, words, plain_key(first[2:].partition("=")[0].removesuffix("+")), None)


def explain_option(parser: Any, words: Sequence[str], key: str, owner: str | None) -> str:
    """An option that its class, or the parser if there is none, does not have.

    Args:
        parser: of the command.
        words: of the command line.
        key: the option, without `init_args`.
        owner: class path.
    """
    place = find_place(key, words)
    return _of_class(parser, place, key, owner) if owner else _of_parser(parser, place, key)


def _of_class(parser: Any, place: Place, key: str, owner: str) -> str:
    name, options = key.rpartition(".")[2], options_of(owner)
    seen = f"{place} is not an option of {owner}"
    if here := _counterpart(name, key, owner, options):
        return f"{seen}; here it is {here}."
    hint = did_you_mean(name, options)
    if hint != ".":
        return seen + hint
    part = key.partition(".")[0]
    if len(options) <= FEW:
        return f"{seen}, which has {', '.join(options) or 'none'}."
    if part in ("model", "data") and key.count(".") == 1:
        return f"{seen}. To see them: {_program(parser)} --{part}.help {owner}"
    return f"{seen}. See its documentation."


def _counterpart(name: str, key: str, owner: str, options: Sequence[str]) -> str | None:
    """What another trainer's name is called here, as far as this class can have it."""
    names = FOREIGN_OPTIONS | PPO_OPTIONS if owner.rpartition(".")[2] == "PPO" else FOREIGN_OPTIONS
    here = names.get(name)
    if here is None:
        return None
    inner = here.removeprefix("model.init_args.").removeprefix("data.init_args.")
    if inner.removeprefix("lora.") != inner and "lora" in key.split(".")[:-1]:
        return inner.removeprefix("lora.")
    if _option_in(inner) in options and inner != name:
        return inner
    if inner == here or key.split(".")[0] in ("data", "model"):
        return here if key.count(".") == 1 else None  # the options of parts are no trainer's
    return None


def _foreign(key: str) -> str | None:
    """By the last two names of a key, the last, and those before it, as in verl's `filter_groups.enable`."""
    parts = key.split(".")
    names = [".".join(parts[-2:]), *reversed(parts)]
    return next((FOREIGN_OPTIONS[name] for name in names if name in FOREIGN_OPTIONS), None)


def _option_in(text: str) -> str:
    """The option that a text begins with."""
    return text.split()[0].rstrip(",").split(".")[0]


def _of_parser(parser: Any, place: Place, key: str) -> str:
    own = list(option_names(parser))
    flag = "" if place.file else "--"
    seen = f"{place} is not an option"
    if {"model", "trainer"} <= {option.partition(".")[0] for option in own}:
        everything = {plain_key(option): option for option in [*own, *_inside()]}
        whole = nearest(key, everything if "." in key else own)
        if whole and not nearest(_last(key), [_last(whole)]):
            whole = None  # alike in what stands before
        if whole is None and (here := _foreign(key)):
            return f"{seen}; here it is {flag}{here}."
        if whole := whole or _of_same_name(key, everything):
            return f"{seen}; did you mean {flag}{everything[whole]}?"
    elif found := nearest(key, own):
        return f"{seen}; did you mean {flag}{found}?"
    return f"{seen}. See {_program(parser)} --help."


def _of_same_name(key: str, everything: Mapping[str, str]) -> str | None:
    """The option with the same last name, or nearly the same."""
    by_name, name = {_last(option): option for option in reversed(list(everything))}, _last(key)
    found = name if name in by_name else nearest(name, by_name)
    return None if found is None else by_name[found]


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _inside() -> list[str]:
    """Options of models and data modules, by their full names."""
    kinds = {"model": ("GRPO", "PPO"), "data": ("TaskDataModule",)}
    return [
        f"{part}.init_args.{option}"
        for part, names in kinds.items()
        for path in known_classes()
        if path.rpartition(".")[2] in names
        for option in options_of(path)
    ]


def _program(parser: Any) -> str:
    return str(parser.prog).replace(" [options]", "")
