"""Names of other trainers lead to options, classes and files that are here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from bots_lightning.algorithms import GRPO
from bots_lightning.commands.parsing import FOREIGN_CLASSES, FOREIGN_OPTIONS, FOREIGN_VALUES
from bots_lightning.commands.parsing.classes import look_up, option_names, options_of
from bots_lightning.commands.parsing.foreign_names import PPO_OPTIONS

ROOT = Path(__file__).parents[3]
GRPO_OPTIONS = set(options_of("bots_lightning.algorithms.GRPO"))
# What stands below options that are classes.
BELOW = {
    "model.algorithm": GRPO_OPTIONS | set(options_of("bots_lightning.algorithms.PPO")),
    "model.algorithm.importance_sampling": set(options_of("bots_lightning.algorithms.ImportanceSampling")),
    "model.policy.lora": set(options_of("bots_lightning.policy.LoRA")),
    "model.sampler.dynamic_sampling": set(options_of("bots_lightning.training.DynamicSampling")),
}
CHECKPOINTS = set(options_of("lightning.pytorch.callbacks.ModelCheckpoint"))


@pytest.fixture(scope="module")
def own(fit_parser: Any) -> set[str]:
    """Options of `fit`."""
    return set(option_names(fit_parser))


@pytest.mark.parametrize("name", FOREIGN_OPTIONS | PPO_OPTIONS)
def test_every_name_leads_to_an_option(name: str, own: set[str]) -> None:
    for names in (FOREIGN_OPTIONS, PPO_OPTIONS):
        if name not in names:
            continue
        here = re.split(r"[ ,]", names[name])[0]
        above, _, option = here.rpartition(".")
        assert here in own or option in BELOW.get(above, ()), here
        if found := re.search(r"option (\w+) of lightning\.pytorch\.callbacks\.ModelCheckpoint", names[name]):
            assert found[1] in CHECKPOINTS


def texts() -> list[str]:
    values = [text for choices in FOREIGN_VALUES.values() for text in choices.values()]
    return [*FOREIGN_OPTIONS.values(), *FOREIGN_CLASSES.values(), *values]


def test_every_overlay_and_class_that_is_named_is_there() -> None:
    files = {file for text in texts() for file in re.findall(r"configs/\S+\.yaml", text)}
    classes = {
        path for text in texts() for path in re.findall(r"(?:bots_lightning|callbacks|lightning)(?:\.\w+)+", text)
    }
    assert len(files) > 5
    assert [file for file in files if not (ROOT / file).is_file()] == []
    assert {"bots_lightning.algorithms.PPO", "callbacks.CompletionsLog"} <= classes
    assert [path for path in classes if look_up(path) is None] == []


def test_no_name_is_one_of_ours_so_that_it_would_never_be_said(own: set[str]) -> None:
    ours = GRPO_OPTIONS | {option.rpartition(".")[2] for option in own if option.startswith("model.")}
    assert not {name for name, here in FOREIGN_OPTIONS.items() if here.startswith("model.")} & ours
    assert not set(PPO_OPTIONS) & set(options_of("bots_lightning.algorithms.PPO"))


def test_values_are_of_options_that_are_here_and_not_among_their_choices(own: set[str]) -> None:
    assert set(FOREIGN_VALUES) <= {option.rpartition(".")[2] for option in own}.union(*BELOW.values())
    assert "gspo" not in str(GRPO.__init__.__annotations__["loss_type"])


@pytest.mark.parametrize("field", ["beta", "use_vllm", "num_generations_eval", "vllm_importance_sampling_cap"])
def test_trl_has_these_names(field: str) -> None:
    config = pytest.importorskip("trl").GRPOConfig
    assert field in config.__dataclass_fields__
    assert field in FOREIGN_OPTIONS
