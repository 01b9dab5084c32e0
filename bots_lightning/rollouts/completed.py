"""Reports each prompt whose completions have all ended, while others are still being sampled."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from bots_lightning.rollouts.engine import GenerationRequest, SamplingParams


def own_tokens(tokens: Sequence[int], sampling: SamplingParams) -> list[int]:
    """A completion up to its first stop token, that one included, or to the limit: what the Rollouts' mask covers."""
    within = list(tokens[: sampling.max_completion_length])
    end = next((i + 1 for i, token in enumerate(within) if token in sampling.stop_token_ids), None)
    return within[:end]


class CompletedPrompts:
    """Gathers rows as they end, and reports each prompt once, with all its completions.

    Args:
        request: whose `on_completed` is called; without one, rows need not be added.

    Attributes:
        wanted: whether there is anything to call.
        ended: rows that have been added.
    """

    def __init__(self, request: GenerationRequest) -> None:
        self.wanted = request.on_completed is not None
        self.ended: set[int] = set()
        self._failure: BaseException | None = None
        self._request, self._prompt_of_row = request, request.prompt_of_row
        self._rows: defaultdict[int, dict[int, list[int]]] = defaultdict(dict)  # by prompt, those of incomplete ones

    def add(self, rows: Iterable[int], tokens: Iterable[Sequence[int]]) -> None:
        """Takes the tokens of rows that have ended, each row once; what follows their end does not matter."""
        for row, drawn in zip(rows, tokens, strict=True):
            self.ended.add(row)
            prompt = self._prompt_of_row[row]
            self._rows[prompt][row] = own_tokens(drawn, self._request.sampling)
            if len(self._rows[prompt]) == self._request.counts[prompt]:
                completions = self._rows.pop(prompt)
                self._report(prompt, [completions[row] for row in sorted(completions)])

    def raise_failure(self) -> None:
        """Raises what `on_completed` has raised, which an engine may have mistaken for running out of memory."""
        if self._failure is not None:
            raise self._failure

    def _report(self, prompt: int, completions: list[list[int]]) -> None:
        assert self._request.on_completed is not None
        try:
            self._request.on_completed(prompt, completions)
        except BaseException as error:  # raised again, here and by `raise_failure`
            self._failure = error
            raise
