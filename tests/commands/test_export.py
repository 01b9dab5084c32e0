"""`bots-lightning export`, from a run folder to a folder that plain transformers and peft load."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from bots_lightning.cli import main
from bots_lightning.commands.export import load_module

ROOT = Path(__file__).parents[2]
FEW_STEPS = ["--config", str(ROOT / "configs/quickstart.yaml"), "--config", str(ROOT / "tests/assets/few_steps.yaml")]
LAST = "runs/quickstart/checkpoints/last.ckpt"
IDS = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Path:
    """A folder with a run of LoRA and one of full finetuning."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BOTS_LIGHTNING_CACHE", str(shared_cache))
        patch.chdir(folder)
        main(["fit", *FEW_STEPS])
        main(["fit", *FEW_STEPS, "--model.policy.lora", "null", "--name", "full"])
    for path in folder.rglob("last.ckpt"):
        move_weights(path)
    return folder


def move_weights(path: Path) -> None:
    """Two steps move the weights by next to nothing, if at all; a thousand might do this."""
    checkpoint = torch.load(path)
    for weight in checkpoint["state_dict"].values():
        weight += 0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel()))
    torch.save(checkpoint, path)


@pytest.fixture
def project(runs: Path, monkeypatch: pytest.MonkeyPatch, cache: Path, tmp_path: Path) -> Path:
    """The current folder, with those runs."""
    shutil.copytree(runs, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model.eval()(input_ids=IDS).logits


@pytest.mark.parametrize(
    ("run", "options", "said"),
    [
        ("quickstart", [], "the adapter of "),
        ("quickstart", ["--merge"], "a full model after 2 iterations, in float32."),
        ("quickstart", ["--merge", "--dtype", "bfloat16"], "a full model after 2 iterations, in bfloat16."),
        ("full", [], "a full model after 2 iterations, in float32."),
        ("full", ["--merge"], "a full model after 2 iterations, in float32."),
    ],
)
def test_the_printed_lines_load_the_policy(
    run: str, options: list[str], said: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["export", "--ckpt_path", f"runs/{run}/checkpoints/last.ckpt", "--output", "out/exported", *options])
    first, blank, *lines = capsys.readouterr().out.splitlines()[-4:]
    assert first.startswith(f"out/exported: {said}")
    assert first.endswith(" To load it:")
    assert blank == ""
    names: dict[str, Any] = {}
    exec("\n".join(lines), names)
    module = load_module(project / f"runs/{run}/checkpoints/last.ckpt")
    tolerance = 0.1 if "bfloat16" in options else 1e-5
    torch.testing.assert_close(logits(names["model"]).float(), logits(module.policy.model), atol=tolerance, rtol=0)
    pretrained = AutoModelForCausalLM.from_pretrained(module.policy.model.name_or_path)
    assert (logits(pretrained) - logits(module.policy.model)).abs().max() > 0.5
    assert len(AutoTokenizer.from_pretrained("out/exported")) == len(module.sampler.encoder.tokenizer)


def test_the_model_card_says_what_it_is(project: Path) -> None:
    for options, library, kind in (([], "peft", "An adapter for `policy`"), (["--merge"], "transformers", "`policy`")):
        main(["export", "--ckpt_path", LAST, "--output", f"of_{library}", *options])
        card = Path(f"of_{library}/README.md").read_text()
        _, head, body = card.split("---\n", maxsplit=2)
        assert yaml.safe_load(head) == {"library_name": library, "tags": ["bots-lightning", "reinforcement-learning"]}
        assert f"{kind}, trained by reinforcement learning" in body
        assert "Trained with GRPO: LoRA adapters of rank 16, 2 iterations, " in body
        assert "- Rewards: `exact_match`" in body
        assert "- Evaluation after 2 iterations: held-out mean 0." in body
        assert "[More Information Needed]" not in card


def test_a_moved_checkpoint_needs_its_config(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    moved = shutil.copy(LAST, "elsewhere.ckpt")
    words = ["export", "--ckpt_path", str(moved), "--output", "exported"]
    assert f"{project.parent / 'config.yaml'} is not a file. Name the config" in mistake(words, capsys)
    main([*words, "--config", "runs/quickstart/config.yaml"])
    assert Path("exported/adapter_config.json").is_file()


def test_only_the_model_of_a_config_is_read(project: Path) -> None:
    """Not the tasks, and numbers as people write them."""
    config = yaml.safe_load(Path("runs/quickstart/config.yaml").read_text())
    model = config["model"] | {"optimizer": config["model"]["optimizer"] | {"learning_rate": "1e-6"}}
    Path("model.yaml").write_text(yaml.safe_dump({"model": model, "data": {"class_path": "gone.Gone"}}))
    main(["export", "--ckpt_path", LAST, "--output", "exported", "--config", "model.yaml"])
    assert Path("exported/adapter_config.json").is_file()


def mistake(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The line that a mistaken command ends with; nothing is written."""
    with pytest.raises(SystemExit) as exit_:
        main(words)
    assert exit_.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ")
    assert not Path("exported").exists()
    return line


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("gone.ckpt", "gone.ckpt is not a checkpoint (looked in "),
        (
            "runs/quickstart",
            "not a checkpoint (looked in PROJECT). Checkpoints in there: runs/quickstart/checkpoints/",
        ),
        ("half.ckpt", "half.ckpt is damaged: it cannot be read"),
        ("empty.ckpt", "empty.ckpt is damaged: it is no file of torch.save"),
        ("runs/quickstart/config.yaml", "config.yaml is damaged: it is no file of torch.save"),
        ("other.ckpt", "other.ckpt is not a checkpoint that bots-lightning fit has written."),
    ],
)
def test_what_is_no_checkpoint_is_named(
    path: str, message: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = Path(LAST).read_bytes()
    Path("half.ckpt").write_bytes(whole[: len(whole) // 2])
    Path("empty.ckpt").touch()
    torch.save({"weight": torch.zeros(2)}, "other.ckpt")
    line = mistake(["export", "--ckpt_path", path, "--output", "exported"], capsys)
    assert message.replace("PROJECT", str(project)) in line


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policy.lora": None}, "does not fit the model of changed.yaml: the checkpoint holds 28 trained weights"),
        ({"policy.lora": {"r": 3}}, "in the checkpoint and (3, 16) in this policy. Resume with"),
        ({"policy.lora": {"target_modules": ["q_proj"]}}, "Resume with the `pretrained` and `lora` of the checkpoint"),
        ({"sampler.num_generations": -1}, "changed.yaml: the model cannot be built: num_generations=-1"),
        ({"sampler.num_generation": 1}, "not an option; did you mean model.sampler.num_generations?"),
        ({"policy.pretrained": "gone/model"}, "changed.yaml: the pretrained model cannot be loaded: "),
    ],
)
def test_a_config_that_does_not_fit_is_an_error(
    changes: dict[str, Any], message: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = yaml.safe_load(Path("runs/quickstart/config.yaml").read_text())
    for name, value in changes.items():
        part, _, option = name.partition(".")
        config["model"][part][option] = value
    Path("changed.yaml").write_text(yaml.safe_dump(config))
    words = ["export", "--ckpt_path", LAST, "--output", "exported", "--config", "changed.yaml"]
    assert message in mistake(words, capsys)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("data: {}", "bad.yaml has no `model`."),
        ("just words", "bad.yaml has no `model`."),
        ("model: [", "bad.yaml is not YAML"),
        ("model: {}", "bad.yaml: the model cannot be built"),
    ],
)
def test_a_file_that_is_no_config_is_named(
    content: str, message: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("bad.yaml").write_text(content)
    words = ["export", "--ckpt_path", LAST, "--output", "exported", "--config", "bad.yaml"]
    assert message in mistake(words, capsys)


def test_a_run_of_an_earlier_version_is_refused(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["export", "--output", "exported", "--ckpt_path"]
    checkpoint = torch.load(LAST)
    named = {f"policy.{name.removeprefix('policy.model.')}": each for name, each in checkpoint["state_dict"].items()}
    torch.save(checkpoint | {"state_dict": named}, "old.ckpt")
    assert "old.ckpt was written by an earlier version of this package." in mistake([*words, "old.ckpt"], capsys)
    Path("flat.yaml").write_text("model:\n  class_path: bots_lightning.algorithms.GRPO\n  init_args: {lora: null}\n")
    line = mistake([*words, LAST, "--config", "flat.yaml"], capsys)
    assert "flat.yaml, line 2: model.class_path: the layout of configs has changed. Convert the file: " in line


def test_options_that_cannot_be_met_are_errors(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["export", "--ckpt_path", LAST, "--output"]
    assert "adapters stay in float32" in mistake([*words, "exported", "--dtype", "bfloat16"], capsys)
    assert "runs exists already, and was left as it is" in mistake([*words, "runs"], capsys)
    assert Path(LAST).is_file()


def test_help_lists_the_command_and_its_options(program: Any) -> None:
    def shown(*words: str) -> str:
        code, printed, _ = program(*words)
        assert code == 0
        return " ".join(printed.split())

    assert "export Write a checkpoint's policy for transformers and peft" in shown("--help")
    options = shown("export", "--help")
    assert (
        "bots-lightning export --ckpt_path runs/quickstart/checkpoints/last.ckpt --output exported/adapter" in options
    )
    for option in ("--ckpt_path", "--output", "--merge", "--dtype", "--config"):
        assert option in options
