"""Names of other trainers lead to options, classes and files that are here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bots_lightning.algorithms import GRPO
from bots_lightning.cli import BotsCLI, main
from bots_lightning.commands.parsing import FOREIGN_CLASSES, FOREIGN_OPTIONS, FOREIGN_VALUES
from bots_lightning.commands.parsing.classes import look_up, option_names, options_of
from bots_lightning.commands.parsing.foreign_names import PPO_OPTIONS

ROOT = Path(__file__).parents[3]
OPTIONS = {
    "model": {*options_of("bots_lightning.algorithms.GRPO"), *options_of("bots_lightning.algorithms.PPO")},
    "data": set(options_of("bots_lightning.data.TaskDataModule")),
    "lora": {"r", "alpha", "target_modules"},
    "dynamic_sampling": set(options_of("bots_lightning.training.DynamicSampling")),
    "ModelCheckpoint": set(options_of("lightning.pytorch.callbacks.ModelCheckpoint")),
}


@pytest.fixture(scope="module")
def own() -> set[str]:
    """Options of `fit`."""
    seen: list[BotsCLI] = []

    class StoppedError(Exception):
        pass

    def stop(cli: BotsCLI, *_: object) -> None:
        seen.append(cli)
        raise StoppedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BotsCLI, "parse_arguments", stop)
        with pytest.raises(StoppedError):
            main(["fit"])
    return set(option_names(seen[0]._parser("fit")))


@pytest.mark.parametrize("name", FOREIGN_OPTIONS | PPO_OPTIONS)
def test_every_name_leads_to_an_option(name: str, own: set[str]) -> None:
    for names in (FOREIGN_OPTIONS, PPO_OPTIONS):
        if name not in names:
            continue
        here = re.split(r"[ ,]", names[name])[0]
        part, _, inner = here.partition(".init_args.")
        option, _, below = inner.partition(".")
        assert option in OPTIONS[part] if inner else here in own, here
        assert not below or below in OPTIONS[option]
        if found := re.search(r"option (\w+) of lightning\.pytorch\.callbacks\.ModelCheckpoint", names[name]):
            assert found[1] in OPTIONS["ModelCheckpoint"]


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


def test_no_name_is_one_of_ours_so_that_it_would_never_be_said() -> None:
    grpo = set(options_of("bots_lightning.algorithms.GRPO"))
    assert not {name for name, here in FOREIGN_OPTIONS.items() if here.startswith("model.")} & grpo
    assert not set(PPO_OPTIONS) & set(options_of("bots_lightning.algorithms.PPO"))


def test_values_are_of_options_that_are_here_and_not_among_their_choices() -> None:
    assert set(FOREIGN_VALUES) - {"precision"} <= OPTIONS["model"]
    assert "gspo" not in str(GRPO.__init__.__annotations__["loss_type"])


@pytest.mark.parametrize("field", ["beta", "use_vllm", "num_generations_eval", "vllm_importance_sampling_cap"])
def test_trl_has_these_names(field: str) -> None:
    config = pytest.importorskip("trl").GRPOConfig
    assert field in config.__dataclass_fields__
    assert field in FOREIGN_OPTIONS
