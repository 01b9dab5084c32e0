"""Rollouts by inference servers that run beside the training, on this node or others: vLLM, SGLang."""

# Shapes: P prompts, n completions per prompt, R = P·n rows, T completion tokens.

from __future__ import annotations

import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import PreTrainedModel

from bots_lightning.rollouts.completed import own_tokens
from bots_lightning.rollouts.engine import OnCompleted, RolloutEngine, Sampling, derive_seed, rollout_mode
from bots_lightning.rollouts.generate import pad_left
from bots_lightning.rollouts.rollouts import Rollouts, completion_mask
from bots_lightning.rollouts.server_adapter import Adapter, named_adapter, policy_adapter, write_adapter
from bots_lightning.rollouts.server_client import RolloutServerError, Server, ServerFaultError, ServerPool
from bots_lightning.rollouts.server_dialects import Completion, ServerDialect, VLLMDialect, check_completions

COMPARED_TOKENS = 64  # of each server with each policy, if completions are that long
KEPT_ADAPTERS = 2  # the present one and that before it


class ServerEngine(RolloutEngine):
    """Has inference servers sample, and keeps their copy of the policy up to date: LoRA only.

    Before each batch of rollouts the first rank writes the policy's adapter to a folder of its own. Every server is
    given it before it is first asked, and again after it has failed in any way: one that has been restarted has
    forgotten it. Each adapter has a name that no other shares, and an answer counts only if it bears that name. The
    first tokens of each server by each adapter are compared with the policy itself, which finds another base model,
    truncated sampling and log-probabilities of another temperature.

    A server that fails is left alone for a while, and its requests go to others; the completions are the same, being a
    function of policy, prompt and seed. If none answers any more, the step fails on all ranks and the run can be
    resumed.

    Args:
        urls: of the servers, e.g. http://node-7:8000; all ranks share them.
        adapter_dir: folder for adapters, on a disk that ranks and servers see under the same path.
        dialect: which kind of server it is; `VLLMDialect` by default.
        logprobs: keep the log-probabilities that the servers give, as those that tokens were drawn by: algorithms make
            up for how far they are from their own. False takes their own for them.
        requests_per_server: the most prompts that one rank has with one server at a time, on average.
        timeout_seconds: the longest that the completions of one prompt may take. A server that hangs costs it once.
        patience_seconds: how long a request that has failed is tried again, on any server; enough for a restart.
        max_logprob_gap: the largest mean difference |Δ log p| per token between a server and the policy, in nats. In
            bfloat16 some hundredths are usual.
        max_answer_bytes: the longest answer that is read; None takes what suffices for the completions asked for.
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
    ) -> None:
        if not urls:
            raise ValueError("urls is empty; expected at least one server, e.g. http://localhost:8000.")
        if requests_per_server < 1:
            raise ValueError(f"requests_per_server={requests_per_server}; expected at least 1.")
        if not timeout_seconds > 0:
            raise ValueError(f"timeout_seconds={timeout_seconds}; expected a number above 0.")
        if max_answer_bytes is not None and max_answer_bytes < 1:
            raise ValueError(f"max_answer_bytes={max_answer_bytes}; expected at least 1, or null.")
        self.pool = ServerPool(urls, timeout_seconds, patience_seconds, max_answer_bytes=max_answer_bytes)
        self.adapter_dir, self.dialect = Path(adapter_dir).resolve(), dialect or VLLMDialect()
        self.logprobs, self.requests_per_server = logprobs, requests_per_server
        self.max_logprob_gap = max_logprob_gap
        self.policy_version: int | None = None  # that of the last adapter
        self.adapters: list[Adapter] = []  # the last few, the present one last

    def sync(self, policy: nn.Module, policy_version: int) -> None:
        """Writes the policy's adapter, on the first rank; servers get it when they are next asked.

        What was cancelled before no longer counts.

        Args:
            policy: a PEFT model, with whole weights.
            policy_version: of the policy.

        Raises:
            ValueError: the policy has no adapter.
        """
        self.pool.requests.resume()
        self.policy_version = None
        weights = policy_adapter(policy)
        adapter = named_adapter(weights, self.adapter_dir, policy_version)
        first = not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0
        if first:
            write_adapter(policy, weights, adapter)
        if adapter not in self.adapters:
            self.adapters.append(adapter)
        while len(self.adapters) > KEPT_ADAPTERS:
            old = self.adapters.pop(0)
            if first:
                shutil.rmtree(old.folder, ignore_errors=True)
        self.policy_version = policy_version

    @torch.no_grad()
    def generate(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        n: int,
        sampling: Sampling,
        seeds: Sequence[int],
        policy_version: int = 0,
        on_completed: OnCompleted | None = None,
    ) -> Rollouts:
        """Samples n completions of every prompt; see `RolloutEngine.generate`.

        Raises:
            RolloutServerError: no server answers, or the policy is not the one that was last synced.
            RolloutsCancelledError: see `cancel`.
        """
        if policy_version != self.policy_version:
            raise RolloutServerError(
                f"asked for policy {policy_version}, but the servers have {self.policy_version}. Call sync first."
            )

        def complete(position: int, prompt: Sequence[int], seed: int) -> list[Completion]:
            completions = self._complete(model, n, sampling, prompt, seed)
            if on_completed is not None:
                on_completed(position, [own_tokens(completion.tokens, sampling) for completion in completions])
            return completions

        num_threads = min(len(prompts), self.requests_per_server * len(self.pool.servers))
        try:
            with rollout_mode(model), ThreadPoolExecutor(num_threads, "rollouts") as threads:
                try:
                    completions = list(threads.map(complete, range(len(prompts)), prompts, seeds))
                except BaseException:  # raised again; Ctrl-C too must not wait for servers
                    self.cancel()
                    threads.shutdown(wait=False, cancel_futures=True)
                    raise
        finally:
            self.pool.requests.resume()
        rows = [completion for of_prompt in completions for completion in of_prompt]
        return self._rollouts(prompts, n, rows, sampling, model.device)

    def cancel(self) -> None:
        """Ends all requests at once, those under way too; their servers are not at fault.

        It may come while `generate` is at work, or between `sync` and `generate`, as when another thread is about to
        begin: either way that `generate` raises `RolloutsCancelledError`, and the next one starts as ever.
        """
        self.pool.requests.cancel()

    def _complete(
        self, model: PreTrainedModel, n: int, sampling: Sampling, prompt: Sequence[int], seed: int
    ) -> list[Completion]:
        # Servers count on from a seed, one for each completion: those of neighbours would overlap.
        own_seed = derive_seed(seed) >> 1
        greedy = sampling.temperature == 0  # all n are the same, and vLLM refuses to make more than one of them

        def ask(server: Server) -> list[Completion]:
            self._give_adapter(server)
            self.pool.requests.raise_if_cancelled()
            rejected = server.rejected
            drawn = 1 if greedy else n
            completions = self.dialect.complete(server, self.adapters[-1], prompt, drawn, sampling, own_seed)
            check_completions(completions, drawn, sampling, model.config.get_text_config().vocab_size)
            self._check(server, rejected, model, prompt, completions, sampling)
            return completions * n if greedy else completions

        return self.pool.call(ask)

    def _give_adapter(self, server: Server) -> None:
        *older, present = self.adapters
        with server.lock:
            self.pool.requests.raise_if_cancelled()
            if server.holds == present.name:
                return
            self.dialect.load(server, present)
            server.holds, server.compared = present.name, 0
            for adapter in older:
                self.dialect.unload(server, adapter)

    def _check(
        self,
        server: Server,
        rejected: int,
        model: PreTrainedModel,
        prompt: Sequence[int],
        completions: Sequence[Completion],
        sampling: Sampling,
    ) -> None:
        """Compares the first tokens of a server by each adapter with the policy; log p of greedy ones means nothing."""
        with server.lock:
            if server.rejected != rejected:  # by another request, while this one was at work
                raise self._distrusts(server)
            if server.compared >= COMPARED_TOKENS or sampling.temperature == 0:
                return
            gaps = torch.empty(0)
            for completion in completions:
                gaps = torch.cat([gaps, logprob_gaps(model, prompt, completion, sampling.temperature)])
                if len(gaps) >= COMPARED_TOKENS:
                    break
            server.gap = float(gaps.nanmean())
            if not server.gap > self.max_logprob_gap:
                server.compared += int((~gaps.isnan()).sum())
                return
            server.rejected += 1
            self.dialect.unload(server, self.adapters[-1])  # so that it is read anew, should it be a wrong copy
        raise self._distrusts(server)

    def _distrusts(self, server: Server) -> ServerFaultError:
        return ServerFaultError(
            f"its log-probabilities are {server.gap:.3g} nats from the policy's on average; at most "
            f"max_logprob_gap={self.max_logprob_gap} is allowed. Does it serve the same base model, with "
            "--logprobs-mode processed_logprobs?"
        )

    def _rollouts(
        self,
        prompts: Sequence[Sequence[int]],
        n: int,
        rows: Sequence[Completion],
        sampling: Sampling,
        device: torch.device,
    ) -> Rollouts:
        prompt_ids, prompt_mask = (
            tensor.repeat_interleave(n, dim=0) for tensor in pad_left(prompts, sampling.pad_token_id, device)
        )
        limit = sampling.max_completion_length
        tokens = _padded([torch.tensor(row.tokens[:limit]) for row in rows], sampling.pad_token_id)
        logprobs = _padded([torch.tensor(row.logprobs[:limit], dtype=torch.float32) for row in rows], torch.nan)
        given = _padded([torch.ones(len(row.tokens[:limit]), dtype=torch.bool) for row in rows], False)
        before_stop, _ = completion_mask(tokens, sampling.stop_token_ids)
        mask = given & before_stop
        finished = (mask & torch.isin(tokens, torch.tensor(sampling.stop_token_ids))).any(dim=1)
        length = int(mask.sum(dim=1).max())
        tokens, mask = tokens.masked_fill(~mask, sampling.pad_token_id)[:, :length], mask[:, :length]
        if sampling.temperature == 0:
            logprobs = torch.zeros_like(logprobs)
        logprobs = logprobs[:, :length].masked_fill(~mask, torch.nan)
        assert self.policy_version is not None
        rollouts = Rollouts(prompt_ids, prompt_mask, tokens, mask, finished, self.policy_version)
        return replace(rollouts, logprobs=logprobs if self.logprobs else None).to(device)


def _padded(rows: list[Tensor], value: float) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)


@torch.no_grad()
def logprob_gaps(
    model: PreTrainedModel, prompt: Sequence[int], completion: Completion, temperature: float = 1.0
) -> Tensor:
    """|Δ log p| in nats between a server and the policy, for each of a completion's first tokens.

    Args:
        model: the policy, in eval mode.
        prompt: token ids.
        completion: of that prompt.
        temperature: that it was sampled at, above 0.
    """
    tokens = completion.tokens[:COMPARED_TOKENS]
    ids = torch.tensor([[*prompt, *tokens]], device=model.device)
    logits = model(input_ids=ids, use_cache=False, logits_to_keep=len(tokens) + 1).logits[0, -len(tokens) - 1 : -1]
    expected = (logits.float() / temperature).log_softmax(dim=-1)
    expected = expected.gather(1, ids[0, -len(tokens) :].unsqueeze(1)).squeeze(1)
    return (torch.tensor(completion.logprobs[: len(tokens)]) - expected.cpu()).abs()
