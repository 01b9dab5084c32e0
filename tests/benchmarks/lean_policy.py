"""The quickstart's kind of policy as a few tensor operations: the same function as transformers and peft compute.

A tiny model spends most of its time between operations. Here adapters are merged before each pass, projections that
read the same are one, prompts are read once, and rows that have ended leave in whole prompts.
"""

# Shapes: P prompts, n completions of the one that has most, R rows, L prompt tokens, T completion tokens, A attention
# heads of size D, hidden size H, V words.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention, silu

from bots_lightning.policy.loading import language_model
from bots_lightning.policy.vocabulary import logits_logprobs
from bots_lightning.rollouts import GenerationRequest, RolloutEngine, Rollouts, completion_mask
from bots_lightning.rollouts.noise import draw_tokens, uniform_noise

# A grid of rows is packed anew once no more than this share of it goes on.
WORTH_PACKING = 0.75
# Longer completions are read apart from shorter ones, which would be padded to their length.
LENGTHS = (4, 8)


@dataclass(frozen=True)
class Layer:
    """Weights of one layer, adapters merged: what reads the same input is one matrix."""

    first_norm: Tensor
    query_key_value: Tensor  # (3·A·D, H)
    query_norm: Tensor
    key_norm: Tensor
    output: Tensor
    second_norm: Tensor
    gate_up: Tensor
    down: Tensor


class LeanPolicy:
    """A Qwen3 of transformers, with LoRA or without, whose weights it shares.

    Args:
        model: the policy's network; as many key as query heads.
        temperature: divides the logits.
    """

    def __init__(self, model: nn.Module, temperature: float = 1.0) -> None:
        inner = language_model(model)
        config = inner.config
        if config.model_type != "qwen3" or config.num_key_value_heads != config.num_attention_heads:
            raise ValueError(f"{config.model_type} of {config.num_key_value_heads} key heads; expected a plain Qwen3.")
        self.heads, self.size, self.eps = config.num_attention_heads, config.head_dim, config.rms_norm_eps
        self.temperature, self.network = temperature, inner.model
        self.embedding = inner.get_input_embeddings().weight  # (V, H), of the head too
        base = config.rope_parameters["rope_theta"]
        frequencies = 1 / base ** (torch.arange(0, self.size, 2) / self.size)
        angles = torch.arange(config.max_position_embeddings)[:, None] * frequencies
        self.cosines, self.sines = (torch.cat([wave, wave], dim=1) for wave in (angles.cos(), angles.sin()))

    def layers(self) -> list[Layer]:
        """The present weights, with gradient where it is enabled."""
        return [
            Layer(
                layer.input_layernorm.weight,
                torch.cat([merged(getattr(layer.self_attn, f"{name}_proj")) for name in "qkv"]),
                layer.self_attn.q_norm.weight,
                layer.self_attn.k_norm.weight,
                merged(layer.self_attn.o_proj),
                layer.post_attention_layernorm.weight,
                torch.cat([merged(layer.mlp.gate_proj), merged(layer.mlp.up_proj)]),
                merged(layer.mlp.down_proj),
            )
            for layer in self.network.layers
        ]

    def logits(self, hidden: Tensor) -> Tensor:
        """(…, V) of the last hidden states (…, H)."""
        return linear(self._norm(hidden, self.network.norm.weight), self.embedding)

    def read_prompts(
        self, layers: list[Layer], ids: Tensor, mask: Tensor
    ) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
        """Reads P prompts, padded on the left.

        Args:
            layers: the weights.
            ids: (P, L).
            mask: (P, L).

        Returns:
            keys and values of each layer, (P, A, L, D) each; and the hidden states of the last token, (P, H).
        """
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        length = ids.shape[1]
        seen = torch.ones(length, length, dtype=torch.bool).tril() & mask[:, None, :]
        seen = (seen | torch.eye(length, dtype=torch.bool))[:, None]
        hidden, cache = self.embedding[ids], []
        for layer in layers:
            query, key, value = self._query_key_value(layer, hidden, positions)
            cache.append((key, value))
            mixed = scaled_dot_product_attention(query, key, value, attn_mask=seen)
            hidden = self._rest(layer, hidden, mixed.transpose(1, 2).flatten(2))
        return cache, hidden[:, -1]

    def logprobs(self, rollouts: Rollouts) -> tuple[Tensor, Tensor]:
        """What `completion_logprobs` computes: (R, T) log-probabilities and entropies, with gradient.

        Without gradient, zeros: the update asks for those of rows that teach nothing, for its metrics alone.
        """
        if not torch.is_grad_enabled():
            nothing = torch.zeros(rollouts.completion_mask.shape)
            return nothing, nothing
        layers, values = self.layers(), []
        lengths = rollouts.lengths
        bounds = [0, *(bound for bound in LENGTHS if bound < lengths.max()), int(lengths.max())]
        for low, high in pairwise(bounds):
            rows = ((lengths > low) & (lengths <= high)).nonzero().flatten()
            if len(rows):
                values.append((rows, *self._logprobs(layers, rollouts.rows(rows))))
        found = [lengths.new_zeros(rollouts.completion_mask.shape, dtype=torch.float32) for _ in range(2)]
        for rows, *each in values:
            found = [
                whole.index_put((rows[:, None], torch.arange(part.shape[1])), part)
                for whole, part in zip(found, each, strict=True)
            ]
        return found[0], found[1]

    def _logprobs(self, layers: list[Layer], rollouts: Rollouts) -> tuple[Tensor, Tensor]:
        ids = rollouts.prompt_ids.masked_fill(~rollouts.prompt_mask, -1)
        prompts, of = torch.unique_consecutive(ids, dim=0, return_inverse=True)
        mask, completion, answered = prompts >= 0, rollouts.completion_ids, rollouts.completion_mask
        cache, last = self.read_prompts(layers, prompts.clamp(min=0), mask)
        states, further = [last[of][:, None]], completion.shape[1] - 1
        if further:
            positions = mask.sum(dim=1)[of][:, None] + torch.arange(further)
            own = torch.ones(further, further, dtype=torch.bool).tril().expand(len(of), -1, -1)
            seen = torch.cat([mask[of][:, None, :].expand(-1, further, -1), own], dim=2)[:, None]
            hidden = self.embedding[completion[:, :-1]]
            for layer, (keys, values) in zip(layers, cache, strict=True):
                query, key, value = self._query_key_value(layer, hidden, positions)
                key, value = torch.cat([keys[of], key], dim=2), torch.cat([values[of], value], dim=2)
                mixed = scaled_dot_product_attention(query, key, value, attn_mask=seen)
                hidden = self._rest(layer, hidden, mixed.transpose(1, 2).flatten(2))
            states.append(hidden)
        logits = self.logits(torch.cat(states, dim=1)[answered])
        found = logits_logprobs(logits, completion[answered], self.temperature)
        return tuple(value.new_zeros(answered.shape).masked_scatter(answered, value) for value in found)  # type: ignore[return-value]

    def _query_key_value(self, layer: Layer, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(P, A, L, D) each."""
        read = linear(self._norm(hidden, layer.first_norm), layer.query_key_value)
        query, key, value = read.unflatten(-1, (3, self.heads, self.size)).unbind(dim=-3)
        cosine, sine = self.cosines[positions][..., None, :], self.sines[positions][..., None, :]
        query = rotated(self._norm(query, layer.query_norm), cosine, sine)
        key = rotated(self._norm(key, layer.key_norm), cosine, sine)
        return query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)

    def _rest(self, layer: Layer, hidden: Tensor, mixed: Tensor) -> Tensor:
        hidden = hidden + linear(mixed, layer.output)
        gate, up = linear(self._norm(hidden, layer.second_norm), layer.gate_up).chunk(2, dim=-1)
        return hidden + linear(silu(gate) * up, layer.down)

    def _norm(self, hidden: Tensor, weight: Tensor) -> Tensor:
        return rms_norm(hidden, (hidden.shape[-1],), weight, self.eps)


def merged(projection: nn.Module) -> Tensor:
    """The weight of a projection with its adapter."""
    if not isinstance(projection, LoraLayer):
        return projection.weight  # type: ignore[return-value]
    (name,) = projection.active_adapters
    low, high = projection.lora_A[name].weight, projection.lora_B[name].weight
    return torch.addmm(projection.base_layer.weight, high, low, alpha=projection.scaling[name])


def rotated(heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary positions."""
    return heads * cosine + turned(heads) * sine


def turned(heads: Tensor) -> Tensor:
    """A quarter turn of each pair of numbers."""
    first, second = heads.chunk(2, dim=-1)
    return torch.cat([-second, first], dim=-1)


class LeanEngine(RolloutEngine):
    """Samples the completions that `CompactEngine` samples, up to rounding.

    Args:
        policy: whose adapters are merged by `sync`.
    """

    def __init__(self, policy: LeanPolicy) -> None:
        self.policy = policy

    @torch.no_grad()
    def sync(self, policy: nn.Module, policy_version: int) -> None:
        """Merges the adapters."""
        self.layers = self.policy.layers()

    @torch.no_grad()
    def generate(self, request: GenerationRequest) -> Rollouts:
        """Samples; see `RolloutEngine.generate`."""
        prompts, counts, sampling = request.prompts, request.counts, request.sampling
        ids, mask = padded(prompts, sampling.pad_token_id)
        noise = uniform_noise(request.seeds, counts, sampling.max_completion_length, request.starts)
        grid = Grid(self.policy, self.layers, ids, mask, counts, noise)
        completions = grid.complete(sampling.max_completion_length, sampling.stop_token_ids, sampling.pad_token_id)
        completion, finished = completion_mask(completions, sampling.stop_token_ids)
        completions = completions.masked_fill(~completion, sampling.pad_token_id)
        of = torch.tensor(request.prompt_of_row)
        rows = Rollouts(ids[of], mask[of], completions, completion, finished, request.policy_version)
        return rows.rows(torch.arange(len(rows)))


def padded(prompts: Sequence[Sequence[int]], pad_token_id: int) -> tuple[Tensor, Tensor]:
    """(P, L) ids padded on the left, and their mask."""
    length = max(map(len, prompts))
    ids = torch.tensor([[pad_token_id] * (length - len(prompt)) + list(prompt) for prompt in prompts])
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    return ids, torch.arange(length) >= length - lengths[:, None]


class Grid:
    """Rows that are sampled, by prompt: (P, n) of them, −1 where a prompt has fewer.

    Prompts' keys and values are not repeated: all rows of a prompt read them at once.
    """

    def __init__(
        self, policy: LeanPolicy, layers: list[Layer], ids: Tensor, mask: Tensor, counts: Sequence[int], noise: Tensor
    ) -> None:
        self.policy, self.layers, self.noise = policy, layers, noise
        amounts = torch.tensor(counts)
        slots = torch.arange(int(amounts.max()))
        self.rows = torch.where(slots < amounts[:, None], (amounts.cumsum(0) - amounts)[:, None] + slots, -1)
        self.prompts, self.last = policy.read_prompts(layers, ids, mask)
        self.lengths = mask.sum(dim=1)
        self.hidden_from = torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)[:, None, None]  # (P, 1, 1, L)
        scale = policy.size**-0.5
        norms = [torch.stack([layer.query_norm * scale, layer.key_norm])[:, None] for layer in layers]  # (2, 1, D)
        self.norms = [(norm, turned(norm)) for norm in norms]

    def complete(self, limit: int, stops: Sequence[int], pad_token_id: int) -> Tensor:
        """(R, T) token ids, whatever after a stop token."""
        policy, found = self.policy, torch.full((len(self.noise), limit), pad_token_id)
        logits = policy.logits(self.last)[:, None].expand(-1, self.rows.shape[1], -1)
        shape = *self.rows.shape, limit, policy.heads, policy.size
        self.own = [torch.empty(2, *shape) for _ in self.layers]  # keys and values (P, n, T, A, D)
        for step in range(limit):
            flat = self.rows.flatten()
            tokens = draw_tokens(logits.flatten(0, 1), self.noise[flat.clamp(min=0), step], policy.temperature)
            found[flat[flat >= 0], step] = tokens[flat >= 0]
            tokens = tokens.reshape(self.rows.shape)
            goes_on = (self.rows >= 0) & ~torch.isin(tokens, torch.tensor(stops))
            if step + 1 == limit or not goes_on.any():
                break
            self.rows = torch.where(goes_on, self.rows, -1)
            logits = policy.logits(self._read(self._pack(tokens, step), step))
        return found

    def _pack(self, tokens: Tensor, step: int) -> Tensor:
        """Leaves out prompts whose rows have all ended, and slots that none needs; the tokens of what is left."""
        live = self.rows >= 0
        kept, width = live.any(dim=1).nonzero().flatten(), int(live.sum(dim=1).max())
        if len(kept) * width > WORTH_PACKING * self.rows.numel():
            return tokens
        slots = live[kept].int().argsort(dim=1, descending=True, stable=True)[:, :width]
        self.rows, tokens = self.rows[kept].gather(1, slots), tokens[kept].gather(1, slots)
        at = kept[:, None], slots
        packed = [torch.empty(2, *self.rows.shape, *own.shape[3:]) for own in self.own]
        for new, own in zip(packed, self.own, strict=True):
            new[:, :, :, :step] = own[:, :, :, :step][:, *at]
        self.own, self.lengths, self.hidden_from = packed, self.lengths[kept], self.hidden_from[kept]
        self.prompts = [(keys[kept], values[kept]) for keys, values in self.prompts]
        return tokens

    def _read(self, tokens: Tensor, step: int) -> Tensor:
        """Hidden states (P, n, H) after one more token of each row."""
        policy, positions = self.policy, self.lengths + step
        cosine, sine = (wave[positions][:, None, None, None] for wave in (policy.cosines, policy.sines))
        hidden = policy.embedding[tokens]
        for layer, norms, prompt, own in zip(self.layers, self.norms, self.prompts, self.own, strict=True):
            read = linear(policy._norm(hidden, layer.first_norm), layer.query_key_value)
            read = read.unflatten(-1, (3, policy.heads, policy.size))  # (P, n, 3, A, D)
            plain = rms_norm(read[:, :, :2], (policy.size,), None, policy.eps)
            placed = plain * (norms[0] * cosine) + swapped(plain) * (norms[1] * sine)
            own[0, :, :, step], own[1, :, :, step] = placed[:, :, 1], read[:, :, 2]
            mixed = self._attend(placed[:, :, 0], prompt, own[:, :, :, : step + 1])
            hidden = policy._rest(layer, hidden, mixed)
        return hidden

    def _attend(self, query: Tensor, prompt: tuple[Tensor, Tensor], own: Tensor) -> Tensor:
        """(P, n, A·D) of queries (P, n, A, D), scaled, over the prompt and the row's own tokens."""
        keys, values = prompt
        far = torch.matmul(query.transpose(1, 2), keys.transpose(2, 3)) + self.hidden_from  # (P, A, n, L)
        near = (own[0] * query[:, :, None]).sum(dim=-1).permute(0, 3, 1, 2)  # (P, A, n, t)
        weights = torch.cat([far, near], dim=3).softmax(dim=3)
        far, near = weights.split([far.shape[3], near.shape[3]], dim=3)
        mixed = torch.matmul(far, values).transpose(1, 2)
        return (mixed + (own[1] * near.permute(0, 2, 3, 1)[..., None]).sum(dim=2)).flatten(2)


def swapped(heads: Tensor) -> Tensor:
    """The halves of each head's numbers, the other way round."""
    first, second = heads.chunk(2, dim=-1)
    return torch.cat([second, first], dim=-1)
