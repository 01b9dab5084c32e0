"""The source of short questions in plain English."""

from __future__ import annotations

from bots_lightning.tasks.procedural.source import GeneratedTasks
from bots_lightning.tasks.questions.families import FAMILIES, GROUP_OF, LEVELS


class QuestionTasks(GeneratedTasks):
    """Questions in one line, drawn from a seed, for small language models; every answer is exact.

    Families of word problems, numbers, dates, units, letters and programs, at levels from 1 to 4. None is answered by a
    constant, by a number that stands in the question or by repeating it. Prompts are chats. See `GeneratedTasks` for
    options and columns.
    """

    name = "questions"
    chat = True
    all_families = FAMILIES
    group_of = GROUP_OF
    all_levels = LEVELS
