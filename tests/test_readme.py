"""What the README tells a reader to type works as printed, with few steps for the long ones."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bots_lightning.beliefs import TaskFeatures
from bots_lightning.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def commands() -> list[str]:
    """The lines of all shell blocks, continued lines joined, loops at their first value."""
    blocks = re.findall(r"```(?:bash|sh)\n(.*?)```", README, flags=re.DOTALL)
    text = "\n".join(blocks).replace("\\\n", " ")
    for variable, first in re.findall(r"for (\w+) in (\w+)", text):
        text = text.replace(f"${variable}", first)
    lines = text.splitlines()
    return [line.split("  #")[0].strip() for line in lines if line.strip() and not line.startswith("#")]


def test_there_are_commands_to_try() -> None:
    assert sum("bots-lightning" in line for line in commands()) >= 4


def test_continuous_integration_runs_the_printed_test_command() -> None:
    printed = [line for line in commands() if line.endswith("&& pytest")]
    assert len(printed) == 1
    assert printed[0] in (ROOT / ".ci" / "run").read_text()


def test_every_command_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """In the order printed: a later one may continue what an earlier one has begun."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    few_steps = ["--config", str(ROOT / "tests/assets/few_steps.yaml")]
    ran = 0
    for line in commands():
        for part in line.split("&&"):
            words = shlex.split(part)
            if words[0] == "bots-lightning" and words[1] in ("fit", "validate", "test", "predict"):
                last = max(i for i, word in enumerate(words) if word == "--config") + 2
                main([*words[1:last], *few_steps, *words[last:]])
                ran += 1
    assert ran >= 4


def test_the_selector_of_the_readme_selects_evenly_and_resumes() -> None:
    source = re.search(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert source is not None
    names: dict[str, Any] = {}
    exec(source.group(1), names)
    first, second = names["LeastSelected"](), names["LeastSelected"]()
    for selector in (first, second):
        selector.setup(TaskFeatures(7), seed=3)
    counts = np.bincount(np.concatenate([first.select(3) for _ in range(7)]))
    assert counts.tolist() == [3] * 7
    second.load_state_dict(first.state_dict())
    assert [first.select(3).tolist() for _ in range(5)] == [second.select(3).tolist() for _ in range(5)]


def test_every_file_of_the_tree_exists() -> None:
    tree = re.search(r"```text\n(pyproject.*?)```", README, flags=re.DOTALL)
    assert tree is not None
    folders: list[str] = []
    named = 0
    for line in tree.group(1).splitlines():
        depth, name = (len(line) - len(line.lstrip())) // 2, line.split()[0]
        folders[depth:] = [name]
        path = ROOT.joinpath(*folders)
        assert path.exists(), path
        named += 1
    assert named > 20


def test_every_link_to_a_file_exists() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
