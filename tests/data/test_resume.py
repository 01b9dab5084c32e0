"""The state of a data module survives a checkpoint: a resumed run draws what the undisturbed one draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numbered_tasks import assert_same, bots, datamodule, outcome, run

from bots_lightning.selection import UniformSelector


def test_a_draw_whose_evidence_never_came_is_made_up_for_after_a_resume() -> None:
    undisturbed, ended, resumed = (datamodule(seed=3, steps_per_epoch=3) for _ in range(3))
    expected = run(undisturbed, range(5))
    run(ended, range(2))
    assert ended.select() == expected[2]
    resumed.load_state_dict(ended.state_dict())
    draws = []
    for step, batch in enumerate(resumed.train_dataloader(), start=2):
        draws.append(batch.indices)
        resumed.observe(outcome(batch.indices, step))
    assert draws == expected[2:]
    assert resumed.selection_counts.tolist() == undisturbed.selection_counts.tolist()


@pytest.mark.parametrize("selector", [bots, UniformSelector])
def test_a_resumed_data_module_draws_what_the_uninterrupted_one_draws(selector: Any, tmp_path: Path) -> None:
    uninterrupted, resumed = datamodule(selector(), seed=5), datamodule(selector(), seed=77)
    run(uninterrupted, range(7))
    run(resumed, range(3))  # all of this is to be overwritten
    torch.save(uninterrupted.state_dict(), tmp_path / "data.ckpt")
    resumed.load_state_dict(torch.load(tmp_path / "data.ckpt", weights_only=True))
    np.testing.assert_array_equal(resumed.selection_counts, uninterrupted.selection_counts)
    assert run(resumed, range(7, 20)) == run(uninterrupted, range(7, 20))
    np.testing.assert_array_equal(resumed.selection_counts, uninterrupted.selection_counts)
    assert_same(resumed.state_dict(), uninterrupted.state_dict())


def test_a_saved_state_is_a_copy(tmp_path: Path) -> None:
    data, other = datamodule(seed=5), datamodule(seed=6)
    run(data, range(4))
    state = data.state_dict()
    torch.save(state, tmp_path / "then.ckpt")
    other.load_state_dict(state)
    run(data, range(4, 9))
    run(other, range(4, 9))
    assert_same(state, torch.load(tmp_path / "then.ckpt", weights_only=True))


def test_a_draw_that_was_never_observed_does_not_block_a_resumed_run() -> None:
    data = datamodule()
    state = data.state_dict()
    lost = data.select()
    data.load_state_dict(state)
    assert data.select() == lost


def test_the_state_of_another_pool_is_refused() -> None:
    with pytest.raises(ValueError, match="Resume with the pool"):
        datamodule(num_tasks=11).load_state_dict(datamodule(num_tasks=10).state_dict())
