"""Where an option was given."""

from __future__ import annotations

from pathlib import Path

import pytest

from bots_lightning.commands.parsing.places import config_fault, find_place

YAML = """\
model:
  class_path: A
  init_args:
    speed: 1  # of the model
data:
  init_args:
    evaluation:
      easy: {class_path: B, init_args: {limit: 3}}
      hard: {class_path: B, init_args: {limit: 4}}
trainer:
  callbacks:
  - class_path: C
    init_args:
      table: true
  - class_path: D
"""


@pytest.mark.parametrize(
    ("key", "value", "place"),
    [
        ("model.speed", None, "run.yaml, line 4: model.init_args.speed"),
        ("model", "A", "run.yaml, line 2: model.class_path"),
        ("data.evaluation.limit", "4", "run.yaml, line 9: data.init_args.evaluation.hard.init_args.limit"),
        ("trainer.callbacks", "D", "run.yaml, line 15: trainer.callbacks.class_path"),
        ("trainer.callbacks.table", None, "run.yaml, line 14: trainer.callbacks.init_args.table"),
        ("trainer.devices", None, "--trainer.devices"),
        ("trainer.gone", None, "--trainer.gone"),
    ],
)
def test_an_option_is_found_in_files_and_words(
    key: str, value: str | None, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(YAML)
    assert str(find_place(key, ["--config", "run.yaml", "--trainer.devices=2"], value)) == place


def test_the_value_tells_which_of_several_mentions_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(YAML)
    words = ["--config=run.yaml", "--model.speed", "fast"]
    assert find_place("model.speed", words, "fast").with_value("fast") == "--model.speed fast"
    assert find_place("model.speed", words, "1").with_value("1") == "run.yaml, line 4: model.init_args.speed=1"


def test_a_sound_config_has_no_fault_and_a_missing_one_is_somebody_else_s(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(YAML)
    assert config_fault(str(tmp_path / "run.yaml")) is None
    assert config_fault(str(tmp_path / "gone.yaml")) is None
