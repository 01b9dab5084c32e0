"""Reward functions in verl's signature, called in TRL's."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

RewardFunction = Callable[..., Sequence[float | None]]

TRL = "f(prompts, completions, **columns) -> list[float | None]"
VERL = "compute_score(data_source, solution_str, ground_truth, extra_info=None) -> float | dict"
VERL_NEEDS = {"solution_str", "ground_truth"}
VERL_TAKES = VERL_NEEDS | {"data_source", "extra_info"}


def adapted(function: Callable[..., Any]) -> RewardFunction:
    """A function in TRL's signature as it is, one in verl's (told by its parameters' names) wrapped into TRL's.

    Raises:
        ValueError: it has neither signature.
    """
    parameters = inspect.signature(function).parameters
    if set(parameters) >= VERL_NEEDS:
        return VerlReward(function)
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    if "completions" in parameters or open_ended:
        return function
    raise ValueError(
        f"{_name(function)} takes {list(parameters)}; a reward function has the signature {TRL} (of TRL) or {VERL} "
        "(of verl). Rename its parameters."
    )


class VerlReward:
    """Calls verl's `compute_score` once per completion.

    `data_source` is the column of that name, or the task's group; `ground_truth` is that of the column `reward_model`,
    or the answer; `extra_info` is the column of that name, or None. Those that the function does not take are left out.

    Args:
        function: in verl's signature; returns a number, None where it does not apply, or a dictionary with "score".
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        parameters = inspect.signature(function).parameters
        open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        self.takes = VERL_TAKES if open_ended else VERL_TAKES & set(parameters)
        self.function = function
        self.__name__ = _name(function)

    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[str], answer: Sequence[str], **columns: Any
    ) -> list[float | None]:
        """Rewards of R completions.

        Raises:
            ValueError: the function returned something without a score.
        """
        rows = range(len(completions))
        absent = [None] * len(completions)
        models = columns.get("reward_model", absent)
        values = {
            "data_source": columns.get("data_source", columns.get("group", [""] * len(completions))),
            "solution_str": completions,
            "ground_truth": [_ground_truth(model, right) for model, right in zip(models, answer, strict=True)],
            "extra_info": columns.get("extra_info", absent),
        }
        return [self._score({name: values[name][row] for name in self.takes}) for row in rows]

    def _score(self, arguments: dict[str, Any]) -> float | None:
        result = self.function(**arguments)
        score = result.get("score") if isinstance(result, Mapping) else result
        if score is None and result is not None:
            raise ValueError(f'{self.__name__} returned {result!r}; expected a number, or a dictionary with "score".')
        try:
            return None if score is None else float(score)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f'{self.__name__} returned {result!r}; expected a number, or a dictionary with "score".'
            ) from error


def _ground_truth(reward_model: Any, answer: str) -> Any:
    return reward_model.get("ground_truth", answer) if isinstance(reward_model, Mapping) else answer


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", type(function).__name__)
