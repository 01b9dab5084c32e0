"""What is exported is the policy that was trained: token for token, loaded by transformers and peft alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from export_helpers import SMALL, enlarge_adapters, load, loaded, logits
from lightning import Trainer
from module_fixtures import share_of_a
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from bots_lightning.algorithms import GRPO
from bots_lightning.data import TaskDataModule
from bots_lightning.policy import LoRA, Policy
from bots_lightning.policy.export import export_policy
from bots_lightning.policy.loading import language_model
from bots_lightning.rewards import Scorer
from bots_lightning.rollouts import GenerationRequest
from bots_lightning.selection import UniformSelector
from bots_lightning.tasks import ProceduralTasks
from bots_lightning.training import Evaluation, OnlineModule, Sampler, Updater

POOL = ProceduralTasks(50).load()

PROMPTS = [POOL[i].prompt for i in range(50)]


@pytest.fixture(scope="module", params=["lora", "full"])
def trained(request: pytest.FixtureRequest, checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Policy:
    """After four steps."""
    policy = Policy(checkpoint, SMALL if request.param == "lora" else None)
    module = OnlineModule(
        policy,
        Scorer([share_of_a]),
        Sampler(num_generations=4, max_prompt_length=32, max_completion_length=8),
        GRPO(),
        Updater(learning_rate=3e-2, lr_scheduler_type="constant"),
        Evaluation(),
    )
    trainer = Trainer(
        default_root_dir=tmp_path_factory.mktemp("run"),
        accelerator="cpu",
        max_steps=4,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(module, TaskDataModule(ProceduralTasks(24), UniformSelector(), batch_size=4, steps_per_epoch=4))
    return policy


def completions_of_policy(policy: Policy) -> list[list[int]]:
    """The policy's own greedy completions of 50 prompts, by the engine that it trains with."""
    sampler = Sampler(max_prompt_length=32, max_completion_length=8)
    sampler.attach(policy, Scorer([share_of_a]), seed=0)
    sampler.build(32)
    prompts = sampler.encoder.encode(PROMPTS, [str(i) for i in range(50)])
    greedy = replace(sampler.sampling, temperature=0)
    model, seeds = language_model(policy.model), [0] * len(prompts)
    return sampler.engine.generate(GenerationRequest(model, prompts, [1] * 50, greedy, seeds)).completion_lists()


def completions_of_folder(model: Any, folder: Path) -> list[list[int]]:
    """Greedy completions with nothing of this package, one prompt at a time."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = []
    for prompt in PROMPTS:
        inputs = tokenizer(prompt, return_tensors="pt")
        tokens = model.generate(input_ids=inputs["input_ids"], do_sample=False, max_new_tokens=8)
        found.append(tokens[0, inputs["input_ids"].shape[1] :].tolist())
    return found


def contents(folder: str | Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


@pytest.mark.parametrize("merge", [False, True], ids=["plain", "merged"])
def test_what_is_loaded_completes_token_for_token_as_the_policy(
    trained: Policy, merge: bool, checkpoint: str, tmp_path: Path
) -> None:
    pretrained = contents(checkpoint)
    expected, expected_logits = completions_of_policy(trained), logits(trained.model)
    assert sum(a != b for a, b in zip(expected, completions_of_policy(loaded(checkpoint)), strict=True)) > 25
    before = {name: weight.clone() for name, weight in trained.state_dict().items()}

    exported = export_policy(trained, tmp_path / "new" / "exported", merge)

    assert exported.is_adapter == (trained.lora is not None and not merge)
    assert (exported.folder / "adapter_config.json").exists() == exported.is_adapter
    assert (exported.folder / "config.json").exists() == (not exported.is_adapter)
    model = load(exported)
    torch.testing.assert_close(logits(model), expected_logits, atol=1e-5, rtol=0)
    assert completions_of_folder(model, exported.folder) == expected
    assert all(torch.equal(weight, before[name]) for name, weight in trained.state_dict().items())
    assert contents(checkpoint) == pretrained
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["exported"]
    assert len({path.stat().st_mode for path in exported.folder.iterdir()}) == 1


def test_an_adapter_names_its_base_from_wherever_it_is_loaded(
    checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(checkpoint).parent)
    policy = loaded(Path(checkpoint).name)
    enlarge_adapters(policy.model)
    exported = export_policy(policy, tmp_path / "adapter")
    monkeypatch.chdir(tmp_path)
    assert json.loads((exported.folder / "adapter_config.json").read_text())["base_model_name_or_path"] == checkpoint
    assert exported.base == checkpoint
    torch.testing.assert_close(logits(load(exported)), logits(policy.model), atol=1e-5, rtol=0)
    by_hand = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(checkpoint), "adapter")
    torch.testing.assert_close(logits(by_hand), logits(policy.model), atol=1e-5, rtol=0)


@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("active", ["default", "critic"])
def test_a_second_adapter_stays_behind(checkpoint: str, tmp_path: Path, merge: bool, active: str) -> None:
    policy = loaded(checkpoint, LoRA(r=4, alpha=8, target_modules=["q_proj"]))
    model = policy.model
    assert isinstance(model, PeftModel)
    enlarge_adapters(model)
    expected = logits(model)
    model.add_adapter("critic", LoraConfig(r=2, target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM"))
    enlarge_adapters(model, seed=1, adapter="critic")
    model.set_adapter(active)
    exported = export_policy(policy, tmp_path / "exported", merge)
    torch.testing.assert_close(logits(load(exported)), expected, atol=1e-5, rtol=0)
    assert not any(path.is_dir() for path in exported.folder.iterdir())
    (file,) = exported.folder.glob("*.safetensors")
    assert not any("critic" in name or (not merge and "up_proj" in name) for name in load_file(file))


def test_nothing_is_overwritten(checkpoint: str, tmp_path: Path) -> None:
    policy = loaded(checkpoint)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine too")
    before = contents(tmp_path)
    for taken in ("full", "file"):
        with pytest.raises(FileExistsError, match=f"{taken} exists already, and was left as it is. Name another"):
            export_policy(policy, tmp_path / taken)
    assert contents(tmp_path) == before
    (tmp_path / "empty").mkdir()
    assert (export_policy(policy, tmp_path / "empty").folder / "adapter_config.json").is_file()


def test_a_dtype_for_an_adapter_is_refused(checkpoint: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="adapters stay in float32"):
        export_policy(loaded(checkpoint), tmp_path / "exported", dtype=torch.bfloat16)
    assert list(tmp_path.iterdir()) == []
