"""SGLang's native server."""

from __future__ import annotations

from collections.abc import Sequence

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

FOR_ADAPTERS = "with --enable-lora and --max-lora-rank no smaller than the adapter's"
FOR_WEIGHTS = "with the model that is trained"


class SGLangDialect(ServerDialect):
    """SGLang's native server. Written after its documentation and not tried on the real one.

    Start it with --enable-deterministic-inference, without which it takes no notice of seeds. Its answers do not say
    which adapter has made them; a wrong one is found by its log-probabilities only. They do say the version of all
    weights.
    """

    def command(self, serving: Serving) -> list[str]:
        """Of SGLang's launcher."""
        words = ["python", "-m", "sglang.launch_server", "--model-path", serving.model, "--port", str(serving.port)]
        words += ["--dtype", serving.dtype, "--context-length", str(serving.context)]
        words += ["--enable-deterministic-inference", *(["--enable-memory-saver"] if serving.sleeps else [])]
        if serving.rank is None:
            return words
        return [*words, "--enable-lora", "--max-lora-rank", str(serving.rank), "--lora-target-modules", "all"]

    def load(self, server: Server, snapshot: Snapshot) -> None:
        """Loads, and empties the prefix cache."""
        if snapshot.full:
            update = {"model_path": str(snapshot.folder), "weight_version": snapshot.name, "flush_cache": True}
            with loading(snapshot, FOR_WEIGHTS):
                answer = server.post("/update_weights_from_disk", update)
                with malformed(answer):
                    if answer["success"] is not True:
                        raise ServerFaultError(excerpt.repr(answer))
            return
        with loading(snapshot, FOR_ADAPTERS):
            if not load_adapter(server, "/load_lora_adapter", snapshot):
                return
        server.post("/flush_cache", {})

    def unload(self, server: Server, snapshot: Snapshot) -> None:
        """Forgets the name of an adapter; all weights are loaded anew whenever they are loaded."""
        if not snapshot.full:
            with unless_not_found(400):
                server.post("/unload_lora_adapter", {"lora_name": snapshot.name})

    def sleep(self, server: Server, level: int) -> None:
        """Of a server with --enable-memory-saver, which drops the weights.

        Raises:
            ValueError: `level` is 1.
        """
        if level == 1:
            raise ValueError("sleep_level=1; SGLang drops the weights. Set sleep_level=2, for full finetuning only.")
        server.post("/release_memory_occupation", {})

    def wake(self, server: Server, part: str) -> None:
        """One part at a time."""
        server.post("/resume_memory_occupation", {"tags": [part]})

    def complete(
        self, server: Server, snapshot: Snapshot, prompt: Sequence[int], n: int, sampling: SamplingParams, seed: int
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
        }
        if not snapshot.full:
            request["lora_path"] = [snapshot.name] * n
        try:
            answer = server.post("/generate", request, longest_answer(prompt, n, sampling))
        except ServerFaultError as fault:
            raise ServerFaultError(str(fault), 404 if "lora" in str(fault).lower() else fault.status) from fault
        with malformed(answer):
            if snapshot.full:
                for one in answer:
                    check_name(one["meta_info"]["weight_version"], snapshot)
            return [
                Completion(
                    list(one["output_ids"]),
                    [float(entry[0]) for entry in one["meta_info"]["output_token_logprobs"]],
                )
                for one in answer
            ]
