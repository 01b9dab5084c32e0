"""What the README tells a reader to type works as printed, with few steps for the long ones."""

from __future__ import annotations

import json
import re
import shlex
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning import Trainer

from bots_lightning.beliefs import TaskFeatures
from bots_lightning.cli import main
from bots_lightning.data import TaskDataModule

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
# Options that need more than two steps, or take long.
TOO_MUCH = ("--trainer.val_check_interval", "--model.evaluation.num_generations")


def commands() -> list[str]:
    """The lines of all shell blocks, continued lines joined; loops at their first value, over selectors at two."""
    blocks = re.findall(r"```(?:bash|sh)\n(.*?)```", README, flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    for variable, values in re.findall(r"for (\w+) in ([^;]+);", "\n".join(lines)):
        tried = values.split()[: 2 if variable == "selector" else 1]
        copies = [[line.replace(f"${variable}", value) for value in tried] for line in lines]
        lines = [copy for group in copies for copy in dict.fromkeys(group)]
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
    write_record(tmp_path / "trajectories.jsonl")
    few_steps = ["--config", str(ROOT / "tests/assets/few_steps.yaml")]
    ran: list[str] = []
    for line in commands():
        for part in line.split("&&"):
            words = shlex.split(part)
            if words[0] != "bots-lightning":
                continue
            if words[1] in ("fit", "validate", "test", "predict"):
                last = max(i for i, word in enumerate(words) if word == "--config") + 2
                main([*words[1:last], *few_steps, *kept(words[last:])])
            elif "--help" not in words:
                main([path for word in words[1:] for path in sorted(glob(word)) or [word]])
            ran.append(words[1])
    assert {"fit", "validate", "predict", "export", "replay", "compare"} <= set(ran)


def kept(words: list[str]) -> list[str]:
    """What a run of two steps can do: not the intervals that are longer, nor many completions."""
    options = list(zip(words[::2], words[1::2], strict=True))
    return [word for pair in options if pair[0] not in TOO_MUCH for word in pair]


def write_record(path: Path) -> None:
    """A record of 20 tasks over 6 epochs."""
    counts = np.random.default_rng(0).integers(0, 9, (20, 6)).tolist()
    rows = [{"task_id": str(i), "prompt": "1 + 1", "answer": "2", "rollouts": 8} for i in range(20)]
    extra = [{"reference_pass_rate": 0.5, "successes": successes} for successes in counts]
    path.write_text("".join(json.dumps(row | more) + "\n" for row, more in zip(rows, extra, strict=True)))


@pytest.mark.parametrize("block", re.findall(r"```yaml\n(.*?)```", README, flags=re.DOTALL))
def test_every_yaml_of_the_readme_builds_what_it_says(
    block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stacked on the quickstart, and not trained."""
    (tmp_path / "block.yaml").write_text(block)
    built: list[Any] = []
    monkeypatch.setattr(Trainer, "fit", lambda self, model, datamodule=None, **_: built.append(datamodule))
    stack = ["--config", str(ROOT / "configs/quickstart.yaml"), "--config", str(tmp_path / "block.yaml")]
    main(["fit", *stack, "--runs_dir", str(tmp_path)])
    assert isinstance(built[0], TaskDataModule)


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
