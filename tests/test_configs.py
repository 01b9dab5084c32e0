"""Every YAML in `configs/` builds what it describes, alone or stacked on the quickstart."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from lightning import Trainer

from bots_lightning.beliefs import AbilityBelief, BetaBelief
from bots_lightning.cli import main
from bots_lightning.data import TaskDataModule
from bots_lightning.selection import FairShareSelector, ThompsonSelector, UniformSelector
from bots_lightning.training import OnlineModule

CONFIGS = Path(__file__).parents[1] / "configs"
QUICKSTART = CONFIGS / "quickstart.yaml"
CODE = CONFIGS / "guru" / "code.yaml"
UNISOLATED = Path(__file__).parent / "assets" / "unisolated.yaml"


def instantiate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *configs: Path, options: tuple[str, ...] = ()) -> Any:
    """What `fit` would train: (module, data module), built by the command line and not trained."""
    built: dict[str, Any] = {}
    configs += (UNISOLATED,) if CODE in configs else ()
    monkeypatch.setattr(Trainer, "fit", lambda self, model, datamodule=None, **_: built.update(m=model, d=datamodule))
    stack = [argument for config in configs for argument in ("--config", str(config))]
    main(["fit", *stack, "--runs_dir", str(tmp_path), *options])
    return built["m"], built["d"]


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONFIGS)))
def test_every_config_is_instantiated(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    launched = re.findall(r"--config (configs/\S+)", path.read_text())  # an experiment, and what is stacked on it
    module, datamodule = instantiate(monkeypatch, tmp_path, CONFIGS.parent / launched[0], path)
    assert isinstance(module, OnlineModule)
    assert isinstance(datamodule, TaskDataModule)


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONFIGS)))
def test_every_config_opens_with_its_purpose_and_launch_line(path: Path) -> None:
    head = path.read_text().split("\n\n")[0].splitlines()
    comments = [line for line in head if line.startswith("#")]
    assert any("bots-lightning fit --config" in line for line in comments)


def test_the_bots_overlay_is_the_published_method(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    selector = instantiate(monkeypatch, tmp_path, QUICKSTART, CONFIGS / "selectors" / "bots.yaml")[1].selector
    assert isinstance(selector, ThompsonSelector)
    belief = selector.belief
    assert isinstance(belief, BetaBelief)
    assert (belief.forgetting, belief.implicit_weight, belief.prior) == (0.1, 0.1, (1.0, 1.0))
    assert (selector.target_pass_rate, selector.explore) == (0.5, True)
    assert belief.implicit is not None
    assert belief.implicit.momentum == 0.9


@pytest.mark.parametrize("stack", ["quickstart", "selectors/ability", "selectors/ability_no_reference", "gsm8k"])
def test_there_is_one_default_rule(stack: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    selector = instantiate(monkeypatch, tmp_path, QUICKSTART, CONFIGS / f"{stack}.yaml")[1].selector
    assert isinstance(selector, FairShareSelector)
    assert isinstance(selector.belief, AbilityBelief)
    default = FairShareSelector(AbilityBelief())
    for owner, plain, names in (
        (
            selector,
            default,
            ("temperature", "optimism", "first_turn", "expected_gain", "hold", "floor", "num_generations"),
        ),
        (selector.belief, default.belief, ("task_drift", "ability_drift", "reference_rollouts")),
    ):
        assert [getattr(owner, name) for name in names] == [getattr(plain, name) for name in names]


def test_ablations_switch_what_they_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def selector(name: str) -> Any:
        return instantiate(monkeypatch, tmp_path, QUICKSTART, CONFIGS / "selectors" / f"{name}.yaml")[1].selector

    assert isinstance(selector("uniform"), UniformSelector)
    explicit = selector("bots_explicit")
    assert (explicit.belief.implicit, explicit.belief.implicit_weight) == (None, 0.0)
    implicit = selector("bots_implicit")
    assert (implicit.explore, implicit.belief.forgetting, implicit.belief.implicit_weight) == (False, 1.0, 1.0)


def test_one_seed_reaches_rollouts_and_draws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module, datamodule = instantiate(monkeypatch, tmp_path, QUICKSTART, options=("--seed_everything", "7"))
    assert (module.seed, datamodule.seed) == (7, 7)


def test_a_field_is_set_from_the_command_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    options = (
        "--model.policy.lora.r",
        "3",
        "--data.selector.init_args.belief.init_args.task_drift",
        "0.3",
    )
    module, datamodule = instantiate(monkeypatch, tmp_path, QUICKSTART, options=options)
    assert module.policy.lora.r == 3
    assert datamodule.selector.belief.task_drift == 0.3
