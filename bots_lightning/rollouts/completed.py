"""Telling of prompts whose completions have all ended, while others are still being sampled."""

# Shapes: P prompts, n completions per prompt, R = P·n rows.

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from bots_lightning.rollouts.engine import OnCompleted, Sampling


def own_tokens(tokens: Sequence[int], sampling: Sampling) -> list[int]:
    """A completion up to its first stop token, that one included, or to the limit: what the Rollouts' mask covers."""
    within = list(tokens[: sampling.max_completion_length])
    end = next((i + 1 for i, token in enumerate(within) if token in sampling.stop_token_ids), None)
    return within[:end]


class CompletedPrompts:
    """Gathers rows as they end, and tells of each prompt once, with its n completions.

    Args:
        n: completions per prompt.
        sampling: how they are drawn.
        on_completed: is told, see `RolloutEngine.generate`; None: rows need not be added.

    Attributes:
        wanted: whether anybody is told.
        ended: rows p·n + j that have been added.
    """

    def __init__(self, n: int, sampling: Sampling, on_completed: OnCompleted | None) -> None:
        self.wanted = on_completed is not None
        self.ended: set[int] = set()
        self._failure: BaseException | None = None
        self._n, self._sampling, self._on_completed = n, sampling, on_completed
        self._rows: defaultdict[int, dict[int, list[int]]] = defaultdict(dict)  # by prompt, those of incomplete ones

    def add(self, rows: Iterable[int], tokens: Iterable[Sequence[int]]) -> None:
        """Takes the tokens of rows that have ended, each row once; what follows their end does not matter."""
        for row, drawn in zip(rows, tokens, strict=True):
            self.ended.add(row)
            prompt = row // self._n
            self._rows[prompt][row] = own_tokens(drawn, self._sampling)
            if len(self._rows[prompt]) == self._n:
                completions = self._rows.pop(prompt)
                self._tell(prompt, [completions[row] for row in sorted(completions)])

    def raise_failure(self) -> None:
        """Raises what `on_completed` has raised, which might have passed for an engine's own lack of memory."""
        if self._failure is not None:
            raise self._failure

    def _tell(self, prompt: int, completions: list[list[int]]) -> None:
        assert self._on_completed is not None
        try:
            self._on_completed(prompt, completions)
        except BaseException as error:  # raised again, here and by `raise_failure`
            self._failure = error
            raise
