"""What a test server serves: a base model and its adapters, weights in its place, and answers that cannot be true."""

from __future__ import annotations

import copy
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Lock
from types import SimpleNamespace
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedModel

# As the folder is on the path of a real server.
sys.path.insert(0, str(Path(__file__).parents[2] / "bots_lightning" / "rollouts" / "server_side"))
from bots_vllm_worker import PolicyWeights

DEFAULT_TOP_K = 2  # of the checkpoint's generation config, which servers use where a request names none
Choices = list[dict[str, Any]]  # true completions, as vLLM gives them


def _tokens(lie: int) -> Callable[[Choices], object]:
    return lambda choices: choices[-1]["token_ids"].__setitem__(0, lie)


def _logprobs(lie: float) -> Callable[[Choices], object]:
    return lambda choices: [one["logprobs"].update(token_logprobs=[lie] * len(one["token_ids"])) for one in choices]


LIES: dict[str, Callable[[Choices], object]] = {  # change the choices
    "beyond_vocabulary": _tokens(10**6),
    "far_beyond_vocabulary": _tokens(2**70),
    "negative_token": _tokens(-1),
    "nan_logprobs": _logprobs(math.nan),
    "infinite_logprobs": _logprobs(-math.inf),
    "positive_logprobs": _logprobs(3.0),
    "fewer": lambda choices: choices.pop(),
    "more": lambda choices: choices.append(choices[-1] | {"index": len(choices)}),
    "twice": lambda choices: choices[-1].update(index=0),
    "fewer_logprobs": lambda choices: choices[-1]["logprobs"]["token_logprobs"].pop(),
    "no_tokens": lambda choices: choices[-1].update(token_ids=[], logprobs={"token_logprobs": []}, stop_reason=None),
    "other_end": lambda choices: choices[-1].update(finish_reason="\ud800" * 10**4),
}


class Served(PolicyWeights):
    """A base model and its adapters, by name; and a worker of vLLM, whose own weights can be replaced."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.base, self.adapters, self.paths = model, {}, {}
        self.own, self.weight_version = model, "default"
        self.model_runner = SimpleNamespace(get_model=lambda: self.own)
        self.faults: Counter[str] = Counter()
        self.at: dict[str, tuple[str, bool]] = {}  # the fault of an endpoint's next call, and whether it is still due
        self.calls: list[str] = []
        self.paused, self.phases = False, list[str]()  # of vLLM's weight transfer
        self.asleep: set[str] = set()  # parts of its memory that it has given back
        self.dropped = False  # whether its weights went with them
        self.left = -1  # completions until it dies; below 0, it does not
        self.lock = Lock()

    def load(self, name: str, path: str) -> None:
        if self.fault("stale"):
            weights = list(self.adapters.values())[-1]
        else:
            weights = PeftModel.from_pretrained(copy.deepcopy(self.base), path).eval()
        self.adapters[name], self.paths[name] = weights, path

    def reload_weights(self, weights_iterator: Iterator[tuple[str, torch.Tensor]]) -> None:
        """Takes other weights in the place of its own; tied ones are given once."""
        if "weights" in self.asleep:
            raise RuntimeError("there is no memory for weights")
        if not self.fault("stale"):
            fresh = copy.deepcopy(self.base)
            taken = fresh.load_state_dict(dict(weights_iterator), strict=False)
            assert not taken.unexpected_keys
            self.own = fresh

    def update_from_disk(self, path: str, version: str) -> None:
        """The same from a checkpoint, as SGLang does."""
        if not self.fault("stale"):
            self.own = AutoModelForCausalLM.from_pretrained(path).eval()
        self.weight_version = version

    def transfer(self, phase: str, body: dict[str, Any]) -> str:
        """A phase of vLLM's weight transfer; says what is wrong. The weights come in a file, in place of NCCL."""
        allowed = {"start": ["init", "finish"], "update": ["start"], "finish": ["update"]}
        before = self.phases[-1] if self.phases else ""
        if phase != "init" and (before not in allowed[phase] or not self.paused):
            return f"{phase} after {before or 'nothing'}, {'paused' if self.paused else 'at work'}"
        self.phases.append(phase)
        if phase == "update":
            told = body["update_info"]
            weights = load_file(told["file"])
            assert list(weights) == sorted(told["names"])
            self.reload_weights(iter(weights.items()))
        return ""

    def sleep(self, level: int) -> None:
        """Gives back its memory; at level 2 with what is in it."""
        self.asleep, self.dropped = {"weights", "kv_cache"}, level == 2

    def wake(self, part: str) -> None:
        """Takes back a part, in which there is nothing if it was dropped."""
        if part == "weights" and part in self.asleep and self.dropped:
            self.own = copy.deepcopy(self.base)
            for weight in self.own.parameters():
                weight.data.zero_()
        self.asleep.discard(part)

    def restart(self) -> None:
        """Forgets all that it was given."""
        self.adapters.clear()
        self.paths.clear()
        self.own, self.policy, self.weight_version = self.base, "", "default"
        self.paused, self.phases = False, []

    def fault(self, kind: str) -> bool:
        """Whether this fault is due now; counts down."""
        self.faults[kind] -= (due := self.faults[kind] > 0)
        return due

    @torch.no_grad()
    def sample(self, model: Any, prompt: list[int], n: int, options: dict[str, Any]) -> list[dict[str, Any]]:
        """Tokens and log-probabilities of n completions, the j-th by a generator of seed + j; without a cache."""
        stops = set(options["stop_token_ids"]) | (set() if options["ignore_eos"] else {self.base.config.eos_token_id})
        generators = [torch.Generator().manual_seed(seed) for seed in options["seeds"]]
        ids = torch.tensor([prompt] * n)
        logprobs: list[torch.Tensor] = []
        for _ in range(options["max_tokens"]):
            logits = model(input_ids=ids, use_cache=False).logits[:, -1].float()
            if options["temperature"] == 0:
                chosen, scores = logits.argmax(dim=1), logits.log_softmax(dim=1)
            else:
                scores = logits / options["temperature"]
                if options["top_k"] > 0:
                    scores = scores.masked_fill(scores < scores.topk(options["top_k"]).values[:, -1:], -torch.inf)
                scores = scores.log_softmax(dim=1)
                noise = torch.stack([torch.empty(logits.shape[1]).exponential_(generator=g) for g in generators])
                chosen = (scores.exp() / noise).argmax(dim=1)
            ids = torch.cat([ids, chosen.unsqueeze(1)], dim=1)
            logprobs.append(scores.gather(1, chosen.unsqueeze(1)).squeeze(1))
        rows = zip(ids[:, len(prompt) :].tolist(), torch.stack(logprobs, dim=1).tolist(), strict=True)
        return [_cut(tokens, values, stops) for tokens, values in rows]


def _cut(tokens: list[int], logprobs: list[float], stops: set[int]) -> dict[str, Any]:
    end = next((i + 1 for i, token in enumerate(tokens) if token in stops), None)
    stop = None if end is None else tokens[end - 1]
    return {"tokens": tokens[:end], "logprobs": logprobs[:end], "stop": stop}
