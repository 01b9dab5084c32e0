"""Boolean algebra and deduction; answers have several characters, so that they cannot be guessed."""

# Each family maps (generator, level 1..8) to (prompt, answer).

from __future__ import annotations

from itertools import pairwise

import numpy as np

from bots_lightning.tasks.procedural.draw import Family, bits, distinct_letters, integers, shuffled

OPERATORS = "&|^"
# The non-constant functions of two bits, the common ones first.
COMMON_TABLES = ("0001", "0111", "0110", "1110", "1000", "1001", "0010", "1101")
TABLES = COMMON_TABLES + tuple(table for i in range(1, 15) if (table := f"{i:04b}") not in COMMON_TABLES)

# One entry per level: (operators, operands, bits of each).
BITWISE_SIZES = (
    ("&", 2, 3),
    ("&|", 2, 3),
    ("&|^", 2, 3),
    ("&|^", 2, 4),
    ("&|^", 2, 5),
    ("&|^", 2, 7),
    ("&|^", 3, 6),
    ("&|^", 3, 7),
)
RUN_OPERATIONS = (2, 3, 4, 5, 6, 7, 8, 10)
# (number of TABLES used, pairs to look up).
TABLE_SIZES = ((4, 2), (8, 2), (14, 2), (14, 3), (14, 4), (14, 5), (14, 7), (14, 9))
# (letters, whether relations are shuffled, whether some are written with >).
ORDER_SIZES = (
    (2, False, True),
    (3, False, False),
    (3, True, False),
    (3, True, True),
    (4, True, False),
    (5, True, False),
    (6, True, True),
    (7, True, True),
)
# (steps of the deduction, number of irrelevant rules).
DEDUCTION_SIZES = ((1, 0), (1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (3, 2), (4, 1))


def apply(operator: str, a: int, b: int) -> int:
    """Applies one bitwise operation."""
    return a & b if operator == "&" else a | b if operator == "|" else a ^ b


def bit(rng: np.random.Generator, level: int) -> tuple[str, str]:
    """`bit 1011&0110=` → `0010`; operations are applied from left to right."""
    operators, operands, size = BITWISE_SIZES[level - 1]
    prompt = bits(rng, size)
    value = int(prompt, 2)
    for choice in integers(rng, 0, len(operators), operands - 1):
        operand = bits(rng, size)
        value = apply(operators[choice], value, int(operand, 2))
        prompt += operators[choice] + operand
    return f"bit {prompt}=", format(value, f"0{size}b")


def run(rng: np.random.Generator, level: int) -> tuple[str, str]:
    """`run 1^0&1|0=` → `111`: the value after each operation, from left to right."""
    operations = RUN_OPERATIONS[level - 1]
    operands = integers(rng, 0, 2, operations + 1)
    value, prompt, answer = operands[0], str(operands[0]), ""
    for choice, operand in zip(integers(rng, 0, 3, operations), operands[1:], strict=True):
        value = apply(OPERATORS[choice], value, operand)
        prompt += f"{OPERATORS[choice]}{operand}"
        answer += str(value)
    return f"run {prompt}=", answer


def tab(rng: np.random.Generator, level: int) -> tuple[str, str]:
    """`tab 0110:011100=` → `100`: a truth table for 00, 01, 10, 11, then the pairs of bits to look up."""
    tables, size = TABLE_SIZES[level - 1]
    table, pairs = TABLES[int(rng.integers(tables))], bits(rng, 2 * size)
    answer = "".join([table[int(pairs[i : i + 2], 2)] for i in range(0, len(pairs), 2)])
    return f"tab {table}:{pairs}=", answer


def order(rng: np.random.Generator, level: int) -> tuple[str, str]:
    """`ord b<c,a<b=` → `abc`: the letters in ascending order."""
    size, shuffle, turn = ORDER_SIZES[level - 1]
    answer = distinct_letters(rng, size)
    relations = [f"{a}<{b}" for a, b in pairwise(answer)]
    if turn:
        turned = integers(rng, 0, 2, size - 1)
        relations = [f"{r[2]}>{r[0]}" if t else r for r, t in zip(relations, turned, strict=True)]
    if shuffle:
        relations = shuffled(rng, relations)
    return f"ord {','.join(relations)}=", answer


def imp(rng: np.random.Generator, level: int) -> tuple[str, str]:
    """`imp c>d,a>b,b>e:a=` → `abe`: everything that follows from a letter, in the order of deduction."""
    steps, others = DEDUCTION_SIZES[level - 1]
    names = distinct_letters(rng, steps + 1 + others)
    chain, causes = names[: steps + 1], names[steps + 1 :]
    effects = [chain[i] for i in integers(rng, 0, len(chain), others)]
    rules = [f"{a}>{b}" for a, b in pairwise(chain)]
    rules += [f"{a}>{b}" for a, b in zip(causes, effects, strict=True)]
    return f"imp {','.join(shuffled(rng, rules))}:{chain[0]}=", chain


FAMILIES: dict[str, Family] = {"bit": bit, "run": run, "tab": tab, "ord": order, "imp": imp}
