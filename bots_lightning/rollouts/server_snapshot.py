"""The policy's weights as a folder that inference servers load: its adapter, or all of them."""

from __future__ import annotations

import json
import shutil
from copy import copy
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from bots_lightning.rollouts.server_side.bots_vllm_worker import MARKER

POLICY = "default"  # the policy's adapter in a PEFT model; a critic's has another name
DIGESTED = 1024  # numbers of each weight of full finetuning that go into its name; an update changes all of them


@dataclass(frozen=True)
class Snapshot:
    """The policy's weights at one time, written to disk or about to be.

    Attributes:
        name: version of the policy and a digest of the weights, by which two different ones differ.
        folder: its own name is that of the snapshot. An adapter in the layout of peft, or a checkpoint of transformers
            with a marker.
        full: whether it is the latter: all weights, which take the place of the server's.
        version: of the policy.
        later: names of those that were synced after it. All weights of one of them may have taken the place of these
            while completions were sampled.
    """

    name: str
    folder: Path
    full: bool = False
    version: int = 0
    later: list[str] = field(default_factory=list, compare=False)


def policy_weights(policy: nn.Module) -> dict[str, Tensor]:
    """The weights of the policy's adapter under peft's names, and no others, such as a critic's; or all weights.

    Weights that are tied are there once, under the first of their names.

    Args:
        policy: a PEFT model, or a model of transformers that is finetuned in full; with gathered parameters.
    """
    if isinstance(policy, PeftModel):
        weights = get_peft_model_state_dict(policy, adapter_name=POLICY, save_embedding_layers=False)
        return {name: weight.detach().cpu().contiguous() for name, weight in sorted(weights.items())}
    distinct: dict[int, tuple[str, Tensor]] = {}
    for name, weight in policy.state_dict().items():
        distinct.setdefault(weight.data_ptr(), (name, weight.detach()))
    return dict(distinct.values())


def named_snapshot(policy: nn.Module, weights: dict[str, Tensor], parent: Path, policy_version: int) -> Snapshot:
    """Name and folder of a snapshot; the same on every rank that has the same weights."""
    full = not isinstance(policy, PeftModel)
    digest = sha256()
    for name, weight in weights.items():
        digest.update(name.encode())
        numbers = weight.flatten()
        if full:
            numbers = numbers[:: max(1, len(numbers) // DIGESTED)].contiguous().cpu()
        digest.update(numbers.view(torch.uint8).numpy().data)
    name = f"policy-{policy_version}-{digest.hexdigest()[:12]}"
    return Snapshot(name, parent / name, full, policy_version)


def write_snapshot(
    policy: nn.Module, weights: dict[str, Tensor], snapshot: Snapshot, dtype: torch.dtype | None = None
) -> None:
    """Writes the folder, complete or not at all; one that exists holds the same weights.

    Args:
        policy: whose weights they are.
        weights: of `policy_weights`.
        snapshot: of these weights.
        dtype: of full weights in the folder; None keeps that of the policy.
    """
    if snapshot.folder.exists():
        return
    unfinished = snapshot.folder.with_name(f".{snapshot.name}.{uuid4().hex}")
    unfinished.mkdir(parents=True)
    try:
        if isinstance(policy, PeftModel):
            config = copy(policy.peft_config[POLICY])
            config.inference_mode = True
            config.save_pretrained(str(unfinished))
            _save(weights, unfinished / "adapter_model.safetensors")
        else:
            _write_checkpoint(policy, weights, unfinished, snapshot.name, dtype)
        unfinished.rename(snapshot.folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _write_checkpoint(
    policy: nn.Module, weights: dict[str, Tensor], folder: Path, name: str, dtype: torch.dtype | None
) -> None:
    """A checkpoint of transformers, one shard after the other in memory, and the marker."""
    assert isinstance(policy, PreTrainedModel), f"{type(policy).__name__}; expected a model of transformers"
    plan = split_torch_state_dict_into_shards(weights)
    for file, names in plan.filename_to_tensors.items():
        shard = {each: _on_host(weights[each], dtype) for each in names}
        _save(shard, folder / file)
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    policy.config.save_pretrained(str(folder))
    files = {file: (folder / file).stat().st_size for file in plan.filename_to_tensors}
    (folder / MARKER).write_text(json.dumps({"name": name, "files": files}), encoding="utf-8")


def _on_host(weight: Tensor, dtype: torch.dtype | None) -> Tensor:
    converted = weight.to(dtype) if dtype is not None and weight.is_floating_point() else weight
    return converted.cpu().contiguous()


def _save(weights: dict[str, Tensor], path: Path) -> None:
    """A file that servers of other users can read; safetensors lets only the owner read it."""
    save_file(weights, path, metadata={"format": "pt"})
    path.chmod(path.parent.stat().st_mode & 0o666)
