"""Where memory does not suffice, the same gradient comes from smaller micro-batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from bots_lightning.algorithms import GRPO, PPO
from bots_lightning.rollouts.memory import unless_out_of_memory
from bots_lightning.training import StepFailedError


def lacking(algorithm: Any, limit: int) -> Any:
    """The algorithm on a machine that has memory for so many tokens; a gradient is there when the error comes."""

    class Lacking(algorithm):  # type: ignore[misc]
        def losses(self, part: Any, *args: Any) -> Iterator[torch.Tensor]:
            yield from super().losses(part, *args)
            if len(part) * int(part.lengths.max()) > limit:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    return Lacking


@pytest.mark.parametrize("algorithm", [GRPO, PPO])
def test_the_weights_are_those_of_smaller_micro_batches(build: Any, fit: Any, algorithm: Any) -> None:
    plain = build(algorithm, kl_coef=0.1)  # no row is idle
    expected = fit(plain, 3).history
    whole = 4 * 4 * int(max(step["num_tokens"] for step in expected.steps))  # more than any batch has
    short = build(lacking(algorithm, 300), kl_coef=0.1)
    with pytest.warns(UserWarning, match=r"did not suffice for a micro-batch of \d+ tokens; it is halved") as warned:
        seen = fit(short, 3).history
    assert len([w for w in warned if "halved" in str(w.message)]) == 1
    assert short.max_tokens_per_microbatch is not None
    assert short.max_tokens_per_microbatch < whole
    assert seen["loss"] == pytest.approx(expected["loss"], abs=1e-5)
    assert seen["entropy"] == pytest.approx(expected["entropy"], abs=1e-5)  # figures are not counted twice
    for name, weight in expected.weights[-1].items():
        torch.testing.assert_close(seen.weights[-1][name], weight, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:memory did not suffice")
def test_where_half_does_not_suffice_either_the_run_ends_with_what_to_do(build: Any, fit: Any) -> None:
    with pytest.raises(StepFailedError, match=r"nor for half of it, max_tokens_per_microbatch=\d+\. Lower that"):
        fit(build(lacking(GRPO, 10), kl_coef=0.1), 2)


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    def fail(error: Exception) -> None:
        raise error

    assert unless_out_of_memory(lambda: 3) == 3
    assert unless_out_of_memory(lambda: fail(MemoryError())) is None
    assert unless_out_of_memory(lambda: fail(RuntimeError("DefaultCPUAllocator: can't allocate memory"))) is None
    with pytest.raises(RuntimeError, match="shapes"):
        unless_out_of_memory(lambda: fail(RuntimeError("shapes do not match")))


def test_a_machine_without_memory_is_recognised() -> None:
    """Of torch itself: more than any machine has."""
    assert unless_out_of_memory(lambda: torch.empty(2**60, dtype=torch.uint8)) is None
