"""Rollouts by inference servers that run beside the training, on this node or others: vLLM, SGLang."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Literal

import torch
import torch.distributed as dist
from torch import nn

from bots_lightning.options import check_numbers, check_option
from bots_lightning.rollouts.completed import own_tokens
from bots_lightning.rollouts.engine import GenerationRequest, RolloutEngine, SamplingParams, derive_seed
from bots_lightning.rollouts.rollouts import Rollouts
from bots_lightning.rollouts.server_client import RolloutServerError, Server, ServerPool
from bots_lightning.rollouts.server_dialect import Completion, ServerDialect, check_completions
from bots_lightning.rollouts.server_probe import OtherPolicyError, Probe
from bots_lightning.rollouts.server_rollouts import rollouts_of
from bots_lightning.rollouts.server_snapshot import Snapshot, named_snapshot, policy_weights, write_snapshot
from bots_lightning.rollouts.server_vllm import VLLMDialect

WeightsDtype = Literal["float32", "bfloat16", "float16"]


class ServerEngine(RolloutEngine):
    """Samples by inference servers, and keeps their copy of the policy up to date.

    Before each batch of rollouts the first rank writes the policy's adapter, or in full finetuning all its weights, to
    a folder of its own. Every server is given them before it is first asked, and again after it has failed in any way:
    one that has been restarted has forgotten them. They have a name that no others share, and an answer counts only if
    it is of that name. Before a server takes part, the log-probabilities of some tokens are compared with the policy's
    own, which finds stale weights, another base model, truncated sampling and log-probabilities of another temperature.

    A server that fails is left alone for a while, and its requests go to others; the completions are the same, being a
    function of policy, prompt and seed. If none answers any more, the step fails on all ranks and the run can be
    resumed.

    With `max_staleness` above 1 several batches are sampled at a time. Adapters of all their versions are kept, and a
    batch is of its own throughout. All weights are there once: they are replaced while completions are under way, which
    go on with the new ones, so that a run cannot be repeated bit for bit; the log-probabilities are those that each
    token was drawn by.

    Args:
        urls: of the servers, e.g. http://node-7:8000; all ranks share them.
        adapter_dir: folder for adapters, or for all weights, of which it holds two copies at a time; on a disk, or in a
            memory (/dev/shm), that ranks and servers see under the same path.
        dialect: which kind of server it is; `VLLMDialect` by default.
        logprobs: keep the log-probabilities that the servers give, as those that tokens were drawn by: algorithms
            correct for the difference to their own. False takes their own for them.
        requests_per_server: the most prompts of a batch that one rank has with one server at a time, on average.
        timeout_seconds: the longest that the completions of one prompt may take. A server that hangs costs it once.
        patience_seconds: how long a request that has failed is tried again, on any server; enough for a restart.
        max_logprob_gap: the largest mean difference |Δ log p| per token between a server and the policy, in nats. In
            bfloat16 some hundredths are usual.
        max_answer_bytes: the longest answer that is read; None takes what suffices for the completions asked for.
        weights_dtype: of all weights in their folder; that of the servers saves half of the bytes where they have
            bfloat16 and the policy is kept in float32. None writes the policy's.
        sleep_level: how deep servers sleep while the policy learns, for those that share its GPUs: 1 keeps their
            weights in the host's memory, 2 drops them, which is for full finetuning only, where they are given anew.
    """

    own_weights = True

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
        sleep_level: int | None = None,
    ) -> None:
        if not urls:
            raise ValueError("urls is empty; expected at least one server, e.g. http://localhost:8000.")
        if weights_dtype is not None:
            check_option("weights_dtype", weights_dtype, WeightsDtype)
        check_numbers(1, requests_per_server=requests_per_server, max_answer_bytes=max_answer_bytes)
        check_numbers(1, high=2, sleep_level=sleep_level)
        check_numbers(0, above=True, timeout_seconds=timeout_seconds)
        self.pool = ServerPool(urls, timeout_seconds, patience_seconds, max_answer_bytes=max_answer_bytes)
        self.adapter_dir, self.dialect = Path(adapter_dir).resolve(), dialect or VLLMDialect()
        self.logprobs, self.requests_per_server = logprobs, requests_per_server
        self.max_logprob_gap = max_logprob_gap
        self.weights_dtype: torch.dtype | None = getattr(torch, weights_dtype) if weights_dtype else None
        self.sleep_level = sleep_level
        self.policy_version: int | None = None  # that of the last snapshot
        self.snapshots: list[Snapshot] = []  # the last few, the present one last
        self._versions = 1  # that may be asked for
        self._prompt: Sequence[int] | None = None  # that every policy is probed with when it is synced
        self._probes: dict[str, Probe] = {}  # by the names of the snapshots
        self._newest: Snapshot | None = None  # that has been asked for: all ranks have synced it
        self._lock, self._at_work = Lock(), 0  # generates

    def run_ahead(self, prompt: Sequence[int], max_staleness: int) -> None:
        """Keeps so many more versions, and probes the policy with a prompt whenever it is synced.

        Raises:
            ValueError: the servers' log-probabilities are not kept, and nobody else knows them later.
        """
        if not self.logprobs:
            raise ValueError(
                f"max_staleness={max_staleness} corrects by the log-probabilities that servers give. Set logprobs=True."
            )
        if self.sleep_level is not None:
            raise ValueError(
                f"sleep_level={self.sleep_level}: servers that sleep while the policy learns cannot sample meanwhile. "
                f"Set max_staleness=0, not {max_staleness}, or sleep_level=null."
            )
        self._prompt, self._versions = prompt, 1 + max_staleness

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
        if self.sleep_level == 2 and not snapshot.full:
            raise ValueError(
                "sleep_level=2 drops the weights below an adapter. Set sleep_level=1 for LoRA, or train in full."
            )
        first, sent = _is_first_rank(), snapshot.full and self.dialect.sends_weights
        if first and not sent:
            write_snapshot(policy, weights, snapshot, self.weights_dtype)
        if self.snapshots[-1:] != [snapshot]:
            self.snapshots = [earlier for earlier in self.snapshots if earlier != snapshot]
            for earlier in self.snapshots:
                earlier.later.append(snapshot.name)
            self.snapshots.append(snapshot)
            if first and sent:
                self._send(snapshot, policy)
        if self._prompt is not None:
            self._probes[snapshot.name] = Probe.of(policy, self._prompt)
        kept = self._versions + (not snapshot.full)
        for old in self.snapshots[: -1 if snapshot.full else -kept]:
            if first:
                shutil.rmtree(old.folder, ignore_errors=True)
        for old in self.snapshots[:-kept]:
            self._probes.pop(old.name, None)
        self.snapshots = self.snapshots[-kept:]
        self.policy_version = policy_version

    def _send(self, snapshot: Snapshot, policy: nn.Module) -> None:
        """Sends all weights to every server; those that fail are left alone until they are given again."""

        def send(server: Server) -> None:
            if self.sleep_level is not None:
                self.dialect.wake(server, "weights")
            self.dialect.send(server, snapshot, policy)

        faults = self.pool.each(send, "did not take the weights")
        if len(faults) == len(self.pool.servers):
            raise RolloutServerError(f"no rollout server has taken the weights: {'; '.join(faults)}.")

    def release(self) -> None:
        """Has all servers sleep, if they are to; they are woken when they are next asked."""
        if (level := self.sleep_level) is None:
            return

        def sleep(server: Server) -> None:
            if _is_first_rank():
                self.dialect.sleep(server, level)

        self.pool.each(sleep, "does not sleep")  # it may be dead, and its memory free

    @torch.no_grad()
    def generate(self, request: GenerationRequest) -> Rollouts:
        """Samples the completions that are asked for; see `RolloutEngine.generate`.

        Args:
            request: of the policy version that was last synced, or in a run with `max_staleness` of one before it.

        Raises:
            RolloutServerError: no server answers, or the policy is not the one that was last synced.
            RolloutsCancelledError: see `cancel`.
        """
        snapshot = self._snapshot(request.policy_version)
        with self._lock:
            if self._newest not in self.snapshots[self.snapshots.index(snapshot) :]:
                self._newest = snapshot
        if snapshot.name not in self._probes:
            self._probes[snapshot.name] = Probe.of(request.model, request.prompts[0])

        def complete(position: int) -> list[Completion]:
            completions = self._complete(request, position, snapshot)
            if request.on_completed is not None:
                request.on_completed(position, [own_tokens(each.tokens, request.sampling) for each in completions])
            return completions

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
        with self._lock:
            self._at_work += 1
        try:
            with ThreadPoolExecutor(num_threads, "rollouts") as threads:
                try:
                    return list(threads.map(complete, range(prompts)))
                except BaseException:  # raised again; Ctrl-C too must not wait for servers
                    self.cancel()
                    threads.shutdown(wait=False, cancel_futures=True)
                    raise
        finally:
            with self._lock:
                self._at_work -= 1
                if not self._at_work:
                    self.pool.requests.resume()

    def _snapshot(self, version: int) -> Snapshot:
        """The last one of that version."""
        found = [snapshot for snapshot in self.snapshots[-self._versions :] if snapshot.version == version]
        if self.policy_version is None or not found:
            raise RolloutServerError(
                f"asked for policy {version}, but the servers have {self.policy_version}. Call sync first."
            )
        return found[-1]

    def _complete(self, request: GenerationRequest, position: int, snapshot: Snapshot) -> list[Completion]:
        """All completions of one prompt, by whichever server."""
        # Servers count on from a seed, one for each completion: those of neighbours would overlap.
        own_seed = (derive_seed(request.seeds[position]) >> 1) + request.starts[position]
        prompt, sampling, n = request.prompts[position], request.sampling, request.counts[position]
        vocabulary = request.model.config.get_text_config().vocab_size
        greedy = sampling.temperature == 0  # all n are the same, and vLLM refuses to make more than one of them
        drawn = 1 if greedy else n

        def ask(server: Server) -> list[Completion]:
            weights = self._give_weights(server, snapshot, sampling)
            self.pool.requests.raise_if_cancelled()
            completions = self.dialect.complete(server, weights, prompt, drawn, sampling, own_seed)
            check_completions(completions, drawn, sampling, vocabulary)
            return completions * n if greedy else completions

        return self.pool.call(ask)

    def _give_weights(self, server: Server, snapshot: Snapshot, sampling: SamplingParams) -> Snapshot:
        """Gives a server weights that it does not hold, and sees that they are the policy's.

        Returns:
            the snapshot that it holds now: of full ones the newest, since a server has one version of them.
        """
        with server.lock:
            self.pool.requests.raise_if_cancelled()
            if snapshot.full and self._newest is not None:
                snapshot = self._newest
            if snapshot.name in server.holds:
                return snapshot
            if self.sleep_level is not None:
                self.dialect.wake(server, "weights")  # before they are loaded, or they are lost
            self.dialect.load(server, snapshot)
            if self.sleep_level is not None:
                self.dialect.wake(server, "kv_cache")
            try:
                ask = partial(self.dialect.complete, server, snapshot)
                self._probes[snapshot.name].check(server, ask, sampling, self.max_logprob_gap)
            except OtherPolicyError:
                self.dialect.unload(server, snapshot)  # so that it is read anew, should it be a wrong copy
                raise
            server.holds = {snapshot.name} if snapshot.full else server.holds | {snapshot.name}
            for old in self.snapshots[: -self._versions]:
                self.dialect.unload(server, old)
            return snapshot


def _is_first_rank() -> bool:
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0
