"""The contract of everything that samples completions."""

# Shapes: P prompts, n_p completions of prompt p, R = Σ n_p rows.

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from torch import nn
from transformers import PreTrainedModel

from bots_lightning.rollouts.rollouts import Rollouts

# (position of a prompt, token ids of its completions)
OnCompleted = Callable[[int, list[list[int]]], None]


@dataclass(frozen=True)
class SamplingParams:
    """How completions are drawn: from the full softmax at a temperature, without top-k, top-p or penalties.

    Attributes:
        max_completion_length: tokens, stop token included.
        stop_token_ids: tokens that end a completion.
        pad_token_id: fills rows on either side; it may equal a stop token.
        temperature: divides the logits; 0 takes the most likely token.
    """

    max_completion_length: int
    stop_token_ids: tuple[int, ...]
    pad_token_id: int
    temperature: float = 1.0


@dataclass(frozen=True)
class GenerationRequest:
    """What an engine is asked for: some completions of each of several prompts.

    Attributes:
        model: the policy, left as it was (modes, generators).
        prompts: P lists of token ids, none empty.
        counts: n_p, how many completions of each prompt, at least 1.
        sampling: how to draw.
        seeds: one for each prompt, all its randomness. Completion j of a prompt does not depend on how many there are.
        policy_version: recorded in the result.
        on_completed: is called with the position of a prompt and the token ids of its n_p completions, those that the
            result's mask covers, once all n_p have ended; for each prompt once at most, on whatever threads, several at
            a time. It should return at once: sampling waits for it. An engine that has everything at once need not call
            it.
        starts: (P,) which completions: number `starts[p]` and those after it, 0 if left out. It is for prompts that
            have been sampled before: the completions are those that a larger count would have given then.

    Raises:
        ValueError: prompts, counts and seeds are not equally many, there are none, or a count is below 1.
    """

    model: PreTrainedModel
    prompts: Sequence[Sequence[int]]
    counts: Sequence[int]
    sampling: SamplingParams
    seeds: Sequence[int]
    policy_version: int = 0
    on_completed: OnCompleted | None = None
    starts: Sequence[int] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "starts", list(self.starts) or [0] * len(self.prompts))
        prompts, counts, seeds = len(self.prompts), len(self.counts), len(self.seeds)
        if not 0 < prompts == counts == seeds:
            raise ValueError(f"{prompts} prompts, {counts} counts, {seeds} seeds; expected equally many, at least one.")
        if min(self.counts) < 1:
            position = next(p for p, count in enumerate(self.counts) if count < 1)
            raise ValueError(
                f"counts[{position}]={self.counts[position]}; expected at least 1. Leave out prompts that get none."
            )

    @property
    def prompt_of_row(self) -> list[int]:
        """The position of each of the R rows' prompt."""
        return [prompt for prompt, count in enumerate(self.counts) for _ in range(count)]


class RolloutsCancelledError(RuntimeError):
    """`RolloutEngine.cancel` was called while completions were being sampled."""

    def __init__(self, message: str = "the rollouts were cancelled before all completions had ended.") -> None:
        super().__init__(message)


class RolloutEngine(ABC):
    """Samples completions of token-id prompts. Failures raise; nothing is dropped.

    Attributes:
        own_weights: whether it samples with weights that `sync` has given it, and looks at no weight of the policy when
            it generates. Several batches may then be sampled at a time, on several threads, each by the version that it
            asks for, while the policy moves on.
    """

    own_weights = False

    def run_ahead(self, prompt: Sequence[int], max_staleness: int) -> None:  # noqa: B027 - most have nothing to do
        """Prepares for asynchronous rollouts; called before the first `sync` of such a run.

        Args:
            prompt: token ids of one of the run's prompts.
            max_staleness: how many versions before the last synced one may still be asked for.
        """

    def sync(self, policy: nn.Module, policy_version: int) -> None:  # noqa: B027 - most engines have nothing to do
        """Gets the weights to sample from; engines that sample with the policy itself need not.

        Called on all ranks before they generate, whenever the policy may have changed. Without collectives, so that it
        may fail on one rank alone. All ranks wait for each other after it: one of them may work for all.

        Args:
            policy: as it is trained, with gathered parameters.
            policy_version: the one that `generate` will be asked for.
        """

    def release(self) -> None:  # noqa: B027 - most engines have nothing to give back
        """Gives back memory that is not needed until the next `sync`; called on all ranks when all have generated."""

    @abstractmethod
    def generate(self, request: GenerationRequest) -> Rollouts:
        """Samples the completions that are asked for.

        The completions of a prompt are a function of the model, the prompt and its seed, except for rounding: neither
        the prompts beside it nor the number of ranks nor memory limits change them.

        Args:
            request: prompts, how many completions of each, and how to draw them.

        Returns:
            R rows: the completions of the first prompt, those of the second, and so on.

        Raises:
            Exception: whatever `on_completed` raises.
            RolloutsCancelledError: `cancel` was called meanwhile, or since the last `sync`.
        """

    def cancel(self) -> None:  # noqa: B027 - an engine that cannot ends as it would have
        """Ends a `generate` that runs on another thread soon, by `RolloutsCancelledError`; returns at once.

        It counts once. Where none is running it is kept for the next `generate`, which may be about to begin on another
        thread; `sync` forgets it.
        """


def derive_seed(*keys: int) -> int:
    """One 63-bit seed from several numbers, e.g. (seed, stream, iteration, task); different keys, different streams."""
    return int(np.random.SeedSequence(keys).generate_state(1, np.uint64)[0] >> 1)


@contextmanager
def rollout_mode(model: PreTrainedModel) -> Iterator[None]:
    """Eval mode in every submodule and no gradient checkpointing, all flags restored afterwards.

    Sampling in train mode with gradient checkpointing gives wrong tokens with no more than a warning, and dropout
    changes the samples.
    """
    training = {module: module.training for module in model.modules()}
    checkpointing = {m: m.gradient_checkpointing for m in training if getattr(m, "gradient_checkpointing", False)}
    model.eval()
    _set_checkpointing(checkpointing, enabled=False)
    try:
        yield
    finally:
        for module, flag in training.items():
            module.training = flag
        _set_checkpointing(checkpointing, enabled=True)


def _set_checkpointing(modules: dict[nn.Module, bool], enabled: bool) -> None:
    for module in modules:
        module.gradient_checkpointing = enabled  # type: ignore[assignment]
