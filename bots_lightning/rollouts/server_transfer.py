"""All weights of the policy to vLLM's servers without a file: by NCCL between GPUs, or by CUDA IPC on the same one."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import torch
from torch import nn

from bots_lightning.options import check_numbers, check_option
from bots_lightning.rollouts.server_client import Server, ServerFaultError
from bots_lightning.rollouts.server_dialect import malformed

Backend = Literal["nccl", "ipc"]


class WeightTransfer:
    """Sends weights by vLLM's own weight transfer, which needs `vllm` 0.28 or later beside the training.

    Each server has a connection of its own, so that one which fails costs nobody else's; it is connected anew at the
    next sync. Written after vLLM's documentation and tried on an imitation of its routes, since both backends need
    CUDA.

    Args:
        backend: "nccl" for servers with GPUs of their own, "ipc" for those on the GPU of the first rank.
        master_address: of the first rank, as the servers reach it; by default the name of its host.
        timeout_seconds: the longest that the transfer to one server may take.
    """

    def __init__(self, backend: Backend = "nccl", master_address: str = "", timeout_seconds: float = 300.0) -> None:
        check_option("backend", backend, Backend)
        check_numbers(0, above=True, timeout_seconds=timeout_seconds)
        self.backend, self.timeout_seconds = backend, timeout_seconds
        self.master_address = master_address or socket.gethostname()
        self._engines: dict[str, Any] = {}  # by URL

    def send(self, server: Server, model: nn.Module) -> None:
        """Sends all weights to a server.

        Args:
            server: that is paused.
            model: the policy, with all of its parameters, on its device.

        Raises:
            ServerFaultError: they did not arrive in time. A transfer whose other side has died may never end: its
                thread is left behind.
            ImportError: there is no vLLM here, or an earlier one.
        """
        thread = ThreadPoolExecutor(1, "weights")
        sent = thread.submit(self._transfer, server, model)
        try:
            sent.result(self.timeout_seconds)
        except (OSError, RuntimeError, ServerFaultError) as error:  # of HTTP, of NCCL and CUDA, of time
            self.forget(server)
            raise ServerFaultError(
                f"{type(error).__name__}: {error} -- while weights were sent by {self.backend}. Was the server started "
                f"as `bots-lightning serve` prints it, and does it reach {self.master_address}?"
            ) from error
        finally:
            thread.shutdown(wait=False)

    def forget(self, server: Server) -> None:
        """Has a server connected anew the next time: it does not know of the connection that there was."""
        self._engines.pop(server.url, None)

    def _transfer(self, server: Server, model: nn.Module) -> None:
        device = next(model.parameters()).device
        if device.type == "cuda":
            torch.cuda.set_device(device)  # of this thread
        if server.url not in self._engines:
            self._engines[server.url] = connected(self.backend, server, model, self.master_address)
        self._engines[server.url].send_weights()


def connected(backend: Backend, server: Server, model: nn.Module, address: str) -> Any:
    """The trainer's side of a transfer to one server: `send_weights` starts an update, sends it and finishes it.

    Args:
        backend: how weights are sent.
        server: to send to.
        model: whose parameters are sent, as they are at the time.
        address: where the two sides meet, for NCCL.

    Raises:
        ImportError: there is no vLLM here, or an earlier one.
    """
    try:
        from vllm.distributed.weight_transfer import (  # type: ignore[import-not-found, unused-ignore]
            HTTPVLLMWeightSyncClient,
            ModuleSource,
            WeightTransferTrainerFactory,
        )
    except ImportError as error:
        raise ImportError(
            "weights are sent by vLLM's own client: install vllm 0.28 or later beside the training, or leave transfer "
            "out, so that they go through adapter_dir."
        ) from error
    options: dict[str, Any] = {"rank": 0, "packed": True}
    if backend == "ipc":
        from vllm.distributed.weight_transfer.ipc_engine import (  # type: ignore[import-not-found, unused-ignore]
            IPCTrainerInitInfo as InitInfo,
        )
    else:
        from vllm.distributed.weight_transfer.nccl_engine import (  # type: ignore[import-not-found, unused-ignore]
            NCCLTrainerInitInfo as InitInfo,
        )

        answer = server.get("/get_world_size")
        with malformed(answer):
            workers = int(answer["world_size"])
        options |= {"master_address": address, "master_port": _free_port(), "world_size": 1 + workers}
    client = HTTPVLLMWeightSyncClient(server.url, timeout=server.timeout_seconds)
    factory = WeightTransferTrainerFactory.trainer_init
    return factory(init_info=InitInfo(**options), client=client, source=ModuleSource(model))


def _free_port() -> int:
    with socket.create_server(("", 0)) as server:
        return int(server.getsockname()[1])
