"""Whether a server has the policy: its log-probabilities are compared with the policy's own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bots_lightning.rollouts.server_client import Server, ServerFaultError
from bots_lightning.rollouts.server_dialect import Completion

COMPARED_TOKENS = 64  # of each server with each policy, if completions are that long


def is_the_policys(
    server: Server,
    model: PreTrainedModel,
    prompt: Sequence[int],
    completions: Sequence[Completion],
    temperature: float,
    max_gap: float,
) -> bool:
    """Whether completions of a server have the policy's log-probabilities, as far as they need to be compared.

    Args:
        server: gets the gap, and the number of tokens that have been compared; its lock is held.
        model: the policy, in eval mode.
        prompt: token ids.
        completions: of that prompt.
        temperature: that they were sampled at; at 0 there is nothing to compare.
        max_gap: the largest mean |Δ log p|, in nats.
    """
    if server.compared >= COMPARED_TOKENS or temperature == 0:
        return True
    gaps = torch.empty(0)
    for completion in completions:
        gaps = torch.cat([gaps, logprob_gaps(model, prompt, completion, temperature)])
        if len(gaps) >= COMPARED_TOKENS:
            break
    server.gap = float(gaps.nanmean())
    if server.gap > max_gap:
        return False
    server.compared += int((~gaps.isnan()).sum())
    return True


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


def other_policy(server: Server, max_gap: float) -> ServerFaultError:
    """The fault of a server whose log-probabilities are not the policy's."""
    return ServerFaultError(
        f"its log-probabilities are {server.gap:.3g} nats from the policy's on average; at most "
        f"max_logprob_gap={max_gap} is allowed. Does it serve the same base model, with --logprobs-mode "
        "processed_logprobs?"
    )
