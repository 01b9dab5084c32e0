"""Whether a server has the policy: its log-probabilities of single tokens are compared with the policy's own."""

# Shapes: P beginnings of a prompt, V words of the vocabulary.

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from bots_lightning.rollouts.engine import SamplingParams, rollout_mode
from bots_lightning.rollouts.server_client import Server, ServerFaultError
from bots_lightning.rollouts.server_dialect import Completion, check_completions

BEGINNINGS = 4  # of a prompt: in its midst, what comes next is less certain than after it
DRAWS = 16  # tokens after each of them
LONGEST = 256  # tokens of the prompt

# Asks for so many completions of a prompt, with a seed.
Ask = Callable[[Sequence[int], int, SamplingParams, int], list[Completion]]


class OtherPolicyError(ServerFaultError):
    """A server has other weights than the policy, or gives other log-probabilities."""


@dataclass(frozen=True)
class Probe:
    """What a policy makes of a prompt: how it would go on after several of its beginnings.

    It is small, so that a server can be asked for the same at any time, while the policy has moved on.

    Attributes:
        beginnings: P lists of token ids.
        logits: (P, V) float32 of the next token, on the CPU.
    """

    beginnings: list[list[int]]
    logits: Tensor

    @staticmethod
    @torch.no_grad()
    def of(model: nn.Module, prompt: Sequence[int]) -> Probe:
        """The probe of a policy.

        Args:
            model: the policy, with all of its parameters; left as it was.
            prompt: token ids, at least one.
        """
        prompt = list(prompt[:LONGEST])
        lengths = sorted({-(-len(prompt) * part // BEGINNINGS) for part in range(1, BEGINNINGS + 1)})
        with rollout_mode(model):
            device = next(model.parameters()).device
            logits = model(input_ids=torch.tensor([prompt], device=device), use_cache=False).logits[0]
            places = torch.tensor(lengths, device=logits.device) - 1
            return Probe([prompt[:length] for length in lengths], logits[places].float().cpu())

    def check(self, server: Server, ask: Ask, sampling: SamplingParams, max_gap: float) -> None:
        """Compares what a server answers with the policy.

        Args:
            server: gets the gap, the mean |Δ log p| in nats; its lock is held.
            ask: asks it.
            sampling: how completions are drawn; at temperature 0 they have no log-probabilities, so 1 takes its place.
            max_gap: the largest gap.

        Raises:
            OtherPolicyError: the gap is larger.
            ServerFaultError: an answer is not what a model gives.
        """
        single = replace(sampling, max_completion_length=1, temperature=sampling.temperature or 1.0)
        expected, gaps = (self.logits / single.temperature).log_softmax(dim=-1), list[float]()
        for at, beginning in enumerate(self.beginnings):
            completions = ask(beginning, DRAWS, single, at * DRAWS)
            check_completions(completions, DRAWS, single, self.logits.shape[1])
            gaps += [each.logprobs[0] - float(expected[at, each.tokens[0]]) for each in completions]
        server.gap = float(torch.tensor(gaps).abs().nanmean())
        if server.gap > max_gap:
            raise OtherPolicyError(
                f"its log-probabilities are {server.gap:.3g} nats from the policy's on average; at most "
                f"max_logprob_gap={max_gap} is allowed. Does it serve the same base model, with --logprobs-mode "
                "processed_logprobs?"
            )
