"""`--help` shows each option once, with its type, its default and what it is."""

from __future__ import annotations

import re
from typing import Any

import pytest
from jsonargparse import ArgumentParser

from bots_lightning.commands.parsing import HelpFormatter
from bots_lightning.commands.parsing.classes import look_up, option_names

SECTIONS = ("model", "data", "name", "runs_dir", "ckpt_path")
PARTS = {"policy", "scorer", "sampler", "algorithm", "optimizer", "evaluation", "check_ranks_every"}
CLASSES = (
    "bots_lightning.algorithms.GRPO",
    "bots_lightning.algorithms.PPO",
    "bots_lightning.algorithms.ImportanceSampling",
    "bots_lightning.policy.LoRA",
    "bots_lightning.training.DynamicSampling",
)


def entries(text: str) -> dict[str, list[str]]:
    """{option: [what stands below it]}, behind the usage, without helps and whole sections."""
    found: dict[str, list[str]] = {}
    for block in re.split(r"\n(?=  -)", text.partition("\n\n")[2]):
        if named := re.match(r"  --([\w.]+)(?<!\.help) (?!CONFIG)", block):
            found.setdefault(named[1], []).append(" ".join(block.split()))
    return found


def is_described(entry: str) -> bool:
    """Whether words on the option come before its type, and a default behind, unless it is required."""
    behind = entry.partition(" ")[2]
    return re.search(r"[a-z]{3,}[^{}]* \((required, type: .*|type: .*, default: .*)\)", behind) is not None


@pytest.mark.parametrize("columns", ["80", "120"])
def test_each_option_of_fit_is_shown_once_with_type_default_and_a_line(
    columns: str, fit_parser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    shown = entries(fit_parser.format_help())
    expected = {name for name in option_names(fit_parser) if name.partition(".")[0] in SECTIONS}
    expected -= {"model.seed", "data.seed"}  # linked to seed_everything
    groups = {name for name in expected if any(other.startswith(f"{name}.") for other in expected)}
    assert {name.split(".")[1] for name in expected - groups if name.startswith("model.")} == PARTS
    assert len(expected - groups) > 35
    assert [name for name in expected - groups if len(shown.get(name, [])) != 1] == []
    assert [name for name in expected - groups if not is_described(shown[name][0])] == []


@pytest.mark.parametrize("path", CLASSES)
def test_each_option_of_a_class_is_described(path: str) -> None:
    parser = ArgumentParser(formatter_class=HelpFormatter)
    parser.add_class_arguments(look_up(path), "it")
    shown = entries(parser.format_help())
    assert len(shown) >= 2
    assert [name for name, blocks in shown.items() if len(blocks) != 1 or not is_described(blocks[0])] == []
