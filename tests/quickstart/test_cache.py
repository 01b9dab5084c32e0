"""What the quickstart makes is made once, by one process, and never left half done."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bots_lightning.quickstart.cache import cache_root, cached_folder, digest


def test_the_cache_is_where_the_variable_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("BOTS_LIGHTNING_CACHE", str(tmp_path / "mine"))
    assert cache_root() == tmp_path / "mine"


def test_else_it_is_in_the_users_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("BOTS_LIGHTNING_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root() == tmp_path / "bots_lightning"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / ".cache" / "bots_lightning"


def test_a_tilde_stands_for_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("BOTS_LIGHTNING_CACHE", "~/models")
    assert cache_root() == tmp_path / "models"


def test_a_digest_does_not_change_from_version_to_version() -> None:
    # printf '{"a": [1, 2.5], "b": "x"}' | sha256sum
    assert digest({"b": "x", "a": (1, 2.5)}) == "626b0e1e6c63d6ff"


values = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=3), st.lists, max_leaves=5)


@given(st.dictionaries(st.text(max_size=3), values, max_size=4), st.dictionaries(st.text(max_size=3), values))
def test_equal_descriptions_and_only_those_have_equal_digests(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert digest(one) == digest(dict(reversed(one.items())))
    assert (digest(one) == digest(other)) == (repr(sorted(one.items())) == repr(sorted(other.items())))


def test_a_folder_is_built_once(tmp_path: Path) -> None:
    builds: list[Path] = []

    def build(folder: Path) -> None:
        builds.append(folder)
        (folder / "weights").write_text("1")

    for _ in range(3):
        folder = cached_folder(tmp_path / "cache" / "model", build)
    assert folder == tmp_path / "cache" / "model"
    assert (folder / "weights").read_text() == "1"
    assert len(builds) == 1


@pytest.mark.parametrize("interruption", [ValueError, KeyboardInterrupt])
def test_an_interrupted_build_leaves_nothing_and_the_next_one_starts_afresh(
    tmp_path: Path, interruption: type[BaseException]
) -> None:
    def fails(folder: Path) -> None:
        (folder / "half").write_text("")
        raise interruption

    def succeeds(folder: Path) -> None:
        assert not any(folder.iterdir())
        (folder / "whole").write_text("")

    with pytest.raises(interruption):
        cached_folder(tmp_path / "model", fails)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
    assert [path.name for path in cached_folder(tmp_path / "model", succeeds).iterdir()] == ["whole"]


def test_the_folder_has_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        assert folder.is_dir()
        assert folder.parent == tmp_path  # the same file system, so that the renaming is atomic
        assert not (tmp_path / "model").exists()

    cached_folder(tmp_path / "model", build)


def test_others_wait_for_the_first(tmp_path: Path) -> None:
    builds: list[int] = []
    found: list[bool] = []

    def build(folder: Path) -> None:
        builds.append(1)
        time.sleep(0.2)
        (folder / "weights").write_text("")

    def ask() -> None:
        found.append((cached_folder(tmp_path / "model", build) / "weights").is_file())

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert builds == [1]
    assert found == [True] * 3
