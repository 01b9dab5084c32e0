"""Arithmetic with numbers that grow with the level."""

# Each family maps (generator, level 1..8) to (prompt, answer).

from __future__ import annotations

from itertools import accumulate

import numpy as np

from bots_lightning.tasks.procedural.draw import Family, integers

# One entry per level: upper limits of the two numbers; the first has the most digits that its limit allows.
TERM_LIMITS = ((100, 2), (100, 4), (100, 6), (100, 10), (100, 30), (100, 100), (1_000, 1_000), (100_000, 100_000))
FACTOR_LIMITS = ((100, 2), (100, 3), (100, 4), (100, 6), (100, 8), (100, 10), (1_000, 10), (100_000, 10))
STEP_LIMITS = ((100, 2), (100, 3), (100, 4), (100, 6), (100, 11), (100, 30), (1_000, 100), (10_000, 1_000))
# (digits, limit of each).
RUNNING_SIZES = ((4, 3), (4, 4), (4, 5), (4, 6), (4, 8), (4, 10), (6, 10), (9, 10))


def pair(rng: np.random.Generator, limits: tuple[int, int], low: int) -> tuple[int, int]:
    """Draws a first number with the most digits that its limit allows, and a second one of at least `low`."""
    return int(rng.integers(limits[0] // 10, limits[0])), int(rng.integers(low, limits[1]))


def add(rng: np.random.Generator, level: int) -> tuple[str, str]:
    """`add 12+7=` → `19`."""
    a, b = pair(rng, TERM_LIMITS[level - 1], low=0)
    return f"add {a}+{b}=", str(a + b)


def sub(rng: np.random.Generator, level: int) -> tuple[str, str]:
    """`sub 12-7=` → `5`; the larger number first."""
    a, b = pair(rng, TERM_LIMITS[level - 1], low=0)
    return f"sub {max(a, b)}-{min(a, b)}=", str(abs(a - b))


def mul(rng: np.random.Generator, level: int) -> tuple[str, str]:
    """`mul 12*7=` → `84`; the second factor is a digit."""
    a, b = pair(rng, FACTOR_LIMITS[level - 1], low=1)
    return f"mul {a}*{b}=", str(a * b)


def seq(rng: np.random.Generator, level: int) -> tuple[str, str]:
    """`seq 3,7,11=` → `15`: the next term of an arithmetic sequence."""
    start, step = pair(rng, STEP_LIMITS[level - 1], low=1)
    return f"seq {start},{start + step},{start + 2 * step}=", str(start + 3 * step)


def cum(rng: np.random.Generator, level: int) -> tuple[str, str]:
    """`cum 374=` → `304`: the last digit of every running sum."""
    size, limit = RUNNING_SIZES[level - 1]
    digits = integers(rng, 0, limit, size)
    totals = "".join([str(total % 10) for total in accumulate(digits)])
    return f"cum {''.join(map(str, digits))}=", totals


FAMILIES: dict[str, Family] = {"add": add, "sub": sub, "mul": mul, "seq": seq, "cum": cum}
