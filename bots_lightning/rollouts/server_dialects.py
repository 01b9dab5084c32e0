"""What kinds of inference server want to be asked, and what they answer."""

from __future__ import annotations

import math
import reprlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from bots_lightning.rollouts.completed import own_tokens
from bots_lightning.rollouts.engine import Sampling
from bots_lightning.rollouts.server_adapter import Adapter
from bots_lightning.rollouts.server_client import Server, ServerFaultError

PLAIN = {"top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}

BYTES_PER_TOKEN = 1024  # of a completion: its text, four times over, and numbers; the longest tokens are of 128 signs
BYTES_PER_PROMPT_TOKEN = 16  # its id
BYTES_BESIDE = 2**20  # of what an answer says besides
ROUNDING = 0.01  # nats that a log-probability may be above 0


_excerpt = reprlib.Repr()  # of what is as long or as deep as a server wants
_excerpt.maxstring = 200


@dataclass(frozen=True)
class Completion:
    """One completion as a server gives it.

    Attributes:
        tokens: its ids, the stop token included.
        logprobs: of each token, under the distribution it was drawn from; NaN for a stop token of which the server does
            not say it.
    """

    tokens: list[int]
    logprobs: list[float]


class ServerDialect(ABC):
    """Puts requests to servers of one kind; all its methods raise `ServerFaultError` for unexpected answers."""

    @abstractmethod
    def load(self, server: Server, adapter: Adapter) -> None:
        """Loads an adapter from its folder; one that is loaded already is left so."""

    @abstractmethod
    def unload(self, server: Server, adapter: Adapter) -> None:
        """Forgets an adapter; one that is not loaded is none the worse."""

    @abstractmethod
    def complete(
        self, server: Server, adapter: Adapter, prompt: Sequence[int], n: int, sampling: Sampling, seed: int
    ) -> list[Completion]:
        """Samples n completions of a prompt by an adapter; completion j uses the randomness of seed + j.

        Whoever asks passes `longest_answer` to `Server.post`.
        """


def longest_answer(prompt: Sequence[int], n: int, sampling: Sampling) -> int:
    """Bytes that suffice for the answer to a request for n completions of a prompt; a server that says more is lost."""
    return BYTES_BESIDE + n * (BYTES_PER_TOKEN * sampling.max_completion_length + BYTES_PER_PROMPT_TOKEN * len(prompt))


def check_completions(completions: Sequence[Completion], n: int, sampling: Sampling, vocabulary: int) -> None:
    """Refuses what no model draws.

    Args:
        completions: of one answer.
        n: how many were asked for.
        sampling: how they were to be drawn; log-probabilities of greedy ones mean nothing.
        vocabulary: of the policy, in tokens.

    Raises:
        ServerFaultError: a token outside of the vocabulary, a log-probability that is none, or another number of them.
    """
    if len(completions) != n:
        raise ServerFaultError(f"{len(completions)} completions; expected {n}.")
    for completion in completions:
        tokens, logprobs = completion.tokens, completion.logprobs
        if not tokens or len(tokens) != len(logprobs):
            raise ServerFaultError(
                f"{len(tokens)} tokens with {len(logprobs)} log-probabilities; expected one for each token."
            )
        for token in tokens:
            if type(token) is not int or not 0 <= token < vocabulary:
                raise ServerFaultError(
                    f"token id {_excerpt.repr(token)}; expected 0 to {vocabulary - 1}, the policy's vocabulary. Does "
                    "it serve the same base model?"
                )
        if sampling.temperature == 0:
            continue
        own = own_tokens(tokens, sampling)  # what a server gives beyond the end is dropped
        unsaid = own[-1] in sampling.stop_token_ids and math.isnan(logprobs[len(own) - 1])
        for logprob in logprobs[: len(own) - unsaid]:
            if not -math.inf < logprob <= ROUNDING:
                raise ServerFaultError(f"a token's log-probability is {logprob}; expected a finite number up to 0.")


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
            raise _about_loading(fault, adapter) from fault
        with _unless_not_found():
            server.post("/reset_prefix_cache", {})

    def unload(self, server: Server, adapter: Adapter) -> None:
        """Forgets the name."""
        with _unless_not_found():
            server.post("/v1/unload_lora_adapter", {"lora_name": adapter.name})

    def complete(
        self, server: Server, adapter: Adapter, prompt: Sequence[int], n: int, sampling: Sampling, seed: int
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
        with _malformed(answer):
            if answer["model"] != adapter.name:
                raise ServerFaultError(f"{_excerpt.repr(answer['model'])} has answered, {adapter.name} was asked.")
            choices = {choice["index"]: choice for choice in answer["choices"]}
            return [_choice(choices[index]) for index in sorted(choices)]


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
            raise _about_loading(fault, adapter) from fault
        server.post("/flush_cache", {})

    def unload(self, server: Server, adapter: Adapter) -> None:
        """Forgets the name."""
        with _unless_not_found(400):
            server.post("/unload_lora_adapter", {"lora_name": adapter.name})

    def complete(
        self, server: Server, adapter: Adapter, prompt: Sequence[int], n: int, sampling: Sampling, seed: int
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
        with _malformed(answer):
            return [
                Completion(
                    list(one["output_ids"]),
                    [float(entry[0]) for entry in one["meta_info"]["output_token_logprobs"]],
                )
                for one in answer
            ]


def _choice(choice: dict[str, Any]) -> Completion:
    tokens = list(choice["token_ids"])
    logprobs = [float(value) for value in choice["logprobs"]["token_logprobs"]]
    if choice["finish_reason"] not in ("stop", "length"):
        reason = _excerpt.repr(choice["finish_reason"])
        raise ServerFaultError(f"a completion has ended by {reason}; expected 'stop' or 'length'.")
    stop = choice.get("stop_reason")
    if isinstance(stop, int) and tokens[-1:] != [stop]:  # some versions keep it to themselves
        tokens.append(stop)
        logprobs.append(math.nan)
    return Completion(tokens, logprobs)


def _about_loading(fault: ServerFaultError, adapter: Adapter) -> ServerFaultError:
    """The same with what to look at, and as one that may pass: a shared disk shows new folders late."""
    return ServerFaultError(
        f"{fault} -- {adapter.folder} could not be loaded. Is adapter_dir on a disk that the server sees, its rank no "
        "larger than --max-lora-rank, and the server started with --enable-lora and "
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True?"
    )


@contextmanager
def _malformed(answer: Any) -> Iterator[None]:
    """Turns what an answer lacks into a fault of its server."""
    try:
        yield
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise ServerFaultError(
            f"an answer of another form ({type(error).__name__}: {str(error)[:200]}): {_excerpt.repr(answer)}"
        ) from error


@contextmanager
def _unless_not_found(*also: int) -> Iterator[None]:
    try:
        yield
    except ServerFaultError as fault:
        if fault.status not in (404, *also):
            raise
