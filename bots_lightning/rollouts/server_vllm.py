"""vLLM's OpenAI-compatible server."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from bots_lightning.rollouts.engine import SamplingParams
from bots_lightning.rollouts.server_adapter import Adapter
from bots_lightning.rollouts.server_client import Server, ServerFaultError
from bots_lightning.rollouts.server_dialect import (
    PLAIN,
    Completion,
    ServerDialect,
    about_loading,
    excerpt,
    longest_answer,
    malformed,
    unless_not_found,
)


class VLLMDialect(ServerDialect):
    """vLLM's OpenAI-compatible server.

    Each version of the policy is loaded under a name of its own and never in place: vLLM reads an adapter that was
    loaded in place again from disk at every decoding step, and its prefix cache tells adapters apart by name and path.
    The cache is emptied for the sake of memory only, where the server allows that (VLLM_SERVER_DEV_MODE=1).
    """

    def load(self, server: Server, adapter: Adapter) -> None:
        """Loads, and empties the prefix cache of what older adapters have left there."""
        try:
            server.post("/v1/load_lora_adapter", {"lora_name": adapter.name, "lora_path": str(adapter.folder)})
        except ServerFaultError as fault:
            if "already been loaded" in str(fault):
                return
            raise about_loading(fault, adapter) from fault
        with unless_not_found():
            server.post("/reset_prefix_cache", {})

    def unload(self, server: Server, adapter: Adapter) -> None:
        """Forgets the name."""
        with unless_not_found():
            server.post("/v1/unload_lora_adapter", {"lora_name": adapter.name})

    def complete(
        self, server: Server, adapter: Adapter, prompt: Sequence[int], n: int, sampling: SamplingParams, seed: int
    ) -> list[Completion]:
        """One request; checks that the adapter has answered."""
        request = PLAIN | {
            "model": adapter.name,
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
        answer = server.post("/v1/completions", request, longest_answer(prompt, n, sampling))
        with malformed(answer):
            if answer["model"] != adapter.name:
                raise ServerFaultError(f"{excerpt.repr(answer['model'])} has answered, {adapter.name} was asked.")
            choices = {choice["index"]: choice for choice in answer["choices"]}
            return [_choice(choices[index]) for index in sorted(choices)]


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
