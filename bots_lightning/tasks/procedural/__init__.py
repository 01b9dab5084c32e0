"""Procedural tasks: short prompts with exact answers, generated from a seed."""

from bots_lightning.tasks.procedural.source import ALPHABET, FAMILIES, ProceduralTasks, sample_examples

__all__ = ["ALPHABET", "FAMILIES", "ProceduralTasks", "sample_examples"]
