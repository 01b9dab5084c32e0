"""The compact engine ends soon when it is cancelled, and samples the next time as if nothing had happened."""

# P prompts, n completions each.

from __future__ import annotations

from typing import Any

import pytest
from rollout_helpers import Gate, assert_cancelled, assert_equal, begin, request_for
from transformers import PreTrainedModel

from bots_lightning.rollouts import (
    CompactEngine,
    Rollouts,
    SamplingParams,
)

PROMPTS = [[5, 6, 7], [8], [9, 10], [5, 6, 7]]
SEEDS = [1, 2, 3, 4]
SAMPLING = SamplingParams(max_completion_length=6, stop_token_ids=(1, 4), pad_token_id=4)
ENDLESS = SamplingParams(max_completion_length=40, stop_token_ids=(99,), pad_token_id=0)  # no model here draws a 99


@pytest.mark.parametrize("options", [{}, {"max_tokens": 2 * 43}, {"logprobs": True}], ids=str)
@pytest.mark.parametrize("last_pass", [1, 7])
def test_the_compact_engine_ends_before_the_next_pass_through_the_model(
    model: PreTrainedModel, options: dict[str, Any], last_pass: int
) -> None:
    engine, gate, passes = CompactEngine(**options), Gate(), 0

    def generate() -> Rollouts:
        return engine.generate(request_for(model, PROMPTS, 2, ENDLESS, SEEDS))

    def count(*_: Any) -> None:
        nonlocal passes
        passes += 1
        if passes == last_pass:
            gate.pass_through()

    expected = generate()
    model.train()
    gate.close()
    hook = model.register_forward_pre_hook(count)
    generated = begin(generate)
    gate.cancel_there(engine)
    assert_cancelled(generated)
    hook.remove()
    assert passes == last_pass
    assert all(module.training for module in model.modules())
    assert_equal(generate(), expected)


def test_a_compact_engine_that_is_cancelled_at_rest_samples_as_ever(model: PreTrainedModel) -> None:
    engine = CompactEngine()
    expected = engine.generate(request_for(model, PROMPTS, 2, SAMPLING, SEEDS))
    engine.cancel()
    engine.sync(model, 1)
    assert_equal(engine.generate(request_for(model, PROMPTS, 2, SAMPLING, SEEDS)), expected)
