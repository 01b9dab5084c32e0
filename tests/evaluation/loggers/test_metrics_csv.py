"""`metrics.csv` holds every row once, whatever columns come later and however often a run is resumed."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bots_lightning.checkpoints import CheckpointError
from bots_lightning.evaluation import MetricsCSV, read_metrics


def write(folder: Path, rows: list[dict[str, float]]) -> None:
    logger = MetricsCSV(folder)
    for row in rows:
        logger.log_metrics({name: value for name, value in row.items() if name != "step"}, step=int(row["step"]))
    logger.finalize("success")


def test_what_was_logged_is_read_back_without_empty_cells(tmp_path: Path) -> None:
    rows = [{"step": 0, "reward": 0.1}, {"step": 1, "reward": 1 / 3, "loss": -2e-17}]
    write(tmp_path / "run", rows)
    assert read_metrics(tmp_path / "run" / "metrics.csv") == rows


def test_the_metrics_of_one_step_share_a_row(tmp_path: Path) -> None:
    write(tmp_path, [{"step": 3, "reward": 0.5}, {"step": 3, "avg": 0.25}, {"step": 4, "reward": 0.75}])
    rows = [{"step": 3, "reward": 0.5, "avg": 0.25}, {"step": 4, "reward": 0.75}]
    assert read_metrics(tmp_path / "metrics.csv") == rows


def test_columns_that_come_later_leave_earlier_rows_as_they_were(tmp_path: Path) -> None:
    rows: list[dict[str, float]] = [{"step": i, "reward": i / 7} for i in range(4)]
    rows += [{"step": 4, "avg": 0.5}, {"step": 5, "reward": 0.1, "avg": 0.6}, {"step": 6, "loss": 3.0}]
    write(tmp_path, rows)
    assert read_metrics(tmp_path / "metrics.csv") == rows
    header = (tmp_path / "metrics.csv").read_text().splitlines()[0]
    assert header == "step,avg,loss,reward"


@pytest.mark.parametrize("resumed_at", [0, 2, 5, 9])
def test_a_resumed_run_keeps_earlier_rows_and_writes_its_own_anew(tmp_path: Path, resumed_at: int) -> None:
    write(tmp_path, [{"step": i, "reward": 0.0} for i in range(5)])
    resumed: list[dict[str, float]] = [{"step": i, "reward": 1.0, "loss": 2.0} for i in range(resumed_at, 12)]
    write(tmp_path, resumed)
    kept = [{"step": i, "reward": 0.0} for i in range(min(5, resumed_at))]
    assert read_metrics(tmp_path / "metrics.csv") == kept + resumed


def test_a_resumed_run_that_logs_nothing_leaves_the_file_alone(tmp_path: Path) -> None:
    write(tmp_path, [{"step": 0, "reward": 0.5}])
    before = (tmp_path / "metrics.csv").read_text()
    write(tmp_path, [])
    assert (tmp_path / "metrics.csv").read_text() == before


def test_only_the_last_row_is_held_back_since_it_may_still_grow(tmp_path: Path) -> None:
    logger = MetricsCSV(tmp_path)
    for step in range(3):
        logger.log_metrics({"reward": 0.5}, step)
        logger.save()  # Lightning calls this after every row
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.csv")] == [0, 1]
    logger.log_metrics({"avg": 0.25}, 2)
    logger.finalize("success")
    assert read_metrics(tmp_path / "metrics.csv")[2] == {"step": 2, "reward": 0.5, "avg": 0.25}


def test_nan_survives_and_a_missing_file_has_no_rows(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "metrics.csv") == []
    write(tmp_path, [{"step": 0, "reward": float("nan")}])
    (row,) = read_metrics(tmp_path / "metrics.csv")
    assert row["reward"] != row["reward"]


def test_checkpoints_go_right_below_the_run_folder(tmp_path: Path) -> None:
    logger = MetricsCSV(tmp_path)
    assert Path(str(logger.save_dir), str(logger.name), str(logger.version)) == tmp_path


def test_a_row_that_a_checkpoint_has_seen_is_on_disk_and_may_still_grow(tmp_path: Path) -> None:
    csv = MetricsCSV(tmp_path)
    csv.log_metrics({"loss": 1.0}, step=1)
    csv.log_metrics({"loss": 2.0}, step=2)
    csv.flush()
    assert read_metrics(tmp_path / "metrics.csv")[-1] == {"step": 2, "loss": 2.0}
    csv.log_metrics({"eval": 0.5}, step=2)
    csv.log_metrics({"loss": 3.0}, step=3)
    csv.finalize("success")
    assert read_metrics(tmp_path / "metrics.csv") == [
        {"step": 1, "loss": 1.0},
        {"step": 2, "loss": 2.0, "eval": 0.5},
        {"step": 3, "loss": 3.0},
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,loss\r\n1,0.5\r\n2,3e")
    assert read_metrics(path) == [{"step": 1, "loss": 0.5}]
    resumed = MetricsCSV(tmp_path)
    resumed.log_metrics({"loss": 0.25}, step=2)
    resumed.finalize("success")
    assert read_metrics(path) == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}]


@contextmanager
def full_disk(path: Path, room: int) -> Iterator[None]:
    """A limit on the size of files, that many bytes above a file's, stands for the end of a disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + room, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("later", [{"loss": 0.125}, {"loss": 0.125, "avg": 0.5}])  # a further row, a further column
def test_on_a_full_disk_a_row_is_complete_or_missing_and_is_written_once_there_is_space(
    later: dict[str, float], tmp_path: Path
) -> None:
    path = tmp_path / "metrics.csv"
    logger = MetricsCSV(tmp_path)
    logger.log_metrics({"loss": 0.5}, step=1)
    logger.flush()
    before = path.read_bytes()
    logger.log_metrics(later, step=2)
    with full_disk(path, room=3):
        for _ in range(2):  # the run ends, and closes its loggers
            with pytest.raises(CheckpointError, match=r"metrics\.csv could not be written .* Make room"):
                logger.finalize("failed")
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.csv"]
    logger.log_metrics({"loss": 0.25}, step=3)
    logger.finalize("success")
    rows: list[dict[str, float]] = [{"step": 1, "loss": 0.5}, {"step": 2} | later, {"step": 3, "loss": 0.25}]
    assert read_metrics(path) == rows


@pytest.mark.parametrize("damaged", ["2,32,0.25", "2", "2,x", ",0.5", "2.0.1,3", "\0\0\0", "nan,1"])
def test_a_damaged_row_is_left_out_with_a_warning_and_the_run_goes_on(damaged: str, tmp_path: Path) -> None:
    """As of two rows that have run into one."""
    path = tmp_path / "metrics.csv"
    path.write_text(f"step,loss\r\n1,0.5\r\n{damaged}\r\n3,0.75\r\n")
    with pytest.warns(UserWarning, match=r"metrics\.csv: damaged and left out are 1 rows, the first in line 3"):
        assert read_metrics(path) == [{"step": 1, "loss": 0.5}, {"step": 3, "loss": 0.75}]
    resumed = MetricsCSV(tmp_path)
    resumed.log_metrics({"loss": 0.25}, step=4)
    with pytest.warns(UserWarning, match="damaged"):
        resumed.finalize("success")
    assert [row["step"] for row in read_metrics(path)] == [1, 3, 4]


def test_a_last_row_that_grows_is_never_gone_from_the_disk(tmp_path: Path) -> None:
    """A kill at any moment leaves what the checkpoint has seen."""
    logger = MetricsCSV(tmp_path)
    logger.log_metrics({"loss": 1.0}, step=1)
    logger.flush()
    logger.log_metrics({"avg": 0.5}, step=1)
    assert read_metrics(tmp_path / "metrics.csv") == [{"step": 1, "loss": 1.0}]
