"""vLLM's OpenAI-compatible server."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from bots_lightning.rollouts.engine import SamplingParams
from bots_lightning.rollouts.server_client import Server, ServerFaultError
from bots_lightning.rollouts.server_dialect import (
    PLAIN,
    Completion,
    ServerDialect,
    Serving,
    check_name,
    excerpt,
    load_adapter,
    loading,
    longest_answer,
    malformed,
    unless_not_found,
)
from bots_lightning.rollouts.server_snapshot import Snapshot
from bots_lightning.rollouts.server_transfer import WeightTransfer

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM makes room for
SERVER_SIDE = Path(__file__).with_name("server_side")
FOR_ADAPTERS = (
    "with --enable-lora, --max-lora-rank no smaller than the adapter's, and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"
)
FOR_WEIGHTS = (
    "with VLLM_SERVER_DEV_MODE=1 and --worker-extension-cls bots_vllm_worker.PolicyWeights, the folder "
    "bots_lightning/rollouts/server_side on its PYTHONPATH"
)


class VLLMDialect(ServerDialect):
    """vLLM's OpenAI-compatible server.

    Each adapter is loaded under a name of its own and never in place: vLLM reads an adapter that was loaded in place
    again from disk at every decoding step, and its prefix cache tells adapters apart by name and path. All weights are
    loaded in place by the server's workers, which `server_side/bots_vllm_worker.py` extends. Answers do not say which
    weights they are of, so the workers are asked after each; and requests have a salt, by which the cache tells the
    weights apart. It is emptied for the sake of memory only, where the server allows that (VLLM_SERVER_DEV_MODE=1).

    Args:
        transfer: sends all weights from GPU to GPU while the policy is synced; None has servers read them from a
            folder. A server that loses them gets them at the next sync, and until then others serve.
    """

    def __init__(self, transfer: WeightTransfer | None = None) -> None:
        self.transfer, self.sends_weights = transfer, transfer is not None

    def command(self, serving: Serving) -> list[str]:
        """Of `vllm serve`."""
        words = ["VLLM_SERVER_DEV_MODE=1", "vllm", "serve", serving.model, "--port", str(serving.port)]
        words += ["--dtype", serving.dtype, "--max-model-len", str(serving.context)]
        words += ["--logprobs-mode", "processed_logprobs", "--generation-config", "vllm"]
        words += ["--enable-sleep-mode"] if serving.sleeps else []
        if serving.rank is None and self.transfer is not None:
            words += ["--weight-transfer-config", json.dumps({"backend": self.transfer.backend})]
            insecure = ["VLLM_ALLOW_INSECURE_SERIALIZATION=1"]  # handles of memory come pickled
            words = insecure * (self.transfer.backend == "ipc") + words
        if serving.rank is None:
            return [f"PYTHONPATH={SERVER_SIDE}", *words, "--worker-extension-cls", "bots_vllm_worker.PolicyWeights"]
        if serving.rank > RANKS[-1]:
            raise ValueError(f"lora.r={serving.rank}; vLLM serves adapters up to rank {RANKS[-1]}. Lower it.")
        room = next(rank for rank in RANKS if rank >= serving.rank)
        adapters = ["--enable-lora", "--max-lora-rank", str(room), "--max-loras", str(serving.versions + 1)]
        return ["VLLM_ALLOW_RUNTIME_LORA_UPDATING=True", *words, *adapters]

    def load(self, server: Server, snapshot: Snapshot) -> None:
        """Loads, and empties the prefix cache of what older weights have left there."""
        if snapshot.full and self.transfer is not None:
            check_name(self._call_workers(server, "policy_name"), snapshot)
        elif snapshot.full:
            with loading(snapshot, FOR_WEIGHTS):
                said = self._call_workers(server, "load_policy", str(snapshot.folder), snapshot.name)
                if said != snapshot.name:
                    raise ServerFaultError(f"its workers say {excerpt.repr(said)}")
        else:
            with loading(snapshot, FOR_ADAPTERS):
                if not load_adapter(server, "/v1/load_lora_adapter", snapshot):
                    return
        with unless_not_found():
            server.post("/reset_prefix_cache", {})

    def send(self, server: Server, snapshot: Snapshot, model: nn.Module) -> None:
        """Pauses a server, which keeps the requests that are under way, sends it the weights, and has it go on."""
        assert self.transfer is not None
        server.check_health()
        if not self._call_workers(server, "policy_name"):  # it has been restarted, or has failed halfway
            self.transfer.forget(server)
        self._call_workers(server, "name_policy", "")  # until all of the new ones are there
        server.post("/pause?mode=keep", {})
        try:
            self.transfer.send(server, model)
        finally:
            server.post("/resume", {})
        said = self._call_workers(server, "name_policy", snapshot.name)
        if said != snapshot.name:
            raise ServerFaultError(f"its workers say {excerpt.repr(said)}")

    def unload(self, server: Server, snapshot: Snapshot) -> None:
        """Forgets the name."""
        if snapshot.full:
            self._call_workers(server, "forget_policy", snapshot.name)
            return
        with unless_not_found():
            server.post("/v1/unload_lora_adapter", {"lora_name": snapshot.name})

    def sleep(self, server: Server, level: int) -> None:
        """Of a server with --enable-sleep-mode and VLLM_SERVER_DEV_MODE=1."""
        server.post(f"/sleep?level={level}", {})

    def wake(self, server: Server, part: str) -> None:
        """Does nothing where that part is awake."""
        server.post(f"/wake_up?tags={part}", {})

    def complete(
        self, server: Server, snapshot: Snapshot, prompt: Sequence[int], n: int, sampling: SamplingParams, seed: int
    ) -> list[Completion]:
        """One request; checks whose weights have answered."""
        request = PLAIN | {
            "prompt": list(prompt),
            "n": n,
            "seed": seed,
            "temperature": sampling.temperature,
            "top_k": 0,
            "max_tokens": sampling.max_completion_length,
            "stop_token_ids": list(sampling.stop_token_ids),
            "ignore_eos": True,  # the stop tokens are all listed
            "logprobs": 0,
            "return_token_ids": True,
        }
        request["cache_salt" if snapshot.full else "model"] = snapshot.name
        answer = server.post("/v1/completions", request, longest_answer(prompt, n, sampling))
        with malformed(answer):
            check_name(self._call_workers(server, "policy_name") if snapshot.full else answer["model"], snapshot)
            choices = {choice["index"]: choice for choice in answer["choices"]}
            return [_choice(choices[index]) for index in sorted(choices)]

    def _call_workers(self, server: Server, method: str, *words: str) -> str:
        """What all workers of a server say; of several that do not agree, what each says."""
        call = {"method": method, "args": list(words), "timeout": server.timeout_seconds}
        answer = server.post("/collective_rpc", call)
        with malformed(answer):
            said = list(dict.fromkeys(map(str, answer["results"])))
            return said[0] if len(said) == 1 else str(said)


def _choice(choice: dict[str, Any]) -> Completion:
    tokens = list(choice["token_ids"])
    logprobs = [float(value) for value in choice["logprobs"]["token_logprobs"]]
    if choice["finish_reason"] not in ("stop", "length"):
        reason = excerpt.repr(choice["finish_reason"])
        raise ServerFaultError(f"a completion has ended by {reason}; expected 'stop' or 'length'.")
    stop = choice.get("stop_reason")
    if isinstance(stop, int) and tokens[-1:] != [stop]:  # some versions keep it to themselves
        tokens.append(stop)
        logprobs.append(math.nan)
    return Completion(tokens, logprobs)
