"""Ranks started by every launcher; what happens when one of them, or a node, is preempted or fails."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bots_lightning.evaluation import read_metrics

ROOT = Path(__file__).parents[2]
PYTHON = [sys.executable, "-m"]
MARK = "BOTS_LIGHTNING_TEST_RUN"
LONG = 10_000  # steps; no test waits for the last
FIT = [
    "fit",
    *("--config", str(ROOT / "configs/quickstart.yaml")),
    *("--config", str(ROOT / "tests/assets/few_steps.yaml")),
    *("--model.optimizer.lr_scheduler_type", "constant"),
    *("--trainer.accelerator", "cpu"),
    *("--trainer.num_sanity_val_steps", "0"),
]
PORTS = iter(range(29_700, 29_900))
SECONDS = 60  # that the end of a run may take

pytestmark = [
    pytest.mark.slow,  # many processes on fixed ports, and the clock
    pytest.mark.skipif(sys.platform != "linux", reason="finds processes below /proc"),
]


class Job:
    """A run: launchers, or ranks, and all the processes that they start, known by a variable of their environment."""

    def __init__(self, folder: Path, cache: Path, steps: int, strategy: str, *options: str, devices: int = 2) -> None:
        self.folder, self.steps = folder / "quickstart", steps
        self.options = [*FIT, "--config", str(ROOT / f"configs/strategies/{strategy}.yaml")]
        self.options += ["--runs_dir", str(folder), "--trainer.devices", str(devices)]
        self.options += ["--data.steps_per_epoch", str(steps), "--trainer.val_check_interval", str(steps)]
        self.options += options
        self.environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "BOTS_LIGHTNING_CACHE": str(cache),
            "DS_ACCELERATOR": "cpu",
            "PYTHONUNBUFFERED": "1",
        }
        self.started: list[subprocess.Popen[str]] = []
        self.logs: list[Path] = []

    def start(self, *launcher: str, **environment: str) -> subprocess.Popen[str]:
        """Starts one launcher or rank."""
        self.logs.append(self.folder.parent / f"{self.steps}-{len(self.logs)}.log")
        with self.logs[-1].open("w") as log:
            process = subprocess.Popen(
                [*launcher, *self.options],
                env=self.environment | environment | {MARK: str(self.logs[-1])},
                cwd=self.folder.parent,
                stdout=log,
                stderr=log,
                text=True,
            )
        self.started.append(process)
        return process

    def await_steps(self, count: int = 2, seconds: float = 120) -> None:
        """Until some steps are logged."""
        self._await(lambda: len(self.rewards()) >= count, seconds)

    def await_end(self, launchers: list[subprocess.Popen[str]] | None = None, seconds: float = SECONDS) -> list[int]:
        """Exit codes of the launchers, when nothing that they have started is left."""
        launchers = self.started if launchers is None else launchers
        codes = [launcher.wait(seconds) for launcher in launchers]
        self._await(lambda: not any(self.ranks(launcher) for launcher in launchers), seconds)
        return codes

    def ranks(self, launcher: subprocess.Popen[str]) -> list[int]:
        """Process ids of a launcher and what it has started, as far as they run."""
        mark = f"\0{MARK}={self.logs[self.started.index(launcher)]}\0"
        return [pid for pid in _processes() if mark in _environment(pid)]

    def second_rank(self, launcher: subprocess.Popen[str]) -> int:
        """The process of rank 1, which says so in its environment."""
        return next(pid for pid in self.ranks(launcher) if "\0LOCAL_RANK=1\0" in _environment(pid))

    def rewards(self) -> list[float]:
        """Of the steps that are logged."""
        path = self.folder / "metrics.csv"
        rows = read_metrics(path) if path.is_file() and path.read_text().count("\n") > 1 else []
        return [row["reward"] for row in rows if "reward" in row]

    def said(self, position: int = 0) -> str:
        """What a launcher and its ranks have printed."""
        return self.logs[position].read_text()

    def kill(self, launcher: subprocess.Popen[str]) -> None:
        """All of its processes, at once and without a word."""
        for pid in self.ranks(launcher):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        launcher.wait()

    def _await(self, happened: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not happened():
            said = "\n".join(log.read_text()[-2000:] for log in self.logs)
            assert time.monotonic() < deadline, f"nothing after {seconds} s; {said}"
            time.sleep(0.2)


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _environment(pid: int) -> str:
    """Empty for one that has ended, or is not ours."""
    try:
        return "\0" + Path(f"/proc/{pid}/environ").read_text(errors="replace")
    except OSError:
        return ""


@pytest.fixture(scope="module")
def filled_cache(shared_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quickstart's cache, filled by a run of one process."""
    environment = os.environ | {"BOTS_LIGHTNING_CACHE": str(shared_cache), "OMP_NUM_THREADS": "1"}
    folder = tmp_path_factory.mktemp("alone")
    program = [*by_lightning(), *FIT, "--runs_dir", str(folder), "--trainer.limit_val_batches", "0"]
    subprocess.run(program, check=True, capture_output=True, env=environment, cwd=folder)
    return shared_cache


@pytest.fixture
def job(tmp_path: Path, filled_cache: Path) -> Iterator[Callable[..., Job]]:
    """Makes a run, and leaves nothing of it behind."""
    made: list[Job] = []

    def make(*options: str, steps: int = LONG, strategy: str = "ddp", name: str = "job", devices: int = 2) -> Job:
        if strategy != "ddp":
            pytest.importorskip("deepspeed", reason='needs the extra: pip install -e ".[deepspeed]"')
        (tmp_path / name).mkdir(exist_ok=True)
        made.append(Job(tmp_path / name, filled_cache, steps, strategy, *options, devices=devices))
        return made[-1]

    yield make
    for each in made:
        for process in each.started:
            each.kill(process)


def by_lightning() -> list[str]:
    return [*PYTHON, "bots_lightning"]


def by_torchrun(*options: str) -> list[str]:
    options = options or ("--nproc_per_node", "2", "--master_port", str(next(PORTS)))
    return [*PYTHON, "torch.distributed.run", *options, "-m", "bots_lightning"]


def by_deepspeed(*options: str) -> list[str]:
    program = str(Path(sys.executable).with_name("deepspeed"))
    return [sys.executable, program, "--master_port", str(next(PORTS)), *options, "--module", "bots_lightning"]


def state(job: Job) -> dict[str, Any]:
    return torch.load(job.folder / "checkpoints" / "last.ckpt")


LAUNCHERS = {"lightning": by_lightning, "torchrun": by_torchrun}


# --- preemption -------------------------------------------------------------------------------------------------


def test_a_signal_to_one_rank_saves_and_ends_all_and_the_resumed_run_goes_on(job: Callable[..., Job]) -> None:
    stopped = job()
    launcher = stopped.start(*by_torchrun())
    stopped.await_steps()
    os.kill(stopped.second_rank(launcher), signal.SIGTERM)
    assert stopped.await_end() == [0]
    iterations = state(stopped)["progress"]["iterations"]
    assert f"stopped after {iterations} iterations by a signal to another rank" in stopped.said()
    assert "is gone" not in stopped.said()
    rewards = stopped.rewards()
    assert len(rewards) == iterations
    resumed = job("--ckpt_path", "last", steps=iterations + 2)
    resumed.start(*by_torchrun())
    assert resumed.await_end() == [0]
    assert state(resumed)["progress"]["iterations"] == iterations + 2
    assert resumed.rewards()[:iterations] == rewards
    assert len(resumed.rewards()) == iterations + 2


@pytest.mark.parametrize("strategy", ["ddp", "zero2", "zero3"])
@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_any_or_all_ranks_saves(
    launcher: str, strategy: str, number: signal.Signals, job: Callable[..., Job]
) -> None:
    stopped = job(strategy=strategy)
    process = stopped.start(*LAUNCHERS[launcher]())
    stopped.await_steps()
    ranks = [pid for pid in stopped.ranks(process) if launcher == "lightning" or pid != process.pid]
    for pid in ranks:
        os.kill(pid, number)
    assert stopped.await_end() == [0]
    assert f"by {number.name}" in stopped.said()
    assert (stopped.folder / "checkpoints" / "last.ckpt").exists()


def test_torchrun_passes_sigterm_on_and_reports_it(job: Callable[..., Job]) -> None:
    stopped = job()
    launcher = stopped.start(*by_torchrun())
    stopped.await_steps()
    launcher.terminate()
    assert stopped.await_end() == [1]  # torchrun's way; its ranks have ended with 0
    assert "by SIGTERM" in stopped.said()
    assert state(stopped)["progress"]["iterations"] == len(stopped.rewards())


# --- a rank is lost ---------------------------------------------------------------------------------------------


def check_loss(job: Job, launcher: subprocess.Popen[str], lost: int, rank: int) -> float:
    """Kills a rank; the seconds until nothing is left."""
    began = time.monotonic()
    os.kill(lost, signal.SIGKILL)
    assert job.await_end([launcher])[0] != 0
    assert f"rank {rank} (process {lost} on " in job.said()
    return time.monotonic() - began


def test_a_killed_rank_is_named_and_ends_the_others(job: Callable[..., Job]) -> None:
    running = job()
    launcher = running.start(*by_lightning())
    running.await_steps()
    check_loss(running, launcher, running.second_rank(launcher), 1)
    assert "error: rank 1" in running.said()
    assert "Traceback" not in running.said()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_interrupted_ends_the_others_with_a_line(rank: int, job: Callable[..., Job]) -> None:
    """Started by hand, so that no launcher ends them; at once, since nothing would be saved first."""
    running = job("--trainer.callbacks", "[]")
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(next(PORTS)), "NODE_RANK": "0", "WORLD_SIZE": "2"}
    ranks = [running.start(*by_lightning(), **address, LOCAL_RANK=str(number)) for number in range(2)]
    running.await_steps()
    ranks[rank].send_signal(signal.SIGINT)
    codes = running.await_end()
    assert 0 not in codes
    words = rf"^error: rank {rank} \(process {ranks[rank].pid} on .*\) was interrupted by Ctrl-C or SIGINT"
    assert re.search(words, running.said(1 - rank), re.MULTILINE)
    assert "Traceback" not in running.said(1 - rank)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("strategy", ["ddp", "zero2", "zero3"])
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_every_launcher_and_strategy_ends_when_a_rank_is_killed(
    launcher: str, strategy: str, rank: int, job: Callable[..., Job]
) -> None:
    running = job(strategy=strategy)
    process = running.start(*LAUNCHERS[launcher]())
    running.await_steps()
    lost = running.second_rank(process)
    if rank == 0:
        others = [pid for pid in running.ranks(process) if pid != lost]
        lost = process.pid if launcher == "lightning" else next(pid for pid in others if pid != process.pid)
    print(f"{launcher}, {strategy}, rank {rank}: {check_loss(running, process, lost, rank):.1f} s")


# --- launchers --------------------------------------------------------------------------------------------------


@pytest.fixture
def whole(job: Callable[..., Job]) -> list[float]:
    """The rewards of two steps of two ranks that Lightning has started."""
    run = job(steps=2, name="whole")
    run.start(*by_lightning())
    assert run.await_end(seconds=120) == [0]
    return run.rewards()


def test_plain_variables_and_slurm_launch_the_same_run(job: Callable[..., Job], whole: list[float]) -> None:
    """SLURM is not here: the variables are set as srun sets them."""
    plain, slurm = job(steps=2, name="plain"), job(steps=2, name="slurm")
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(next(PORTS))}
    for rank in range(2):
        plain.start(*by_lightning(), **address, NODE_RANK="0", LOCAL_RANK=str(rank), WORLD_SIZE="2")
    assert plain.await_end(seconds=120) == [0, 0]
    for rank in range(2):
        slurm.start(
            *by_lightning(),
            SLURM_JOB_ID="4711",
            SLURM_JOB_NAME="bots",
            SLURM_NODELIST="127.0.0.1",
            SLURM_NTASKS="2",
            SLURM_NTASKS_PER_NODE="2",
            SLURM_NNODES="1",
            SLURM_NODEID="0",
            SLURM_PROCID=str(rank),
            SLURM_LOCALID=str(rank),
        )
    assert slurm.await_end(seconds=120) == [0, 0]
    assert plain.rewards() == slurm.rewards() == whole
    assert [path.name for path in slurm.folder.parent.iterdir() if path.is_dir()] == ["quickstart"]


def test_two_starts_of_one_name_get_two_folders_and_the_first_rank_tells_the_others(
    job: Callable[..., Job], whole: list[float]
) -> None:
    both = job(steps=2, name="both")
    for _ in range(2):
        both.start(*by_torchrun())
    assert both.await_end(seconds=240) == [0, 0]
    folders = [path for path in both.folder.parent.iterdir() if path.is_dir()]
    assert sorted(folder.name for folder in folders) == ["quickstart", "quickstart-2"]
    for folder in folders:
        rows = read_metrics(folder / "metrics.csv")
        assert [row["reward"] for row in rows if "reward" in row] == whole
        assert (folder / "checkpoints" / "last.ckpt").is_file()


def test_the_deepspeed_launcher_starts_one_node_or_two(job: Callable[..., Job], whole: list[float]) -> None:
    pytest.importorskip("deepspeed")
    one, two = job(steps=2, name="one"), job("--trainer.num_nodes", "2", steps=2, name="two", devices=1)
    one.start(*by_deepspeed("--num_gpus", "2"))
    assert one.await_end(seconds=120) == [0]
    hosts = two.folder.parent / "hostfile"
    hosts.write_text("127.0.0.1 slots=1\nlocalhost slots=1\n")
    port = str(next(PORTS))
    for node in range(2):
        options = ("--hostfile", str(hosts), "--no_ssh", "--node_rank", str(node), "--master_addr", "127.0.0.1")
        two.start(*by_deepspeed(*options, "--master_port", port))
    assert two.await_end(seconds=120) == [0, 0]
    assert one.rewards() == two.rewards() == whole


# --- nodes ------------------------------------------------------------------------------------------------------


class Nodes:
    """Two nodes with a cable between them: network namespaces where that is allowed, else two names of this machine."""

    def __init__(self, apart: bool) -> None:
        self.apart = apart
        self.names = [f"bots-{os.getpid()}-{node}" for node in range(2)]
        self.links = [f"bl{os.getpid() % 100_000}{node}" for node in range(2)]
        self.address = "10.77.0.1" if apart else "127.0.0.1"
        if not apart:
            return
        _ip("link", "add", self.links[0], "type", "veth", "peer", "name", self.links[1])
        for node, (name, link) in enumerate(zip(self.names, self.links, strict=True)):
            _ip("netns", "add", name)
            _ip("link", "set", link, "netns", name)
            _ip("-n", name, "addr", "add", f"10.77.0.{node + 1}/24", "dev", link)
            for device in ("lo", link):
                _ip("-n", name, "link", "set", device, "up")

    def start(self, job: Job) -> list[subprocess.Popen[str]]:
        """One torchrun on each."""
        port = str(next(PORTS))
        started = []
        for node, (name, link) in enumerate(zip(self.names, self.links, strict=True)):
            place = ["ip", "netns", "exec", name] if self.apart else []
            options = ["--nnodes", "2", "--nproc_per_node", "1", "--node_rank", str(node)]
            options += ["--master_addr", self.address, "--master_port", port]
            interface = link if self.apart else "lo"
            started.append(job.start(*place, *by_torchrun(*options), GLOO_SOCKET_IFNAME=interface))
        return started

    def cut(self) -> None:
        """Pulls the cable: no end of a connection hears anything any more."""
        _ip("-n", self.names[1], "link", "set", self.links[1], "down")

    def remove(self) -> None:
        """Takes them down."""
        for name in self.names if self.apart else ():
            _ip("netns", "del", name)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def may_divide_the_network() -> bool:
    if os.name != "posix" or not hasattr(os, "geteuid") or os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    name = f"bots-trial-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode == 0
    return made and subprocess.run(["ip", "netns", "del", name], capture_output=True).returncode == 0


@pytest.fixture
def nodes(job: Callable[..., Job]) -> Iterator[Nodes]:
    """Two, and none afterwards."""
    made = Nodes(apart=may_divide_the_network())
    yield made
    made.remove()


def spread(job: Callable[..., Job], *options: str, steps: int = LONG, strategy: str = "ddp") -> Job:
    return job("--trainer.num_nodes", "2", *options, steps=steps, strategy=strategy, devices=1)


@pytest.mark.parametrize("strategy", ["ddp", "zero2"])
def test_a_lost_node_ends_the_other_and_a_restart_resumes(strategy: str, job: Callable[..., Job], nodes: Nodes) -> None:
    running = spread(job, "--trainer.val_check_interval", "3", strategy=strategy)
    first, second = nodes.start(running)
    running.await_steps(8)
    began = time.monotonic()
    running.kill(second)
    assert running.await_end([first])[0] != 0
    print(f"the other node ended {time.monotonic() - began:.1f} s after the first was killed")
    assert re.search(r"error: rank 1 \(process \d+ on .*\) is gone", running.said())
    resumed = spread(job, "--ckpt_path", "last", steps=10, strategy=strategy)
    nodes.start(resumed)
    assert resumed.await_end(seconds=120) == [0, 0]
    assert len(resumed.rewards()) >= 10


def test_a_node_that_vanishes_without_a_word_is_noticed_by_both(job: Callable[..., Job], nodes: Nodes) -> None:
    if not nodes.apart:
        pytest.skip("needs the right to make network namespaces")
    running = spread(job)
    started = nodes.start(running)
    running.await_steps()
    began = time.monotonic()
    nodes.cut()
    assert all(code != 0 for code in running.await_end(started))
    print(f"both nodes ended {time.monotonic() - began:.1f} s after the cable was pulled")
    assert re.search(r"rank 1 \(process \d+ on .*\) is gone", running.said(0))
    assert re.search(r"rank 0 \(process \d+ on .*\) is gone", running.said(1))
