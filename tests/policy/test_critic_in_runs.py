"""Runs with a critic: the policy never notices it, and a resumed run is the undisturbed one."""

# Shapes: R rows, T completion tokens.

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from critic_helpers import SMALLER, critics
from lightning.pytorch.callbacks import ModelCheckpoint
from peft import PeftModel
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config

from bots_lightning.algorithms import GRPO, PPO
from bots_lightning.data import TaskBatch
from bots_lightning.policy import LoRA, SeparateCritic, SharedCritic
from bots_lightning.policy.export import export_policy
from bots_lightning.rollouts import GenerateEngine, GenerationRequest, Rollouts
from bots_lightning.tasks import ProceduralTasks

POOL = ProceduralTasks(24).load()

TASKS = [POOL[i] for i in range(4)]


# --- beside the policy ----------------------------------------------------------------------------------------------


class Watching(GenerateEngine):
    """Notes the adapters that are active when it samples."""

    def __init__(self) -> None:
        super().__init__()
        self.active: set[tuple[str, ...]] = set()

    def generate(self, request: GenerationRequest) -> Rollouts:
        for module in request.model.modules():
            if hasattr(module, "lora_A"):
                self.active.add(tuple(module.active_adapters) if not module.disable_adapters else ())
        return super().generate(request)


def test_rollouts_are_the_policys_whatever_the_critic_has_learned(build: Any, shake: Any) -> None:
    alone, with_critic = build(GRPO), build(PPO, critic=SharedCritic(SMALLER))
    for module in (alone, with_critic):
        module.configure_model()
    shake(with_critic, std=0.3)
    weights = with_critic.state_dict()
    for name, weight in alone.named_parameters():
        weight.data = weights[name].clone()
    batch = TaskBatch(list(range(4)), TASKS, list(range(4)), [4] * 4)
    one, other = (
        module.sampler.generate(module.policy.model, 0, batch, [0, 1, 2, 3]) for module in (alone, with_critic)
    )
    assert torch.equal(one.completion_ids, other.completion_ids)


def test_training_and_evaluation_sample_with_the_policys_adapter(build: Any, fit: Any) -> None:
    engine = Watching()
    module = build(PPO, critic=SharedCritic(SMALLER), engine=engine, kl_coef=0.1)
    options = {"evaluation": {"heldout": ProceduralTasks(4)}, "val_check_interval": 1, "num_sanity_val_steps": -1}
    fit(module, 2, **options)
    assert engine.active == {("default",)}
    assert isinstance(module.policy.model, PeftModel)
    assert module.policy.model.active_adapter == "default"


@critics
def test_what_is_exported_is_the_policy_alone(
    build: Any, fit: Any, tmp_path: Path, lora: LoRA | None, critic: Any
) -> None:
    module = build(PPO, lora=lora, critic=critic())
    fit(module, 1)
    folder = export_policy(module.policy, tmp_path / "exported").folder
    assert not any("critic" in str(path) for path in folder.rglob("*"))
    loaded: nn.Module = AutoModelForCausalLM.from_pretrained(module.policy.pretrained if lora else folder)
    if lora:
        loaded = PeftModel.from_pretrained(loaded, folder)
        assert list(loaded.peft_config) == ["default"]
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=ids).logits, module.policy.model(input_ids=ids).logits)


# --- checkpoints ----------------------------------------------------------------------------------------------------


@critics
def test_a_resumed_run_equals_the_undisturbed_one_bit_for_bit(
    build: Any, fit: Any, tmp_path: Path, lora: LoRA | None, critic: Any
) -> None:
    def run(iterations: int, ckpt_path: str | None = None) -> tuple[Any, Any]:
        torch.manual_seed(iterations)  # the global generator must not matter
        options = {"num_ppo_epochs": 2, "num_mini_batches": 2, "kl_coef": 0.05, "max_tokens_per_microbatch": 150}
        module = build(PPO, lora=lora, critic=critic(), critic_learning_rate=0.03, **options)
        save = ModelCheckpoint(tmp_path / str(iterations), every_n_train_steps=4, save_last=True)
        options = {"callbacks": [save], "enable_checkpointing": True, "limit_train_batches": 100}
        return module, fit(module, ckpt_path=ckpt_path, max_steps=4 * iterations, max_epochs=-1, **options)

    whole, whole_run = run(3)
    run(1)
    path = tmp_path / "1" / "last.ckpt"
    saved = torch.load(path, weights_only=True)["state_dict"]
    assert saved.keys() == {name for name, weight in whole.named_parameters() if weight.requires_grad} | _tied(whole)
    resumed, resumed_run = run(3, ckpt_path=str(path))
    history, rest = whole_run.history, resumed_run.history
    assert resumed.progress == whole.progress
    assert all(torch.equal(weight, whole.state_dict()[name]) for name, weight in resumed.state_dict().items())
    for name in ("loss", "loss/value_avg", "val/explained_variance", "kl", "grad_norm"):
        assert rest[name] == history[name][1:]
    assert [step["completions"] for step in rest.steps] == [step["completions"] for step in history.steps[1:]]
    np.testing.assert_array_equal(resumed_run.tasks.selector.select(4), whole_run.tasks.selector.select(4))


def _tied(module: nn.Module) -> set[str]:
    """Second names of weights that train."""
    names = {name for name, weight in module.named_parameters(remove_duplicate=False) if weight.requires_grad}
    return names - {name for name, _ in module.named_parameters()}


def test_a_separate_critic_may_be_another_model_whose_vocabulary_head_does_not_train(
    build: Any, fit: Any, checkpoint: str, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    size = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64}
    config = GPT2Config(vocab_size=len(tokenizer), tie_word_embeddings=False, eos_token_id=1, resid_pdrop=0.5, **size)
    with torch.random.fork_rng():
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    module = build(PPO, critic=SeparateCritic(str(tmp_path / "other")))
    module.configure_model()
    assert module.critic.head.in_features == 16
    trained = {name for name, weight in module.critic.named_parameters() if weight.requires_grad}
    assert {name for name, _ in module.critic.named_parameters()} - trained == {"model.lm_head.weight"}
    first = {name: weight.detach().clone() for name, weight in module.critic.named_parameters()}
    weights = fit(module, 2).history.weights[-1]
    assert all(not torch.equal(first[name], weights[f"critic.{name}"]) for name in trained)
    assert torch.equal(module.critic.model.lm_head.weight, first["model.lm_head.weight"])
