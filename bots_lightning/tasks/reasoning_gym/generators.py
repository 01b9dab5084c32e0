"""Generators of reasoning-gym: datasets, and their entries as text."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from fractions import Fraction
from typing import Any

import numpy as np

Settings = dict[str, Any]

# Number of entries of a generator's dataset; the entries depend on it.
DATASET_SIZE = 256
# These iterate over sets of strings, whose order differs between processes unless PYTHONHASHSEED is set.
HASH_ORDERED = frozenset(
    {
        "intermediate_integration",
        "isomorphic_strings",
        "knight_swap",
        "polynomial_multiplication",
        "ransom_note",
        "word_ladder",
    }
)
# These draw random numbers that do not depend on the seed.
UNSEEDED = frozenset({"codeio", "list_functions"})
# Settings that the source sets itself.
OWN_SETTINGS = {"seed", "size"}


def new_dataset(generator: str, settings: Mapping[str, Any], seed: int = 0) -> Any:
    """Makes a dataset of reasoning-gym with `DATASET_SIZE` entries.

    Args:
        generator: name of the generator.
        settings: of its configuration.
        seed: of its entries.

    Raises:
        ImportError: reasoning-gym is not installed.
        ValueError: there is no such generator or setting, or its value is invalid.
    """
    datasets = _library()
    if generator not in datasets:
        near = get_close_matches(generator, datasets, n=5, cutoff=0.5)
        raise ValueError(
            f"reasoning-gym has no generator {generator!r}; similar names: {near}. `reasoning_gym.factory.DATASETS` "
            "lists all."
        )
    kind, config = datasets[generator]
    known = [field.name for field in fields(config) if field.name not in OWN_SETTINGS]
    if unknown := sorted(set(settings) - set(known)):
        raise ValueError(f"{generator} has no settings {unknown} that can be set here; it has {known}.")
    try:
        return kind(config(**settings, seed=seed, size=DATASET_SIZE))
    except (AssertionError, TypeError, ValueError) as error:
        raise ValueError(f"{generator} rejects the settings {dict(settings)}: {error or 'out of range'}.") from error


def entry_text(entry: Mapping[str, Any]) -> str:
    """Writes an entry of a dataset as a Python literal, which `ast.literal_eval` reads back.

    JSON would turn tuples into lists and the keys of dictionaries into strings, so that the verifiers of `arc_agi` and
    `rearc` reject their own answers.

    Args:
        entry: of the dataset.

    Raises:
        ValueError: it holds a value that has no literal.
    """
    plain = _plain(entry)
    text = repr(plain)
    try:
        whole = ast.literal_eval(text) == plain
    except (ValueError, SyntaxError):
        whole = False
    if not whole:
        raise ValueError("its entries cannot be written as text and read back, which its verifier needs")
    return text


def _plain(value: Any) -> Any:
    """Converts NumPy scalars to Python's own, and fractions to text, since no verifier reads them."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Fraction):
        return str(value)
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if type(value) in (list, tuple, set):
        return type(value)(_plain(item) for item in value)
    return value


def _library() -> dict[str, tuple[Any, Any]]:
    """(dataset class, configuration class) by the generator's name."""
    try:
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise ImportError("reasoning-gym is not installed. Run: pip install 'bots-lightning[reasoning-gym]'") from error
    return DATASETS
