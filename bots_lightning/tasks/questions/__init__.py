"""Short questions in plain English: generators and their source."""

from bots_lightning.tasks.questions.source import QuestionTasks

__all__ = ["QuestionTasks"]
