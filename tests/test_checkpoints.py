"""Checkpoints take their place whole or not at all, are found again, and say what is wrong with them."""

from __future__ import annotations

import json
import os
import pickle
import random
import re
import resource
import shutil
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from bots_lightning.checkpoints import (
    AtomicCheckpointIO,
    CheckpointError,
    begin_folder,
    damage,
    find_checkpoint,
    own_digests,
    put_in_place,
    read_manifest,
    read_state,
    run_folders,
    unfinished,
    write_manifest,
    write_state,
)
from bots_lightning.checkpoints.files import replaced, tidy
from bots_lightning.cli import main
from bots_lightning.commands.export import read_checkpoint

ROOT = Path(__file__).parents[1]
FEW_STEPS = ["--config", str(ROOT / "configs/quickstart.yaml"), "--config", str(ROOT / "tests/assets/few_steps.yaml")]
IO = AtomicCheckpointIO()
Killed = type("Killed", (BaseException,), {})


def save(path: Path, number: int) -> Path:
    IO.save_checkpoint({"number": torch.tensor(number)}, path)
    return path


def shards(path: Path, number: int) -> Path:
    """A checkpoint folder."""
    folder = begin_folder(path)
    write_state(folder, {"number": number, "progress": {"iterations": number}})
    (folder / "checkpoint").mkdir()
    for rank in range(2):
        torch.save(torch.full((100,), number), folder / "checkpoint" / f"rank_{rank}.pt")
    digests = own_digests(folder, 0, 2) | own_digests(folder, 1, 2)
    write_manifest(folder, stage=2, world_size=2, weights={"w": (100,)}, digests=digests)
    put_in_place(path)
    return path


def save_at(path: Path, iteration: int) -> Path:
    """A checkpoint file that tells its iteration, as those of runs do."""
    IO.save_checkpoint({"weights": torch.zeros(9), "progress": {"iterations": iteration}}, path)
    return path


def shards_at(path: Path, iteration: int) -> Path:
    """A folder that does."""
    folder = begin_folder(path)
    write_state(folder, {"progress": {"iterations": iteration}})
    write_manifest(folder, stage=2, world_size=2, weights={}, digests=own_digests(folder, 0, 1))
    put_in_place(path)
    return path


def number_of(path: Path) -> int:
    content = torch.load(path / "state.pt" if path.is_dir() else path)
    return int(content["number"])


# --- writing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 20_000])
def test_a_full_disk_leaves_the_old_checkpoint_and_says_so(tmp_path: Path, size: int) -> None:
    """The limit on the size of a file stands for the end of the disk."""
    path = save(tmp_path / "last.ckpt", 1)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        with pytest.raises(CheckpointError, match=r"last\.ckpt could not be written \(.*MiB are free there.*Make room"):
            IO.save_checkpoint({"weights": torch.zeros(10_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]
    assert number_of(save(path, 2)) == 2


@pytest.mark.parametrize("write", [save, shards])
@pytest.mark.parametrize("moment", [1, 2, 3, 4, 5, 6, 7, 8])
def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(
    write: Callable[[Path, int], Path], moment: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Old or new; the next write clears up, and takes its place."""
    path = write(tmp_path / "checkpoints" / "last.ckpt", 1)
    seen = 0

    def killing(function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal seen
            seen += 1
            if seen == moment:
                raise Killed
            return function(*args, **kwargs)

        return counted

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", killing(torch.save))
        for module, name in ((os, "fsync"), (Path, "rename"), (Path, "replace")):
            patch.setattr(module, name, killing(getattr(module, name)))
        with suppress(Killed):
            write(path, 2)
    found = find_checkpoint("last", [tmp_path], required=True)
    assert found is not None
    assert damage(Path(found)) is None
    assert number_of(Path(found)) in (1, 2)
    assert number_of(write(path, 3)) == 3
    assert [left.name for left in path.parent.iterdir()] == ["last.ckpt"]


def test_what_a_torn_write_has_left_is_no_checkpoint(tmp_path: Path) -> None:
    path = save(tmp_path / "last.ckpt", 1)
    unfinished(path).write_bytes(path.read_bytes()[:50])
    begin_folder(tmp_path / "folder.ckpt")
    assert sorted(found.name for found in tmp_path.glob("*.ckpt") if not found.name.startswith(".")) == ["last.ckpt"]
    tidy(tmp_path)
    assert [left.name for left in tmp_path.iterdir()] == ["last.ckpt"]
    assert number_of(path) == 1


def test_a_folder_that_waits_for_its_successor_gets_its_name_back(tmp_path: Path) -> None:
    path = shards(tmp_path / "checkpoints" / "last.ckpt", 1)
    path.rename(replaced(path))
    assert find_checkpoint("last", [tmp_path], required=True) == str(replaced(path))
    assert find_checkpoint(str(path), [], required=True) == str(replaced(path))
    tidy(path.parent)
    assert number_of(path) == 1


def test_files_and_folders_replace_each_other_and_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    for number, write in enumerate((save, shards, save, shards, shards)):
        assert number_of(write(path, number)) == number
        assert list(tmp_path.iterdir()) == [path]
    IO.remove_checkpoint(path)
    IO.remove_checkpoint(save(tmp_path / "other.ckpt", 1))
    IO.remove_checkpoint(path)
    assert list(tmp_path.iterdir()) == []


# --- finding ------------------------------------------------------------------------------------------------------


def test_last_is_the_newest_whole_one_of_the_newest_run_that_has_any(tmp_path: Path) -> None:
    runs = [tmp_path / name for name in ("run", "run-2", "run-3", "run-5")]
    for run in runs:
        (run / "checkpoints").mkdir(parents=True)
    (runs[3] / "config.yaml").write_text("name: run-5\n")
    assert run_folders(tmp_path / "run") == [runs[2], runs[1], runs[0]]  # run-5 has a name of its own
    older, newer = (save(runs[1] / "checkpoints" / name, 1) for name in ("a.ckpt", "b.ckpt"))
    save(runs[0] / "checkpoints" / "last.ckpt", 1)
    os.utime(older, (1000, 1000))
    found = find_checkpoint("last", run_folders(tmp_path / "run"), required=True)
    assert found == str(newer)
    newer.write_bytes(newer.read_bytes()[:-30])
    with pytest.warns(UserWarning, match=r"b\.ckpt is damaged and left out: it cannot be read"):
        assert find_checkpoint("last", run_folders(tmp_path / "run"), required=True) == str(older)
    older.write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="left out"),
        pytest.raises(ValueError, match=r"all 2 checkpoints of .*run-2 are damaged"),
    ):
        find_checkpoint("last", run_folders(tmp_path / "run"), required=True)


@pytest.mark.parametrize("write", [save_at, shards_at])
def test_the_iteration_decides_which_is_newest_and_not_the_clock(
    write: Callable[[Path, int], Path], tmp_path: Path
) -> None:
    """A copy of a run may have any times."""
    folder = tmp_path / "checkpoints"
    paths = {number: write(folder / f"{number}.ckpt", number) for number in (9, 10, 2)}
    os.utime(paths[10], (1000, 1000))
    assert find_checkpoint("last", [tmp_path], required=True) == str(paths[10])
    twin = write(folder / "last.ckpt", 10)
    assert find_checkpoint("last", [tmp_path], required=True) == str(twin)


def test_a_damaged_one_is_named_though_its_iteration_is_unknown(tmp_path: Path) -> None:
    good, torn = (save_at(tmp_path / "checkpoints" / f"{number}.ckpt", number) for number in (1, 2))
    torn.write_bytes(torn.read_bytes()[:-30])
    os.utime(torn, (1000, 1000))
    with pytest.warns(UserWarning, match=r"2\.ckpt is damaged and left out"):
        assert find_checkpoint("last", [tmp_path], required=True) == str(good)


def test_without_a_checkpoint_training_starts_and_evaluation_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("bots_lightning.checkpoints.last.rank_zero_info", said.append)
    assert find_checkpoint("last", [], required=False) is None
    assert said == ["--ckpt_path last: there is no run of that name; the run starts from scratch."]
    with pytest.raises(ValueError, match=r"there is no checkpoint in .*checkpoints"):
        find_checkpoint("last", [tmp_path], required=True)


@pytest.mark.parametrize(
    ("harm", "fault"),
    [
        (lambda path: (path / "checkpoint/rank_1.pt").unlink(), "its file checkpoint/rank_1.pt is missing"),
        (lambda path: os.truncate(path / "checkpoint/rank_0.pt", 99), "rank_0.pt has 99 bytes instead of"),
        (lambda path: flip(path / "checkpoint/rank_0.pt"), "does not match its checksum"),
        (lambda path: (path / "shards.json").unlink(), "has no shards.json"),
        (lambda path: (path / "shards.json").write_text("{"), "cannot be read"),
        (lambda path: (path / "shards.json").write_text("{}"), "cannot be read"),
    ],
)
def test_damage_to_a_folder_is_named(harm: Callable[[Path], Any], fault: str, tmp_path: Path) -> None:
    path = shards(tmp_path / "last.ckpt", 7)
    assert damage(path) is None
    assert read_manifest(path).files["checkpoint/rank_0.pt"] > 800
    harm(path)
    assert fault in str(damage(path))


def flip(path: Path) -> None:
    """Another number in the middle of a tensor."""
    content = bytearray(path.read_bytes())
    content[content.index((7).to_bytes(8, "little") * 3)] ^= 1
    path.write_bytes(content)


def test_a_changed_tensor_in_a_file_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    IO.save_checkpoint({"number": torch.full((100,), 7)}, path)
    assert damage(path) is None
    flip(path)
    assert "does not match its checksum" in str(damage(path))


def states(path: Path) -> Any:
    """All that a run reads of a checkpoint."""
    if path.is_dir():
        shards = [torch.load(shard, weights_only=True) for shard in sorted(path.glob("checkpoint/*.pt"))]
        return shards, read_state(path), read_manifest(path)
    return torch.load(path, weights_only=True)


def with_bit_flipped(path: Path, at: int) -> Path:
    """A copy of a checkpoint in which one bit, of those of all its files in a row, is another."""
    copy = path.with_name("copy.ckpt")
    for old in [copy] if copy.exists() else []:
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    shutil.copytree(path, copy) if path.is_dir() else shutil.copyfile(path, copy)
    for file in sorted(file for file in (copy.rglob("*") if copy.is_dir() else [copy]) if file.is_file()):
        content = bytearray(file.read_bytes())
        if at < 8 * len(content):
            content[at // 8] ^= 1 << at % 8
            file.write_bytes(content)
            return copy
        at -= 8 * len(content)
    raise AssertionError("there are not as many bits")


def size_of(path: Path) -> int:
    return sum(file.stat().st_size for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file())


@pytest.mark.parametrize("kind", ["file", "folder", "file of an earlier version"])
def test_one_flipped_bit_is_found_or_harmless(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    if kind == "folder":
        shards(path, 7)
    else:
        content = {"progress": {"iterations": 3}, "weights": torch.arange(50.0), "names": ["a", "b"]}
        IO.save_checkpoint(content, path) if kind == "file" else torch.save(content, path)
    expected, rng, found = repr(states(path)), random.Random(0), 0
    bits = 8 * size_of(path)
    for at in [*rng.sample(range(bits), 250), *range(bits - 50, bits)]:
        copy = with_bit_flipped(path, at)
        if damage(copy):
            with pytest.raises(ValueError, match="damaged"):
                find_checkpoint(str(copy), [], required=True)
            found += 1
        elif kind != "file of an earlier version":  # which has no checksum of what stands between its tensors
            assert repr(states(copy)) == expected, at
    assert found > 100
    assert found == 300 or kind != "file"


def test_a_file_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    torch.save({"progress": {"iterations": 3}}, path)
    assert damage(path) is None
    assert find_checkpoint(str(path), [], required=True) == str(path)


def write_weights(path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, path)


@pytest.mark.parametrize(
    ("write", "fault"),
    [
        (lambda path: path.write_text("no checkpoint"), "it is no file of torch.save, or its beginning is lost"),
        (lambda path: path.write_bytes(b""), "it is no file of torch.save, or its beginning is lost"),
        (write_weights, "it is no file of torch.save, or its beginning is lost"),
        (lambda path: path.write_bytes(pickle.dumps({"state_dict": {}})), "it is no file of torch.save"),
        (lambda path: torch.save({"state_dict": {}}, path), "not a checkpoint that bots-lightning fit has written"),
        (lambda path: torch.save(torch.nn.Linear(2, 2), path), "not a checkpoint that bots-lightning fit has written"),
        (lambda path: torch.save([1, 2], path), "not a checkpoint that bots-lightning fit has written"),
        (lambda path: zipfile.ZipFile(path, "w").writestr("a.txt", "b"), "bots-lightning fit has written"),
        (lambda path: path.mkdir(), "has no shards.json: it is no checkpoint"),
    ],
)
def test_files_of_other_programs_are_told_from_checkpoints(
    write: Callable[[Path], Any], fault: str, tmp_path: Path
) -> None:
    path = tmp_path / "other.ckpt"
    write(path)
    with pytest.raises(ValueError, match=re.escape(fault)):
        find_checkpoint(str(path), [], required=True)
    with pytest.raises(ValueError, match=re.escape(fault)):
        read_checkpoint(path)


# --- the command line ---------------------------------------------------------------------------------------------


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> Path:
    """The checkpoints of a run; the current folder is that with its runs."""
    monkeypatch.chdir(tmp_path)
    main(["fit", *FEW_STEPS, "--ckpt_path", "last"])  # none yet
    return tmp_path / "runs" / "quickstart" / "checkpoints"


@pytest.fixture
def refused(program: Any) -> Callable[..., str]:
    """`refused(*options)`: the one line that the command ends with."""

    def refused(*options: str) -> str:
        code, _, said = program("fit", *FEW_STEPS, *options)
        assert code == 1, said
        assert "Traceback" not in said, said[-1500:]
        return said.splitlines()[-1]

    return refused


def test_the_same_command_goes_on_where_it_was(trained: Path) -> None:
    main(["fit", *FEW_STEPS, "--ckpt_path", "last", "--trainer.max_epochs", "2"])
    assert torch.load(trained / "last.ckpt")["progress"]["iterations"] == 4
    assert [run.name for run in trained.parents[1].iterdir()] == ["quickstart"]


def test_checkpoints_that_do_not_fit_are_refused_in_a_line(trained: Path, refused: Callable[..., str]) -> None:
    last, whole = str(trained / "last.ckpt"), (trained / "last.ckpt").read_bytes()
    longer = ["--trainer.max_epochs", "2", "--ckpt_path"]
    assert "there is no such checkpoint" in refused("--ckpt_path", str(trained / "gone.ckpt"))
    other_pool = refused("--data.source.init_args.num_tasks", "41", *longer, last)
    assert "of 40 tasks, this run's pool is" in other_pool
    other_model = refused("--model.policy.lora.r", "3", *longer, last)
    assert "Resume with the `pretrained` and `lora` of the checkpoint." in other_model
    (trained / "last.ckpt").write_bytes(whole[: len(whole) // 2])
    assert f"error: the checkpoint {last} is damaged: it cannot be read" in refused(*longer, last)


def test_the_last_few_are_kept_also_of_folders(tmp_path: Path) -> None:
    """`monitor: step`, `mode: max` and `save_top_k: N` of ModelCheckpoint keep the last N; it removes by the plugin."""
    for number in range(4):
        shards(tmp_path / f"{number}.ckpt", number)
    IO.remove_checkpoint(tmp_path / "0.ckpt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.ckpt", "2.ckpt", "3.ckpt"]
    assert json.loads((tmp_path / "1.ckpt" / "shards.json").read_text())["stage"] == 2
