"""Each run has a folder of its own, which it takes when training begins and to which it keeps."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from bots_lightning.checkpoints import CheckpointError, claim_folder, free_folder, run_folders, run_of
from bots_lightning.cli import main
from bots_lightning.commands.run_folder import RunFolder
from bots_lightning.evaluation import read_metrics

ROOT = Path(__file__).parents[2]
FEW_STEPS = ["--config", str(ROOT / "configs/quickstart.yaml"), "--config", str(ROOT / "tests/assets/few_steps.yaml")]
OTHER_POOL = ["--data.source.init_args.num_tasks", "41"]
LONGER = ["--trainer.max_epochs", "2"]
COMPLETE = {"config.yaml", "metrics.csv", "summary.json", "completions.jsonl", "checkpoints", "tensorboard"}


@pytest.fixture
def fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> Callable[..., None]:
    """Trains for two steps in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *options: main(["fit", *FEW_STEPS, *options])


def content(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def config(folder: Path) -> Any:
    return yaml.safe_load((folder / "config.yaml").read_text())


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# --- starts that are refused ------------------------------------------------------------------------------------


def test_a_refused_resume_leaves_every_file_of_every_run_as_it_was(fit: Callable[..., None], tmp_path: Path) -> None:
    fit()
    before = content(tmp_path)
    last = "runs/quickstart/checkpoints/last.ckpt"
    for options in (OTHER_POOL, ["--model.policy.lora.r", "3"], [*OTHER_POOL, "--name", "other"]):
        with pytest.raises(ValueError, match=r"this run's pool is|pretrained"):
            fit(*options, *LONGER, "--ckpt_path", last)
    assert content(tmp_path) == before
    fit(*LONGER, "--ckpt_path", last)
    assert config(tmp_path / "runs/quickstart")["trainer"]["max_epochs"] == 2


def test_a_failed_start_takes_no_name(fit: Callable[..., None], tmp_path: Path) -> None:
    for options in (["--data.batch_size", "4000"], ["--trainer.overfit_batches", "1"]):
        with pytest.raises(ValueError, match=r"batch_size|overfit_batches"):
            fit(*options)
    assert not (tmp_path / "runs").exists()
    fit()
    assert names(tmp_path / "runs") == {"quickstart"}


@pytest.mark.parametrize("name", ["..", "../other", "/other", ".", ""])
def test_a_name_that_leads_out_of_the_runs_is_refused(name: str, fit: Callable[..., None], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"name='.*'; expected the name of a folder below runs_dir"):
        fit("--name", name)
    assert names(tmp_path) == set()


# --- where a run writes -----------------------------------------------------------------------------------------


def test_another_name_beside_a_checkpoint_makes_a_run_of_that_name_from_it(
    fit: Callable[..., None], tmp_path: Path
) -> None:
    fit()
    before = content(tmp_path / "runs/quickstart")
    fit(*LONGER, "--name", "branch", "--ckpt_path", "runs/quickstart/checkpoints/last.ckpt")
    assert content(tmp_path / "runs/quickstart") == before
    branch = tmp_path / "runs/branch"
    assert names(branch) == COMPLETE - {"completions.jsonl"}  # neither the first step nor a tenth
    assert [row["step"] for row in read_metrics(branch / "metrics.csv") if "reward" in row] == [3, 4]


def test_loggers_of_the_users_are_added_and_get_the_config(fit: Callable[..., None], tmp_path: Path) -> None:
    mine = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": ".", "name": "mine"}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"trainer": {"logger": mine}}))
    own = (tmp_path / "config.yaml").read_text()
    fit("--config", "config.yaml")
    assert (tmp_path / "config.yaml").read_text() == own
    assert names(tmp_path) == {"config.yaml", "runs", "mine"}
    run, curves = tmp_path / "runs/quickstart", tmp_path / "mine/version_0"
    assert names(run) == COMPLETE
    assert (run / "checkpoints/last.ckpt").is_file()
    assert "reward" in (curves / "metrics.csv").read_text()
    for folder in (curves, run / "tensorboard"):
        told = yaml.safe_load((folder / "hparams.yaml").read_text())
        assert told == config(run)


def test_without_loggers_the_run_keeps_to_its_folder_too(fit: Callable[..., None], tmp_path: Path) -> None:
    fit("--trainer.logger", "false")
    assert names(tmp_path / "runs/quickstart") == COMPLETE - {"metrics.csv", "tensorboard"}


def test_default_root_dir_is_taken_as_a_name_is(fit: Callable[..., None], tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    for _ in range(2):
        fit("--trainer.default_root_dir", "volume")
    fit(*LONGER, "--trainer.default_root_dir", "volume", "--ckpt_path", "last")
    assert names(tmp_path) == {"volume", "volume-2"}
    assert [len(read_metrics(tmp_path / name / "metrics.csv")) for name in ("volume", "volume-2")] == [3, 5]


def test_a_run_that_comes_second_moves_all_of_its_files(
    fit: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another of its name begins while this one loads its model."""
    setup = RunFolder.setup

    def overtaken(self: RunFolder, *args: Any, **options: Any) -> None:
        setup(self, *args, **options)
        claim_folder(self.named)

    monkeypatch.setattr(RunFolder, "setup", overtaken)
    fit()
    assert content(tmp_path / "runs/quickstart") == {"config.yaml": b""}
    assert names(tmp_path / "runs/quickstart-2") == COMPLETE
    assert (tmp_path / "runs/quickstart-2/checkpoints/last.ckpt").is_file()


# --- names and numbers ------------------------------------------------------------------------------------------


def runs(folder: Path, *numbers: str, name: str = "q") -> Path:
    """Run folders whose configs hold that name."""
    for number in numbers:
        (folder / number / "checkpoints").mkdir(parents=True)
        (folder / number / "config.yaml").write_text(f"name: {name}\n")
    return folder / "q"


def test_of_many_that_start_at_once_each_has_a_folder_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "q").mkdir()  # empty: nobody's
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(claim_folder, [tmp_path / "q"] * 24))
    assert {folder.name for folder in taken} == {"q", *(f"q-{number}" for number in range(2, 25))}


@pytest.mark.parametrize(
    ("there", "found", "following"),
    [
        ((), [], "q"),
        (("q",), ["q"], "q-2"),
        (("q-2", "q-3"), ["q-3", "q-2"], "q-4"),
        (("q", "q-3"), ["q-3", "q"], "q-4"),  # q-2 would look older than q-3
        (("q", "q-9", "q-10"), ["q-10", "q-9", "q"], "q-11"),
        (("q", "q-1", "q-02", "q-x", "qq-2", "q-2-2"), ["q"], "q-2"),
    ],
)
def test_gaps_between_runs_are_no_end(there: tuple[str, ...], found: list[str], following: str, tmp_path: Path) -> None:
    named = runs(tmp_path, *there)
    assert [folder.name for folder in run_folders(named)] == found
    assert free_folder(named).name == following
    assert claim_folder(named).name == following


def test_a_run_whose_own_name_ends_in_a_number_is_none_of_the_shorter_name(tmp_path: Path) -> None:
    named = runs(tmp_path, "q", "q-2")
    runs(tmp_path, "q-5", name="q-5")
    runs(tmp_path, "q-3", name="q-3")
    assert [folder.name for folder in run_folders(named)] == ["q-2", "q"]
    assert [folder.name for folder in run_folders(tmp_path / "q-5")] == ["q-5"]
    assert claim_folder(named).name == "q-4"


def test_a_checkpoint_belongs_to_the_run_that_holds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs(tmp_path / "runs", "q", "q-3")
    monkeypatch.chdir(tmp_path)
    named = Path("runs/q")
    assert run_of("runs/q-3/checkpoints/a.ckpt", named) == Path("runs/q-3")
    assert run_of(str(tmp_path / "runs/q/checkpoints/a.ckpt"), named) == named
    for other in ("runs/other/checkpoints/a.ckpt", "runs/q/a.ckpt", "a.ckpt", "s3://x/checkpoints/a.ckpt", None):
        assert run_of(other, named) is None


def test_a_place_where_no_folder_can_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(CheckpointError, match=r"runs/q/config\.yaml could not be written"):
        claim_folder(tmp_path / "runs/q")
