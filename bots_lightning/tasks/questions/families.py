"""Short questions in plain English whose answers are a number or a few words, easy at level 1 and hard at level 4."""

# Each family maps (generator, level 1..4) to (question, answer). No answer can be copied from its question, and none is
# so frequent that it could be guessed.

from __future__ import annotations

import numpy as np

from bots_lightning.tasks.procedural.draw import Family, integers

LEVELS = (1, 2, 3, 4)


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Frank", "Grace", "Henry", "Ines", "Jack", "Lena", "Tom")
THINGS = ("apples", "books", "cards", "coins", "eggs", "keys", "marbles", "pens", "stamps", "stickers")
BOXES = ("bag", "basket", "box", "drawer", "jar", "shelf")
ONES = _words("zero one two three four five six seven eight nine")
UNDER_20 = ONES + _words("ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen")
TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
MONTHS = _words("January February March April May June July August September October November December")
DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
# (large unit, small unit, how many of the small one make a large one); those of a level may occur at all higher ones.
UNITS = (
    (("weeks", "days", 7), ("hands", "fingers", 5), ("coins of ten cents", "cents", 10)),
    (("years", "months", 12), ("dozens", "eggs", 12), ("metres", "centimetres", 100)),
    (("hours", "minutes", 60), ("days", "hours", 24), ("kilograms", "grams", 1000)),
    (("feet", "inches", 12), ("pounds", "ounces", 16), ("minutes", "seconds", 60)),
)
# By length, from three letters to six.
WORDS = (
    _words("bat cup dog fan hat ink jam key lip map net owl pin rug sun top van web zip arm bed cow"),
    _words("bird cake door fish gold hand king lamp moon nest pink rain salt tree wind yard blue corn"),
    _words("bread chair dance earth fruit grape horse knife lemon mouse night ocean plant river storm"),
    _words("basket candle dragon engine finger garden hunter island jacket monkey orange pencil silver"),
)
REGULAR = _words(
    "apple arm bag ball bank bean bed bell bird boat bone book bottle brick brother cake camp candle car card"
    " cart castle chain chair circle cloud coat coin corner cousin cup doctor dog door dream duck egg engine farm"
    " farmer field finger flag flower forest friend game garden gate girl guest hat hill horse hotel hour house"
    " island jacket jar jug key king kitten lake lamp lesson letter line lion map market minute moon morning"
    " nail needle nest night nurse ocean owl paper park pen pencil piano pilot plant queen question ring river"
    " road rocket room rose ship shirt shop sister song spoon star stone storm street table tent tiger town tree"
    " truck uncle village wall window wing word"
)
IRREGULAR = dict(
    pair.split("/")
    for pair in _words(
        "baby/babies berry/berries bush/bushes child/children city/cities dish/dishes foot/feet fox/foxes glass/glasses"
        " goose/geese knife/knives lady/ladies leaf/leaves man/men mouse/mice story/stories tooth/teeth wish/wishes"
        " wolf/wolves woman/women"
    )
)
ENDINGS = {1: "st", 2: "nd", 3: "rd"}
MOST_ADDED = (15, 25, 50, 100)
MOST_TIMES = (9, 12, 15, 20)
STEPS = ((1,), (1, 10), (2, 5, -1, 100), (3, 4, 6, 7, -2, -3))


def _below(rng: np.random.Generator, low: int, high: int) -> int:
    """A uniform draw from low, …, high − 1."""
    return int(rng.integers(low, high))


def _one_of(rng: np.random.Generator, items: tuple[str, ...]) -> str:
    return items[_below(rng, 0, len(items))]


def gain(rng: np.random.Generator, level: int) -> tuple[str, str]:
    """Tom has 3 apples and gets 4 more. How many apples does Tom have now? → 7."""
    most, name, things = MOST_ADDED[level - 1], _one_of(rng, NAMES), _one_of(rng, THINGS)
    a, b = _below(rng, 2, most + 1), _below(rng, 2, most + 1)
    return f"{name} has {a} {things} and gets {b} more. How many {things} does {name} have now?", str(a + b)


def loss(rng: np.random.Generator, level: int) -> tuple[str, str]:
    """Tom had 12 apples and lost 5. How many apples are left? → 7; never as many as were lost."""
    most, name, things = MOST_ADDED[level - 1] * 2, _one_of(rng, NAMES), _one_of(rng, THINGS)
    left, lost = _below(rng, 2, most), _below(rng, 2, most)
    lost += left == lost
    return f"{name} had {left + lost} {things} and lost {lost}. How many {things} are left?", str(left)


def groups(rng: np.random.Generator, level: int) -> tuple[str, str]:
    """There are 6 eggs in each box. How many eggs are in 4 boxes? → 24."""
    most, things, box = MOST_TIMES[level - 1], _one_of(rng, THINGS), _one_of(rng, BOXES)
    a, b = _below(rng, 2, most + 3), _below(rng, 2, most + 1)
    several = {"box": "boxes", "shelf": "shelves"}.get(box, f"{box}s")
    return f"There are {a} {things} in each {box}. How many {things} are in {b} {several}?", str(a * b)


def arithmetic(rng: np.random.Generator, level: int) -> tuple[str, str]:
    """What is 6 + 3? → 9, and 6 - 3 from level 2 on."""
    high = (15, 25, 50, 100)[level - 1]
    a, b = _below(rng, 2, high), _below(rng, 2, high)
    if level > 1 and rng.random() < 0.4:
        return f"What is {a + b} - {b}?", str(a)
    return f"What is {a} + {b}?", str(a + b)


def largest(rng: np.random.Generator, level: int) -> tuple[str, str]:
    """Which number is the largest: 3 7 12 5 … → 12; ten numbers, the largest is neither the first nor the last."""
    low, high, most = ((1, 10, 1000), (1, 10, 100), (10, 80, 100), (100, 1000, 1000))[level - 1]
    numbers = rng.integers(low, high, 9).tolist()
    numbers.insert(_below(rng, 1, 9), _below(rng, max(most // 10, max(numbers) + 1), most + 1))
    return f"Which number is the largest: {' '.join(map(str, numbers))}", str(max(numbers))


def sequence(rng: np.random.Generator, level: int) -> tuple[str, str]:
    """Continue with one number: 3, 5, 7, 9 → 11."""
    steps = STEPS[level - 1]
    step = steps[_below(rng, 0, len(steps))]
    start = _below(rng, 1, 100) + max(0, -4 * step)
    shown = ", ".join(str(start + step * place) for place in range(4))
    return f"Continue with one number: {shown}", str(start + step * 4)


def ordering(rng: np.random.Generator, level: int) -> tuple[str, str]:
    """Sort from small to large: 7 2 5 → 2 5 7; never sorted as they stand."""
    numbers = rng.choice(np.arange(1, (10, 20, 50, 100)[level - 1]), size=2 + (level + 1) // 2, replace=False).tolist()
    if numbers == sorted(numbers):
        numbers.reverse()
    return f"Sort from small to large: {' '.join(map(str, numbers))}", " ".join(map(str, sorted(numbers)))


def neighbour(rng: np.random.Generator, level: int) -> tuple[str, str]:
    """Which number comes right after 37? → 38, and right before from level 3 on."""
    number = _below(rng, *((10, 100), (100, 1000), (10, 1000), (1000, 10_000))[level - 1])
    place, step = ("after", 1) if level < 3 or rng.random() < 0.5 else ("before", -1)
    return f"Which number comes right {place} {number}?", str(number + step)


def ordinal(rng: np.random.Generator, level: int) -> tuple[str, str]:
    """Write as an ordinal: 22 → 22nd."""
    number = _below(rng, *((1, 100), (100, 1000), (1000, 10_000), (10_000, 100_000))[level - 1])
    ending = "th" if number % 100 in (11, 12, 13) else ENDINGS.get(number % 10, "th")
    return f"Write as an ordinal: {number}", f"{number}{ending}"


def date(rng: np.random.Generator, level: int) -> tuple[str, str]:
    """What is the date 3 days after May 10? → May 13; level 4 passes the end of the month."""
    month = _below(rng, 0, 12)
    later = _below(rng, 1, (1, 3, 9, 9)[level - 1] + 1)
    if level < 4:
        day = _below(rng, 1, DAYS[month] - later + 1)
        answer = f"{MONTHS[month]} {day + later}"
    else:
        day = _below(rng, DAYS[month] - later + 1, DAYS[month] + 1)
        answer = f"{MONTHS[(month + 1) % 12]} {day + later - DAYS[month]}"
    days = "day" if later == 1 else "days"
    return f"What is the date {later} {days} after {MONTHS[month]} {day}?", answer


def capitals(rng: np.random.Generator, level: int) -> tuple[str, str]:
    """Write in capital letters: red moon → RED MOON."""
    chosen = " ".join(_one_of(rng, REGULAR) for _ in range(level))
    return f"Write in capital letters: {chosen}", chosen.upper()


def spelling(rng: np.random.Generator, level: int) -> tuple[str, str]:
    """Spell with spaces: lamp → l a m p; words, and strings of letters that are none."""
    word = list(_one_of(rng, WORDS[level - 1]))
    if rng.random() < 0.9:
        word = rng.permutation(word).tolist()
    return f"Spell with spaces: {''.join(word)}", " ".join(word)


def plural(rng: np.random.Generator, level: int) -> tuple[str, str]:
    """Write in the plural: lamp → lamps; as many words as the level, from level 3 on also irregular ones."""
    irregular = {} if level < 3 else IRREGULAR
    chosen = [_one_of(rng, (*REGULAR, *irregular)) for _ in range(level)]
    return f"Write in the plural: {' '.join(chosen)}", " ".join(irregular.get(word, f"{word}s") for word in chosen)


def backwards(rng: np.random.Generator, level: int) -> tuple[str, str]:
    """Write the words in reverse order: red moon → moon red; one word more than the level, all different."""
    chosen = rng.choice(np.array(WORDS[1]), size=1 + level, replace=False).tolist()
    return f"Write the words in reverse order: {' '.join(chosen)}", " ".join(reversed(chosen))


def initials(rng: np.random.Generator, level: int) -> tuple[str, str]:
    """Join the first letters: sun map key → smk."""
    chosen = [_one_of(rng, WORDS[_below(rng, 0, 4)]) for _ in range(1 + level)]
    return f"Join the first letters: {' '.join(chosen)}", "".join(word[0] for word in chosen)


def units(rng: np.random.Generator, level: int) -> tuple[str, str]:
    """How many minutes are 3 hours? → 180."""
    large, small, factor = UNITS[level - 1][_below(rng, 0, len(UNITS[level - 1]))]
    count = _below(rng, 2, (12, 12, 12, 20)[level - 1])
    return f"How many {small} are {count} {large}?", str(count * factor)


def spelled(rng: np.random.Generator, level: int) -> tuple[str, str]:
    """Write as a number: forty-two → 42, and from level 3 on in words."""
    number = _below(rng, *((20, 100), (100, 1000), (20, 100), (1000, 10000))[level - 1])
    words = in_words(number)
    return (f"Write as a number: {words}", str(number)) if level < 3 else (f"Write in words: {number}", words)


def in_words(number: int) -> str:
    """A number under 10,000 in words."""
    if number < 20:
        return UNDER_20[number]
    if number < 100:
        return TENS[number // 10] + (f"-{UNDER_20[number % 10]}" if number % 10 else "")
    size, name = (1000, "thousand") if number >= 1000 else (100, "hundred")
    rest = f" {in_words(number % size)}" if number % size else ""
    return f"{UNDER_20[number // size]} {name}{rest}"


def code(rng: np.random.Generator, level: int) -> tuple[str, str]:
    """What does Python print? print(3 + 4 * 2) → 11."""
    a, b, c = integers(rng, 2, (10, 10, 10, 20)[level - 1], 3)
    one, other = _one_of(rng, WORDS[0]), _one_of(rng, WORDS[1])
    programs = (
        (f'print("{one}" + "{other}")', one + other),
        (f"print({a} + {b})", str(a + b)),
        (f'print("{one}" * {2 + a % 2})', one * (2 + a % 2)),
        (f"print({a} * {b})", str(a * b)),
        (f"print(sum([{a}, {b}, {c}]))", str(a + b + c)),
        (f"print({a} + {b} * {c})", str(a + b * c)),
    )
    first, last = ((0, 2), (1, 4), (2, 5), (3, 6))[level - 1]
    shown, answer = programs[_below(rng, first, last)]
    return f"What does Python print? {shown}", answer


FAMILIES: dict[str, Family] = {
    "gain": gain,
    "loss": loss,
    "groups": groups,
    "arithmetic": arithmetic,
    "largest": largest,
    "sequence": sequence,
    "ordering": ordering,
    "neighbour": neighbour,
    "ordinal": ordinal,
    "date": date,
    "capitals": capitals,
    "spelling": spelling,
    "plural": plural,
    "backwards": backwards,
    "initials": initials,
    "units": units,
    "spelled": spelled,
    "code": code,
}
DOMAINS = {
    "stories": ("gain", "loss", "groups"),
    "numbers": ("arithmetic", "largest", "sequence", "ordering", "neighbour", "ordinal", "spelled"),
    "everyday": ("date", "units"),
    "text": ("capitals", "spelling", "plural", "backwards", "initials", "code"),
}
GROUP_OF = {family: group for group, families in DOMAINS.items() for family in families}
