"""Lets a vLLM server take all weights of a policy from a folder: an extension of its workers.

    export PYTHONPATH=bots_lightning/rollouts/server_side VLLM_SERVER_DEV_MODE=1
    vllm serve MODEL --worker-extension-cls bots_vllm_worker.PolicyWeights ...

Needs vLLM 0.14 or later, whose workers load weights again in place (`reload_weights`). Nothing else of bots-lightning
is imported: the server's environment need not have it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import safe_open

MARKER = "complete.json"
"""The file of a folder that is written last: its name, and the bytes of each of its files."""


class PolicyWeights:
    """Methods that a worker of vLLM gets, called by `POST /collective_rpc`; they return strings and raise nothing.

    An error that a worker raises may end the engine; here it is the answer instead.
    """

    policy = ""
    """Name of the weights that it holds; empty for those it was started with, or if loading has failed halfway."""

    def load_policy(self: Any, folder: str, name: str) -> str:
        """Loads the weights of a folder, unless it holds them; returns the name that it holds, or what is wrong."""
        if self.policy == name:
            return name
        try:
            shards = complete_shards(Path(folder), name)
            self.policy = ""
            self.reload_weights(weights_iterator=tensors(shards))
            pack_tied_heads(self.model_runner.get_model())
        except Exception as error:  # the caller tells it, and tries again
            return f"{type(error).__name__}: {error}"
        self.policy = name
        return name

    def policy_name(self: Any) -> str:
        """The name of the weights that it holds."""
        return str(self.policy)

    def name_policy(self: Any, name: str) -> str:
        """Names the weights that it got in another way; empty while they are on their way."""
        self.policy = name
        return name

    def forget_policy(self: Any, name: str) -> str:
        """Has weights of this name loaded anew the next time; returns the name that it then holds."""
        if self.policy == name:
            self.policy = ""
        return str(self.policy)


def complete_shards(folder: Path, name: str) -> list[Path]:
    """The files of a folder that is complete.

    Raises:
        OSError: the folder, its marker or a file is not there (yet).
        ValueError: they are of other weights, or torn.
    """
    marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    if marker["name"] != name:
        raise ValueError(f"{folder} holds {marker['name']}, {name} was asked for")
    for file, size in marker["files"].items():
        found = (folder / file).stat().st_size
        if found != size:
            raise ValueError(f"{folder / file} has {found} bytes; expected {size}")
    return [folder / file for file in marker["files"]]


def pack_tied_heads(model: Any) -> None:
    """Renews the copy of a head, packed for its kernel, that vLLM has on CPUs and forgets where the head is tied."""
    for layer in model.modules():
        if hasattr(layer, "tie_weights") and hasattr(layer, "cpu_linear"):
            layer.quant_method.process_weights_after_loading(layer)


def tensors(shards: list[Path]) -> Iterator[tuple[str, Any]]:
    """Names and weights, one at a time."""
    for shard in shards:
        with safe_open(shard, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118, it has no iterator
                yield name, file.get_tensor(name)
