"""The experiments on public data: files as they are published, a Qwen2.5 that is tiny and random, one step each."""

# Shapes: N tasks in the pool, B tasks per step, G rollouts per task.

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from lightning import Trainer
from transformers import AutoModelForCausalLM, Qwen2Config

from bots_lightning.beliefs import Evidence
from bots_lightning.cli import main
from bots_lightning.data import TaskDataModule
from bots_lightning.quickstart.tokenizer import STOP, character_tokenizer
from bots_lightning.rewards import CodeReward
from bots_lightning.selection import FairShareSelector
from bots_lightning.tasks import ParquetTasks, Task

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
ONE_STEP, UNISOLATED = ROOT / "tests/assets/one_step.yaml", ROOT / "tests/assets/unisolated.yaml"
DOMAINS = ("maths", "code", "logic")
EXPERIMENTS = (*(f"guru/{domain}" for domain in DOMAINS), "gsm8k")
NUM_TASKS = {"maths": 300, "code": 60, "logic": 60}
FILES = {
    "maths": "math__combined_54.4k.parquet",
    "code": "codegen__leetcode2k_1.3k.parquet",
    "logic": "logic__ordering_puzzle_1.9k.parquet",
}
CHAT_TEMPLATE = (
    "{%- for message in messages -%}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|im_start|>assistant\n{%- endif -%}"
)


# --- what is fetched otherwise --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a random Qwen2.5 of some ten thousand weights, which reads characters and has a chat template."""
    folder = tmp_path_factory.mktemp("qwen")
    tokenizer = character_tokenizer("".join(map(chr, range(32, 127))) + "\n")
    tokenizer.chat_template = CHAT_TEMPLATE
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.convert_tokens_to_ids(STOP),
        bos_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def guru_row(domain: str, number: int) -> dict[str, Any]:
    """A row as GURU has it: a chat, the answer inside a struct, and the pass rates of two models."""
    question, truth, extra = {
        "maths": (rf"What is {number}+1? Please output the final answer within \boxed{{}}.", str(number + 1), {}),
        "code": (
            f"Add {number} to x.\n### Format:\nclass Solution:\n    def add(self, x: int) -> int:",
            json.dumps({"functional": f"def check(f):\n    assert f(x=2) == {number + 2}\n\ncheck(Solution().add)"}),
            {"prefix": "import math\nfrom typing import *"},
        ),
        "logic": (
            f"Order crow {number} and owl. Put your answer within <answer> and </answer> tags.",
            [f"crow {number}", "owl"],
            {"num_objects": 2},
        ),
    }[domain]
    return {
        "data_source": f"{domain}__of_guru",
        "prompt": [{"role": "user", "content": question}],
        "ability": domain,
        "apply_chat_template": True,
        "reward_model": {"style": "rule", "ground_truth": truth},
        "extra_info": {"index": number, "split": "train"} | extra,
        "qwen2.5_7b_pass_rate": None if number == 0 else (0.25, 0.0)[number % 2],
        "qwen3_30b_pass_rate": (0.75, 1.0)[number % 2],
    }


def right_completion(domain: str, number: int) -> str:
    """What solves the task of this number and no other."""
    program = f"class Solution:\n    def add(self, x: int) -> int:\n        return x + {number}"
    return {
        "maths": rf"One more: \boxed{{{number + 1}}}.",
        "code": f"So:\n```python\n{program}\n```",
        "logic": f"The owl is last. <answer> ['Crow {number}', 'Owl'] </answer>",
    }[domain]


@pytest.fixture(scope="module")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data of all experiments, where `hf download` and the Hub have them."""
    folder = tmp_path_factory.mktemp("fetched")
    guru, gsm8k = folder / "data/guru/train", folder / "openai/gsm8k"
    for path in (guru, gsm8k / "main"):
        path.mkdir(parents=True)
    for domain, name in FILES.items():
        pq.write_table(
            pa.Table.from_pylist([guru_row(domain, number) for number in range(NUM_TASKS[domain])]), guru / name
        )
    for split in ("train", "test"):
        rows = [{"question": f"{number} {split}s and 1?", "answer": f"Add.\n#### {number + 1}"} for number in range(9)]
        pq.write_table(pa.Table.from_pylist(rows), gsm8k / f"main/{split}-00000-of-00001.parquet")
    splits = "".join(f"  - {{split: {split}, path: main/{split}-*}}\n" for split in ("train", "test"))
    (gsm8k / "README.md").write_text(f"---\nconfigs:\n- config_name: main\n  data_files:\n{splits}---\n")
    return folder


@pytest.fixture(scope="module", autouse=True)
def _in_the_folder(fetched: Path) -> Iterator[None]:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", fetched / "cache")
        patch.chdir(fetched)
        yield


# --- the experiments -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Built:
    """What a command line has made, and its run folder."""

    module: Any
    datamodule: TaskDataModule
    folder: Path


def built(qwen: str | None, folder: Path, *configs: str, train: bool = False) -> Built:
    """Configs with one short step stacked on them: trained, or as training would begin.

    Args:
        qwen: replaces the model.
        folder: of runs.
        configs: their names, an experiment first.
        train: whether the step is taken.
    """
    stack = [
        *(CONFIGS / f"{name}.yaml" for name in configs),
        *([UNISOLATED] if configs[0] == "guru/code" else []),
        ONE_STEP,
    ]
    words = [word for path in stack for word in ("--config", str(path))]
    words += [] if qwen is None else ["--model.policy.pretrained", qwen]
    seen: list[Any] = []
    fit = Trainer.fit

    def noted(self: Trainer, model: Any, datamodule: Any = None, **more: Any) -> None:
        seen.extend((model, datamodule))
        if train:
            fit(self, model, datamodule=datamodule, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "fit", noted)
        main(["fit", *words, "--runs_dir", str(folder), "--name", "run"])
    return Built(*seen, folder / "run")


@pytest.fixture(scope="module")
def trained(qwen: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Built]:
    """The experiment of this name after a step, which is taken once."""
    return cache(lambda experiment: built(qwen, tmp_path_factory.mktemp("runs"), experiment, train=True))


def rewards_of(module: Any, tasks: list[Task], completions: list[str]) -> list[float]:
    """One for each completion, of which all tasks have as many."""
    try:
        rewards: list[float] = module.scorer(tasks, completions).tolist()
    finally:
        module.scorer.close()
    return rewards


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_runs_on_the_published_files(experiment: str, trained: Callable[[str], Built]) -> None:
    """Evaluation, one step in mixed precision with gradient checkpointing, evaluation, checkpoint."""
    run = trained(experiment)
    summary = json.loads((run.folder / "summary.json").read_text())
    assert (summary["iterations"], summary["rollouts"]) == (1, 2 * 2)
    assert {"before", "after"} <= set(summary["evaluation"])
    assert (run.folder / "checkpoints/last.ckpt").exists()
    assert run.module.trainer.precision == "bf16-mixed"
    assert {weight.dtype for weight in run.module.parameters()} == {torch.float32}
    assert run.module.trainer.callback_metrics["grad_norm"] > 0
    assert run.datamodule.selection_counts.sum() == 2


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_reward_of_a_domain_tells_right_from_wrong(domain: str, trained: Callable[[str], Built]) -> None:
    run = trained(f"guru/{domain}")
    tasks = [run.datamodule.require_pool()[position] for position in range(2)]
    numbers = [task.columns["extra_info"]["index"] for task in tasks]
    completions = [right_completion(domain, number + wrong) for number in numbers for wrong in (0, 1)]
    assert rewards_of(run.module, tasks, completions) == [1, 0, 1, 0]


@pytest.mark.parametrize(
    ("truth", "right", "wrong"),
    [
        ({"header": ["House", "Name"], "rows": [["1", "Eric"]]}, '{"header": ["House", "Name"], "rows": %s}', None),
        ([[0, 1], [1, 0]], "[[0, 1], [1, 0]]", "[[0, 1], [1, 1]]"),
        ("sodnei", "SODNEI", "sodne"),
    ],
    ids=["zebra", "arc", "graph"],
)
def test_the_logic_reward_reads_the_other_files_of_guru(
    truth: Any, right: str, wrong: str | None, trained: Callable[[str], Built], tmp_path: Path
) -> None:
    row = guru_row("logic", 1) | {"reward_model": {"style": "rule", "ground_truth": truth}}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "logic.parquet")
    answers = (right, wrong) if wrong else (right % '[["1", "Eric"]]', right % '[["1", "Arnold"]]')
    completions = [f"So <answer>{answer}</answer>" for answer in answers]
    tasks = [ParquetTasks(tmp_path / "logic.parquet").load()[0]]
    assert rewards_of(trained("guru/logic").module, tasks, completions) == [1, 0]


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_held_out_part_shares_no_task(domain: str, trained: Callable[[str], Built]) -> None:
    datamodule = trained(f"guru/{domain}").datamodule
    learned, held_out = set(datamodule.require_pool().ids), set(datamodule.eval_pools["heldout"].ids)
    assert len(learned) + len(held_out) == len(learned | held_out) == NUM_TASKS[domain]
    assert 0 < len(held_out) < 0.2 * NUM_TASKS[domain]


def test_the_belief_predicts_from_the_published_pass_rates(qwen: str, tmp_path: Path) -> None:
    """6 of 16 on a task of w = 1/4 and u = 3/4 is μ = 1/4: one of w = 0 and u = 1 gains ρ·16 tries at p̃ = 1/4."""
    datamodule = built(qwen, tmp_path, "guru/maths").datamodule
    datamodule.setup()
    pool, selector = datamodule.require_pool(), datamodule.selector
    assert pool.references == ("qwen2.5_7b_pass_rate", "qwen3_30b_pass_rate")
    weak = pool.features().reference("qwen2.5_7b_pass_rate")
    tried, other, unknown = (int(np.flatnonzero(rows)[0]) for rows in (weak == 0.25, weak == 0, np.isnan(weak)))
    selector.observe(Evidence(np.array([tried]), np.array([6.0]), np.array([16.0])))
    assert selector.belief.implicit.ability == 0.25  # type: ignore[attr-defined]
    believed = selector.forecast(np.array([tried, other, unknown]))
    np.testing.assert_allclose(believed, [[1 + 6, 1 + 0.1 * 4, 1], [1 + 10, 1 + 0.1 * 12, 1]])


def test_gsm8k_asks_in_a_chat_for_a_boxed_answer(trained: Callable[[str], Built]) -> None:
    run = trained("gsm8k")
    pool = run.datamodule.require_pool()
    asked = "3 trains and 1?\nPlease reason step by step, and put your final answer within \\boxed{}."
    assert (pool[3].prompt, pool[3].answer) == ([{"role": "user", "content": asked}], "4")
    assert run.datamodule.eval_pools["heldout"][3].prompt[0]["content"].startswith("3 tests")  # type: ignore[index]
    assert isinstance(run.datamodule.selector, FairShareSelector)
    assert pool.references == ()


# --- what is stacked on them -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize(
    ("model", "name"),
    [("qwen2.5_1.5b_instruct", "Qwen/Qwen2.5-1.5B-Instruct"), ("qwen2.5_7b", "Qwen/Qwen2.5-7B")],
)
def test_a_model_is_stacked_on_any_domain(domain: str, model: str, name: str, tmp_path: Path) -> None:
    module = built(None, tmp_path, f"guru/{domain}", f"models/{model}").module
    assert (module.policy.pretrained, module.policy.lora, module.updater.learning_rate) == (name, None, 1e-6)


def test_a_lora_learns_on_weights_of_bfloat16(qwen: str, tmp_path: Path) -> None:
    module = built(qwen, tmp_path, "guru/logic", "models/qwen2.5_7b", "algorithms/lora", train=True).module
    assert module.progress.iterations == 1
    assert module.trainer.callback_metrics["grad_norm"] > 0
    assert {weight.dtype for weight in module.parameters() if weight.requires_grad} == {torch.float32}
    assert {weight.dtype for weight in module.parameters() if not weight.requires_grad} == {torch.bfloat16}


def test_programs_are_isolated_unless_one_asks_otherwise() -> None:
    """The config itself, of which the other tests here allow less."""
    reward = yaml.safe_load((CONFIGS / "guru/code.yaml").read_text())["model"]["scorer"]["reward_funcs"][0]
    assert reward["class_path"] == "bots_lightning.rewards.CodeReward"
    assert "allow_unisolated" not in reward["init_args"]
    assert signature(CodeReward).parameters["allow_unisolated"].default is False


def test_a_file_without_pass_rates_needs_another_selector(
    qwen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [guru_row("maths", number) for number in range(NUM_TASKS["maths"])]
    rates = ("qwen2.5_7b_pass_rate", "qwen3_30b_pass_rate")
    folder = tmp_path / "data/guru/train"
    folder.mkdir(parents=True)
    bare = [{name: value for name, value in row.items() if name not in rates} for row in rows]
    pq.write_table(pa.Table.from_pylist(bare), folder / FILES["maths"])
    monkeypatch.chdir(tmp_path)
    datamodule = built(qwen, tmp_path, "guru/maths", "selectors/ability_no_reference").datamodule
    datamodule.setup()
    assert len(datamodule.select()) == 2
    with pytest.raises(ValueError, match=r"qwen2\.5_7b_pass_rate"):
        built(qwen, tmp_path, "guru/maths").datamodule.setup()
