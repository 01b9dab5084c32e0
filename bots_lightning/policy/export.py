"""Exports a policy: a folder that plain transformers and peft load, without this package."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import torch
from peft import PeftModel
from peft.tuners import lora
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from bots_lightning.policy.loading import language_model
from bots_lightning.policy.policy import Policy

ADAPTER = "default"  # the policy's; a critic's adapter has another name


@dataclass(frozen=True)
class Exported:
    """What an export has written.

    Attributes:
        folder: where.
        base: folder or Hub name of the pretrained model.
        is_adapter: whether it is an adapter, which needs the base, or a full model.
        dtype: of the written weights.
    """

    folder: Path
    base: str
    is_adapter: bool
    dtype: torch.dtype


def export_policy(
    policy: Policy, folder: str | Path, merge: bool = False, dtype: torch.dtype | None = None, about: str = ""
) -> Exported:
    """Writes the policy and its tokenizer: LoRA as an adapter folder, unless merged; full finetuning as a full model.

    Value heads and critics stay behind. The folder appears when it is complete, or not at all.

    Args:
        policy: loaded; left as it was.
        folder: a new or an empty one; its parents are made.
        merge: write a LoRA as a full model, W + ΔW.
        dtype: of the full model's weights; by default that of the pretrained ones.
        about: how the policy was trained, for the model card.

    Returns:
        what was written, and where.

    Raises:
        FileExistsError: the folder has files already.
        ValueError: a dtype for an adapter, or adapters that cannot be merged.
    """
    network, folder = policy.model, Path(folder)
    is_adapter = isinstance(network, PeftModel) and not merge
    if is_adapter and dtype is not None:
        raise ValueError(f"dtype={dtype} is for full models, adapters stay in float32. Merge, or leave the dtype out.")
    base = _base(network)
    with _new_folder(folder) as unfinished:
        if is_adapter:
            _save_adapter(network, base, unfinished)
        else:
            model = full_model(network, dtype)
            model.save_pretrained(unfinished)
        AutoTokenizer.from_pretrained(base).save_pretrained(unfinished)  # a run's own may have got a pad token
        exported = Exported(folder, base, is_adapter, torch.float32 if is_adapter else model.dtype)
        (unfinished / "README.md").write_text(_card(exported, about), encoding="utf-8")  # instead of peft's empty form
    return exported


def _card(exported: Exported, about: str) -> str:
    """A model card as the Hub reads it: what it is, how it was trained, how to load it."""
    library, auto = (
        ("peft", "AutoPeftModelForCausalLM") if exported.is_adapter else ("transformers", "AutoModelForCausalLM")
    )
    base = Path(exported.base).name if Path(exported.base).is_dir() else exported.base
    known = [] if Path(exported.base).is_dir() else [f"base_model: {base}"]
    head = [*known, f"library_name: {library}", "tags: [bots-lightning, reinforcement-learning]"]
    what = f"An adapter for `{base}`" if exported.is_adapter else f"`{base}`"
    load = f'from {library} import {auto}\n\nmodel = {auto}.from_pretrained("{exported.folder.name}")'
    parts = [
        "\n".join(("---", *head, "---")),
        f"# {exported.folder.name}",
        f"{what}, trained by reinforcement learning with bots-lightning.",
    ]
    return "\n\n".join([*parts, *([about] if about else []), f"```python\n{load}\n```"]) + "\n"


@torch.no_grad()
def full_model(policy: nn.Module, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """The pretrained model with its configs as shipped (the policy's dropout is off) and the policy's weights.

    Adapters are merged in float32, W + ΔW, and rounded once.

    Args:
        policy: as `load_policy` returns it; left as it was.
        dtype: of the weights; by default that of the pretrained ones.

    Returns:
        a new model of transformers, on the CPU.

    Raises:
        ValueError: there are adapters that cannot be merged.
    """
    trained = language_model(policy)
    model = AutoModelForCausalLM.from_pretrained(_base(policy), dtype=dtype or "auto")
    written: set[int] = set()
    for name, target in model.state_dict().items():
        weight = _merged_weight(trained, name).to(target)
        if target.data_ptr() in written and not torch.equal(weight, target):
            raise ValueError(
                f"{name} is tied to another weight and their adapters differ, which one merged weight cannot express. "
                "Export it as an adapter."
            )
        target.copy_(weight)
        written.add(target.data_ptr())
    return model


def _merged_weight(model: PreTrainedModel, name: str) -> Tensor:
    """A weight or buffer by its name in the pretrained model; W + ΔW in float32 where the policy's adapter is.

    Raises:
        ValueError: the adapter is not one of a linear layer or an embedding.
    """
    owner, _, leaf = name.rpartition(".")
    layer = model.get_submodule(owner)
    if not isinstance(layer, lora.LoraLayer):
        return cast(Tensor, getattr(layer, leaf))
    if not isinstance(layer, lora.Linear | lora.Embedding):
        raise ValueError(
            f"the adapter of {owner} ({type(layer).__name__}) cannot be merged. Export it without merging."
        )
    weight: Tensor = getattr(layer.get_base_layer(), leaf)
    if leaf != "weight" or ADAPTER not in layer.r:
        return weight
    added: Tensor = layer.get_delta_weight(ADAPTER)
    return weight.float() + added.float()


def check_unused(folder: Path) -> None:
    """Refuses a folder that has something in it, or a file in its place.

    Args:
        folder: that is to be written.

    Raises:
        FileExistsError: there is something.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists already, and was left as it is. Name another output, or remove it.")


def _save_adapter(policy: PeftModel, base: str, folder: Path) -> None:
    policy.peft_config[ADAPTER].base_model_name_or_path = base
    # The base's embeddings are never trained; by default peft would look for them on the Hub.
    policy.save_pretrained(str(folder), selected_adapters=[ADAPTER], save_embedding_layers=False)


def _base(policy: nn.Module) -> str:
    """Hub name of the pretrained model, or its folder as an absolute path, which holds wherever one loads it."""
    name = language_model(policy).name_or_path
    return str(Path(name).resolve()) if Path(name).is_dir() else name


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill beside the wanted one, whose place it takes at the end; an error leaves nothing behind."""
    check_unused(folder)
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as holder:
        unfinished = Path(holder) / folder.name
        unfinished.mkdir()
        yield unfinished
        for file in unfinished.iterdir():  # safetensors lets only the owner read
            shutil.copymode(unfinished / "tokenizer_config.json", file)
        unfinished.rename(folder)
