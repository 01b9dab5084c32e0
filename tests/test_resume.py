"""Runs of several ranks go on from their checkpoints, and from those of other strategies: real DeepSpeed, on a CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from bots_lightning.checkpoints import consolidated, damage, read_manifest
from bots_lightning.cli import main
from bots_lightning.commands.export import load_module

pytest.importorskip("deepspeed", reason='needs the extra: pip install -e ".[deepspeed]"')

SCRIPT = Path(__file__).parent / "assets" / "resumed.py"
ALONE = ("train:single:lora", "train:single:full")
# Rollouts of the next batch are in the checkpoint, of all ranks; "ragged" gives tasks unequal numbers of them.
ASYNCHRONOUS = ("train:ddp:asynchronous", "train:zero2:asynchronous", "train:ddp:ragged")
TOGETHER = tuple(f"train:{s}:{kind}" for s in ("zero1", "zero2", "zero3") for kind in ("lora", "full"))
# Files to ranks, one stage to another, ranks to one device.
ACROSS = (
    "load:single:zero2:lora",
    "load:single:zero3:full",
    "load:single:ddp:lora",
    "load:zero2:zero3:full",
    "load:zero3:zero1:lora",
    "load:zero3:ddp:full",
)
BACK = tuple(f"load:{s}:single:{kind}" for s in ("zero1", "zero2", "zero3") for kind in ("lora", "full"))


@pytest.fixture(scope="module")
def folder(checkpoint: str, tmp_path_factory: pytest.TempPathFactory, ranks: Any) -> Path:
    """With what each leg has found, and all checkpoints."""
    folder = tmp_path_factory.mktemp("resumed")
    ranks(SCRIPT, 1, checkpoint, folder, *ALONE)
    ranks(SCRIPT, 2, checkpoint, folder, "train:ddp:lora", *TOGETHER, *ASYNCHRONOUS, *ACROSS)
    ranks(SCRIPT, 1, checkpoint, folder, *BACK)
    return folder


def found(folder: Path, leg: str) -> dict[str, Any]:
    return json.loads((folder / f"{leg}.json").read_text())


@pytest.mark.parametrize("leg", ["train:ddp:lora", *ALONE, *TOGETHER, *ASYNCHRONOUS])
def test_the_same_ranks_go_on_as_if_undisturbed(leg: str, folder: Path) -> None:
    """Bit for bit: weights, belief, the selector's generator, counters; draws and losses of the second half."""
    result = found(folder, leg)
    whole, resumed = result["ends"]
    assert resumed == whole
    steps, later = result["steps"]
    assert later == steps[2:]
    assert len(later) == 2
    assert whole["weights"] != result["then"]["weights"]
    assert whole["progress"]["iterations"] == 4


@pytest.mark.parametrize("leg", [*ACROSS, *BACK])
def test_another_strategy_restores_all_except_the_optimizer(leg: str, folder: Path) -> None:
    _, origin, strategy, kind = leg.split(":")
    saved, loaded = found(folder, f"train:{origin}:{kind}")["then"], found(folder, leg)
    assert loaded["then"].keys() == saved.keys()
    assert loaded["then"] == saved
    rate = saved["learning_rate"]
    if {origin, strategy} == {"single", "ddp"}:  # one kind of file, the same optimizer
        assert loaded["said"] == []
    else:
        assert len(loaded["said"]) == 1
        assert 0.9 * rate < loaded["moved"] < 1.001 * rate  # the first step of Adam: lr · g / |g|


@pytest.mark.parametrize("leg", TOGETHER)
def test_a_folder_lists_its_shards_and_holds_what_is_trained(leg: str, folder: Path) -> None:
    _, strategy, kind = leg.split(":")
    path = folder / f"{strategy}-{kind}.ckpt"
    manifest = read_manifest(path)
    assert (f"zero{manifest.stage}", manifest.world_size) == (strategy, 2)
    assert damage(path) is None
    trained = found(folder, leg)["then"]["weights"]
    weights = {n: w for n, w in consolidated(path)["state_dict"].items() if n in trained}
    assert weights.keys() == trained.keys()
    for name, weight in weights.items():
        np.testing.assert_array_equal(weight.flatten().numpy(), np.float32(trained[name]))
        assert list(weight.shape) == manifest.weights[name]
    held = {name for file in path.rglob("*model_states.pt") for name in torch.load(file, weights_only=False)["module"]}
    assert held <= set(manifest.weights)


@pytest.mark.parametrize("leg", TOGETHER)
def test_export_reads_a_folder(leg: str, folder: Path, checkpoint: str, tmp_path: Path) -> None:
    _, strategy, kind = leg.split(":")
    lora = {"r": 4, "alpha": 8} if kind == "lora" else None
    model = {
        "policy": {"pretrained": checkpoint, "lora": lora},
        "scorer": {"reward_funcs": ["bots_lightning.rewards.exact_match"]},
        "sampler": {"max_completion_length": 8},
        "algorithm": {"class_path": "bots_lightning.algorithms.GRPO"},
    }
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"model": model}))
    path, output = folder / f"{strategy}-{kind}.ckpt", tmp_path / "exported"
    main(["export", "--ckpt_path", str(path), "--config", str(config), "--output", str(output)])
    assert (output / ("adapter_config.json" if lora else "config.json")).is_file()
    weights = dict(load_module(path, config).named_parameters())
    for name, expected in found(folder, leg)["then"]["weights"].items():
        np.testing.assert_array_equal(weights[name].detach().flatten().numpy(), np.float32(expected))
