"""The command `bots-lightning replay --data FILE`: compares selectors in seconds, without a model."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import ArgumentError, ArgumentParser
from jsonargparse.typing import PositiveInt

from bots_lightning.commands.parsing import (
    CommandParser,
    check_outputs,
    command_parser,
    did_you_mean,
    explain,
    flat_config,
)
from bots_lightning.evaluation.replay.frontier import frontiers
from bots_lightning.evaluation.replay.replay import ReplaySettings, recorded_forgetting, replay
from bots_lightning.evaluation.replay.report import draw_picture, print_tables, write_json
from bots_lightning.evaluation.replay.trajectories import Trajectories, read_trajectories
from bots_lightning.selection import TaskSelector

OVERLAYS = Path("configs/selectors")
DESCRIPTION = """\
Steps selectors through the record of a real run and compares what they chose and predicted. The record does not
react: this scores choices and beliefs, not learning.

  bots-lightning replay --data trajectories.jsonl --selectors uniform bots --output replay.json --picture replay.png
"""


def replay_command(args: Sequence[str] | None = None) -> None:
    """Runs the command.

    Args:
        args: the words after `replay`; by default those of the command line.
    """
    parser = _parser()
    options = parser.parse_args(args)
    try:
        check_outputs(options.output, options.picture)
        record = read_trajectories(options.data)
        settings = ReplaySettings(options.batch_size, options.selections_per_epoch, options.weak == "first-epoch")
        selectors = load_selectors(options.selectors)
        check_fit(selectors, record, settings)
    except (FileNotFoundError, ValueError) as error:
        parser.refuse(str(error))
    start = time.perf_counter()
    results = replay(record, selectors, options.seeds, settings, progress=True)
    steps = len(settings.epochs(record)) * settings.selections_per_epoch
    title = (
        f"{len(record):,} tasks, {steps} steps of {settings.batch_size}, {options.seeds} seed{'s'[: options.seeds > 1]}"
    )
    print_tables(results, f"{title}, {time.perf_counter() - start:.1f} s")
    if (forgotten := recorded_forgetting(record, settings)) is not None:
        print(f"\nforgetting of the recorded policy, whatever is selected: {forgotten:+.3f}")
    limits = frontiers(record, settings)
    if options.output:
        facts = {name: options[name] for name in ("data", "seeds", "batch_size", "selections_per_epoch", "weak")}
        write_json(
            results, facts | {"tasks": len(record), "steps": steps, "forgetting": forgotten}, options.output, limits
        )
    if options.picture:
        draw_picture(results, options.picture, title, limits)


def _parser() -> CommandParser:
    parser = command_parser("bots-lightning replay", DESCRIPTION)
    parser.add_argument("--data", type=str, required=True, metavar="FILE", help="JSONL file of recorded trajectories.")
    parser.add_argument(
        "--selectors",
        type=str,
        nargs="+",
        metavar="NAME|FILE.yaml",
        help=f"Overlays: names in {OVERLAYS}, or files. By default all in {OVERLAYS} that name a selector.",
    )
    parser.add_argument("--seeds", type=PositiveInt, default=5, help="Repetitions, with the seeds 0, 1, ….")
    parser.add_argument("--batch_size", type=int, default=16, help="Tasks per selection.")
    parser.add_argument("--selections_per_epoch", type=int, default=4, help="Selections per recorded epoch.")
    parser.add_argument("--output", type=str, metavar="FILE.json", help="Where to write the scores.")
    parser.add_argument("--picture", type=str, metavar="FILE.png", help="Where to draw ratio against diversity.")
    parser.add_argument(
        "--weak",
        type=Literal["first-epoch", "none"],
        default="first-epoch",
        help="The weaker reference, `weak_pass_rate`; if it is the first epoch, the replay starts at the second.",
    )
    return parser


def load_selectors(names: Sequence[str] | None) -> dict[str, TaskSelector]:
    """Builds the selectors of overlay files, as the data module gets them.

    Args:
        names: names in `configs/selectors`, or paths; None takes all in that folder that name a selector.

    Returns:
        selectors by the name of their overlay.

    Raises:
        FileNotFoundError: there is no such overlay.
        ValueError: an overlay names no selector, or one that cannot be built; or two have the same name.
    """
    if not names:
        nodes = {path.stem: (path, _selector_node(path)) for path in sorted(OVERLAYS.glob("*.yaml"))}
        found = {name: _build(path, node) for name, (path, node) in nodes.items() if node is not None}
        if not found:
            raise FileNotFoundError(
                f"no overlays in {OVERLAYS} (looked in {Path.cwd()}). Run from the project's folder, or name files: "
                "--selectors PATH.yaml …"
            )
        return found
    selectors: dict[str, TaskSelector] = {}
    for name in names:
        path = _overlay_path(name)
        if path.stem in selectors:
            raise ValueError(f"two selectors are called {path.stem!r}. Name each once, or rename a file.")
        node = _selector_node(path)
        if node is None:
            raise ValueError(f"{path} has no data.selector. Name an overlay that sets the selector.")
        selectors[path.stem] = _build(path, node)
    return selectors


def check_fit(selectors: Mapping[str, TaskSelector], record: Trajectories, settings: ReplaySettings) -> None:
    """Checks that every selector can start on the record.

    Args:
        selectors: by name; left unchanged.
        record: of the run.
        settings: of the replay.

    Raises:
        ValueError: a selector does not fit; names it and what it lacks.
    """
    settings.epochs(record)
    for name, selector in selectors.items():
        trial = deepcopy(selector)
        try:
            trial.setup(record.features(settings.weak_from_first_epoch))
            trial.check_batch_size(settings.batch_size)
        except ValueError as error:
            raise ValueError(f"selector {name!r} does not fit this record: {error}") from error


def _overlay_path(name: str) -> Path:
    path = Path(name).expanduser() if name.endswith((".yaml", ".yml")) else OVERLAYS / f"{name}.yaml"
    if not path.is_file():
        known = [file.stem for file in sorted(OVERLAYS.glob("*.yaml"))]
        raise FileNotFoundError(
            f"{path} is not a file (looked in {Path.cwd()}){did_you_mean(path.stem, known)} Overlays in {OVERLAYS}: "
            f"{', '.join(known) or 'none'}. Or give a path that ends in .yaml."
        )
    return path


def _selector_node(path: Path) -> Any:
    """What an overlay sets as data.selector; None if it sets nothing.

    Raises:
        ValueError: the file is not YAML, or has the flat layout.
    """
    if fault := flat_config(str(path), "data"):
        raise ValueError(fault)
    try:
        node = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML ({error}).") from error
    for key in ("data", "selector"):
        node = node.get(key) if isinstance(node, dict) else None
    return node


def _build(path: Path, node: Any) -> TaskSelector:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--data.selector", type=TaskSelector)
    try:
        return parser.instantiate_classes(parser.parse_object({"data": {"selector": node}})).data.selector
    except (ArgumentError, ValueError) as error:
        told = explain(parser, str(error), ["--config", str(path)]) if isinstance(error, ArgumentError) else error
        raise ValueError(f"{path}: the selector cannot be built: {told}") from error
