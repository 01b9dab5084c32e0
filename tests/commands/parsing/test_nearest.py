"""What a misspelt word was meant to be."""

from __future__ import annotations

import pytest

from bots_lightning.commands.parsing import did_you_mean, nearest

KNOWN = ("learning_rate", "lr_scheduler_type", "ThompsonSelector", "UniformSelector", "max_steps", "max_epochs")


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("learning_rat", "learning_rate"),
        ("Learning-Rate", "learning_rate"),
        ("thomsonselector", "ThompsonSelector"),
        ("Uniform", "UniformSelector"),  # a beginning
        ("max_", None),  # of two
        ("lr", None),  # too short to be one
        ("temperature", None),
    ],
)
def test_the_nearest_word(word: str, meant: str | None) -> None:
    assert nearest(word, KNOWN) == meant
    assert did_you_mean(word, KNOWN, "--") == (f"; did you mean --{meant}?" if meant else ".")
