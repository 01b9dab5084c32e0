"""`bots-lightning convert-config`: configs of the flat layout say the same in the present one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning import Trainer

from bots_lightning.algorithms import GRPO, PPO
from bots_lightning.cli import main
from bots_lightning.commands.flat_layout import PLACES, converted, converted_config, place_of, present_name
from bots_lightning.commands.parsing.classes import options_of

ROOT = Path(__file__).parents[2]
QUICKSTART = """\
# The quickstart: a tiny policy learns procedural tasks in maths, logic and string programs, on a plain CPU.
#
#   bots-lightning fit --config configs/quickstart.yaml --model.init_args.learning_rate 1e-3
name: quickstart
seed_everything: 0

model:
  class_path: bots_lightning.algorithms.GRPO
  init_args:
    pretrained:
      class_path: bots_lightning.quickstart.WarmStart
    # a small one
    lora:
      r: 16  # as in the paper
      alpha: 32
      target_modules: all-linear
    reward_funcs: [bots_lightning.rewards.exact_match]
    loss_type: grpo
    num_generations: 16
    max_prompt_length: 64
    max_completion_length: 12
    learning_rate: 2.0e-3
    lr_scheduler_type: linear
    eval_num_generations: 4

data:
  class_path: bots_lightning.data.TaskDataModule
  init_args:
    source: &tasks
      class_path: bots_lightning.quickstart.QuickstartTasks
      init_args:
        num_tasks: 3000
    selector:
      class_path: bots_lightning.selection.UniformSelector
    batch_size: 32  # per step
    steps_per_epoch: 50
    evaluation:
      heldout: *tasks

trainer:
  max_epochs: 1  # of 50 steps
"""
QUICKSTART_NOW = """\
# The quickstart: a tiny policy learns procedural tasks in maths, logic and string programs, on a plain CPU.
#
#   bots-lightning fit --config configs/quickstart.yaml --model.optimizer.learning_rate 1e-3
name: quickstart
seed_everything: 0

model:
  policy:
    pretrained:
      class_path: bots_lightning.quickstart.WarmStart
    # a small one
    lora:
      r: 16  # as in the paper
      alpha: 32
      target_modules: all-linear
  scorer:
    reward_funcs: [bots_lightning.rewards.exact_match]
  sampler:
    num_generations: 16
    max_prompt_length: 64
    max_completion_length: 12
  algorithm:
    class_path: bots_lightning.algorithms.GRPO
    init_args:
      loss_type: grpo
  optimizer:
    learning_rate: 2.0e-3
    lr_scheduler_type: linear
  evaluation:
    num_generations: 4

data:
  source: &tasks
    class_path: bots_lightning.quickstart.QuickstartTasks
    init_args:
      num_tasks: 3000
  selector:
    class_path: bots_lightning.selection.UniformSelector
  batch_size: 32  # per step
  steps_per_epoch: 50
  evaluation:
    heldout: *tasks

trainer:
  max_epochs: 1  # of 50 steps
"""
PPO_CONFIG = """\
# The quickstart with PPO.
name: quickstart_ppo
model:
  class_path: bots_lightning.algorithms.PPO
  init_args:
    pretrained:
      class_path: bots_lightning.quickstart.WarmStart
    reward_funcs: [bots_lightning.rewards.exact_match]
    num_generations: 4
    max_prompt_length: 64
    max_completion_length: 12
    lora: {r: 16}
    critic:
      class_path: bots_lightning.algorithms.SharedCritic
    critic_learning_rate: 3.0e-3
    num_ppo_epochs: 2
    cliprange_value: 0.3
    kl_coef: 0.01
    eval_pass_k: 2
    check_ranks_every: 7
data:
  class_path: bots_lightning.data.TaskDataModule
  init_args:
    source: {class_path: bots_lightning.tasks.ProceduralTasks, init_args: {num_tasks: 40}}
    selector:
      class_path: bots_lightning.selection.ThompsonSelector
      init_args: {belief: bots_lightning.beliefs.BetaBelief}
    batch_size: 8
"""
# Overlays of the flat layout, and what they set.
OVERLAYS = {
    "dynamic sampling": (
        "# Dynamic sampling.\nmodel:\n  init_args:\n    dynamic_sampling:\n      max_batches: 4  # of B tasks\n",
        "# Dynamic sampling.\nmodel:\n  sampler:\n    dynamic_sampling:\n      max_batches: 4  # of B tasks\n",
    ),
    "lora": (
        "model:\n  init_args:\n    lora: null\n    learning_rate: 3.0e-4\n",
        "model:\n  policy:\n    lora: null\n  optimizer:\n    learning_rate: 3.0e-4\n",
    ),
    "selector": (
        "data:\n  init_args:\n    # the baseline\n    selector:\n      class_path: "
        "bots_lightning.selection.UniformSelector\n",
        "data:\n  # the baseline\n  selector:\n    class_path: bots_lightning.selection.UniformSelector\n",
    ),
    "renamed options of other classes": (
        "data:\n  init_args:\n    selector:\n      class_path: bots_lightning.selection.GresoSelector\n"
        "      init_args:\n        max_passes: 10  # over the pool\n",
        "data:\n  selector:\n    class_path: bots_lightning.selection.GresoSelector\n"
        "    init_args:\n      max_epochs: 10  # over the pool\n",
    ),
    "a grader": (
        "model:\n  init_args:\n    reward_funcs:\n    - class_path: bots_lightning.rewards.CosineLength\n"
        "      init_args: {judge: bots_lightning.rewards.exact_match}\n",
        "model:\n  scorer:\n    reward_funcs:\n    - class_path: bots_lightning.rewards.CosineLength\n"
        "      init_args: {grader: bots_lightning.rewards.exact_match}\n",
    ),
    "clip": (
        "model:\n  init_args:\n    epsilon: 3.0e-4\n    importance_sampling_level: sequence\n",
        "model:\n  algorithm:\n    init_args:\n      epsilon: 3.0e-4\n      importance_sampling_level: sequence\n",
    ),
    "correction": (
        "model:\n  init_args:\n    importance_sampling_mode: token_mask\n    importance_sampling_clip_max: 5.0\n",
        "model:\n  algorithm:\n    init_args:\n      importance_sampling:\n        mode: token_mask\n"
        "        clip_max: 5.0\n",
    ),
    "no correction": (
        "model:\n  init_args:\n    importance_sampling_correction: false\n    importance_sampling_clip_max: 5.0\n",
        "model:\n  algorithm:\n    init_args:\n      importance_sampling: null\n",
    ),
    "correction again": (
        "model:\n  init_args:\n    importance_sampling_correction: true\n",
        "model:\n  algorithm:\n    init_args:\n      importance_sampling:\n        mode: sequence_mask\n"
        "        clip_max: 3.0\n        clip_min: null\n",
    ),
    "in one line": (
        "# Short.\nmodel: {init_args: {num_generations: 4, epsilon: 0.1}}  # lost\n"
        "data: {init_args: {batch_size: 2}}\n",
        "# Short.\nmodel:\n  sampler:\n    num_generations: 4\n  algorithm:\n    init_args:\n      epsilon: 0.1\n"
        "data:\n  batch_size: 2\n",
    ),
    "an anchor that its alias would come before": (
        "model:\n  init_args:\n    learning_rate: &rate 1.0e-3\n    critic_learning_rate: *rate\n",
        "model:\n  algorithm:\n    init_args:\n      critic_learning_rate: 0.001\n"
        "  optimizer:\n    learning_rate: 0.001\n",
    ),
    "a class alone": (
        "model: bots_lightning.algorithms.PPO\n",
        "model:\n  algorithm:\n    class_path: bots_lightning.algorithms.PPO\n",
    ),
    "an option that is not known": (
        "model:\n  init_args:\n    speed: 1\n",
        "model:\n  algorithm:\n    init_args:\n      speed: 1\n",
    ),
}


def test_a_config_keeps_its_comments_its_anchors_and_its_order() -> None:
    assert converted(QUICKSTART) == QUICKSTART_NOW


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_sets_what_it_did(name: str) -> None:
    old, new = OVERLAYS[name]
    assert converted(old) == new
    assert yaml.safe_load(new) == converted_config(yaml.safe_load(old))


def test_ppo_and_its_critic_find_their_places() -> None:
    model = yaml.safe_load(converted(PPO_CONFIG))["model"]
    assert model["algorithm"] == {
        "class_path": "bots_lightning.algorithms.PPO",
        "init_args": {
            "critic": {"class_path": "bots_lightning.policy.SharedCritic"},
            "critic_learning_rate": 3.0e-3,
            "num_ppo_epochs": 2,
            "cliprange_value": 0.3,
            "kl_coef": 0.01,
        },
    }
    assert (model["evaluation"], model["check_ranks_every"]) == ({"pass_k": 2}, 7)


def test_the_present_layout_stays_as_it_is() -> None:
    assert converted(QUICKSTART_NOW) == QUICKSTART_NOW


@pytest.mark.parametrize(("config", "algorithm"), [(QUICKSTART, GRPO), (PPO_CONFIG, PPO)])
def test_fit_accepts_what_the_command_writes(
    config: str, algorithm: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("old.yaml").write_text(config)
    main(["convert-config", "old.yaml", "folder/new.yaml"])
    assert "folder/new.yaml: old.yaml in the present layout." in capsys.readouterr().out
    built: dict[str, Any] = {}
    monkeypatch.setattr(Trainer, "fit", lambda self, model, datamodule=None, **_: built.update(m=model, d=datamodule))
    main(["fit", "--config", "folder/new.yaml"])
    assert isinstance(built["m"].algorithm, algorithm)
    assert built["m"].sampler.max_completion_length == 12
    assert built["m"].policy.lora.r == 16
    assert built["d"].batch_size in (8, 32)
    assert Path("old.yaml").read_text() == config


def test_every_option_of_the_algorithms_has_a_place_and_no_other_is_theirs() -> None:
    new = {
        f"algorithm.{option}" for name in ("GRPO", "PPO") for option in options_of(f"bots_lightning.algorithms.{name}")
    }
    places = {place_of(option) for option in PLACES if place_of(option).startswith("algorithm.")}
    assert {place for place in places if place.count(".") == 1} == new
    assert {place.removeprefix("algorithm.importance_sampling.") for place in places - new} == set(
        options_of("bots_lightning.algorithms.ImportanceSampling")
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("--model.init_args.lora.r", "--model.policy.lora.r"),
        ("--model.init_args.eval_num_generations 4", "--model.evaluation.num_generations 4"),
        ("--model.init_args.pretrained.init_args.steps", "--model.policy.pretrained.init_args.steps"),
        ("--data.init_args.selector.init_args.belief", "--data.selector.init_args.belief"),
        ("data.init_args or model.init_args", "data or model.algorithm"),
        ("model.policy.lora and data.batch_size", "model.policy.lora and data.batch_size"),
    ],
)
def test_names_in_comments_are_those_of_now(old: str, new: str) -> None:
    assert present_name(old) == new
