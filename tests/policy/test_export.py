"""What is exported is the policy that was trained: token for token, loaded by transformers and peft alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GPT2Config, PhiConfig, Qwen3Config

from bots_lightning.algorithms import GRPO
from bots_lightning.data import TaskDataModule
from bots_lightning.policy import LoRA, Policy
from bots_lightning.policy.export import Exported, export_policy, full_model
from bots_lightning.policy.loading import language_model, load_policy
from bots_lightning.quickstart.tokenizer import character_tokenizer
from bots_lightning.rewards import Scorer
from bots_lightning.rollouts import GenerationRequest, load_tokenizer
from bots_lightning.selection import UniformSelector
from bots_lightning.tasks import ProceduralTasks
from bots_lightning.training import Evaluation, OnlineModule, Sampler, Updater

IDS = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
SMALL = LoRA(r=4, alpha=8)
POOL = ProceduralTasks(50).load()
PROMPTS = [POOL[i].prompt for i in range(50)]
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}="


def share_of_a(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
    return [float("a" in completion) for completion in completions]


def loaded(checkpoint: str, lora: LoRA | None = SMALL, **options: Any) -> Policy:
    policy = Policy(checkpoint, lora, **options)
    policy.load(seed=0)
    return policy


def enlarge_adapters(policy: nn.Module, seed: int = 0, adapter: str = "default") -> None:
    """Random adapters whose effect is as large as that of the weights."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in policy.named_parameters():
        if "lora_" in name and adapter in name:
            nn.init.normal_(weight, std=0.3, generator=generator)


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
    """The same with nothing of this package, one prompt at a time."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = []
    for prompt in PROMPTS:
        inputs = tokenizer(prompt, return_tensors="pt")
        tokens = model.generate(input_ids=inputs["input_ids"], do_sample=False, max_new_tokens=8)
        found.append(tokens[0, inputs["input_ids"].shape[1] :].tolist())
    return found


@torch.no_grad()
def logits(model: Any) -> Tensor:
    return model.eval()(input_ids=IDS).logits.float()


def load(exported: Exported) -> Any:
    auto = AutoPeftModelForCausalLM if exported.is_adapter else AutoModelForCausalLM
    return auto.from_pretrained(exported.folder)


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


def adapted(policy: nn.Module) -> dict[str, Tensor]:
    """W + ΔW of every adapted layer, in float64, from its definition: ΔW = alpha / r · B A."""
    weights = dict(policy.named_parameters())
    stems = [name.removesuffix(".base_layer.weight") for name in weights if name.endswith(".base_layer.weight")]
    return {
        stem.removeprefix("base_model.model.") + ".weight": weights[f"{stem}.base_layer.weight"].double()
        + (8 / 4)
        * weights[f"{stem}.lora_B.default.weight"].double()
        @ weights[f"{stem}.lora_A.default.weight"].double()
        for stem in stems
    }


@pytest.fixture
def half_checkpoint(checkpoint: str, tmp_path: Path) -> str:
    """The tiny policy in bfloat16."""
    folder = tmp_path / "half"
    AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("loaded_in", ["bfloat16", "float32"])
def test_merged_weights_are_rounded_once(half_checkpoint: str, tmp_path: Path, loaded_in: Any) -> None:
    policy = loaded(half_checkpoint, dtype=loaded_in)
    enlarge_adapters(policy.model)
    exported = export_policy(policy, tmp_path / "exported", merge=True)
    assert exported.dtype == torch.bfloat16
    written = load_file(exported.folder / "model.safetensors")
    assert {weight.dtype for weight in written.values()} == {torch.bfloat16}
    expected = adapted(policy.model)
    assert len(expected) == 2 * 7
    for name, exact in expected.items():
        assert ((written[name].double() - exact).abs() <= 2**-8 * exact.abs() + 1e-6).all()
    assert json.loads((exported.folder / "config.json").read_text())["dtype"] == "bfloat16"


def test_the_dtype_may_be_chosen(half_checkpoint: str, tmp_path: Path) -> None:
    policy = loaded(half_checkpoint, dtype="bfloat16")
    enlarge_adapters(policy.model)
    exported = export_policy(policy, tmp_path / "exported", merge=True, dtype=torch.float32)
    assert (exported.dtype, load(exported).dtype) == (torch.float32, torch.float32)
    written = load_file(exported.folder / "model.safetensors")
    for name, exact in adapted(policy.model).items():
        torch.testing.assert_close(written[name].double(), exact, atol=1e-5, rtol=1e-5)


SIZES = {"vocab_size": 20, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
DROPOUTS = {"resid_pdrop": 0.5, "embd_pdrop": 0.25, "attention_dropout": 0.125}
ARCHITECTURES: dict[str, tuple[Callable[[], Any], LoRA | None]] = {
    "tied": (lambda: Qwen3Config(**SIZES, head_dim=8, num_key_value_heads=2, tie_word_embeddings=True), SMALL),
    "untied": (lambda: PhiConfig(**SIZES, **DROPOUTS, tie_word_embeddings=False), SMALL),
    "embeddings": (lambda: PhiConfig(**SIZES), LoRA(r=4, alpha=8, target_modules=["embed_tokens", "lm_head", "fc1"])),
    "transposed": (lambda: GPT2Config(vocab_size=20, n_embd=16, n_layer=1, n_head=2), SMALL),
    "full": (lambda: PhiConfig(**SIZES, **DROPOUTS), None),
}


def ship(folder: Path, config: Any) -> str:
    """A pretrained model with dropout, a generation config and a chat template of its own, and no pad token."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=0.6, top_k=20, repetition_penalty=1.3, eos_token_id=[1, 2]
    )
    model.save_pretrained(folder)
    tokenizer = character_tokenizer("0123456789+-= abc")
    tokenizer.pad_token, tokenizer.chat_template = None, TEMPLATE
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_configs_are_as_shipped_and_weights_as_trained(name: str, tmp_path: Path) -> None:
    make_config, lora = ARCHITECTURES[name]
    shipped = ship(tmp_path / "shipped", make_config())
    policy = loaded(shipped, lora)
    enlarge_adapters(policy.model)
    if lora is None:
        with torch.no_grad():
            for weight in policy.model.parameters():
                weight.mul_(1.5)
    exported = export_policy(policy, tmp_path / "exported", merge=True)
    model = load(exported)
    torch.testing.assert_close(logits(model), logits(policy.model), atol=1e-5, rtol=0)
    assert not torch.allclose(logits(model), logits(AutoModelForCausalLM.from_pretrained(shipped)), atol=1e-2)
    for file in ("config.json", "generation_config.json", "chat_template.jinja"):
        assert (exported.folder / file).read_text() == Path(shipped, file).read_text()
    tokenizer, before = AutoTokenizer.from_pretrained(exported.folder), AutoTokenizer.from_pretrained(shipped)
    assert tokenizer.pad_token is None
    assert load_tokenizer(shipped).pad_token is not None  # what a run reads prompts with
    assert tokenizer.get_vocab() == before.get_vocab()
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert tied == model.config.tie_word_embeddings


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize("layer", ["lm_head", "embed_tokens"])
def test_an_adapter_of_one_of_two_tied_weights_is_not_merged(checkpoint: str, tmp_path: Path, layer: str) -> None:
    policy = loaded(checkpoint, LoRA(r=4, alpha=8, target_modules=[layer]))
    enlarge_adapters(policy.model)
    with pytest.raises(ValueError, match=r"lm_head\.weight is tied to another weight and their adapters differ"):
        export_policy(policy, tmp_path / "exported", merge=True)
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_that_is_not_one_of_a_layer_is_not_merged(checkpoint: str) -> None:
    config = LoraConfig(r=2, target_modules=[], target_parameters=["q_proj.weight"], task_type="CAUSAL_LM")
    policy = get_peft_model(load_policy(checkpoint), config)
    with pytest.raises(ValueError, match=r"q_proj \(ParamWrapper\) cannot be merged"):
        full_model(policy)


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
