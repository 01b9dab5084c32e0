"""What a kind of inference server has to be asked, and checks of what it answers."""

from __future__ import annotations

import math
import reprlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from bots_lightning.rollouts.completed import own_tokens
from bots_lightning.rollouts.engine import SamplingParams
from bots_lightning.rollouts.server_client import Server, ServerFaultError
from bots_lightning.rollouts.server_snapshot import Snapshot

PLAIN = {"top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}

BYTES_PER_TOKEN = 1024  # of a completion: its text, four times over, and numbers; a token's text may have 128 letters
BYTES_PER_PROMPT_TOKEN = 16  # its id
BYTES_BESIDE = 2**20  # of whatever else an answer contains
ROUNDING = 0.01  # nats that a log-probability may be above 0

excerpt = reprlib.Repr()  # of what may be of any length and depth
excerpt.maxstring = 200


@dataclass(frozen=True)
class Completion:
    """One completion as a server gives it.

    Attributes:
        tokens: its ids, the stop token included.
        logprobs: of each token, under the distribution it was drawn from; NaN for a stop token where the server
            gives none.
    """

    tokens: list[int]
    logprobs: list[float]


@dataclass(frozen=True)
class Serving:
    """What a server has to be started with.

    Attributes:
        model: folder or Hub name of the model that is trained.
        port: where it listens.
        dtype: of its weights, e.g. "bfloat16".
        context: the longest prompt and completion together, in tokens.
        rank: of the LoRA that is trained; None for full finetuning.
        versions: of the policy that completions may be sampled from at a time.
        sleeps: whether it gives its memory to the training between rollouts.
    """

    model: str
    port: int
    dtype: str
    context: int
    rank: int | None
    versions: int = 1
    sleeps: bool = False


class ServerDialect(ABC):
    """Sends requests to servers of one kind; all its methods raise `ServerFaultError` for unexpected answers.

    Attributes:
        sends_weights: whether `send` takes all weights to servers, instead of a folder from which they `load` them.
    """

    sends_weights = False

    def command(self, serving: Serving) -> list[str]:
        """The words of a shell's command that starts a server; variables come first, as NAME=VALUE.

        Raises:
            ValueError: there is none for this kind of server, which is the default.
        """
        raise ValueError(f"{type(self).__name__} does not say how its servers are started. Give it a `command`.")

    @abstractmethod
    def load(self, server: Server, snapshot: Snapshot) -> None:
        """Loads weights from their folder, unless they are loaded already."""

    def send(self, server: Server, snapshot: Snapshot, model: nn.Module) -> None:
        """Takes all weights to a server while the policy is synced; called on the first rank if `sends_weights`.

        Args:
            server: to send to.
            snapshot: the name that they have from now on; there is no folder.
            model: the policy, with all of its parameters, on its device.

        Raises:
            ValueError: servers of this kind read them from a folder, which is the default.
        """
        raise ValueError(f"{type(self).__name__} sends no weights. Give it a `send`, or leave sends_weights False.")

    @abstractmethod
    def unload(self, server: Server, snapshot: Snapshot) -> None:
        """Forgets weights, if they are loaded."""

    def sleep(self, server: Server, level: int) -> None:
        """Has a server give back its memory.

        Args:
            server: that nobody is asking.
            level: 1 keeps the weights in the host's memory, 2 drops them.

        Raises:
            ValueError: servers of this kind cannot, which is the default.
        """
        raise ValueError(f"{type(self).__name__} cannot have servers sleep. Set sleep_level=null.")

    def wake(self, server: Server, part: str) -> None:
        """Has a server take back memory, unless it has it: of its "weights", then, once they are loaded, "kv_cache"."""
        raise ValueError(f"{type(self).__name__} cannot wake servers. Set sleep_level=null.")

    @abstractmethod
    def complete(
        self, server: Server, snapshot: Snapshot, prompt: Sequence[int], n: int, sampling: SamplingParams, seed: int
    ) -> list[Completion]:
        """Samples completions of one prompt; refuses those of other weights.

        Args:
            server: to ask; `longest_answer` limits what is read of its answer.
            snapshot: the weights that the server has loaded.
            prompt: token ids.
            n: how many completions.
            sampling: how to draw.
            seed: completion j uses the randomness of seed + j.

        Returns:
            the completions, in order.
        """


def longest_answer(prompt: Sequence[int], n: int, sampling: SamplingParams) -> int:
    """Bytes that suffice for the answer to a request for n completions of a prompt; longer answers are a fault."""
    return BYTES_BESIDE + n * (BYTES_PER_TOKEN * sampling.max_completion_length + BYTES_PER_PROMPT_TOKEN * len(prompt))


def check_completions(completions: Sequence[Completion], n: int, sampling: SamplingParams, vocabulary: int) -> None:
    """Refuses what no model draws.

    Args:
        completions: of one answer.
        n: how many were asked for.
        sampling: how they were to be drawn; log-probabilities of greedy ones mean nothing.
        vocabulary: of the policy, in tokens.

    Raises:
        ServerFaultError: a token outside of the vocabulary, an impossible log-probability, or another number of them.
    """
    if len(completions) != n:
        raise ServerFaultError(f"{len(completions)} completions; expected {n}.")
    for completion in completions:
        _check_tokens(completion, vocabulary)
        if sampling.temperature > 0:
            _check_logprobs(completion, sampling)


def _check_tokens(completion: Completion, vocabulary: int) -> None:
    tokens, logprobs = completion.tokens, completion.logprobs
    if not tokens or len(tokens) != len(logprobs):
        raise ServerFaultError(
            f"{len(tokens)} tokens with {len(logprobs)} log-probabilities; expected one for each token."
        )
    for token in tokens:
        if type(token) is not int or not 0 <= token < vocabulary:
            raise ServerFaultError(
                f"token id {excerpt.repr(token)}; expected 0 to {vocabulary - 1}, the policy's vocabulary. Does it "
                "serve the same base model?"
            )


def _check_logprobs(completion: Completion, sampling: SamplingParams) -> None:
    logprobs, own = completion.logprobs, own_tokens(completion.tokens, sampling)  # what follows the end is dropped
    unsaid = own[-1] in sampling.stop_token_ids and math.isnan(logprobs[len(own) - 1])
    for logprob in logprobs[: len(own) - unsaid]:
        if not -math.inf < logprob <= ROUNDING:
            raise ServerFaultError(f"a token's log-probability is {logprob}; expected a finite number up to 0.")


@contextmanager
def loading(snapshot: Snapshot, how: str) -> Iterator[None]:
    """Adds what to look at to a fault of loading, which is tried again: a shared disk shows new folders late.

    Args:
        snapshot: that is loaded.
        how: a server of this kind has to be started to load it.
    """
    try:
        yield
    except ServerFaultError as fault:
        raise ServerFaultError(
            f"{fault} -- {snapshot.folder} could not be loaded. Is adapter_dir on a disk that the server sees, and was "
            f"the server started {how}?"
        ) from fault


def load_adapter(server: Server, path: str, snapshot: Snapshot) -> bool:
    """Loads an adapter, whose folder vLLM and SGLang take in the same form; False if the server has it already."""
    try:
        server.post(path, {"lora_name": snapshot.name, "lora_path": str(snapshot.folder)})
    except ServerFaultError as fault:
        if "already" not in str(fault):
            raise
        return False
    return True


def check_name(said: object, snapshot: Snapshot) -> None:
    """Raises `ServerFaultError` unless an answer bears the name of the weights that were asked, or of later ones."""
    if said != snapshot.name and said not in snapshot.later:
        raise ServerFaultError(f"{excerpt.repr(said)} has answered, {snapshot.name} was asked.")


@contextmanager
def malformed(answer: Any) -> Iterator[None]:
    """Turns errors of reading an answer into a fault of its server."""
    try:
        yield
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise ServerFaultError(
            f"an answer of another form ({type(error).__name__}: {str(error)[:200]}): {excerpt.repr(answer)}"
        ) from error


@contextmanager
def unless_not_found(*also: int) -> Iterator[None]:
    """Ignores that there is nothing at an address: HTTP status 404, or one of these."""
    try:
        yield
    except ServerFaultError as fault:
        if fault.status not in (404, *also):
            raise
