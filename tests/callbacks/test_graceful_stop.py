"""A run that is preempted saves itself, and resumed it equals the one that was left alone."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bots_lightning.cli import main
from bots_lightning.evaluation import read_metrics
from bots_lightning.rewards import exact_match
from bots_lightning.training import StepFailedError
from callbacks import EffectiveTaskRatio, GracefulStop
from callbacks.graceful_stop import how_to_continue

ROOT = Path(__file__).parents[2]
Fit = Callable[..., Path]


@pytest.fixture
def fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> Fit:
    """Trains the quickstart with few tasks below a name; preempted after some iteration, it ends with code 0."""
    monkeypatch.chdir(tmp_path)
    configs = [ROOT / "configs/quickstart.yaml", ROOT / "tests/assets/few_steps.yaml"]
    words = [word for config in configs for word in ("--config", str(config))]
    observe = EffectiveTaskRatio.on_train_batch_end

    def run(name: str, *options: str, stop_after: int = 0, number: signal.Signals = signal.SIGTERM) -> Path:
        def observe_and_signal(self: Any, trainer: Any, pl_module: Any, *rest: Any) -> None:
            observe(self, trainer, pl_module, *rest)
            if pl_module.progress.iterations == stop_after:
                os.kill(os.getpid(), number)

        monkeypatch.setattr(EffectiveTaskRatio, "on_train_batch_end", observe_and_signal)
        constant = ["--model.optimizer.lr_scheduler_type", "constant"]
        command = ["fit", *words, *constant, *options, "--name", name]
        if stop_after:
            with pytest.raises(SystemExit) as ended:
                main(command)
            assert ended.value.code == 0
        else:
            main(command)
        return tmp_path / "runs" / name

    return run


def outcome(run: Path) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """The last checkpoint, and the curves without what is measured in seconds."""
    state = torch.load(run / "checkpoints" / "last.ckpt")
    names = {"reward", "loss", "num_rollouts", "selection/effective_task_ratio", "selection/distinct_tasks", "step"}
    rows = [
        {
            name: value
            for name, value in row.items()
            if name in names | {"step"} or name.startswith(("eval/", "belief/"))
        }
        for row in read_metrics(run / "metrics.csv")
    ]
    return state, rows


def check_equal(ours: Any, theirs: Any) -> None:
    """Bit for bit."""
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours:
            check_equal(ours[key], theirs[key])
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs)
        for mine, other in zip(ours, theirs, strict=True):
            check_equal(mine, other)
    elif isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs)
    else:
        assert ours == theirs or (ours != ours and theirs != theirs)  # NaN is as good as NaN


@pytest.mark.parametrize(
    ("stop_after", "interval", "epochs", "number"),
    [
        (1, 2, 1, signal.SIGTERM),  # between two evaluations
        (2, 2, 1, signal.SIGUSR1),  # when one is due
        (3, 2, 1, signal.SIGINT),
        (3, 4, 1, signal.SIGHUP),
        (4, 4, 2, signal.SIGTERM),  # at the end of an epoch, with an evaluation
        (4, 3, 2, signal.SIGUSR1),  # at the end of an epoch, without one
    ],
)
def test_the_resumed_run_equals_the_undisturbed_one(
    stop_after: int, interval: int, epochs: int, number: signal.Signals, fit: Fit, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--data.steps_per_epoch", "4", "--trainer.val_check_interval", str(interval)]
    options += ["--trainer.max_epochs", str(epochs)]
    whole, rows = outcome(fit("whole", *options))
    stopped = fit("stopped", *options, stop_after=stop_after, number=number)
    last = stopped / "checkpoints" / "last.ckpt"
    said = capsys.readouterr().err
    assert f"stopped after {stop_after} iterations by {number.name}; to continue: --ckpt_path" in said
    assert said.rstrip().endswith("runs/stopped/checkpoints/last.ckpt")
    assert torch.load(last)["progress"]["iterations"] == stop_after
    assert not (stopped / "summary.json").exists()
    resumed, resumed_rows = outcome(fit("stopped", *options, "--ckpt_path", "last"))
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "progress", "evaluations"):
        check_equal(resumed[key], whole[key])
    check_equal(resumed["TaskDataModule"], whole["TaskDataModule"])
    check_equal(resumed_rows, rows)


def test_a_run_that_is_preempted_at_its_end_ends_as_always(fit: Fit, tmp_path: Path) -> None:
    options = ["--trainer.val_check_interval", "2"]
    whole = outcome(fit("whole", *options))
    with pytest.raises(pytest.fail.Exception):  # nothing is raised
        fit("preempted", *options, stop_after=2)
    preempted = outcome(tmp_path / "runs" / "preempted")
    check_equal(preempted[0]["state_dict"], whole[0]["state_dict"])
    check_equal(preempted[1], whole[1])
    assert (tmp_path / "runs" / "preempted" / "summary.json").is_file()


class Flaky:
    """The quickstart's reward function, whose grader is away at one of its calls."""

    def __init__(self, fails_at: int) -> None:
        self.calls, self.fails_at = 0, fails_at

    def __call__(self, *args: Any, **kwargs: Any) -> list[float]:
        self.calls += 1
        if self.calls == self.fails_at:
            raise ConnectionError("the grader does not answer")
        return exact_match(*args, **kwargs)


def test_a_step_that_fails_is_made_again_by_the_resumed_run(
    fit: Fit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--data.steps_per_epoch", "4", "--trainer.val_check_interval", "4"]
    whole, rows = outcome(fit("whole", *options))
    # the evaluation before training is its first call, so this is the third step
    monkeypatch.setattr("bots_lightning.rewards.exact_match", Flaky(fails_at=4))
    with pytest.raises(StepFailedError, match="ConnectionError: the grader does not answer"):
        fit("failed", *options)
    assert "saved as the last step left it; to continue: --ckpt_path" in capsys.readouterr().err
    resumed, resumed_rows = outcome(fit("failed", *options, "--ckpt_path", "last"))
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "progress", "evaluations"):
        check_equal(resumed[key], whole[key])
    check_equal(resumed["TaskDataModule"], whole["TaskDataModule"])
    check_equal(resumed_rows, rows)


def test_handlers_are_put_back(fit: Fit) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)]
    fit("whole")
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)] == before
    fit("stopped", stop_after=1)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)] == before


def test_ranks_agree_before_any_of_them_saves(tmp_path: Path) -> None:
    """This rank has heard nothing; another has."""
    saved: list[Path] = []
    decisions: list[bool] = []

    def reduce(mine: bool, all: bool) -> bool:
        decisions.append(mine)
        assert not all
        return True

    trainer: Any = SimpleNamespace(
        strategy=SimpleNamespace(reduce_boolean_decision=reduce),
        datamodule=SimpleNamespace(between_steps=[]),
        lightning_module=SimpleNamespace(progress=SimpleNamespace(iterations=0)),
        checkpoint_callback=None,
        default_root_dir=str(tmp_path),
        save_checkpoint=saved.append,
        is_global_zero=False,
    )
    callback, module = GracefulStop(), SimpleNamespace()
    callback.on_train_start(trainer, module)  # type: ignore[arg-type]
    (leave,) = trainer.datamodule.between_steps
    leave()
    callback.on_train_batch_end(trainer, module, None, None, 0)  # type: ignore[arg-type]
    assert (decisions, saved) == ([False], [])
    with pytest.raises(SystemExit) as ended:
        leave()
    assert (ended.value.code, saved) == (0, [tmp_path / "checkpoints" / "last.ckpt"])
    callback.teardown(trainer, module, "fit")  # type: ignore[arg-type]
    assert trainer.datamodule.between_steps == []


@pytest.fixture
def listening(monkeypatch: pytest.MonkeyPatch) -> Iterator[GracefulStop]:
    """In a run; with a clock that a test sets."""
    trainer: Any = SimpleNamespace(
        datamodule=SimpleNamespace(between_steps=[]),
        lightning_module=SimpleNamespace(progress=SimpleNamespace(iterations=5)),
    )
    callback = GracefulStop()
    callback.on_train_start(trainer, None)  # type: ignore[arg-type]
    yield callback
    callback.teardown(trainer, None, "fit")  # type: ignore[arg-type]


def test_the_second_ctrl_c_ends_at_once(
    listening: GracefulStop, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr("callbacks.graceful_stop.time.monotonic", lambda: now[0])
    listening._trainer.lightning_module.progress.iterations += 1  # type: ignore[union-attr, operator]
    signal.raise_signal(signal.SIGINT)
    assert "SIGINT: the step is finished and saved first; Ctrl-C again ends it at once." in capfd.readouterr().err
    now[0] += 0.1
    signal.raise_signal(signal.SIGINT)  # the launcher passes the same one on
    now[0] += 1
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_ctrl_c_behind_another_signal_is_the_first_one(listening: GracefulStop) -> None:
    listening._trainer.lightning_module.progress.iterations += 1  # type: ignore[union-attr, operator]
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
        signal.raise_signal(number)
    assert listening._received == "SIGUSR1"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_before_a_step_is_done_the_run_ends_at_once(number: signal.Signals, listening: GracefulStop) -> None:
    with pytest.raises(SystemExit) as ended:
        signal.raise_signal(number)
    assert ended.value.code == 128 + number


def test_ctrl_c_before_a_step_is_done(listening: GracefulStop) -> None:
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_a_signal_that_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        module = SimpleNamespace(progress=SimpleNamespace(iterations=0))
        trainer: Any = SimpleNamespace(datamodule=SimpleNamespace(between_steps=[]), lightning_module=module)
        callback = GracefulStop()
        callback.on_train_start(trainer, None)  # type: ignore[arg-type]
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        callback.teardown(trainer, None, "fit")  # type: ignore[arg-type]
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["fit", "--config", "a b.yaml"], "bots-lightning fit --config 'a b.yaml' --ckpt_path runs/q/last.ckpt"),
        (["fit", "--ckpt_path", "last", "--name", "q"], "bots-lightning fit --name q --ckpt_path runs/q/last.ckpt"),
        (["fit", "--ckpt_path=old.ckpt"], "bots-lightning fit --ckpt_path runs/q/last.ckpt"),
    ],
)
def test_the_command_that_continues(words: list[str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/venv/bin/bots-lightning", *words])
    assert how_to_continue(Path("runs/q/last.ckpt")) == f"to continue: {expected}"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    assert how_to_continue(Path("runs/q/last.ckpt")) == "to continue: --ckpt_path runs/q/last.ckpt"
