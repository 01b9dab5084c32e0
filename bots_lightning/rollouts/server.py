"""Rollouts by inference servers that run beside the training, on this node or others: vLLM, SGLang."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
from torch import nn

from bots_lightning.options import check_numbers, check_option
from bots_lightning.rollouts.completed import own_tokens
from bots_lightning.rollouts.engine import GenerationRequest, RolloutEngine, derive_seed, rollout_mode
from bots_lightning.rollouts.rollouts import Rollouts
from bots_lightning.rollouts.server_check import is_the_policys, other_policy
from bots_lightning.rollouts.server_client import RolloutServerError, Server, ServerPool
from bots_lightning.rollouts.server_dialect import Completion, ServerDialect, check_completions
from bots_lightning.rollouts.server_rollouts import rollouts_of
from bots_lightning.rollouts.server_snapshot import Snapshot, named_snapshot, policy_weights, write_snapshot
from bots_lightning.rollouts.server_vllm import VLLMDialect

KEPT_ADAPTERS = 2  # the present one and that before it
WeightsDtype = Literal["float32", "bfloat16", "float16"]


class ServerEngine(RolloutEngine):
    """Samples by inference servers, and keeps their copy of the policy up to date.

    Before each batch of rollouts the first rank writes the policy's adapter, or in full finetuning all its weights, to
    a folder of its own. Every server is given them before it is first asked, and again after it has failed in any way:
    one that has been restarted has forgotten them. They have a name that no others share, and an answer counts only if
    it is of that name. The first tokens of each server by each are compared with the policy itself, which finds another
    base model, truncated sampling and log-probabilities of another temperature.

    A server that fails is left alone for a while, and its requests go to others; the completions are the same, being a
    function of policy, prompt and seed. If none answers any more, the step fails on all ranks and the run can be
    resumed.

    Args:
        urls: of the servers, e.g. http://node-7:8000; all ranks share them.
        adapter_dir: folder for adapters, or for all weights, of which it holds two copies at a time; on a disk, or in a
            memory (/dev/shm), that ranks and servers see under the same path.
        dialect: which kind of server it is; `VLLMDialect` by default.
        logprobs: keep the log-probabilities that the servers give, as those that tokens were drawn by: algorithms
            correct for the difference to their own. False takes their own for them.
        requests_per_server: the most prompts that one rank has with one server at a time, on average.
        timeout_seconds: the longest that the completions of one prompt may take. A server that hangs costs it once.
        patience_seconds: how long a request that has failed is tried again, on any server; enough for a restart.
        max_logprob_gap: the largest mean difference |Δ log p| per token between a server and the policy, in nats. In
            bfloat16 some hundredths are usual.
        max_answer_bytes: the longest answer that is read; None takes what suffices for the completions asked for.
        weights_dtype: of all weights in their folder; that of the servers saves half of the bytes where they have
            bfloat16 and the policy is kept in float32. None writes the policy's.
    """

    def __init__(
        self,
        urls: list[str],
        adapter_dir: str,
        dialect: ServerDialect | None = None,
        logprobs: bool = True,
        requests_per_server: int = 64,
        timeout_seconds: float = 600.0,
        patience_seconds: float = 600.0,
        max_logprob_gap: float = 0.2,
        max_answer_bytes: int | None = None,
        weights_dtype: WeightsDtype | None = None,
    ) -> None:
        if not urls:
            raise ValueError("urls is empty; expected at least one server, e.g. http://localhost:8000.")
        if weights_dtype is not None:
            check_option("weights_dtype", weights_dtype, WeightsDtype)
        check_numbers(1, requests_per_server=requests_per_server, max_answer_bytes=max_answer_bytes)
        check_numbers(0, above=True, timeout_seconds=timeout_seconds)
        self.pool = ServerPool(urls, timeout_seconds, patience_seconds, max_answer_bytes=max_answer_bytes)
        self.adapter_dir, self.dialect = Path(adapter_dir).resolve(), dialect or VLLMDialect()
        self.logprobs, self.requests_per_server = logprobs, requests_per_server
        self.max_logprob_gap = max_logprob_gap
        self.weights_dtype: torch.dtype | None = getattr(torch, weights_dtype) if weights_dtype else None
        self.policy_version: int | None = None  # that of the last snapshot
        self.snapshots: list[Snapshot] = []  # the last few, the present one last

    def sync(self, policy: nn.Module, policy_version: int) -> None:
        """Writes the policy's adapter or all its weights, on the first rank; servers get them when they are next asked.

        A cancellation that came before no longer counts.

        Args:
            policy: a PEFT model, or one of transformers that is finetuned in full; with gathered parameters.
            policy_version: of the policy.
        """
        self.pool.requests.resume()
        self.policy_version = None
        weights = policy_weights(policy)
        snapshot = named_snapshot(policy, weights, self.adapter_dir, policy_version)
        first = not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0
        if first:
            write_snapshot(policy, weights, snapshot, self.weights_dtype)
        if snapshot not in self.snapshots:
            self.snapshots.append(snapshot)
        while len(self.snapshots) > (1 if snapshot.full else KEPT_ADAPTERS):
            old = self.snapshots.pop(0)
            if first:
                shutil.rmtree(old.folder, ignore_errors=True)
        self.policy_version = policy_version

    @torch.no_grad()
    def generate(self, request: GenerationRequest) -> Rollouts:
        """Samples the completions that are asked for; see `RolloutEngine.generate`.

        Args:
            request: of the policy version that was last synced.

        Raises:
            RolloutServerError: no server answers, or the policy is not the one that was last synced.
            RolloutsCancelledError: see `cancel`.
        """
        if request.policy_version != self.policy_version:
            raise RolloutServerError(
                f"asked for policy {request.policy_version}, but the servers have {self.policy_version}. Call sync "
                "first."
            )

        def complete(position: int) -> list[Completion]:
            completions = self._complete(request, position)
            if request.on_completed is not None:
                request.on_completed(position, [own_tokens(each.tokens, request.sampling) for each in completions])
            return completions

        with rollout_mode(request.model):
            by_prompt = self._in_parallel(complete, len(request.prompts))
        completions = [completion for of_prompt in by_prompt for completion in of_prompt]
        return rollouts_of(request, completions, self.logprobs)

    def cancel(self) -> None:
        """Ends all requests at once, those under way too; their servers are not at fault.

        It may come while `generate` is at work, or between `sync` and `generate`, as when another thread is about to
        begin: either way that `generate` raises `RolloutsCancelledError`, and the next one works again.
        """
        self.pool.requests.cancel()

    def _in_parallel(self, complete: Callable[[int], list[Completion]], prompts: int) -> list[list[Completion]]:
        """The completions of each of so many prompts, several at a time; the first error ends all of them."""
        num_threads = min(prompts, self.requests_per_server * len(self.pool.servers))
        try:
            with ThreadPoolExecutor(num_threads, "rollouts") as threads:
                try:
                    return list(threads.map(complete, range(prompts)))
                except BaseException:  # raised again; Ctrl-C too must not wait for servers
                    self.cancel()
                    threads.shutdown(wait=False, cancel_futures=True)
                    raise
        finally:
            self.pool.requests.resume()

    def _complete(self, request: GenerationRequest, position: int) -> list[Completion]:
        """All completions of one prompt, by whichever server."""
        # Servers count on from a seed, one for each completion: those of neighbours would overlap.
        own_seed = (derive_seed(request.seeds[position]) >> 1) + request.starts[position]
        prompt, sampling, n = request.prompts[position], request.sampling, request.counts[position]
        vocabulary = request.model.config.get_text_config().vocab_size
        greedy = sampling.temperature == 0  # all n are the same, and vLLM refuses to make more than one of them
        drawn = 1 if greedy else n

        def ask(server: Server) -> list[Completion]:
            self._give_weights(server)
            self.pool.requests.raise_if_cancelled()
            rejected = server.rejected
            completions = self.dialect.complete(server, self.snapshots[-1], prompt, drawn, sampling, own_seed)
            check_completions(completions, drawn, sampling, vocabulary)
            self._check(server, rejected, request, prompt, completions)
            return completions * n if greedy else completions

        return self.pool.call(ask)

    def _give_weights(self, server: Server) -> None:
        *older, present = self.snapshots
        with server.lock:
            self.pool.requests.raise_if_cancelled()
            if server.holds == present.name:
                return
            self.dialect.load(server, present)
            server.holds, server.compared = present.name, 0
            for snapshot in older:
                self.dialect.unload(server, snapshot)

    def _check(
        self,
        server: Server,
        rejected: int,
        request: GenerationRequest,
        prompt: Sequence[int],
        completions: Sequence[Completion],
    ) -> None:
        """Compares the first tokens of a server by each snapshot with the policy."""
        temperature, most = request.sampling.temperature, self.max_logprob_gap
        with server.lock:
            if server.rejected == rejected:  # otherwise by another request, while this one was at work
                if is_the_policys(server, request.model, prompt, completions, temperature, most):
                    return
                server.rejected += 1
                self.dialect.unload(server, self.snapshots[-1])  # so that it is read anew, should it be a wrong copy
        raise other_policy(server, most)
