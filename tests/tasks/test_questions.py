"""Questions have the answers that a calculation of their own gives, and cannot be guessed."""

from __future__ import annotations

import datetime
import re
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from bots_lightning.tasks import ProceduralTasks, QuestionTasks, Task
from bots_lightning.tasks.questions.families import DOMAINS, FAMILIES, LEVELS, UNITS, in_words

MANY = 2000


def drawn(family: str, level: int) -> list[tuple[str, str]]:
    rng = np.random.default_rng(level)
    return [FAMILIES[family](rng, level) for _ in range(MANY)]


def numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def from_words(text: str) -> int:
    return next(number for number in range(10_000) if in_words(number) == text)


def after(question: str) -> str:
    later, day = numbers(question)
    month = question.split()[-2]
    date = datetime.datetime.strptime(f"{month} {day} 2025", "%B %d %Y") + datetime.timedelta(days=later)
    return f"{date:%B} {date.day}"


def converted(question: str) -> str:
    small, large = re.fullmatch(r"How many (.*) are \d+ (.*)\?", question).groups()  # type: ignore[union-attr]
    factor = next(each[2] for level in UNITS for each in level if each[:2] == (large, small))
    return str(numbers(question)[0] * factor)


def printed(question: str) -> str:
    return str(eval(question.split("? ")[1].removeprefix("print")))


def written(question: str) -> str:
    text = question.split(": ")[1]
    return in_words(int(text)) if text.isdigit() else str(from_words(text))


def placed(number: int) -> str:
    tens, ones = divmod(number % 100, 10)
    return f"{number}{'th' if tens == 1 or ones not in (1, 2, 3) else ('st', 'nd', 'rd')[ones - 1]}"


def several(noun: str) -> str:
    """The plural by the rules of spelling, and by heart where there is none."""
    by_heart = {"foot": "feet", "goose": "geese", "tooth": "teeth", "mouse": "mice", "child": "children"}
    rules = (("man$", "men"), ("fe?$", "ves"), ("([^aeiou])y$", r"\1ies"), ("(x|s|sh)$", r"\1es"), ("$", "s"))
    ending, plural = next(rule for rule in rules if re.search(rule[0], noun))
    return by_heart.get(noun) or re.sub(ending, plural, noun, count=1)


BEHIND: Callable[[str], str] = lambda question: question.split(": ")[1]  # noqa: E731
SOLUTIONS: dict[str, Callable[[str], str]] = {
    "gain": lambda question: str(sum(numbers(question))),
    "loss": lambda question: str(numbers(question)[0] - numbers(question)[1]),
    "groups": lambda question: str(numbers(question)[0] * numbers(question)[1]),
    "arithmetic": lambda question: str(eval(question.removeprefix("What is ").rstrip("?"))),
    "largest": lambda question: str(max(numbers(question))),
    "sequence": lambda question: str(2 * numbers(question)[3] - numbers(question)[2]),
    "ordering": lambda question: " ".join(sorted(BEHIND(question).split(), key=int)),
    "neighbour": lambda question: str(numbers(question)[0] + (1 if "after" in question else -1)),
    "ordinal": lambda question: placed(int(BEHIND(question))),
    "date": after,
    "capitals": lambda question: BEHIND(question).upper(),
    "spelling": lambda question: " ".join(BEHIND(question)),
    "plural": lambda question: " ".join(map(several, BEHIND(question).split())),
    "backwards": lambda question: " ".join(BEHIND(question).split()[::-1]),
    "initials": lambda question: "".join(word[0] for word in BEHIND(question).split()),
    "units": converted,
    "spelled": written,
    "code": printed,
}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_answer_is_right(family: str, level: int) -> None:
    for question, answer in drawn(family, level)[:60]:
        assert answer == SOLUTIONS[family](question), question


def test_there_are_eight_families_and_more_each_in_one_domain() -> None:
    assert len(FAMILIES) >= 8
    assert Counter(family for families in DOMAINS.values() for family in families) == Counter(list(FAMILIES))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_no_family_can_be_guessed_at_any_level(family: str, level: int) -> None:
    examples = drawn(family, level)
    answers = Counter(answer for _, answer in examples)
    guesses: dict[str, Callable[[str], str]] = {
        "the most frequent answer": lambda _: answers.most_common(1)[0][0],
        "the first number": lambda question: str((numbers(question) or [0])[0]),
        "the last number": lambda question: str((numbers(question) or [0])[-1]),
        "the question": lambda question: question,
        "what stands behind the colon": lambda question: question.split(": ")[-1],
        "the last word": lambda question: question.rstrip("?").split()[-1],
    }
    for name, guess in guesses.items():
        share = np.mean([guess(question) == answer for question, answer in examples])
        assert share <= 0.1, f"{name} is right in {share:.0%} of {family} at level {level}"


def test_a_pool_takes_families_and_levels_in_turn_and_shares_nothing_with_the_heldout_one() -> None:
    pool, heldout = QuestionTasks(500).load(), QuestionTasks(250, split="heldout").load()
    assert Counter(pool.groups.tolist()).keys() == DOMAINS.keys()
    assert not {task.columns["question"] for task in map(pool.__getitem__, range(500))} & {
        task.columns["question"] for task in map(heldout.__getitem__, range(250))
    }


def chat(task: Task) -> list[dict[str, str]]:
    assert not isinstance(task.prompt, str)
    return task.prompt


def roles(task: Task) -> list[str]:
    return [message["role"] for message in chat(task)]


def test_prompts_are_chats_that_show_other_questions_of_the_family_first() -> None:
    plain = QuestionTasks(30).load()
    shown = QuestionTasks(30, system_prompt="Answer.", shots=2).load()
    assert roles(plain[0]) == ["user"]
    assert roles(shown[0])[:1] == ["system"]
    for task in map(shown.__getitem__, range(30)):
        *before, asked = chat(task)
        assert asked == {"role": "user", "content": task.columns["question"]}
        pairs = [message["content"] for message in before[1:]]
        for question, answer in zip(pairs[::2], pairs[1::2], strict=True):
            assert SOLUTIONS[task.columns["family"]](question) == answer
            assert question != task.columns["question"]
    assert [task.id for task in map(plain.__getitem__, range(30))] == [shown[i].id for i in range(30)]


def test_procedural_tasks_are_chats_where_that_is_asked_for() -> None:
    plain, shown = ProceduralTasks(20).load(), ProceduralTasks(20, system_prompt="Compute.", shots=1).load()
    for one, other in zip(map(plain.__getitem__, range(20)), map(shown.__getitem__, range(20)), strict=True):
        assert isinstance(one.prompt, str)
        assert "question" not in one.columns
        assert roles(other)[:1] == ["system"]
        assert chat(other)[-1]["content"] == one.prompt
        assert other.id == one.id


def test_the_number_of_shots_is_checked() -> None:
    with pytest.raises(ValueError, match="shots=-1"):
        QuestionTasks(shots=-1)
