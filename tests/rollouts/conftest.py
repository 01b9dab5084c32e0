"""A server, a policy with adapters, and static caches without the compiler."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from rollout_helpers import moved
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from bots_lightning.policy.loading import LoRA, load_policy
from bots_lightning.rollouts import decoding
from bots_lightning.rollouts.static import next_logits


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Static caches, and steps that are not compiled."""
    monkeypatch.setattr(decoding, "compiled_step", lambda _: next_logits)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[CompileCounterWithBackend]:
    """Counts the graphs that are compiled; they are not optimised."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    step = torch.compile(next_logits, backend=counter)
    monkeypatch.setattr(decoding, "compiled_step", lambda _: step)
    yield counter
    torch._dynamo.reset()


@pytest.fixture
def url(servers: Any, checkpoint: str) -> str:
    """Of a server of the checkpoint's model."""
    return servers.start(checkpoint)


@pytest.fixture
def policy(checkpoint: str) -> nn.Module:
    """With adapters that matter."""
    return moved(load_policy(checkpoint, LoRA(r=4, alpha=8)).eval(), seed=0)
