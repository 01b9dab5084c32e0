"""`serve` prints what starts each server of a config, and refuses configs without any."""

from __future__ import annotations

import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from bots_lightning.cli import main
from bots_lightning.rollouts.server_dialect import ServerDialect, Serving
from bots_lightning.rollouts.server_sglang import SGLangDialect
from bots_lightning.rollouts.server_vllm import SERVER_SIDE, VLLMDialect

CONFIGS = Path(__file__).parents[2] / "configs"
QUICKSTART = ("--config", str(CONFIGS / "quickstart.yaml"))
ADAPTERS = ("--config", str(CONFIGS / "rollouts" / "vllm_server.yaml"))
ALL_WEIGHTS = ("--config", str(CONFIGS / "rollouts" / "vllm_full.yaml"), "--model.policy.lora", "null")


def printed(capsys: pytest.CaptureFixture[str], *options: str) -> list[list[str]]:
    """The words of each line."""
    main(["serve", *QUICKSTART, *options])
    return [shlex.split(line) for line in capsys.readouterr().out.splitlines()]


def test_a_line_for_each_server(capsys: pytest.CaptureFixture[str], cache: Path) -> None:
    urls = ("--model.sampler.engine.init_args.urls", "[http://node-1:8000, http://node-2:8100]")
    lines = printed(capsys, *ADAPTERS, *urls, "--trainer.precision", "bf16-mixed")
    assert [line[line.index("--port") + 1] for line in lines] == ["8000", "8100"]
    for line in lines:
        assert line[:2] == ["VLLM_ALLOW_RUNTIME_LORA_UPDATING=True", "VLLM_SERVER_DEV_MODE=1"]
        assert Path(line[line.index("serve") + 1], "config.json").is_file()
        options = dict(pairwise(line))
        assert (options["--dtype"], options["--max-model-len"], options["--max-lora-rank"]) == ("bfloat16", "76", "16")


def test_full_finetuning_extends_the_workers(capsys: pytest.CaptureFixture[str], cache: Path) -> None:
    (line,) = printed(capsys, *ALL_WEIGHTS)
    assert line[0] == f"PYTHONPATH={SERVER_SIDE}"
    assert (SERVER_SIDE / "bots_vllm_worker.py").is_file()
    assert line[-2:] == ["--worker-extension-cls", "bots_vllm_worker.PolicyWeights"]
    assert "--enable-lora" not in line


def test_a_config_without_servers_is_refused(cache: Path) -> None:
    with pytest.raises(ValueError, match=r"CompactEngine, which has no servers.*vllm_server\.yaml"):
        main(["serve", *QUICKSTART])


def test_ranks_have_room_and_a_bound() -> None:
    def room(rank: int) -> str:
        words = VLLMDialect().command(Serving("model", 1, "float32", 10, rank))
        return words[words.index("--max-lora-rank") + 1]

    assert [room(rank) for rank in (1, 8, 9, 512)] == ["8", "8", "16", "512"]
    with pytest.raises(ValueError, match=r"lora\.r=513; vLLM serves adapters up to rank 512"):
        room(513)


def test_a_dialect_need_not_say_how_its_servers_are_started() -> None:
    with pytest.raises(ValueError, match="VLLMDialect does not say how its servers are started"):
        ServerDialect.command(VLLMDialect(), Serving("model", 1, "float32", 10, None))


@pytest.mark.parametrize("method", ["send", "sleep", "wake"])
def test_what_a_dialect_need_not_be_able_to_do_is_refused_in_words(method: str) -> None:
    anything: Any = None
    words = (anything,) * (3 if method == "send" else 2)
    with pytest.raises(
        ValueError, match=r"VLLMDialect (sends no weights|cannot have servers sleep|cannot wake servers)"
    ):
        getattr(ServerDialect, method)(VLLMDialect(), *words)


@pytest.mark.parametrize("rank", [None, 12])
def test_sglang_draws_by_seeds(rank: int | None) -> None:
    words = SGLangDialect().command(Serving("model", 30000, "bfloat16", 4096, rank))
    assert words[:4] == ["python", "-m", "sglang.launch_server", "--model-path"]
    assert "--enable-deterministic-inference" in words
    assert ("--enable-lora" in words) == (rank is not None)
