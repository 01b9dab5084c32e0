"""Fixtures that many tests share: a tiny policy, a small pool, and a quiet environment."""

from __future__ import annotations

import gc
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
from hypothesis import settings
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen3Config

from bots_lightning import cli
from bots_lightning.evaluation import read_metrics
from bots_lightning.quickstart.tokenizer import character_tokenizer
from bots_lightning.tasks.procedural import ALPHABET

sys.path.insert(0, str(Path(__file__).parent / "assets"))
pytest_plugins = ["module_fixtures", "server_fixtures"]

# A shell that starts the tests in the background, or nohup, has them and all that they start ignore these.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
torch.set_num_threads(1)
gc.freeze()  # modules stay: to search them for garbage takes a second each time
settings.register_profile("tests", deadline=None)  # wall-clock deadlines fail on a busy machine
settings.load_profile("tests")


def tiny_model(vocab_size: int, seed: int = 0, **overrides: object) -> PreTrainedModel:
    """A random Qwen3 of some ten thousand weights."""
    config = Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
        initializer_range=0.2,
        **overrides,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a tiny random policy and its character tokenizer."""
    folder: Path = tmp_path_factory.mktemp("checkpoint")
    tokenizer = character_tokenizer(ALPHABET)
    tiny_model(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def model() -> PreTrainedModel:
    """A tiny random model with a vocabulary of 12; 0 is pad, 1 is stop."""
    return tiny_model(12)


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quickstart's cache of this test session."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def cache(shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keeps the quickstart's cache away from the user's."""
    monkeypatch.setenv("BOTS_LIGHTNING_CACHE", str(shared_cache))
    return shared_cache


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """`program(*words)`: `bots-lightning` with these words, in this process; exit code, and what it has printed."""

    def program(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["bots-lightning", *words])
        capfd.readouterr()
        try:
            cli.run()
            code: Any = 0
        except SystemExit as ended:
            code = ended.code or 0
        printed, said = capfd.readouterr()
        if isinstance(code, str):  # what Python prints at exit
            code, said = 1, f"{said}\n{code}\n"
        return code, printed, said

    return program


class Ended(NamedTuple):
    """A process that has ended: its exit code, stdout and stderr."""

    code: int
    printed: str
    said: str


Process = tuple[Sequence[object], Mapping[str, str]]  # words of its command line, and variables of its environment


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., list[Ended]]]:
    """`forks(program, processes)`: runs a program in processes of their own at once, which need not import torch anew.

    Variables are added to those of this process; its current folder is theirs. None may take longer than `seconds`.
    """
    folder = tmp_path_factory.mktemp("forks")
    command, pipe = [sys.executable, str(Path(__file__).parent / "assets/forks.py")], subprocess.PIPE
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    log = (folder / "log").open("w+")
    server = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=log, text=True, env=environment)
    assert server.stdin is not None
    assert server.stdout is not None

    def run(program: Path, processes: list[Process], seconds: int = 400) -> list[Ended]:
        outputs = [folder / str(number) for number in range(len(processes))]
        request = [
            {
                "program": str(program),
                "words": [str(word) for word in words],
                "environment": os.environ | {"OMP_NUM_THREADS": "1"} | variables,
                "folder": str(Path.cwd()),
                "output": str(output),
                "seconds": seconds,
            }
            for (words, variables), output in zip(processes, outputs, strict=True)
        ]
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        reply = server.stdout.readline()
        assert reply, (folder / "log").read_text()
        files = [[Path(f"{output}.{name}").read_text() for name in ("out", "err")] for output in outputs]
        return [Ended(code, *texts) for code, texts in zip(json.loads(reply), files, strict=True)]

    yield run
    server.stdin.close()
    server.wait()
    server.stdout.close()
    log.close()


@pytest.fixture(scope="session")
def ranks(forks: Callable[..., list[Ended]]) -> Callable[..., list[Ended]]:
    """`ranks(program, number, *words)`: runs a program on so many ranks, which know of each other as torchrun's do.

    One rank is a program that knows of none. All have to end well.
    """

    def run(program: Path, number: int, *words: object) -> list[Ended]:
        with socket.create_server(("", 0)) as server:
            port = server.getsockname()[1]
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "tests"}
        shared |= {"WORLD_SIZE": str(number), "LOCAL_WORLD_SIZE": str(number), "GROUP_RANK": "0"}
        own = [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} if number > 1 else {} for rank in range(number)]
        ended = forks(program, [(words, variables) for variables in own])
        assert [one.code for one in ended] == [0] * number, "\n".join(one.said[-3000:] for one in ended)
        return ended

    return run


@pytest.fixture
def on_two_ranks(forks: Callable[..., list[Ended]], tmp_path: Path) -> Callable[[str], list[Any]]:
    """Runs a function of `assets/on_two_ranks.py` on two ranks, which meet by a file; what each has returned."""

    def run(name: str) -> list[Any]:
        folder = tmp_path / name
        folder.mkdir()
        program = Path(__file__).parent / "assets/on_two_ranks.py"
        ended = forks(program, [([name, rank, folder], {}) for rank in range(2)])
        assert [rank.code for rank in ended] == [0, 0], "\n".join(rank.said for rank in ended)[-3000:]
        return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]

    return run


# --- two runs that should be the same ---------------------------------------------------------------------------------

MEASURED = re.compile(r"second|timing_s|_time$|ahead_s|overhead")  # metrics in seconds, or by them


def leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """What is in nested dicts and lists, by its place."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, f"{place}/{key}")
    elif isinstance(value, list | tuple):
        for at, item in enumerate(value):
            yield from leaves(item, f"{place}/{at}")
    elif isinstance(value, torch.Tensor | int | float | str | bool | None):
        yield place, value


def same(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first.nan_to_num(7.0), second.nan_to_num(7.0))
    return repr(first) == repr(second)  # NaN is NaN


@pytest.fixture(scope="session")
def differences() -> Callable[[Any, Any], list[str]]:
    """`differences(one, other)`: the places at which two nested things differ, bit for bit."""

    def differences(one: Any, other: Any) -> list[str]:
        mine, theirs = dict(leaves(one)), dict(leaves(other))
        missing = object()
        places = mine.keys() | theirs.keys()
        return sorted(place for place in places if not same(mine.get(place, missing), theirs.get(place, missing)))

    return differences


@pytest.fixture(scope="session")
def run_files() -> Callable[[Path], dict[str, Any]]:
    """`run_files(folder)`: what a run has left beside its checkpoints, without what is measured in seconds."""

    def run_files(folder: Path) -> dict[str, Any]:
        def without_seconds(numbers: dict[str, Any]) -> dict[str, Any]:
            return {name: number for name, number in numbers.items() if not MEASURED.search(name)}

        completions = folder / "completions.jsonl"
        return {
            "metrics": [without_seconds(row) for row in read_metrics(folder / "metrics.csv")],
            "summary": without_seconds(json.loads((folder / "summary.json").read_text())),
            "completions": completions.read_text() if completions.exists() else "",
        }

    return run_files
