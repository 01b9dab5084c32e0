"""Tasks from a seed: prompts of a few characters whose answers are exact."""

from bots_lightning.tasks.procedural.source import ALPHABET, FAMILIES, ProceduralTasks, sample_examples

__all__ = ["ALPHABET", "FAMILIES", "ProceduralTasks", "sample_examples"]
