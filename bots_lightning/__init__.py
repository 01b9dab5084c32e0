"""RL finetuning of language models on the tasks that teach most."""

__version__ = "0.1.0"
