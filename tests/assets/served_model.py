"""What a test server serves: a base model and its adapters, and answers that cannot be true."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable
from threading import Lock
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel

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


class Served:
    """A base model and its adapters, by name."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.base, self.adapters, self.paths = model, {}, {}
        self.faults: Counter[str] = Counter()
        self.calls: list[str] = []
        self.left = -1  # completions until it dies; below 0, it does not
        self.lock = Lock()

    def load(self, name: str, path: str) -> None:
        if self.fault("stale"):
            weights = list(self.adapters.values())[-1]
        else:
            weights = PeftModel.from_pretrained(copy.deepcopy(self.base), path).eval()
        self.adapters[name], self.paths[name] = weights, path

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
