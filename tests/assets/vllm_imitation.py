"""The trainer's side of vLLM's weight transfer, as its documentation describes it; weights go through a file.

Real vLLM sends them by NCCL or CUDA IPC. All else is as there: four phases by HTTP, and what they are told.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from safetensors.torch import save_file
from torch import nn

PACKAGE = "vllm.distributed.weight_transfer"


class HTTPVLLMWeightSyncClient:
    """Asks the routes of a server."""

    def __init__(self, base_url: str, timeout: float = 300) -> None:
        self.base_url, self.timeout = base_url.rstrip("/"), timeout

    def post(self, path: str, **body: Any) -> None:
        """Raises `RuntimeError` for anything but success."""
        try:
            urlopen(Request(f"{self.base_url}/{path}", json.dumps(body).encode()), timeout=self.timeout).read()
        except HTTPError as error:
            raise RuntimeError(f"{path}: {error}: {error.read()[:200]!r}") from None


class ModuleSource:
    """The parameters of a model, as they are when they are asked for."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def weights(self) -> dict[str, Any]:
        """By name; tied ones are there once."""
        return {name: weight.detach().clone() for name, weight in self.model.named_parameters()}


class InitInfo:
    """What the trainer's side is told."""

    def __init__(self, **options: Any) -> None:
        self.options = options


class IPCTrainerInitInfo(InitInfo):
    """For CUDA IPC."""

    backend = "ipc"


class NCCLTrainerInitInfo(InitInfo):
    """For NCCL."""

    backend = "nccl"


class Engine:
    """Sends weights to one server."""

    made: ClassVar[list[Engine]] = []

    def __init__(self, init_info: InitInfo, client: HTTPVLLMWeightSyncClient, source: ModuleSource) -> None:
        self.init_info, self.client, self.source = init_info, client, source
        self.made.append(self)
        client.post("init_weight_transfer_engine", init_info=init_info.options | {"rank_offset": 1})

    def send_weights(self) -> None:
        """All phases but the first."""
        self.client.post("start_weight_update")
        weights = self.source.weights()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "weights.safetensors"
            save_file(weights, path)
            told = {"names": list(weights), "shapes": [list(weight.shape) for weight in weights.values()]}
            told |= {"dtype_names": [str(weight.dtype).removeprefix("torch.") for weight in weights.values()]}
            self.client.post("update_weights", update_info=told | {"file": str(path)})
        self.client.post("finish_weight_update")


class WeightTransferTrainerFactory:
    """Makes engines."""

    @staticmethod
    def trainer_init(init_info: InitInfo, *, client: HTTPVLLMWeightSyncClient, source: ModuleSource) -> Engine:
        """Connects both sides."""
        return Engine(init_info, client, source)


def modules() -> dict[str, ModuleType]:
    """What `import vllm…` finds, by name."""
    contents: dict[str, dict[str, Any]] = {
        "vllm": {},
        "vllm.distributed": {},
        PACKAGE: {
            "HTTPVLLMWeightSyncClient": HTTPVLLMWeightSyncClient,
            "ModuleSource": ModuleSource,
            "WeightTransferTrainerFactory": WeightTransferTrainerFactory,
        },
        f"{PACKAGE}.nccl_engine": {"NCCLTrainerInitInfo": NCCLTrainerInitInfo},
        f"{PACKAGE}.ipc_engine": {"IPCTrainerInitInfo": IPCTrainerInitInfo},
    }
    made = {}
    for name, content in contents.items():
        made[name] = ModuleType(name)
        vars(made[name]).update(content)
    return made
