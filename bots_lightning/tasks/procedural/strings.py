"""Transformations of strings that grow with the level."""

# Each family maps (generator, level 1..8) to (prompt, answer).

from __future__ import annotations

from itertools import zip_longest

import numpy as np

from bots_lightning.tasks.procedural.draw import Family, integers, letters

# One entry per level: letters of the string.
REVERSE_SIZES = (2, 3, 4, 5, 6, 7, 8, 10)
SORT_SIZES = (2, 3, 4, 5, 6, 7, 8, 10)
# (letters of the string, the most places to rotate by).
ROTATION_SIZES = ((3, 1), (4, 1), (4, 2), (5, 2), (5, 4), (6, 5), (7, 6), (10, 9))
# (operations of the program, letters of the string).
PROGRAM_SIZES = ((1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4), (3, 6), (4, 9))


def rotated(text: str, places: int) -> str:
    """Moves the first letters to the end."""
    return text[places:] + text[:places]


def swapped(text: str) -> str:
    """Swaps the letters of each pair; a last single letter stays."""
    return "".join([text[i : i + 2][::-1] for i in range(0, len(text), 2)])


def rev(rng: np.random.Generator, level: int) -> tuple[str, str]:
    """`rev abcde=` → `edcba`."""
    text = letters(rng, REVERSE_SIZES[level - 1])
    return f"rev {text}=", text[::-1]


def rot(rng: np.random.Generator, level: int) -> tuple[str, str]:
    """`rot 2:abcde=` → `cdeab`."""
    size, most = ROTATION_SIZES[level - 1]
    text, places = letters(rng, size), int(rng.integers(1, most + 1))
    return f"rot {places}:{text}=", rotated(text, places)


def srt(rng: np.random.Generator, level: int) -> tuple[str, str]:
    """`srt cabca=` → `aabcc`."""
    text = letters(rng, SORT_SIZES[level - 1])
    return f"srt {text}=", "".join(sorted(text))


def mix(rng: np.random.Generator, level: int) -> tuple[str, str]:
    """`mix abc,de=` → `adbec`: one letter of each in turn."""
    text = letters(rng, level + 2)
    first, second = text[: (len(text) + 1) // 2], text[(len(text) + 1) // 2 :]
    return f"mix {first},{second}=", "".join(a + b for a, b in zip_longest(first, second, fillvalue=""))


def pro(rng: np.random.Generator, level: int) -> tuple[str, str]:
    """`pro rs:abcd=` → `cdab`: a program of r (reverse), s (swap pairs) and l (rotate left by one)."""
    operations, size = PROGRAM_SIZES[level - 1]
    program = "".join(["rsl"[i] for i in integers(rng, 0, 3, operations)])
    text = result = letters(rng, size)
    for operation in program:
        result = {"r": result[::-1], "s": swapped(result), "l": rotated(result, 1)}[operation]
    return f"pro {program}:{text}=", result


FAMILIES: dict[str, Family] = {"rev": rev, "rot": rot, "srt": srt, "mix": mix, "pro": pro}
