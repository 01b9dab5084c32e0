"""Reward functions in TRL's signature or verl's, and what each is given.

A function in TRL's signature is called once for many completions. It is given, by name, what its parameters name, or
all of this if it takes `**columns`:

| name             | one value for each completion                                                             |
|------------------|-------------------------------------------------------------------------------------------|
| `prompts`        | the task's prompt: a string, or a list of {role, content} messages                        |
| `completions`    | the text without special tokens; `[{"role": "assistant", "content": text}]` for functions |
|                  | whose annotation is a list of lists, as in `trl.rewards`, and inside of `ChatReward`      |
| `completion_ids` | the tokens of the completion, its stop token included; not for graded rewards             |
| `answer`         | the task's answer                                                                         |
| `task_id`        | the task's id                                                                             |
| `group`          | the task's group, "" without one                                                          |
| any other name   | the column of that name, if all tasks of the batch have it                                |

TRL also passes `trainer_state`, `log_extra`, `log_metric` and `environments`; they do not exist here, and a function
that requires one is refused. TRL gives messages to every function where prompts are chats; here texts are the rule.

A function in verl's signature is called once for each completion, see `VerlReward`.
"""

from __future__ import annotations

import inspect
import numbers
import re
from collections.abc import Callable, Mapping, Sequence
from reprlib import repr as short
from typing import Any

RewardFunction = Callable[..., Sequence[float | None]]

TRL = "f(prompts, completions, **columns) -> list[float | None]"
VERL = "compute_score(data_source, solution_str, ground_truth, extra_info=None) -> float | dict"
VERL_NEEDS = {"solution_str", "ground_truth"}
VERL_TAKES = VERL_NEEDS | {"data_source", "extra_info"}
NOT_AWAITED = "Nobody awaits it: define it with `def`, and call asyncio.run(…) inside."
NO_MESSAGES = ". Its completions are texts; for a function that wants messages use bots_lightning.rewards.ChatReward"
LISTS_OF_LISTS = re.compile(r"\b(list|sequence)\[[\w.]*\b(list|sequence)\[", re.IGNORECASE)


class RewardFunctionError(ValueError):
    """A reward function raised something, or returned something that is no reward; the message names it."""


def adapted(function: Callable[..., Any]) -> RewardFunction:
    """Makes a function callable by the scorer.

    Functions in verl's signature are recognised by their parameters' names, those for chats by their annotation.

    Args:
        function: in TRL's signature, or in verl's.

    Returns:
        A function in TRL's signature: itself, or a `VerlReward` or `ChatReward` around it.

    Raises:
        ValueError: it has neither signature, or is a coroutine function.
    """
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__):
        raise ValueError(f"reward function {name_of(function)} is a coroutine function. {NOT_AWAITED}")
    parameters = inspect.signature(function).parameters
    if set(parameters) >= VERL_NEEDS:
        return VerlReward(function)
    if "completions" in parameters and LISTS_OF_LISTS.search(str(parameters["completions"].annotation)):
        return ChatReward(function)
    if "completions" in parameters or _open_ended(parameters):
        return function
    raise ValueError(
        f"{name_of(function)} takes {list(parameters)}; a reward function has the signature {TRL} (of TRL) or {VERL} "
        "(of verl). Rename its parameters; of a function that makes reward functions, name what it returns."
    )


def accepted(function: Callable[..., Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """Selects the arguments that a function takes.

    Args:
        function: to be called.
        arguments: all that there are, by name.

    Returns:
        Those that its parameters name; all of them if it takes `**columns`.

    Raises:
        RewardFunctionError: the function requires others too.
    """
    parameters = inspect.signature(function).parameters
    named = [p for p in parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    missing = [p.name for p in named if p.default is p.empty and p.name not in arguments]
    if missing:
        raise RewardFunctionError(
            f"reward function {name_of(function)} needs {', '.join(missing)}; it can be given "
            f"{', '.join(sorted(arguments))}. Add a column of that name to all tasks, or give the parameter a default."
        )
    if _open_ended(parameters):
        return arguments
    return {p.name: arguments[p.name] for p in named if p.name in arguments}


def plain(value: Any) -> Any:
    """Converts what a reward function returned to Python's own types, arrays and scalars of any library by `tolist`.

    Raises:
        TypeError: it is a coroutine.
    """
    if inspect.iscoroutine(value):
        value.close()
        raise TypeError(f"a coroutine. {NOT_AWAITED}")
    return value.tolist() if hasattr(value, "tolist") else value


def number(value: Any) -> float:
    """Converts one reward to float.

    Raises:
        TypeError: it is no number.
    """
    value = plain(value)
    if not isinstance(value, numbers.Real):
        raise TypeError(short(value))
    return float(value)


class ChatReward:
    """Calls a function with completions as chats of one message, as TRL does where prompts are chats.

    Args:
        function: in TRL's signature; its completions are `[{"role": "assistant", "content": text}]`.
    """

    def __init__(self, function: RewardFunction) -> None:
        self.function = function
        self.__name__ = name_of(function)

    def __call__(self, completions: Sequence[str], **columns: Any) -> Sequence[float | None]:
        """Rewards of R completions."""
        chats = [[{"role": "assistant", "content": text}] for text in completions]
        return self.function(**accepted(self.function, {"completions": chats} | columns))


class VerlReward:
    """Calls verl's `compute_score` once per completion.

    `data_source` is the column of that name, or the task's group; `ground_truth` is that of the column `reward_model`,
    or the answer; `extra_info` is the column of that name, or None. Those that the function does not take are left out.

    Args:
        function: in verl's signature; returns a number, None where it does not apply, or a dictionary with "score".
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        parameters = inspect.signature(function).parameters
        self.takes = VERL_TAKES if _open_ended(parameters) else VERL_TAKES & set(parameters)
        self.function = function
        self.__name__ = name_of(function)

    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[str], answer: Sequence[str], **columns: Any
    ) -> list[float | None]:
        """Rewards of R completions.

        Raises:
            RewardFunctionError: the function raised something, or returned something without a score; names the task.
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
        ids = columns.get("task_id", rows)
        return [self._score({name: values[name][row] for name in self.takes}, ids[row]) for row in rows]

    def _score(self, arguments: dict[str, Any], task_id: Any) -> float | None:
        try:
            result = self.function(**arguments)
        except Exception as error:  # whatever a user's function raises; raised again, with its name and task
            raise raised(self, error, f"for task {task_id!r}") from error
        score = result.get("score") if isinstance(result, Mapping) else result
        try:
            return None if result is None else number(score)
        except TypeError as fault:
            seen = fault if inspect.iscoroutine(result) else short(result)
            raise RewardFunctionError(
                f'reward function {self.__name__} returned {seen}; expected a number, or a dictionary with "score" '
                f"(for task {task_id!r})."
            ) from None


def raised(function: Callable[..., Any], error: Exception, where: str) -> RewardFunctionError:
    """Describes the failure of a reward function; to be raised from the original error.

    Args:
        function: that failed.
        error: what it raised.
        where: for which tasks, in words.
    """
    wants_messages = isinstance(error, TypeError) and str(error).startswith("string indices must be integers")
    hint = NO_MESSAGES if wants_messages else ""
    return RewardFunctionError(
        f"reward function {name_of(function)} raised {type(error).__name__}: {error} {where}{hint}"
    )


def name_of(function: Callable[..., Any]) -> str:
    """The name of a function; for other callables, that of their class."""
    return getattr(function, "__name__", type(function).__name__)


def _open_ended(parameters: Mapping[str, inspect.Parameter]) -> bool:
    return any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _ground_truth(reward_model: Any, answer: str) -> Any:
    return reward_model.get("ground_truth", answer) if isinstance(reward_model, Mapping) else answer
