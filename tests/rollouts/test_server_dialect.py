"""What no model draws is refused; what a server leaves out of an answer is taken."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from bots_lightning.rollouts import SamplingParams
from bots_lightning.rollouts.server_client import ServerFaultError
from bots_lightning.rollouts.server_dialect import Completion, check_completions, longest_answer

SAMPLING = SamplingParams(max_completion_length=6, stop_token_ids=(1, 4, 9), pad_token_id=0)
GREEDY = replace(SAMPLING, temperature=0)


def test_a_stop_token_whose_log_probability_is_not_said_is_taken() -> None:
    check_completions([Completion([5, 4], [-1.0, math.nan])], 1, SAMPLING, 10)
    with pytest.raises(ServerFaultError, match="log-probability is nan"):
        check_completions([Completion([5, 4], [math.nan, -1.0])], 1, SAMPLING, 10)
    with pytest.raises(ServerFaultError, match="log-probability is nan"):
        check_completions([Completion([5, 5], [-1.0, math.nan])], 1, SAMPLING, 10)
    check_completions([Completion([5, 4, 5], [-1.0, -1.0, math.nan])], 1, SAMPLING, 10)  # beyond the end
    check_completions([Completion([5, 5], [math.nan, 7.0])], 1, GREEDY, 10)  # of greedy ones they mean nothing
    assert longest_answer([1, 2, 3], 4, SAMPLING) == 2**20 + 4 * (6 * 1024 + 3 * 16)
