"""From task prompts to token ids, and from token ids to text."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from bots_lightning.tasks.pool import Prompt
from bots_lightning.tasks.prompts import prompt_tokens

log = logging.getLogger(__name__)

HELP = (
    "Raise max_prompt_length (or lower max_completion_length where the context is short), drop the task (of a source: "
    "FilteredTasks with PromptTokens), or set truncate_prompts=true to keep the last tokens of long prompts."
)


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint; one without a pad token gets its stop token as pad.

    Pads are masked by position, so that a pad that is also a stop token does no harm.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def prompt_room(context: int | None, max_prompt_length: int, max_completion_length: int) -> int | None:
    """The tokens of the model's context that a completion leaves to a prompt; None where there is no bound.

    Warns if that is less than `max_prompt_length`.

    Args:
        context: tokens that the model takes, prompt and completion together; None for no bound.
        max_prompt_length: tokens.
        max_completion_length: tokens.

    Raises:
        ValueError: nothing is left.
    """
    if context is None:
        return None
    room = context - max_completion_length
    if room < 1:
        raise ValueError(
            f"max_completion_length={max_completion_length} leaves no room for a prompt in the model's context of "
            f"{context} tokens. Lower it, or take a model with a longer context."
        )
    if room < max_prompt_length:
        log.warning(
            "max_prompt_length=%d and max_completion_length=%d are more than the model's context of %d tokens: prompts "
            "have room for %d.",
            *(max_prompt_length, max_completion_length, context, room),
        )
    return room


class PromptEncoder:
    """Encodes prompts: strings as they are, chat messages through the tokenizer's template.

    Args:
        tokenizer: the policy's.
        max_prompt_length: tokens; a longer prompt is an error unless `truncate`.
        truncate: keep the last tokens of longer prompts, as many as are allowed.
        room: tokens that completions leave to prompts in the model's context, see `prompt_room`; None for no bound.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_prompt_length: int,
        truncate: bool = False,
        room: int | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.max_prompt_length = max_prompt_length
        self.truncate = truncate
        self.most = max_prompt_length if room is None else min(room, max_prompt_length)

    def encode(self, prompts: Sequence[Prompt], ids: Sequence[str]) -> list[list[int]]:
        """Token ids of each prompt.

        Args:
            prompts: P strings or lists of chat messages.
            ids: P task ids, for error messages.

        Raises:
            ValueError: a prompt is empty, or too long and `truncate` is off.
        """
        encoded = [prompt_tokens(self.tokenizer, prompt) for prompt in prompts]
        for task_id, tokens in zip(ids, encoded, strict=True):
            if fault := self._fault(tokens):
                raise ValueError(f"the prompt of task {task_id!r} {fault}. {HELP}")
        return [tokens[-self.most :] for tokens in encoded]

    def fault(self, prompt: Prompt) -> str | None:
        """Why a prompt cannot be encoded; None if it can."""
        fault = self._fault(prompt_tokens(self.tokenizer, prompt))
        return f"the prompt {fault}" if fault else None

    def _fault(self, tokens: list[int]) -> str | None:
        if not tokens:
            return "has no tokens, expected at least one"
        if len(tokens) > self.max_prompt_length and not self.truncate:
            return f"has {len(tokens)} tokens, max_prompt_length is {self.max_prompt_length}"
        if len(tokens) > self.most and not self.truncate:
            return f"has {len(tokens)} tokens, the context has room for {self.most} beside max_completion_length"
        return None

    def decode(self, completion_ids: Tensor, completion_mask: Tensor) -> list[str]:
        """(R, T) completions as R strings, without special tokens."""
        return self.decode_rows([ids[mask].tolist() for ids, mask in zip(completion_ids, completion_mask, strict=True)])

    def decode_rows(self, rows: list[list[int]]) -> list[str]:
        """R lists of token ids as R strings, without special tokens."""
        return self.tokenizer.batch_decode(rows, skip_special_tokens=True)
