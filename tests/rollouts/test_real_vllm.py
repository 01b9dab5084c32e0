"""The real vLLM on a CPU, where VLLM_PYTHON names an interpreter that has it; see tests/assets/install_vllm.sh.

The quickstart's warm start is taken from the folder that BOTS_LIGHTNING_CACHE names, if it does, and else made.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import torch
import yaml
from rollout_helpers import request_for
from server_helpers import assert_logprobs_are_the_policys
from transformers import AutoModelForCausalLM, Qwen3Config

from bots_lightning.cli import main
from bots_lightning.evaluation import read_metrics
from bots_lightning.policy.loading import LoRA, language_model, load_policy
from bots_lightning.policy.logprobs import completion_logprobs
from bots_lightning.quickstart import WarmStart
from bots_lightning.quickstart.tokenizer import character_tokenizer
from bots_lightning.rollouts import CompactEngine, GenerationRequest, Rollouts, SamplingParams
from bots_lightning.rollouts.server import ServerEngine
from bots_lightning.rollouts.server_dialect import Serving
from bots_lightning.rollouts.server_vllm import VLLMDialect
from bots_lightning.tasks.procedural import ALPHABET

ROOT = Path(__file__).parents[2]
PYTHON = os.environ.get("VLLM_PYTHON")
PROMPTS = [[5, 6, 7], [8], list(range(5, 45)) * 2, [5, 6, 7]]  # one has two blocks of the prefix cache
SEEDS = [1, 2, 3, 4]
SAMPLING = SamplingParams(max_completion_length=24, stop_token_ids=(1, 4), pad_token_id=0, temperature=0.7)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(PYTHON is None, reason="VLLM_PYTHON is not set")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny checkpoint with heads of 32, the smallest that vLLM serves on a CPU."""
    folder = str(tmp_path_factory.mktemp("checkpoint"))
    tokenizer = character_tokenizer(ALPHABET)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "head_dim": 32}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": True}
    tokens = {"vocab_size": len(tokenizer), "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
    config = Qwen3Config(**shape, **heads, **tokens, max_position_embeddings=128, initializer_range=0.15)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@contextmanager
def serving(folder: str, log: Path, full: bool = False) -> Iterator[str]:
    """The URL of a vLLM that serves the model of a folder in float32, and takes adapters or all weights."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    words = VLLMDialect().command(Serving(folder, int(port), "float32", 128, None if full else 16))
    start = words.index("vllm")  # `vllm serve FOLDER`, which this build of it has not
    switches = dict(word.split("=", 1) for word in words[:start])
    switches |= {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    program = [str(PYTHON), "-m", "vllm.entrypoints.openai.api_server", "--model", *words[start + 2 :]]
    # A prompt that is read in two parts ends this version on a CPU, where a seed's generator cannot be set back.
    program += ["--block-size", "32", "--max-num-batched-tokens", "32768"]
    with log.open("w") as output:
        process = subprocess.Popen(
            [*program, "--enforce-eager"], env=os.environ | switches, stdout=output, stderr=output
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(300):
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            urlopen(url, timeout=2).close()
            return
        except OSError:
            time.sleep(1)
    pytest.fail(log.read_text()[-3000:])


@pytest.fixture
def url(folder: str, tmp_path: Path, full: bool) -> Iterator[str]:
    with serving(folder, tmp_path / "vllm.log", full) as url:
        yield url


@pytest.mark.parametrize("full", [False, True], ids=["adapter", "all weights"])
def test_completions_and_logprobs_are_the_policys_after_every_update(
    full: bool, folder: str, url: str, tmp_path: Path
) -> None:
    policy = load_policy(folder, None if full else LoRA(r=8, alpha=16)).eval()
    engine = ServerEngine([url], str(tmp_path / "adapters"), logprobs=True, patience_seconds=30.0)
    model, greedy = language_model(policy), replace(SAMPLING, temperature=0)
    generator = torch.Generator().manual_seed(0)
    seen = set()
    for version in range(4):
        for name, weight in policy.named_parameters():
            if full and weight.dim() > 1:
                weight.data += 0.05 * torch.randn(weight.shape, generator=generator)
            elif ".default." in name:
                weight.data.normal_(0, 0.2, generator=generator)
        engine.sync(policy, version)
        rollouts = engine.generate(request_for(model, PROMPTS, 8, SAMPLING, SEEDS, policy_version=version))
        assert_logprobs_are_the_policys(policy, rollouts, SAMPLING.temperature)
        again = engine.generate(request_for(model, PROMPTS, 8, SAMPLING, SEEDS, policy_version=version))
        assert torch.equal(again.completion_ids, rollouts.completion_ids)
        assert 0 < int(rollouts.finished.sum()) < len(rollouts)
        seen.add(tuple(rollouts.completion_ids.flatten().tolist()))
        likely = engine.generate(request_for(model, PROMPTS, 2, greedy, SEEDS, policy_version=version))
        reference = CompactEngine().generate(request_for(model, PROMPTS, 2, greedy, SEEDS))
        assert torch.equal(likely.completion_ids, reference.completion_ids)
        assert torch.equal(likely.completion_mask, reference.completion_mask)
        assert torch.equal(likely.finished, reference.finished)
    assert len(seen) == 4
    assert engine.pool.servers[0].last_error == "none"


@pytest.fixture
def gaps(monkeypatch: pytest.MonkeyPatch) -> dict[int, list[float]]:
    """The largest |Δ log p| between server and policy, in nats: of each batch of rollouts, by policy version."""
    found: dict[int, list[float]] = defaultdict(list)
    generate = ServerEngine.generate

    def compare(self: ServerEngine, request: GenerationRequest) -> Rollouts:
        rollouts = generate(self, request)
        with torch.no_grad():
            expected, _ = completion_logprobs(request.model, rollouts, request.sampling.temperature)
        assert rollouts.logprobs is not None
        gap = (rollouts.logprobs - expected)[rollouts.completion_mask].abs().max()
        found[rollouts.policy_version].append(float(gap))
        return rollouts

    monkeypatch.setattr(ServerEngine, "generate", compare)
    return found


def train(full: bool, tmp_path: Path, *more: str) -> dict[str, Any]:
    """The summary of the quickstart with a server."""
    with serving(WarmStart().prepare(), tmp_path / "vllm.log", full) as url:
        options = {"urls": [url], "adapter_dir": str(tmp_path / "adapters"), "logprobs": True}
        overlay = tmp_path / "overlay.yaml"
        overlay.write_text(yaml.safe_dump({"model": {"sampler": {"engine": {"init_args": options}}}}))
        configs = [
            ROOT / "configs/quickstart.yaml",
            ROOT / f"configs/rollouts/vllm_{'full' if full else 'server'}.yaml",
            overlay,
        ]
        words = [word for config in configs for word in ("--config", str(config))]
        words += ["--model.policy.lora", "null", "--model.optimizer.learning_rate", "5e-4"] if full else []
        main(["fit", *words, "--runs_dir", str(tmp_path), "--name", "run", "--trainer.accelerator", "cpu", *more])
    return json.loads((tmp_path / "run" / "summary.json").read_text())


def assert_learnt(summary: dict[str, Any]) -> None:
    """Two evaluations of the same policy by other seeds differ by 0.007, one standard deviation."""
    assert summary["iterations"] == 50
    evaluation = summary["evaluation"]
    print(evaluation["before"]["overall"], evaluation["after"]["overall"], summary["timing_s"])
    assert evaluation["after"]["overall"] - evaluation["before"]["overall"] > 0.03


@pytest.fixture
def _shipped(shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOTS_LIGHTNING_CACHE", os.environ.get("BOTS_LIGHTNING_CACHE") or str(shared_cache))


@pytest.mark.usefixtures("_shipped")
@pytest.mark.parametrize("full", [False, True], ids=["adapter", "all weights"])
def test_the_quickstart_learns_from_its_rollouts(full: bool, gaps: dict[int, list[float]], tmp_path: Path) -> None:
    summary = train(full, tmp_path)
    assert sorted(gaps) == list(range(51))  # each step's policy, and the last, which is evaluated
    assert all(gap <= 1e-4 for of_version in gaps.values() for gap in of_version), gaps
    assert_learnt(summary)


@pytest.mark.usefixtures("_shipped")
@pytest.mark.parametrize("full", [False, True], ids=["adapter", "all weights"])
def test_the_quickstart_learns_two_steps_ahead(full: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Two batches are under way at a time, by two adapters, or while all weights are replaced."""
    summary = train(full, tmp_path, "--model.sampler.max_staleness", "2")
    rows = [row for row in read_metrics(tmp_path / "run" / "metrics.csv") if "reward" in row]
    assert [row["sampling/staleness"] for row in rows] == [min(step, 2) for step in range(50)]
    assert "rests for" not in caplog.text  # no answer was refused
    assert_learnt(summary)
