"""Log-probabilities of completions under the policy."""

# Shapes: R rows, P different prompts, L prompt tokens, T completion tokens, H hidden size, V vocabulary.

from __future__ import annotations

import warnings
from collections.abc import Iterator
from itertools import product
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from bots_lightning.policy.loading import language_model
from bots_lightning.policy.vocabulary import LogitsProcessing, logits_logprobs, token_logprobs
from bots_lightning.rollouts import Rollouts
from bots_lightning.rollouts.reader import can_read

WORTH_SHARING = 0.1  # of all tokens, those that need not be read where prompts are read once
# What configs call the numbers between head and logits; models differ in whether they multiply or divide by them.
SCALES = ("logit_scale", "logits_scaling", "lm_head_multiplier", "output_multiplier")
SOFTCAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
_found: WeakKeyDictionary[nn.Module, LogitsProcessing | None] = WeakKeyDictionary()


def completion_logprobs(model: nn.Module, rollouts: Rollouts, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Log-probability of every completion token, and the entropy of the distribution it was drawn from.

    Logits are computed for the completions' own tokens only, and a chunk of them at a time, where the model's logits
    can be told from its hidden states (see `logits_processing`).

    Args:
        model: a causal language model of transformers, or a PEFT model of one.
        rollouts: R rows of prompts and completions.
        temperature: divides the logits, as it did when the completions were sampled.

    Returns:
        logprobs (R, T) and entropy (R, T) in nats, float32 (float64 of a float64 model), both with gradient; values
        outside `rollouts.completion_mask` mean nothing.
    """
    mask = rollouts.completion_mask
    targets = rollouts.completion_ids[mask]
    processing = logits_processing(model)
    if processing is None:
        logits = model(**_inputs(rollouts)).logits[:, -mask.shape[1] - 1 : -1][mask]
        values = logits_logprobs(logits, targets, temperature)
    else:
        hidden = completion_hidden_states(model, rollouts)[mask]
        head = language_model(model).get_output_embeddings()
        values = token_logprobs(hidden, head, targets, temperature, processing=processing)
    logprobs, entropy = (value.new_zeros(mask.shape).masked_scatter(mask, value) for value in values)
    return logprobs, entropy


def completion_hidden_states(model: nn.Module, rollouts: Rollouts) -> Tensor:
    """The last hidden states at the positions that predict the completion tokens, each one before its token.

    They are what the model gives to its head: after the last norm, and whatever else comes before the head. A prompt
    that several rows have is read once, where that saves much and the model can go on from it (see `_shares`).

    Args:
        model: a causal language model of transformers, or a PEFT model of one.
        rollouts: R rows of prompts and completions.

    Returns:
        (R, T, H) in the model's dtype, with gradient; values outside `rollouts.completion_mask` mean nothing.

    Raises:
        ValueError: the model does not call the head that it names.
    """
    prompts, prompt_of = _distinct_prompts(rollouts)
    length, saved = rollouts.completion_ids.shape[1], len(rollouts) - len(prompts)
    if saved * prompts.shape[1] < WORTH_SHARING * len(rollouts) * (prompts.shape[1] + length) or not _shares(model):
        hidden, _ = _forward(model, 1, **_inputs(rollouts))
        return hidden[:, -length - 1 : -1]
    inputs, cache = _inputs(rollouts), DynamicCache(config=language_model(model).config)
    mask = (prompts >= 0).long()
    given = {"input_ids": prompts.clamp(min=0), "attention_mask": mask, "position_ids": _positions(mask)}
    states = [_continue(model, cache, 1, given)[prompt_of]]
    if length > 1:  # no token comes after the last
        cache.batch_select_indices(prompt_of)
        given = {"input_ids": rollouts.completion_ids[:, :-1], "attention_mask": inputs["attention_mask"][:, :-1]}
        given["position_ids"] = inputs["position_ids"][:, -length:-1]
        states.append(_continue(model, cache, length - 1, given))
    return torch.cat(states, dim=1)


def _distinct_prompts(rollouts: Rollouts) -> tuple[Tensor, Tensor]:
    """(P, L) ids of the P different prompts, −1 where there is padding; and (R,) which of them each row has."""
    ids = rollouts.prompt_ids.masked_fill(~rollouts.prompt_mask, -1)
    prompts, prompt_of = torch.unique(ids, dim=0, return_inverse=True)
    return prompts, prompt_of


def _shares(model: nn.Module) -> bool:
    """Whether rows can go on from the keys and values of a prompt that they share, with gradients.

    In train mode transformers may compute layers anew in the backward pass, and keeps no cache. Hooks before the head
    are those of ZeRO-3, under which all ranks have to make equally many forward passes.
    """
    inner = language_model(model)
    if inner.training or inner.get_output_embeddings()._forward_pre_hooks or not can_read(inner):
        return False
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=inner.config).layers)


def _continue(model: nn.Module, cache: DynamicCache, count: int, inputs: dict[str, Tensor]) -> Tensor:
    """(R, count, H) last hidden states of what is read after the cache."""
    hidden, _ = _forward(model, 1, **inputs, past_key_values=cache, use_cache=True, logits_to_keep=count)
    return hidden[:, -count:]


def logits_processing(model: nn.Module) -> LogitsProcessing | None:
    """Finds what the model does between its head and its logits.

    By trial, once for each model: a forward pass over a few tokens shows what the head is given and the logits that
    come out, and the numbers of the model's config are tried for what lies between. The tokens are always the same, so
    all ranks come to the same result.

    Args:
        model: a causal language model of transformers, or a PEFT model of one.

    Returns:
        the processing; None, with a warning, if it is nothing known here.
    """
    inner = language_model(model)
    if inner not in _found:
        _found[inner] = _try_processings(model)
        if _found[inner] is None:
            warnings.warn(
                f"the logits of {type(inner).__name__} do not follow from its hidden states in a way known here. "
                "Log-probabilities come from its own logits, all at once: right, but of large memory. "
                "Lower max_tokens_per_microbatch if it does not fit.",
                stacklevel=2,
            )
    return _found[inner]


@torch.no_grad()
def _try_processings(model: nn.Module) -> LogitsProcessing | None:
    """The processing that comes closest to the model's logits, if it comes as close as rounding allows."""
    inner = language_model(model)
    head, device = inner.get_output_embeddings(), inner.device
    if head is None:
        return None
    ids = torch.arange(16, device=device).unsqueeze(0) % head.out_features
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        hidden, logits = _forward(model, 16, input_ids=ids, use_cache=False)
        outputs = head(hidden)
    if outputs.shape != logits.shape:
        return None
    tolerance = 2 * torch.finfo(outputs.dtype).eps * logits.abs().max()
    candidates = list(_processings(inner.config.get_text_config()))
    errors = torch.stack([(candidate(outputs) - logits).abs().max() for candidate in candidates])
    best = int(errors.argmin())
    return candidates[best] if errors[best] <= tolerance else None


def _processings(config: Any) -> Iterator[LogitsProcessing]:
    """All that the config's numbers allow, the plain one last."""
    numbers = [value for name in SCALES if isinstance(value := getattr(config, name, None), (int, float))]
    caps = [value for name in SOFTCAPS if isinstance(value := getattr(config, name, None), (int, float))]
    scales = [{"multiplier": n} for n in numbers] + [{"divisor": n} for n in numbers] + [{}]
    for scale, cap in product(scales, [*caps, None]):
        yield LogitsProcessing(**scale, softcap=cap)


def _inputs(rollouts: Rollouts) -> dict[str, Any]:
    """Arguments of a forward pass over prompts and completions; padding moves no position."""
    mask = torch.cat([rollouts.prompt_mask, rollouts.completion_mask], dim=1).long()
    return {
        "input_ids": torch.cat([rollouts.prompt_ids, rollouts.completion_ids], dim=1),
        "attention_mask": mask,
        "position_ids": _positions(mask),
        "use_cache": False,
        "logits_to_keep": rollouts.completion_ids.shape[1] + 1,
    }


def _positions(mask: Tensor) -> Tensor:
    return (mask.cumsum(dim=1) - 1).clamp(min=0)


def _forward(model: nn.Module, keep: int, **inputs: Any) -> tuple[Tensor, Tensor]:
    """What the head is given, all of it; and the logits of the last `keep` positions of the first row."""
    given: list[Tensor] = []

    def take(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        given.append(args[0])
        return (args[0][:1, -keep:], *args[1:])

    inner = language_model(model)
    hook = inner.get_output_embeddings().register_forward_pre_hook(take)
    try:
        logits = model(**inputs).logits
    finally:
        hook.remove()
    if not given:
        raise ValueError(f"{type(inner).__name__} does not call the head that get_output_embeddings() names.")
    return given[0], logits
