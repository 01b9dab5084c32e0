"""Explains a parser's fault in one line: what was seen, what was expected, what to do."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bots_lightning.commands.parsing.class_faults import explain_class
from bots_lightning.commands.parsing.flat_faults import flat_fault
from bots_lightning.commands.parsing.nearest import did_you_mean, nearest
from bots_lightning.commands.parsing.option_faults import explain_option, explain_word
from bots_lightning.commands.parsing.parse_messages import Fault, read_message
from bots_lightning.commands.parsing.places import Place, config_fault, config_files, find_place, plain_key
from bots_lightning.commands.parsing.values import explain_value

RESTRICTED = {
    "PositiveInt": "a whole number above 0",
    "NonNegativeInt": "a whole number, 0 or more",
    "PositiveFloat": "a number above 0",
    "NonNegativeFloat": "a number, 0 or more",
    "ClosedUnitInterval": "a number from 0 to 1",
}
EXAMPLE = "--config configs/quickstart.yaml"
# Names of the commands in other programs.
OTHER_COMMANDS = {
    "help": "--help",
    "train": "fit",
    "run": "fit",
    "eval": "validate",
    "evaluate": "validate",
    "generate": "predict",
}


@dataclass(frozen=True)
class Scene:
    """The context of a fault.

    Attributes:
        parser: that has found it.
        words: of the command line.
    """

    parser: Any
    words: Sequence[str]


def explain(parser: Any, message: str, words: Sequence[str]) -> str:
    """Turns a message of jsonargparse into one line; an unknown message is shown as it is, in one line.

    Args:
        parser: that has found the fault.
        message: of the parser.
        words: of the command line.
    """
    if flat := flat_fault(words):
        return flat
    scene, fault = Scene(parser, words), read_message(message)
    for pattern, explanation in RULES:
        if (found := pattern.search(fault.text)) and (line := explanation(scene, fault, found)):
            return " ".join(line.split())
    if fault.expected:
        return " ".join(explain_value(fault, find_place(_key(scene, fault.key), words, fault.value)).split())
    known = f"{find_place(_key(scene, fault.key), words)}: {fault.text}" if fault.key else message
    return " ".join(known.split())


def _key(scene: Scene, key: str) -> str:
    """The key without the command that precedes it."""
    command, _, rest = key.partition(".")
    return plain_key(rest if rest and command in commands(scene.parser) else key)


def commands(parser: Any) -> list[str]:
    """The commands of a parser, or of the parser that it belongs to."""
    action = getattr(parser, "parent_parser", parser)._subcommands_action
    return [] if action is None else [choice.dest for choice in action._choices_actions]


def _command(scene: Scene, fault: Fault, found: re.Match[str]) -> str:
    """A word that is not a command."""
    word, known = found["word"], commands(scene.parser)
    before = scene.words[: scene.words.index(word)] if word in scene.words else []
    if before:
        return f"{before[0]} stands before the command. Write bots-lightning COMMAND {before[0]} …"
    near = nearest(word, [*known, *OTHER_COMMANDS])
    hint = f"; did you mean {OTHER_COMMANDS.get(near, near)}?" if near else "."
    return f"{word!r} is not a command{hint} Commands: {', '.join(known)}."


def _before_command(scene: Scene, fault: Fault, found: re.Match[str]) -> str:
    return f"options and configs stand behind the command. Write bots-lightning {found['command']} --config …"


def _no_command(scene: Scene, fault: Fault, found: re.Match[str]) -> str:
    return f"no command given. Commands: {', '.join(commands(scene.parser))}; see bots-lightning --help."


def _config_content(scene: Scene, fault: Fault, found: re.Match[str]) -> str | None:
    return next(filter(None, map(config_fault, config_files(scene.words))), None)


def _config_path(scene: Scene, fault: Fault, found: re.Match[str]) -> str | None:
    if fault.key != "config":
        return None
    if short := next((word for word in scene.words if word.startswith("-c") and word != "-c"), None):
        return f"{short}: names of options begin with two dashes: -{short}"
    given = next((file for file in config_files(scene.words) if Path(file).absolute() == Path(found["path"])), "")
    given = given or found["path"]
    if found["what"] == "File does not exist":
        near = {str(path) for folder in (Path(given).parent, Path("configs")) for path in folder.glob("**/*.yaml")}
        by_name = {Path(path).name: path for path in sorted(near, reverse=True)}
        hint = did_you_mean(given, near)
        if hint == "." and (same := did_you_mean(Path(given).with_suffix(".yaml").name, by_name)) != ".":
            hint = f"; did you mean {by_name[same.removeprefix('; did you mean ').removesuffix('?')]}?"
        return f"--config {given}: there is no such file (looked in {Path.cwd()}){hint}"
    wrong = "is a folder. Name a YAML file in it." if Path(given).is_dir() else "may not be read. See its permissions."
    return f"--config {given} {wrong}"


def _required(scene: Scene, fault: Fault, found: re.Match[str]) -> str:
    names = [_key(scene, name) for name in found["names"].split(", ")]
    if fault.owner:
        place = find_place(_key(scene, fault.key), scene.words, fault.owner).name.removesuffix(".class_path")
        options = " and ".join(f"{place.removesuffix('.init_args')}.init_args.{name}" for name in names)
        whole = "" if "." in fault.key else f", or stack this config on a whole one: {EXAMPLE}"
        return f"{fault.owner} needs {' and '.join(names)}. Set {options}{whole}."
    if sections := sorted({"model", "data"} & {name.partition(".")[0] for name in names}):
        return _incomplete(scene.words, names, sections)
    flags = {action.dest: action for action in scene.parser._actions}
    wanted = [f"--{name}" if name in flags and flags[name].option_strings else name for name in names]
    return f"{' and '.join(wanted)} must be given. See {scene.parser.prog} --help."


def _incomplete(words: Sequence[str], names: Sequence[str], sections: Sequence[str]) -> str:
    """Nothing is known of the model or the data, or not all."""
    if config_files(words):
        return f"{' and '.join(names)} must be set. Set them, or stack this config on a whole one: {EXAMPLE}"
    command = words[0] if words and not words[0].startswith("-") else "fit"
    return f"no {' and no '.join(sections)} given. Name a config: bots-lightning {command} {EXAMPLE}"


def _no_class(scene: Scene, fault: Fault, found: re.Match[str]) -> str:
    """Options of a class that nothing names."""
    key = _key(scene, found["key"])
    return (
        f"{find_place(key, scene.words)} needs a class. Set {key}.class_path, or stack this config on a whole one: "
        f"{EXAMPLE}"
    )


def _linked(scene: Scene, fault: Fault, found: re.Match[str]) -> str:
    """An option that another one sets."""
    place = find_place(_key(scene, found["name"]), scene.words)
    return f"{place} is not an option; here it is {'--' if place.file is None else ''}{found['source']}."


def _no_subclass(scene: Scene, fault: Fault, found: re.Match[str]) -> str:
    """A class where the options of one certain class are expected."""
    path, key = found["path"], _key(scene, fault.key) or "model"
    seen = find_place(key, scene.words, path).with_value(path)
    if path.endswith((".yaml", ".yml")):
        return f"{seen}: there is no such file (looked in {Path.cwd()})."
    if key == "model":
        return f"{seen}: expected options, not a class. The algorithm is one: --model.algorithm {path}"
    return f"{seen}: expected options, not a class. See {scene.parser.prog} --help."


def _no_value(scene: Scene, fault: Fault, found: re.Match[str]) -> str:
    return f"{found['option'].split('/')[-1]} needs a value{' behind it' if found['number'] == 'one' else 's'}."


def _option(scene: Scene, fault: Fault, found: re.Match[str]) -> str:
    prefix = f"{fault.key}." if fault.key and fault.owner else ""
    command = found.groupdict().get("command")
    parser = scene.parser._subcommands_action.choices[command] if command else scene.parser
    return explain_option(parser, scene.words, _key(scene, prefix + found["name"]), fault.owner)


def _in_group(scene: Scene, fault: Fault, found: re.Match[str]) -> str:
    return explain_option(scene.parser, scene.words, _key(scene, f"{found['group']}.{found['name']}"), None)


def _word(scene: Scene, fault: Fault, found: re.Match[str]) -> str:
    return explain_word(scene.parser, scene.words, found["words"].split())


def _class(scene: Scene, fault: Fault, found: re.Match[str]) -> str:
    groups = found.groupdict()
    missing = groups.get("missing", "").split(".")[-1]
    named = [name for name in (fault.owner, fault.value) if name is not None and missing in name]
    path = groups.get("path") or next(iter(named), "")
    option = groups.get("option")
    place = Place(option.removeprefix("--")) if option else find_place(_key(scene, fault.key), scene.words, path)
    return explain_class(place, path, groups.get("base"), groups.get("why"))


def _restriction(scene: Scene, fault: Fault, found: re.Match[str]) -> str:
    place = find_place(_key(scene, fault.key), scene.words)
    return f"{place.with_value(place.value)}: expected {RESTRICTED.get(found['type'], found['type'])}."


Explanation = Callable[[Scene, Fault, "re.Match[str]"], str | None]
# Messages of jsonargparse and argparse, and their explanations.
RULES: tuple[tuple[re.Pattern[str], Explanation], ...] = tuple(
    (re.compile(pattern), explanation)
    for pattern, explanation in (
        (r"invalid choice: '(?P<word>[^']*)' \(choose", _command),
        (r"is not accepted before subcommand '(?P<command>\w+)'", _before_command),
        (r"expected \"subcommand\" to be one of", _no_command),
        (r"^Problems parsing config|^Unexpected config", _config_content),
        (r"^(?P<what>File does not exist|Path is not a file|File is not readable): '(?P<path>.*)'", _config_path),
        (r"the following arguments are required: (?P<names>.*)", _required),
        (r"argument (?P<option>\S+): expected (?P<number>one|at least one|\d+) argument", _no_value),
        (r"^Option '(?P<name>.*)' is not accepted$", _option),
        (r"^Group '(?P<group>.*)' does not accept option '(?P<name>.*)'", _in_group),
        (r"^Subclasses are disabled for (?P<kind>\w+), thus '(?P<path>[^']*)'", _no_subclass),
        (r"^Unable to load config \"(?P<path>.*)\"", _no_subclass),
        (r"^Subcommand '(?P<command>\w+)' does not accept option '(?P<name>.*)'", _option),
        (r"^unrecognized arguments: (?P<words>.*)", _word),
        (r"^(?:(?P<option>--\S+): )?Expected a dot import path string: (?P<path>.*)", _class),
        (r"expects a function or a callable class: (?P<why>.*)\. Got value: (?P<path>.*)", _class),
        (r"^Import path (?P<path>\S+) does not correspond to a subclass of (?P<base>\w+)", _class),
        (r"^Expected an instantiatable class, but (?P<path>\S+) is (?P<why>.*)", _class),
        (r"^(?P<why>(?:module '.*' has no attribute|No module named) '(?P<missing>.*)')", _class),
        (r"^Parser key \"(?P<key>[^\"]*)\": Not a valid subclass of (?P<base>\w+)", _no_class),
        (r"^Linked \"(?P<name>.*)\" must be given via \"(?P<source>.*)\"", _linked),
        (r"^Not of type (?P<type>\w+): ", _restriction),
    )
)
