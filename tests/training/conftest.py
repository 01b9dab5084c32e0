"""Fixtures of the parts of a step: a module outside of a run, and the context of a step by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from algorithm_helpers import step_context

from bots_lightning.algorithms import Progress, StepContext


@pytest.fixture
def ready() -> Callable[..., Any]:
    """`ready(module)`: loaded, in float64, with the reference of a KL penalty; there is no trainer."""

    def ready(module: Any, dtype: torch.dtype = torch.float64) -> Any:
        module.configure_model()
        if module.algorithm.kl_coef:
            module.policy.load_reference(module.device)
        return module.to(dtype)

    return ready


@pytest.fixture
def step_of() -> Callable[..., StepContext]:
    """`step_of(module, iteration)`: the context of a step on one device, without a trainer."""

    def step_of(module: Any, iteration: int = 0, **options: Any) -> StepContext:
        length, progress = module.sampler.max_completion_length, Progress(iterations=iteration)
        return step_context(length, seed=module.seed, progress=progress, **options)

    return step_of
