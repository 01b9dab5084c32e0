"""SGLang's native server."""

from __future__ import annotations

from collections.abc import Sequence

from bots_lightning.rollouts.engine import SamplingParams
from bots_lightning.rollouts.server_adapter import Adapter
from bots_lightning.rollouts.server_client import Server, ServerFaultError
from bots_lightning.rollouts.server_dialect import (
    PLAIN,
    Completion,
    ServerDialect,
    about_loading,
    longest_answer,
    malformed,
    unless_not_found,
)


class SGLangDialect(ServerDialect):
    """SGLang's native server. Written after its documentation and not tried on the real one.

    Start it with --enable-deterministic-inference, without which it takes no notice of seeds. Its answers do not say
    which adapter has made them; a wrong one is found by its log-probabilities only.
    """

    def load(self, server: Server, adapter: Adapter) -> None:
        """Loads, and empties the prefix cache."""
        try:
            server.post("/load_lora_adapter", {"lora_name": adapter.name, "lora_path": str(adapter.folder)})
        except ServerFaultError as fault:
            if "already" in str(fault):
                return
            raise about_loading(fault, adapter) from fault
        server.post("/flush_cache", {})

    def unload(self, server: Server, adapter: Adapter) -> None:
        """Forgets the name."""
        with unless_not_found(400):
            server.post("/unload_lora_adapter", {"lora_name": adapter.name})

    def complete(
        self, server: Server, adapter: Adapter, prompt: Sequence[int], n: int, sampling: SamplingParams, seed: int
    ) -> list[Completion]:
        """A batch of n: one request of n completions would draw them all by the same seed."""
        shared = PLAIN | {
            "temperature": sampling.temperature,
            "top_k": -1,
            "max_new_tokens": sampling.max_completion_length,
            "stop_token_ids": list(sampling.stop_token_ids),
            "ignore_eos": True,
        }
        request = {
            "input_ids": [list(prompt)] * n,
            "sampling_params": [shared | {"sampling_seed": (seed + j) % 2**31} for j in range(n)],
            "return_logprob": True,
            "lora_path": [adapter.name] * n,
        }
        try:
            answer = server.post("/generate", request, longest_answer(prompt, n, sampling))
        except ServerFaultError as fault:
            raise ServerFaultError(str(fault), 404 if "lora" in str(fault).lower() else fault.status) from fault
        with malformed(answer):
            return [
                Completion(
                    list(one["output_ids"]),
                    [float(entry[0]) for entry in one["meta_info"]["output_token_logprobs"]],
                )
                for one in answer
            ]
